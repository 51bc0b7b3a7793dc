"""The tests of rloop while every system call is awkward: a part of the laboratory.

`python lab/modes.py [--seconds 600] [--mode one-byte-reads ...] [--folder tls ...] [tests/tls/test_end.py ...]`

A mode of the build with the cargo feature `faults` holds for the whole test process: each read gets one byte, each
write sends one byte (but for one of 64), sockets have the smallest buffers that the kernel allows, or waits wake up
without a reason. The tests must pass all the same. Those that measure what a mode changes by design are named in
`modes_left_out.txt`, with the reason. Without enough seconds for all files in all modes, the rest is named; `--seed`
decides on the order. `reach.py` runs the tests in the same way, and shares what is not about a mode.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import builds
import faults_build

LAB = Path(__file__).resolve().parent
MODES = ("one-byte-reads", "one-byte-writes", "tiny-buffers", "spurious-wake-ups")
# Seconds for one file in one mode.
LIMIT = 600


def left_out(mode: str, path: str) -> Iterator[str]:
    """The tests of a file that are not run in a mode. A line is: MODE[,MODE...] TEST, and a comment says why."""
    for line in (LAB / "modes_left_out.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            modes, test = line.split(maxsplit=1)
            if mode in modes.split(",") and test.split("::")[0] == path:
                yield test


def run(mode: str, path: str, environment: Mapping[str, str], before: Sequence[str] = ()) -> tuple[int, list[str]]:
    """Run a file's tests in a mode, which is the `environment`, and what the command `before` makes of the command
    behind it. Returns how many have passed, and which have failed.
    """
    options = ["-q", "-p", "no:cacheprovider", "-rfE", "--tb=short", f"--rootdir={builds.ROOT}"]
    for test in left_out(mode, path):
        if test == path:
            return 0, []
        options += ["--deselect", test]
    command = [*before, sys.executable, "-m", "pytest", *options, path]
    try:
        ended = subprocess.run(command, cwd=builds.ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired as late:
        print((late.stdout or b"")[-20_000:].decode(errors="replace"), flush=True)
        return 0, [f"{path}: no end after {LIMIT} s"]
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
    # A test may show the output of another pytest; the last line is this one's.
    passed = re.findall(r"(\d+) passed", ended.stdout)
    if failed or ended.returncode not in (0, 5):
        print(ended.stdout[-20_000:], ended.stderr[-5_000:], sep="\n", flush=True)
    # 5: no test is left.
    if ended.returncode not in (0, 5) and not failed:
        failed = [f"{path}: pytest has ended with {ended.returncode}"]
    return int(passed[-1]) if passed else 0, failed


Run = Callable[[str, str], tuple[int, list[str]]]


def run_all(run: Run, modes: Sequence[str], files: Sequence[str], seconds: float, seed: int) -> dict[str, list[int]]:
    """Call `run(mode, file)` for each file in each mode, in an order by `seed`, and print each outcome. Once `seconds`
    have passed, the rest is only named. Returns for each mode how many tests ran, and how many of them failed.
    """
    units = list(itertools.product(modes, files))
    print(f"seed {seed}", flush=True)
    random.Random(seed).shuffle(units)
    started = time.monotonic()
    figures = {mode: [0, 0] for mode in modes}
    failed: list[str] = []
    for mode, path in units:
        if time.monotonic() - started > seconds:
            print(f"no time for: {mode} {path}")
            continue
        passed, failures = run(mode, path)
        figures[mode][0] += passed + len(failures)
        figures[mode][1] += len(failures)
        failed += [f"{mode} {test}" for test in failures]
        print(f"{mode} {path}: {passed} passed, {len(failures)} failed", flush=True)
    print(*failed, sep="\n")
    return figures


def options_of(description: str, modes: Sequence[str], folders: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--mode", action="append", choices=modes, help="this one; all if not given; may be repeated")
    parser.add_argument("--folder", action="append", choices=folders, help="of tests/; all if not given")
    parser.add_argument("tests", nargs="*", help="files of tests, instead of whole folders")
    return parser.parse_args()


def main() -> None:
    options = options_of("Run the tests while every system call is awkward.", MODES, builds.FOLDERS)
    package = faults_build.build()

    def run_one(mode: str, path: str) -> tuple[int, list[str]]:
        return run(mode, path, faults_build.environment(package, RLOOP_FAULTS=mode, RLOOP_TEST_LOOPS="rloop"))

    files = options.tests or builds.test_files(options.folder or builds.FOLDERS)
    figures = run_all(run_one, options.mode or MODES, files, options.seconds, options.seed)
    builds.finish(sum(tried for tried, _ in figures.values()), sum(failed for _, failed in figures.values()))


if __name__ == "__main__":
    main()
