"""The tests of rloop while every system call is awkward: a part of the laboratory.

`python lab/modes.py [--seconds 600] [--mode one-byte-reads ...] [--folder tls ...] [tests/tls/test_end.py ...]`

A mode of the build with the cargo feature `faults` holds for the whole test process: each read gets one byte, each
write sends one byte (but for each 64th), sockets have the smallest buffers that the kernel allows, or waits wake up
without a reason. The tests must pass all the same. Those that measure what a mode changes by design are named in
`modes_left_out.txt`, with the reason. Without enough seconds for all files in all modes, the rest is named; `--seed`
decides on the order.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import builds
import faults_build

LAB = Path(__file__).resolve().parent
MODES = ("one-byte-reads", "one-byte-writes", "tiny-buffers", "spurious-wake-ups")
FOLDERS = ("loop", "stream", "unix", "tls", "datagram", "pipe", "process", "sock")
# Seconds for one file in one mode.
LIMIT = 600


def left_out(mode: str, path: str) -> Iterator[str]:
    """The tests of a file that are not run in a mode. A line is: MODE[,MODE...] TEST, and a comment says why."""
    for line in (LAB / "modes_left_out.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            modes, test = line.split(maxsplit=1)
            if mode in modes.split(",") and test.split("::")[0] == path:
                yield test


def run(package: Path, mode: str, path: str) -> tuple[int, list[str]]:
    """Run a file's tests in a mode: how many have passed, and which have failed."""
    options = ["-q", "-p", "no:cacheprovider", "-rfE", "--tb=short", f"--rootdir={builds.ROOT}"]
    for test in left_out(mode, path):
        if test == path:
            return 0, []
        options += ["--deselect", test]
    command = [sys.executable, "-m", "pytest", *options, path]
    environment = faults_build.environment(package, RLOOP_FAULTS=mode, RLOOP_TEST_LOOPS="rloop")
    try:
        ended = subprocess.run(command, cwd=builds.ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired as late:
        print((late.stdout or b"")[-20_000:].decode(errors="replace"), flush=True)
        return 0, [f"{path}: no end after {LIMIT} s"]
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
    passed = re.search(r"(\d+) passed", ended.stdout)
    if failed or ended.returncode not in (0, 5):
        print(ended.stdout[-20_000:], ended.stderr[-5_000:], sep="\n", flush=True)
    # 5: no test is left.
    if ended.returncode not in (0, 5) and not failed:
        failed = [f"{path}: pytest has ended with {ended.returncode}"]
    return int(passed[1]) if passed else 0, failed


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the tests while every system call is awkward.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--mode", action="append", choices=MODES)
    parser.add_argument("--folder", action="append", choices=FOLDERS)
    parser.add_argument("tests", nargs="*", help="files of tests, instead of all")
    options = parser.parse_args()
    package = faults_build.build()
    folders = [builds.ROOT / "tests" / folder for folder in options.folder or FOLDERS]
    files = [str(path.relative_to(builds.ROOT)) for folder in folders for path in sorted(folder.glob("test_*.py"))]
    units = list(itertools.product(options.mode or MODES, options.tests or files))
    print(f"seed {options.seed}", flush=True)
    random.Random(options.seed).shuffle(units)
    started, tried, failed = time.monotonic(), 0, []
    for mode, path in units:
        if time.monotonic() - started > options.seconds:
            print(f"no time for: {mode} {path}")
            continue
        passed, failures = run(package, mode, path)
        tried += passed + len(failures)
        failed += [f"{mode} {test}" for test in failures]
        print(f"{mode} {path}: {passed} passed, {len(failures)} failed", flush=True)
    print(*failed, sep="\n")
    builds.finish(tried, len(failed))


if __name__ == "__main__":
    main()
