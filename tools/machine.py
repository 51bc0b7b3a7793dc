"""What this machine has of what the tasks of `task.py` need: interpreters, tools, libraries.

The functions here only look, and say what is missing. Nothing is installed or built here.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Optional: the path of a program that runs `COMMAND ARGUMENTS...` in another root file system, where Pythons are that
# this machine does not have (a chroot, a container). The checkout must have the same path there.
ELSEWHERE = os.environ.get("RLOOP_PYTHONS", "")
# The versions of CPython that rloop supports.
SUPPORTED = [(3, minor) for minor in range(11, 16)]
# The environment variable that allows a task to install packages into the system. No task does so without it.
INSTALL = "RLOOP_INSTALL"


@dataclass(frozen=True)
class Python:
    """An interpreter: the command that runs it, and its full version."""

    command: tuple[str, ...]
    version: tuple[int, int, int]

    @property
    def minor(self) -> tuple[int, int]:
        return self.version[:2]

    @property
    def name(self) -> str:
        return ".".join(map(str, self.version))

    @property
    def prefix(self) -> tuple[str, ...]:
        """The part of the command before the interpreter's own path: empty, or the program of RLOOP_PYTHONS."""
        return self.command[:-1]


def python_of(*command: str) -> Python | None:
    """The interpreter that this command runs. None if it cannot build and run rloop: that takes a supported version of
    CPython, with the GIL, the venv module and the C headers."""
    code = (
        "import sys, os, sysconfig, ensurepip\n"
        "header = os.path.join(sysconfig.get_path('include'), 'Python.h')\n"
        "gil = getattr(sys, '_is_gil_enabled', lambda: True)()\n"
        "assert sys.implementation.name == 'cpython' and gil and os.path.exists(header)\n"
        "print(*sys.version_info[:3])"
    )
    try:
        output = subprocess.run([*command, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if output.returncode:
        return None
    major, minor, micro = map(int, output.stdout.split())
    return Python(command, (major, minor, micro)) if (major, minor) in SUPPORTED else None


@functools.cache
def pythons() -> dict[tuple[int, int], Python]:
    """Every supported CPython of this machine, one of each minor version. The one that runs this file is preferred and
    comes first; then those on PATH, then those of pyenv. If a virtual environment is active, its base interpreter
    counts: activating the environment of `make build` must not change which Python that is."""
    found: dict[tuple[int, int], Python] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [os.path.realpath(sys._base_executable)]  # type: ignore[attr-defined]
    for major, minor in SUPPORTED:
        if on_path := shutil.which(f"python{major}.{minor}"):
            candidates.append(on_path)
        candidates += sorted(map(str, pyenv.glob(f"{major}.{minor}.*/bin/python{major}.{minor}")))
    for candidate in candidates:
        python = python_of(candidate)
        if python is not None:
            found.setdefault(python.minor, python)
    if not found:
        first, last = (".".join(map(str, version)) for version in (SUPPORTED[0], SUPPORTED[-1]))
        sys.exit(f"CPython {first} to {last} with headers and the venv module is needed, and none was found")
    return found


def all_pythons() -> list[Python]:
    """The Pythons of this machine, and those that RLOOP_PYTHONS leads to."""
    here = sorted(pythons().values(), key=lambda python: python.version)
    if not ELSEWHERE:
        return here
    if not Path(ELSEWHERE).exists():
        sys.exit(f"RLOOP_PYTHONS is {ELSEWHERE}, which does not exist")
    elsewhere = [python_of(ELSEWHERE, f"python{major}.{minor}") for major, minor in SUPPORTED]
    versions = {python.version for python in here}
    found = here + [python for python in elsewhere if python is not None and python.version not in versions]
    return sorted(found, key=lambda python: python.version)


def default_python() -> Python:
    """The Python that runs this file, if rloop supports it."""
    return next(iter(pythons().values()))


def libpython(python: Python) -> dict[str, str]:
    """The environment variables for building and running Rust programs that host this Python."""
    code = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    [command] = python.command
    folder = subprocess.run([command, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    path = os.pathsep.join(filter(None, [folder, os.environ.get("LD_LIBRARY_PATH")]))
    return {"PYO3_PYTHON": command, "LD_LIBRARY_PATH": path}


def may_install() -> bool:
    return os.environ.get(INSTALL, "") not in ("", "0")


def check_rust() -> None:
    """End the task unless there is a Rust that is new enough: nothing works without."""
    wanted = re.search(r'^rust-version = "(\d+)\.(\d+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert wanted
    needed = f"Rust {wanted[1]}.{wanted[2]} or newer is needed"
    if shutil.which("cargo") is None or shutil.which("rustc") is None:
        sys.exit(f"{needed}: cargo and rustc are not on PATH")
    version = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True).stdout
    found = re.search(r"(\d+)\.(\d+)", version)
    if found is None or tuple(map(int, found.groups())) < tuple(map(int, wanted.groups())):
        sys.exit(f"{needed}, not {version.strip() or 'one that does not say its version'}")


def missing() -> list[str]:
    """What this machine lacks for all of `make test`. Each line also says what is skipped for that reason."""
    python = default_python()
    lacking = missing_for_lint()
    lacking += [
        f"CPython {major}.{minor} with headers and venv: the tests on it"
        for major, minor in SUPPORTED
        if (major, minor) not in pythons()
    ]
    if not has_asyncio_tests(python) and not may_install():
        lacking.append(f"{testsuite_of(python)}, or {INSTALL}=1 to have it installed: asyncio's own tests")
    if not is_shared(python):
        lacking.append(f"a shared library of Python {python.name}: the tests of Rust programs that host Python")
    if not has_module(python, "_testcapi"):
        lacking.append(f"the module _testcapi of Python {python.name}: the tests of subinterpreters")
    if not find_faketime():
        lacking.append("libfaketime (Debian: libfaketime): the test of a clock that runs ten times as fast")
    if shutil.which("openssl") is None:
        lacking.append("the openssl command: TLS with OpenSSL's own client and server (tests/tls/test_openssl.py)")
    if not has_ipv6():
        lacking.append("the address ::1: what is tested over IPv6")
    return lacking


def missing_for_lint() -> list[str]:
    checks = {"fmt": ("rustfmt", "the format of the Rust code"), "clippy": ("clippy", "the lints of the Rust code")}
    lacking = [
        f"cargo {command} (rustup component add {component}): {skipped}"
        for command, (component, skipped) in checks.items()
        if not has_cargo(command)
    ]
    if not has_cpp():
        lacking.append("a C++ compiler: the lints of lab/fuzz, which builds libFuzzer")
    return lacking


def has_asyncio_tests(python: Python) -> bool:
    return has_module(python, "test.test_asyncio")


def has_module(python: Python, name: str) -> bool:
    look = [*python.command, "-c", f"import {name}"]
    return not subprocess.run(look, cwd=ROOT, capture_output=True).returncode


def testsuite_of(python: Python) -> str:
    major, minor = python.minor
    return f"Python {python.name}'s own tests (Debian: libpython{major}.{minor}-testsuite)"


def is_shared(python: Python) -> bool:
    look = [*python.command, "-c", "import sysconfig; assert sysconfig.get_config_var('Py_ENABLE_SHARED')"]
    return not subprocess.run(look, cwd=ROOT, capture_output=True).returncode


def has_cargo(command: str) -> bool:
    """Whether cargo has this command: rustfmt and clippy are components, which not every Rust has."""
    try:
        return not subprocess.run(["cargo", command, "--version"], cwd=ROOT, capture_output=True).returncode
    except OSError:
        return False


def has_cpp() -> bool:
    """Whether there is a C++ compiler."""
    return any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++"))


def has_standard_library(target: str) -> bool:
    """Whether Rust's standard library for this target is installed."""
    look = ["rustc", "--print", "target-libdir", "--target", target]
    found = subprocess.run(look, cwd=ROOT, capture_output=True, text=True)
    return found.returncode == 0 and any(Path(found.stdout.strip()).glob("libstd-*"))


def has_library_source() -> bool:
    """Whether the source of Rust's standard library is installed, from which it can be checked for any target."""
    found = subprocess.run(["rustc", "--print", "sysroot"], cwd=ROOT, capture_output=True, text=True)
    return (Path(found.stdout.strip()) / "lib/rustlib/src/rust/library/std/Cargo.toml").is_file()


def find_faketime() -> list[Path]:
    """Where tests/loop/test_faked_time.py looks for the library, too."""
    places = ("lib/*/faketime", "lib*/faketime", "local/lib/faketime")
    return [path for place in places for path in Path("/usr").glob(f"{place}/libfaketime.so.1")]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
