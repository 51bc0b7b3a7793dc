"""Runs the unit tests of the reactor under ThreadSanitizer, which reports memory that two threads touch in no order.

It has to know every lock. Those of Rust's standard library are inlined into our code in part only, so that the rest has
to be built with the sanitizer as well. That takes the sources of the standard library (the component rust-src). Without
them it takes almost each use of a lock that two threads want for a race, and the part is skipped. What the locks and
atomics of the reactor guard is then checked by `models.py` alone.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import builds

FLAGS = "-Zsanitizer=thread"
# This test asks whether a library has replaced a function of libc, which the sanitizer does.
LEFT_OUT = "reactor::sys::polling::tests::a_wait_of_another_library_is_noticed"


def has_sources() -> bool:
    """Whether the toolchain has the sources of the standard library."""
    told = subprocess.run(["rustc", "--print", "sysroot"], cwd=builds.ROOT, capture_output=True, text=True, check=True)
    return (Path(told.stdout.strip()) / "lib" / "rustlib" / "src" / "rust" / "library" / "Cargo.lock").exists()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300)
    seconds = parser.parse_args().seconds
    if shutil.which("cargo") is None:
        builds.skip("cargo is not here")
    if not has_sources():
        builds.skip("no rust-src here: with the prebuilt standard library each contended lock looks like a race")
    features = ("--no-default-features", "--lib", "--target", builds.triple(), "-Zbuild-std")
    command = ("test", "--quiet", "--locked", *features, "--", "reactor::", "--skip", LEFT_OUT)
    environment = {"RUSTC_BOOTSTRAP": "1", "RUSTFLAGS": FLAGS}
    try:
        done = builds.cargo(command, builds.OUTPUT / "tsan", environment, seconds)
    except subprocess.TimeoutExpired:
        print(f"no end within {seconds} s")
        builds.finish(0, 1)
    print(builds.shown(done.stdout))
    passed, failed = (sum(map(int, re.findall(rf"(\d+) {word}", done.stdout))) for word in ("passed", "failed"))
    races = done.stdout.count("WARNING: ThreadSanitizer")
    builds.finish(passed + failed, failed + races or int(done.returncode != 0))


if __name__ == "__main__":
    main()
