"""Runs the unit tests of what uses no Python and makes no system call under miri, an interpreter of Rust that finds
undefined behaviour.

miri is a component of nightly toolchains. It is taken from the toolchain in use, or else from one that is installed
under the name `nightly` (`rustup toolchain install nightly --component miri,rust-src`). Where neither has it, the part
is skipped.
"""

from __future__ import annotations

import argparse
import re
import subprocess

import builds

# The unit tests of these modules make no system call, which miri could not make.
PURE = ("reactor::moment", "reactor::readiness", "reactor::ready", "reactor::timers", "reactor::token", "transports::")


def toolchain() -> list[str] | None:
    """The argument of cargo that chooses a toolchain with miri, if one is needed. None if there is no miri."""
    for chosen in ([], ["+nightly"]):
        asked = subprocess.run(["cargo", *chosen, "miri", "--version"], cwd=builds.ROOT, capture_output=True)
        if asked.returncode == 0:
            return chosen
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300)
    seconds = parser.parse_args().seconds
    chosen = toolchain()
    if chosen is None:
        builds.skip("no Rust toolchain here has miri")
    # Nextest is not needed: the test program takes several names.
    command = (*chosen, "miri", "test", "--locked", "--no-default-features", "--lib", "--", *PURE)
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
