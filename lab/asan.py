"""Runs the tests of the extension, and the programs that host Python, under AddressSanitizer: a read or write of memory
that is freed, or is nobody's, ends the program with a report.

UBSan is for C only. What Rust has in its place is on in this build: assertions of the standard library about undefined
behaviour (pointers that are null or not aligned, lengths that do not fit), and checks for overflow.

AddressSanitizer is no part of stable Rust. The stable compiler has it all the same, and RUSTC_BOOTSTRAP=1 lets this one
build use it. The extension needs the sanitizer's library in the interpreter from the start (LD_PRELOAD): gcc's, whose
interface is the same. PYTHONMALLOC=malloc gives each Python object memory of its own, which is watched as well.
Leaks are not looked for, since the interpreter frees not everything at its end.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import builds

FOLDER = builds.OUTPUT / "asan"
FLAGS = "-Zsanitizer=address -Cdebug-assertions=on -Coverflow-checks=on -Copt-level=1 -Cforce-frame-pointers=yes"
BOOTSTRAP = {"RUSTC_BOOTSTRAP": "1"}
# Files of tests, and single ones, that cannot run with a library that was loaded before all others.
LEFT_OUT = {
    "tests/loop/test_faked_time.py",  # loads a library in the same way, and instead of this one
}
LEFT_OUT_TESTS = (
    "tests/process/test_exit.py::test_core_dump",  # the library takes the signal that would end the child
    "tests/process/test_options.py::test_nothing_of_the_loop_is_inherited",  # the child has the file of its report
    # Freed memory is kept back, to find its use, and these look at growth.
    "tests/loop/test_timer_handle.py::test_cancelled_timers_do_not_grow_the_process",
    "tests/stream/test_lifetime.py::test_five_thousand_connections",
    "tests/tls/test_hostile.py::test_streams_of_bytes",
    # These have one of Python's allocations fail, and PYTHONMALLOC changes which one that is.
    "tests/loop/test_no_memory_calls.py::test_what_sock_recv_cannot_return_stays_in_the_socket",
)
# So many files of tests are run by one interpreter.
BATCH = 6
# What the programs that host Python may take of the time.
HOSTS = 0.3


def runtime() -> Path | None:
    """gcc's library of AddressSanitizer."""
    if shutil.which("gcc") is None:
        return None
    told = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    return Path(told) if os.path.isabs(told) else None


def variables(library: Path, reports: Path) -> dict[str, str]:
    """The environment of an interpreter that loads the build. Each report becomes a file: a test may not show what its
    children print."""
    options = {
        "detect_leaks": "0",
        # A failed allocation is the program's to deal with: tests limit the memory of their children.
        "allocator_may_return_null": "1",
        "log_path": str(reports / "report"),
        # It has something to say at the start, so that its file is open before a test counts the open files.
        "verbosity": "1",
    }
    return {
        "LD_PRELOAD": str(library),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": ":".join(f"{name}={value}" for name, value in options.items()),
    }


def reported(reports: Path) -> list[str]:
    """The reports of errors. A program whose memory is limited cannot make room for the sanitizer's own, and says so;
    that is no error of the program."""
    texts = [path.read_text(errors="replace") for path in sorted(reports.glob("report.*"))]
    return [text for text in texts if "ERROR: AddressSanitizer:" in text]


def extension(library: Path, clock: builds.Clock, tests: list[str]) -> tuple[int, int]:
    """Run these files of tests on such a build, for as long as there is time. Returns how many tests
    ran, and how many failed or led to a report."""
    python = builds.environment_with(builds.extension(FOLDER, FLAGS, variables=BOOTSTRAP), FOLDER / "venv")
    with tempfile.TemporaryDirectory() as folder:
        # Children of tests can be another user.
        os.chmod(folder, 0o777)
        return run_batches(python, tests, clock, variables(library, Path(folder)), Path(folder))


def run_batches(
    python: Path, tests: list[str], clock: builds.Clock, environment: dict[str, str], reports: Path
) -> tuple[int, int]:
    """Run the files, some at a time, by this interpreter. Its environment has the sanitizer write into `reports`."""
    tried = failed = 0
    print(f"{len(tests)} files of tests", flush=True)
    for start in range(0, len(tests), BATCH):
        if clock.is_over():
            print(f"no time for {len(tests) - start} of {len(tests)} files")
            break
        some = tests[start : start + BATCH]
        arguments = [*some, *(f"--deselect={test}" for test in LEFT_OUT_TESTS)]
        ran, wrong, output = builds.pytest([str(python)], arguments, clock.left(), environment)
        if wrong:
            print(builds.shown(output), flush=True)
        tried, failed = tried + ran, failed + wrong
        print(f"{tried} tests, {failed} failed", flush=True)
    found = reported(reports)
    print("\n".join(found))
    return tried, failed + len(found)


def hosts(clock: builds.Clock) -> tuple[int, int]:
    """The same for the tests of Rust programs that host Python. rustc links the sanitizer into these by itself."""
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        print("this Python has no shared library: no tests of Rust programs that host it")
        return 0, 0
    libraries = os.pathsep.join(filter(None, [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]))
    environment = {
        **BOOTSTRAP,
        "RUSTFLAGS": FLAGS,
        "PYO3_PYTHON": sys.executable,
        "LD_LIBRARY_PATH": libraries,
        "PYTHONMALLOC": "malloc",
        # Freed memory is kept back, to find its use: 16 MiB instead of 256, because two tests look at growth.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16",
    }
    features = ("--no-default-features", "--features", "tokio", "--test", "embed")
    command = ("test", "--quiet", "--locked", "--target", builds.triple(), *features)
    try:
        # In a folder of its own: PyO3 is built in another way here, and would be built again for the extension.
        done = builds.cargo(command, FOLDER / "hosts", environment, clock.left())
    except subprocess.TimeoutExpired:
        print("no time for the tests of Rust programs that host Python")
        return 0, 0
    passed, failed = (sum(map(int, re.findall(rf"(\d+) {word}", done.stdout))) for word in ("passed", "failed"))
    if done.returncode:
        print(builds.shown(done.stdout))
        failed = max(failed, 1)
    return passed + failed, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=900)
    parser.add_argument("--hosts", action="store_true", help="only the programs that host Python")
    parser.add_argument("tests", nargs="*", help="files of tests, instead of all")
    options = parser.parse_args()
    library = runtime()
    if library is None or shutil.which("cargo") is None:
        builds.skip("it takes cargo, and gcc with its library of AddressSanitizer")
    whole, share = builds.Clock(options.seconds), builds.Clock(options.seconds * (1 - HOSTS))
    tests = options.tests or [name for name in builds.test_files() if name not in LEFT_OUT]
    tried, failed = (0, 0) if options.hosts else extension(library, share, tests)
    if not options.tests:
        more, wrong = hosts(whole)
        tried, failed = tried + more, failed + wrong
    builds.finish(tried, failed)


if __name__ == "__main__":
    main()
