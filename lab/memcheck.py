"""Runs a program of each transport under valgrind's memcheck, which follows every byte: whether it may be touched, and
whether anybody has given it a value.

An invalid read or write, a use of memory without a value, and memory that is definitely lost fail the part if code of
the extension is on the stack. What the interpreter does by itself is not looked at. PYTHONMALLOC=malloc gives each
object memory of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import builds

FOLDER = builds.OUTPUT / "memcheck"
PROGRAMS = Path(__file__).with_name("memcheck_programs.py")
OPTIONS = ("--tool=memcheck", "--leak-check=full", "--show-leak-kinds=definite", "--num-callers=40", "--quiet")
# Kinds of errors, by the first words of valgrind's report. A system call may be given memory without a value by its
# design: a structure with padding, or a buffer that the call fills in.
ERRORS = re.compile(
    r"Invalid (read|write|free)|Conditional jump|Use of uninitialised|Mismatched free|.*definitely lost"
)

# PyO3's function that makes a class.
MADE_ONCE = "pyo3::pyclass::create_type_object"


def errors_in(text: str) -> list[str]:
    """The reports about code of the extension. Reports are set apart by lines without a text."""
    lines = [re.sub(r"^==\d+== ?", "", line) for line in text.splitlines()]
    reports = "\n".join(lines).split("\n\n")
    return [report for report in reports if ERRORS.match(report.strip()) and is_ours(report)]


def is_ours(report: str) -> bool:
    """True if code of the extension is on the stack, and it is not a class being made. PyO3 keeps the description of a
    class for ever, at an address that only CPython knows."""
    return ("rloop::" in report or "_rloop.so" in report) and MADE_ONCE not in report


def check(python: Path, name: str, seconds: float, programs: Path = PROGRAMS) -> tuple[bool, list[str]]:
    """Run one program. Returns whether it came to its end, and the reports of errors."""
    log = FOLDER / f"{name}.log"
    command = ["valgrind", *OPTIONS, f"--log-file={log}", str(python), str(programs), name]
    environment = {**os.environ, "PYTHONMALLOC": "malloc"}
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        print(f"{name}: no end within {seconds:.0f} s")
        return False, []
    if "complete" not in done.stdout:
        print(f"{name}:\n{builds.shown(done.stdout)}")
    return "complete" in done.stdout, errors_in(log.read_text(errors="replace"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("programs", nargs="*", help="names of programs, instead of all")
    options = parser.parse_args()
    clock = builds.Clock(options.seconds)
    if shutil.which("valgrind") is None or shutil.which("cargo") is None:
        builds.skip("it takes cargo and valgrind")
    python = builds.environment_with(builds.extension(FOLDER), FOLDER / "venv")
    names = subprocess.run([sys.executable, str(PROGRAMS)], capture_output=True, text=True).stdout.split()
    tried = failed = 0
    for name in options.programs or names:
        if clock.is_over():
            print(f"no time for {name}")
            continue
        ended, errors = check(python, name, clock.left() + 60)
        print("\n\n".join([f"{name}: {len(errors)} errors", *errors]), flush=True)
        tried, failed = tried + 1, failed + (len(errors) or int(not ended))
    builds.finish(tried, failed)


if __name__ == "__main__":
    main()
