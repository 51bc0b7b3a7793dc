"""`make wheels`: the wheels that are published, built into target/dist, checked, and tried.

What is published, for which systems, and what is checked of it is decided here. The steps of daily work, and how
environments are made, are in task.py, which knows nothing of this file. What a wheel has to do, once it is installed,
is in wheel_try.py; what it has to contain is in release.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import machine
from machine import ROOT, SUPPORTED, Python
from targets import bring_standard_library
from task import TARGET, kept_venv, run, say, venv

DIST = TARGET / "dist"
REQUIREMENTS = ROOT / "tools" / "requirements-wheels.txt"
# The size that no wheel may have, in bytes.
TOO_LARGE = 1_000_000
# The part of the tests that a wheel passes before it is published. `make test` runs them all.
SMOKE = (
    "tests/loop/test_call_soon.py",
    "tests/loop/test_handle.py",
    "tests/loop/test_timer_handle.py",
    "tests/stream/test_streams.py",
    "tests/datagram/test_endpoint.py",
    "tests/sock/test_recv.py",
    "tests/tls/test_write.py",
)
# The environment in which this part runs: without the same tests on asyncio.
ON_RLOOP = {"RLOOP_TEST_LOOPS": "rloop"}
PYTEST = ("--quiet", "--quiet", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestConfigWarning")
# The environment variable with the path of a program that runs Pythons of another architecture: `PROGRAM python3.11
# ARGUMENTS...`, for example under QEMU. The checkout must have the same path there.
RUNNER = "RLOOP_PYTHONS_{}"


@dataclass(frozen=True)
class System:
    """What wheels are built for: `tag` is the policy they follow, `reported` what auditwheel calls that, `flags` what
    rustc needs besides."""

    arch: str
    libc: str
    tag: str
    reported: str
    flags: str = ""

    @property
    def target(self) -> str:
        return f"{self.arch}-unknown-linux-{self.libc}"

    @property
    def is_this(self) -> bool:
        return self.arch == platform.machine() and self.libc == "gnu"


def system_of(arch: str, libc: str) -> System:
    if libc == "gnu":
        return System(arch, libc, "manylinux2014", f"manylinux_2_17_{arch}")
    # An extension module is loaded by Python, so it cannot have a libc of its own.
    return System(arch, libc, "musllinux_1_2", f"musllinux_1_2_{arch}", "-C target-feature=-crt-static")


def chosen(pythons: str, system: System) -> list[Python]:
    """The Pythons to build for: those that are named, else all that are there. A name that is not there is an error.
    maturin knows what Pythons for other systems are like, so these need not be there."""
    asked = [tuple(map(int, name.split("."))) for name in pythons.split()]
    if unknown := [name for name in asked if name not in SUPPORTED]:
        sys.exit(f"rloop does not support Python {', '.join('.'.join(map(str, name)) for name in unknown)}")
    if not system.is_this:
        return [Python((f"python{major}.{minor}",), (major, minor, 0)) for major, minor in asked or SUPPORTED]
    there = {python.minor: python for python in machine.all_pythons()}
    if absent := [name for name in asked if name not in there]:
        sys.exit(f"not on this machine: Python {', '.join('.'.join(map(str, name)) for name in absent)}")
    skipped = [f"{major}.{minor}" for major, minor in SUPPORTED if not asked and (major, minor) not in there]
    if skipped:
        say(f"Skipped, because this machine has no such Python: the wheels for {', '.join(skipped)}")
    return [python for minor, python in there.items() if not asked or minor in asked]


def commit_time() -> str:
    """The time of the last commit, in seconds since 1970: every file in a wheel gets it, so that building the same
    commit twice gives the same bytes. Outside of a checkout, the time of the newest source."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    found = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or str(int((ROOT / "Cargo.toml").stat().st_mtime))


def build(python: Python, system: System, folder: Path, target: Path) -> Path:
    """Build one wheel into a folder where no other is, with zig as the linker, which has the symbols of old glibcs."""
    shutil.rmtree(folder, ignore_errors=True)
    options: list[str | Path] = [
        "--release",
        "--locked",
        "--quiet",
        "--zig",
        "--compatibility",
        system.tag,
        "--out",
        folder,
    ]
    if not system.is_this:
        options += ["--target", system.target]
    if python.prefix:
        tools, target = kept_venv(f"wheels-elsewhere-{python.name}", python, REQUIREMENTS), target / "elsewhere"
    else:
        tools = kept_venv("wheels", machine.default_python(), REQUIREMENTS)
    # Panics name their source files. Where crates are kept on this machine is nobody's business.
    cargo_home = os.environ.get("CARGO_HOME", Path.home() / ".cargo")
    environment = {
        "CARGO_TARGET_DIR": str(target),
        "RUSTFLAGS": f"{system.flags} --remap-path-prefix={cargo_home}=/cargo".strip(),
        "SOURCE_DATE_EPOCH": commit_time(),
        # Where the package that contains zig is installed.
        "CARGO_ZIGBUILD_PYTHON_PATH": tools[-1],
    }
    run(*tools, "-m", "maturin", "build", *options, "--interpreter", python.command[-1], **environment)
    [path] = folder.glob("*.whl")
    return path


