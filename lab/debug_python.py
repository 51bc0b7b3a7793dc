"""Runs the tests on a debug build of CPython: it checks each reference count, that no error is set when a function
returns a value, and that one is set when it does not. An assertion that fails ends the interpreter.

Debian has such a build as pythonX.Y-dbg. Where RLOOP_PYTHONS leads to other Pythons (see tools/machine.py), those are
looked at first. Builds before 3.11.4 are not taken, because there subprocess.Popen leaves pipes open when it raises an
exception (gh-87474 in CPython's issues), and the tests count open files. Development mode is off: it would turn on the
debug mode of every loop, in which some calls raise other errors. A debug build checks its memory without it.
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

FOLDER = builds.OUTPUT / "debug_python"
VERSIONS = ("3.14", "3.13", "3.12", "3.11")
# The packages of tests/requirements.txt that the tests in these folders import. All are written in Python.
PACKAGES = (
    "pytest",
    "pytest-asyncio",
    "nest_asyncio",
    "nest_asyncio2",
    "opentelemetry-sdk",
    "prometheus_client",
    "uvicorn",
)
# A debug build shows every warning. These filters are the ones of other builds: the tests look at what their programs
# print, and those may leave a loop unclosed.
FILTERS = "ignore::DeprecationWarning,default::DeprecationWarning:__main__,ignore::PendingDeprecationWarning,\
ignore::ImportWarning,ignore::ResourceWarning"
# Files of tests that cannot pass on a debug build.
LEFT_OUT = {
    # A list that cannot grow fails an assertion of CPython 3.14's own, in `_Py_Dealloc`. `allocations` tries the same.
    "tests/loop/test_no_memory_calls.py",
}
# So many files of tests are run by one interpreter.
BATCH = 6


def find() -> tuple[str, ...] | None:
    """The command that runs a debug build with all that the tests need."""
    code = "import sys, ssl, asyncio, venv; sys.gettotalrefcount(); assert sys.version_info >= (3, 11, 4)"
    places = [(elsewhere,)] if (elsewhere := os.environ.get("RLOOP_PYTHONS")) else []
    for place in [*places, ()]:
        for version in VERSIONS:
            command = (*place, f"python{version}-dbg")
            if shutil.which(command[0]) and not subprocess.run([*command, "-c", code], capture_output=True).returncode:
                return command
    return None


def environment(command: tuple[str, ...]) -> list[str]:
    """Make an environment that has rloop's tests and their packages. Returns the command of its interpreter."""
    folder = FOLDER / "venv"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([*command, "-m", "venv", "--without-pip", folder], check=True)
    pins = re.findall(r"^[\w-]+==\S+$", (builds.ROOT / "tests" / "requirements.txt").read_text(), re.MULTILINE)
    wanted = [pin for pin in pins if pin.partition("==")[0] in PACKAGES]
    [packages] = folder.glob("lib/python*/site-packages")
    version = packages.parent.name.removeprefix("python")
    # The pip of this interpreter can install for the other one, because none of these packages has to be compiled.
    options = ("--quiet", "--disable-pip-version-check", "--target", str(packages), "--python-version", version)
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--only-binary=:all:", *wanted], check=True)
    return [*command[:-1], str(folder / "bin" / "python")]


def build(command: tuple[str, ...]) -> Path:
    """Build the extension for this interpreter, in its own file system."""
    target = FOLDER / "target"
    variables = {"PYO3_BUILD_EXTENSION_MODULE": "1", "PYO3_PYTHON": command[-1], "CARGO_TARGET_DIR": str(target)}
    cargo = [*command[:-1], "cargo", "build", "--quiet", "--locked", "--lib"]
    subprocess.run(cargo, cwd=builds.ROOT, env={**os.environ, **variables}, check=True)
    return target / "debug" / "librloop.so"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("tests", nargs="*", help="files of tests, instead of all")
    options = parser.parse_args()
    clock = builds.Clock(options.seconds)
    command = find()
    if command is None or shutil.which("cargo") is None:
        builds.skip("it takes cargo, and a debug build of CPython (Debian: python3.14-dbg)")
    inside = environment(command)
    [packages] = (FOLDER / "venv").glob("lib/python*/site-packages")
    shutil.copytree(builds.ROOT / "python" / "rloop", packages / "rloop", ignore=shutil.ignore_patterns("*.so"))
    shutil.copy(build(command), packages / "rloop" / "_rloop.so")
    print(subprocess.run([*inside, "-c", "import sys; print(sys.version)"], capture_output=True, text=True).stdout)
    tests = options.tests or [name for name in builds.test_files() if name not in LEFT_OUT]
    tried = failed = 0
    for start in range(0, len(tests), BATCH):
        if clock.is_over():
            print(f"no time for {len(tests) - start} of {len(tests)} files")
            break
        some = tests[start : start + BATCH]
        ran, wrong, output = builds.pytest(inside, some, clock.left(), {"PYTHONWARNINGS": FILTERS})
        if wrong:
            print(builds.shown(output), flush=True)
        tried, failed = tried + ran, failed + wrong
        print(f"{tried} tests, {failed} failed", flush=True)
    builds.finish(tried, failed)


if __name__ == "__main__":
    main()
