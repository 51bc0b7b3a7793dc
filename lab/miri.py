"""Runs the unit tests of what uses no Python and makes no system call under miri, an interpreter of Rust that finds
undefined behaviour.

miri is a component of nightly toolchains. Where the toolchain has none, the part is skipped.
"""

from __future__ import annotations

import argparse
import re
import subprocess

import builds

# The unit tests of these modules make no system call, which miri could not make.
PURE = ("reactor::moment", "reactor::readiness", "reactor::ready", "reactor::timers", "reactor::token", "transports::")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300)
    seconds = parser.parse_args().seconds
    asked = subprocess.run(["cargo", "miri", "--version"], cwd=builds.ROOT, capture_output=True, text=True)
    if asked.returncode:
        builds.skip("this Rust toolchain has no miri")
    # Nextest is not needed: the test program takes several names.
    command = ("miri", "test", "--locked", "--no-default-features", "--lib", "--", *PURE)
    try:
        done = builds.cargo(command, builds.OUTPUT / "miri", {}, seconds)
    except subprocess.TimeoutExpired:
        print(f"no end within {seconds} s")
        builds.finish(0, 1)
    print(builds.shown(done.stdout))
    passed = sum(map(int, re.findall(r"(\d+) passed", done.stdout)))
    failed = sum(map(int, re.findall(r"(\d+) failed", done.stdout)))
    builds.finish(passed + failed, failed or int(done.returncode != 0))


if __name__ == "__main__":
    main()