def check(path: Path, system: System) -> None:
    """See to the size, and have auditwheel say on which systems the wheel runs."""
    if (size := path.stat().st_size) >= TOO_LARGE:
        sys.exit(f"{path.name} has {size} bytes, and {TOO_LARGE} are too many")
    audit = [*kept_venv("wheels", machine.default_python(), REQUIREMENTS), "-m", "auditwheel", "show", "--json", path]
    output = subprocess.run(list(map(str, audit)), cwd=ROOT, capture_output=True, text=True)
    if output.returncode:
        sys.exit(f"auditwheel refuses {path.name}: {output.stdout}{output.stderr}")
    report = json.loads(output.stdout)
    # musl's libc is all that a wheel for it may need. On a system with glibc, auditwheel does not know that library.
    if report["sym_tag"] != system.reported or not report["external_libs"].keys() <= {"libc.so"}:
        sys.exit(f"{path.name} is not for {system.reported}. auditwheel says: {output.stdout}")
    print(f"{path.name}: {size // 1000} KB, {system.reported}", flush=True)


def try_here(path: Path, python: Python) -> None:
    """Install the wheel into an empty environment, without a network, and use it there."""
    inside = venv(f"wheel-{python.name}", python)
    run(*inside, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", path)
    # -P keeps the current folder out of sys.path, so that it is the installed package that runs.
    run(*inside, "-P", "tools/wheel_try.py", "README.md", "tests")
    run(*inside, "-P", "-m", "rloop")
    run(*inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *test_requirements())
    run(*inside, "-P", "-m", "pytest", *PYTEST, *SMOKE, **ON_RLOOP)


def try_elsewhere(path: Path, python: Python, runner: str) -> None:
    """As `try_here`, with a Python of another architecture, which need not have pip."""
    folder = TARGET / "wheel-elsewhere"
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(path) as wheel:
        wheel.extractall(folder)
    inside = (runner, *python.command)
    run(*inside, "-P", "tools/wheel_try.py", "README.md", "tests", PYTHONPATH=str(folder))
    # pytest is pure Python: what this machine's pip installs, runs there.
    pip = (*kept_venv("wheels", machine.default_python(), REQUIREMENTS), "-m", "pip", "install", "--quiet")
    version = f"{python.minor[0]}.{python.minor[1]}"
    only = ("--only-binary", ":all:", "--python-version", version, "--target", folder)
    run(*pip, *only, *test_requirements())
    # This machine cannot start the interpreter by its own path, as tests do that need a child. They get a program.
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(inside)} "$@"\n')
    program.chmod(0o755)
    code = f"import sys, pytest; sys.executable = {str(program)!r}; sys.exit(pytest.main())"
    run(*inside, "-P", "-c", code, *PYTEST, *SMOKE, PYTHONPATH=str(folder), **ON_RLOOP)


def test_requirements() -> list[str]:
    lines = (ROOT / "tests" / "requirements.txt").read_text().splitlines()
    return [line for line in lines if re.match(r"pytest(-asyncio)?(?![\w-])", line)]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build_again(path: Path, python: Python, system: System) -> None:
    """Build the same wheel a second time, from nothing; the bytes must be the same."""
    say(f"{path.name} once more, from nothing")
    folder = TARGET / "wheels-again"
    shutil.rmtree(folder, ignore_errors=True)
    again = build(python, system, folder / "wheels", folder / "build")
    if digest(again) != digest(path):
        sys.exit(f"two builds differ: {path} and {again}")
    print(f"the same bytes, sha256 {digest(path)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build, check and try the wheels that are published.")
    parser.add_argument("--pythons", default="", help='versions, such as "3.11 3.14"; all that are there if not given')
    parser.add_argument("--arch", default="", choices=["", "x86_64", "aarch64"], help="this machine's if not given")
    parser.add_argument("--libc", default="", choices=["", "gnu", "musl"], help="gnu if not given")
    parser.add_argument("--twice", action="store_true", help="build the first wheel twice, and compare the bytes")
    options = parser.parse_args()
    machine.check_rust()
    system = system_of(options.arch or platform.machine(), options.libc or "gnu")
    if not bring_standard_library(system.target):
        say(f"Skipped: wheels for {system.target} need its standard library (rustup target add {system.target})")
        return
    DIST.mkdir(parents=True, exist_ok=True)
    runner = os.environ.get(RUNNER.format(system.arch.upper()), "") if system.libc == "gnu" else ""
    for number, python in enumerate(chosen(options.pythons, system)):
        say(f"The wheel for Python {'.'.join(map(str, python.minor))}, {system.target}")
        path = build(python, system, TARGET / "wheels-made", TARGET / "zig")
        check(path, system)
        if options.twice and number == 0:
            build_again(path, python, system)
        if system.is_this:
            try_here(path, python)
        elif runner and not subprocess.run([runner, *python.command, "-c", ""]).returncode:
            try_elsewhere(path, python, runner)
        else:
            say(f"Skipped: {path.name} was not tried, because no such Python runs here")
        shutil.copy2(path, DIST)
    say(f"The wheels are in {DIST}")


if __name__ == "__main__":
    main()
