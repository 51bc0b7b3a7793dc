"""What `make` runs: `task.py TASK`. Standard library only; everything else goes into target/venvs.

A task is a list of steps; each says what it does, and the first that fails ends the run with its exit status.
Nothing is installed outside target/, unless RLOOP_INSTALL=1 allows it.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
VENVS = TARGET / "venvs"
WHEELS = TARGET / "wheels"
# A command that runs another one where newer Pythons are, if there is such a place beside this checkout. Paths below
# the checkout are the same there.
ELSEWHERE = Path(os.environ.get("RLOOP_PYTHONS", ROOT.parent / "shared" / "pythons" / "in"))
# The Pythons that rloop supports.
SUPPORTED = [(3, minor) for minor in range(11, 16)]
# How many parts each Python's tests are run in, and how many parts at a time: they wait as much as they compute.
PARTS = 4
AT_A_TIME = 4
MATURIN = "maturin>=1.9.4,<2"
CARGO = ("--quiet", "--locked")
STRICT = ("--", "-D", "warnings")
# The crate as Rust programs that host Python use it, and such programs.
EMBED = ("--package", "rloop", "--no-default-features", "--features", "tokio")
# The workspaces beside the crate's own.
BENCHMARKS = ("--manifest-path", "benchmarks/Cargo.toml")
HOSTS = ("--manifest-path", "examples/Cargo.toml")
# Set by whoever allows a task to install packages into the system. Nobody is asked, and nothing is done without it.
INSTALL = "RLOOP_INSTALL"


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def status_of(*command: str | Path, **environment: str) -> int:
    """Run a command in the project's folder."""
    return subprocess.run([str(part) for part in command], cwd=ROOT, env={**os.environ, **environment}).returncode


def run(*command: str | Path, **environment: str) -> None:
    """Run a command in the project's folder; end with its exit status if it fails."""
    status = status_of(*command, **environment)
    if status:
        print(f"\nFAILED (exit status {status}): {' '.join(map(str, command))}", flush=True)
        sys.exit(status if status > 0 else 1)


# ------------------------------------------------------------------------------------------------ environments


@dataclass(frozen=True)
class Python:
    """An interpreter: what runs it, and its version in full."""

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
        """What stands before the interpreter's own path."""
        return self.command[:-1]


def python_of(*command: str) -> Python | None:
    """A CPython that can build and run the project: with venv and headers. None for any other."""
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
    """Every supported CPython of this machine, by version: this one first, then those on PATH and of pyenv."""
    found: dict[tuple[int, int], Python] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [sys.executable]
    for major, minor in SUPPORTED:
        if on_path := shutil.which(f"python{major}.{minor}"):
            candidates.append(on_path)
        candidates += sorted(map(str, pyenv.glob(f"{major}.{minor}.*/bin/python{major}.{minor}")))
    for candidate in candidates:
        python = python_of(candidate)
        if python is not None:
            found.setdefault(python.minor, python)
    if not found:
        sys.exit(f"No CPython of {SUPPORTED[0]} to {SUPPORTED[-1]} with venv and headers found")
    return found


def all_pythons() -> list[Python]:
    """Those of this machine, and those that are found elsewhere."""
    here = sorted(pythons().values(), key=lambda python: python.version)
    if not ELSEWHERE.exists():
        return here
    elsewhere = [python_of(str(ELSEWHERE), f"python{major}.{minor}") for major, minor in SUPPORTED]
    versions = {python.version for python in here}
    found = here + [python for python in elsewhere if python is not None and python.version not in versions]
    return sorted(found, key=lambda python: python.version)


def venv(name: str, python: Python, *requirements: str | Path) -> tuple[str, ...]:
    """A fresh virtual environment with the given packages (a path is a requirements file); what runs its Python."""
    folder = VENVS / name
    run(*python.command, "-m", "venv", "--clear", folder)
    inside = (*python.prefix, str(folder / "bin" / "python"))
    packages: list[str | Path] = []
    for requirement in requirements:
        is_file = isinstance(requirement, Path) and requirement.suffix == ".txt"
        packages += ["-r", requirement] if is_file else [requirement]
    if packages:
        run(*inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return inside


def maturin(python: Python) -> tuple[str, ...]:
    """What runs maturin where this Python is."""
    name = "build-elsewhere" if python.prefix else "build"
    path = VENVS / name / "bin" / "python"
    if not path.exists():
        venv(name, python, MATURIN)
    return (*python.prefix, str(path), "-m", "maturin")


@functools.cache
def wheel(python: Python) -> Path:
    """Build the wheel for one Python from this checkout, unless nothing has changed since it was built."""
    folder = WHEELS / python.name
    if (built := next(folder.glob("*.whl"), None)) and built.stat().st_mtime > last_change():
        return built
    say(f"Building the wheel for Python {python.name}")
    shutil.rmtree(folder, ignore_errors=True)
    options = ("--quiet", "--release", "--locked", "--interpreter", python.command[-1])
    target = TARGET / "elsewhere" if python.prefix else TARGET
    run(*maturin(python), "build", *options, "--out", folder, CARGO_TARGET_DIR=str(target))
    [path] = folder.glob("*.whl")
    return path


def last_change() -> float:
    """When the newest file was written of which wheels are made."""
    files = [*ROOT.glob("Cargo.*"), ROOT / "pyproject.toml", ROOT / "README.md"]
    files += [
        path
        for folder in ("src", "python")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    return max(path.stat().st_mtime for path in files)


def default_python() -> Python:
    return next(iter(pythons().values()))


# ------------------------------------------------------------------------------------------------ what is missing


def may_install() -> bool:
    return os.environ.get(INSTALL, "") not in ("", "0")


def missing() -> list[str]:
    """What this machine lacks for all of `make test`, and what is skipped for it."""
    python = default_python()
    lacking = [
        f"CPython {major}.{minor} with headers and venv: the tests on it"
        for major, minor in SUPPORTED
        if (major, minor) not in pythons()
    ]
    if not has_asyncio_tests(python) and not may_install():
        lacking.append(f"{testsuite_of(python)}, or {INSTALL}=1 to have it installed: asyncio's own tests")
    if not is_shared(python):
        lacking.append(f"a shared library of Python {python.name}: the tests of Rust programs that host Python")
    if shutil.which("openssl") is None:
        lacking.append("the openssl command: TLS with OpenSSL's own client and server (tests/tls/test_openssl.py)")
    if not has_ipv6():
        lacking.append("the address ::1: what is tested over IPv6")
    return lacking


def say_missing(lacking: Sequence[str], title: str) -> None:
    if lacking:
        print("\n".join([f"\n== {title}", *(f"  {line}" for line in lacking)]), flush=True)


def has_asyncio_tests(python: Python) -> bool:
    look = [*python.command, "-c", "import test.test_asyncio"]
    return not subprocess.run(look, cwd=ROOT, capture_output=True).returncode


def testsuite_of(python: Python) -> str:
    major, minor = python.minor
    return f"Python {python.name}'s own tests (Debian: libpython{major}.{minor}-testsuite)"


def is_shared(python: Python) -> bool:
    look = [*python.command, "-c", "import sysconfig; assert sysconfig.get_config_var('Py_ENABLE_SHARED')"]
    return not subprocess.run(look, cwd=ROOT, capture_output=True).returncode


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


# ------------------------------------------------------------------------------------------------ tasks


def lint() -> None:
    say("Rust: format and clippy, with and without Python")
    for workspace in ((), BENCHMARKS, HOSTS):
        run("cargo", "fmt", "--all", "--check", *workspace)
    python = default_python()
    [command] = python.command
    module = {"PYO3_BUILD_EXTENSION_MODULE": "1", "PYO3_PYTHON": command}
    for features in ([], ["--no-default-features"]):
        run("cargo", "clippy", *CARGO, "--package", "rloop", *features, *STRICT, **module)
    run("cargo", "clippy", *CARGO, *EMBED, "--lib", "--test", "embed", *STRICT, PYO3_PYTHON=command)
    for workspace in (BENCHMARKS, HOSTS):
        run("cargo", "clippy", *CARGO, *workspace, *STRICT, PYO3_PYTHON=command)
    path = wheel(python)
    say("Python: format, mypy, and the stub against the built extension")
    inside = venv("lint", python, path, ROOT / "tools" / "requirements-lint.txt", ROOT / "tests" / "requirements.txt")
    run(*inside, "-m", "ruff", "check", "python", "tests", "benchmarks", "examples", "tools", "src/embed")
    run(*inside, "-m", "mypy", "--strict", "python/rloop", "tools/task.py")
    run(*inside, "-m", "mypy", "--strict", "tests/conformance")
    # What later versions of Python have is marked in the tests, so that the oldest one decides what is unknown.
    oldest = f"{SUPPORTED[0][0]}.{SUPPORTED[0][1]}"
    run(*inside, "-m", "mypy", "--strict", "--python-version", oldest, "--exclude", "tests/conformance", "tests")
    run(*inside, "-m", "mypy.stubtest", "rloop")


def test() -> None:
    started = time.monotonic()
    lacking = missing()
    say_missing(lacking, "Missing here, and what is skipped for it")
    lint()
    say("Rust tests: the reactor and the decisions of the transports, without Python; the load generator")
    run("cargo", "test", *CARGO, "--no-default-features")
    run("cargo", "test", *CARGO, *BENCHMARKS, "--package", "rloop-loadgen")
    python = default_python()
    if is_shared(python):
        hosting()
    python_tests()
    source_distribution()
    if may_install() or has_asyncio_tests(python):
        if status := conformance_of(python):
            sys.exit(status)
    run_demo("--seconds", "0.3", "--rounds", "1")
    say("Soak: uvicorn, aiohttp and asyncio's servers under load, nothing may be left")
    inside = venv("soak", python, wheel(python), ROOT / "examples" / "requirements.txt")
    run(*inside, "examples/soak.py", "rloop", "--quick")
    say_missing(lacking, "Skipped, because something is missing here")
    say(f"Everything {'else ' if lacking else ''}passed, in {time.monotonic() - started:.0f} s")


def source_distribution() -> None:
    """What pip does where there is no wheel: build from the sdist, in a folder of its own."""
    python = default_python()
    folder = TARGET / "sdist"
    shutil.rmtree(folder, ignore_errors=True)
    say("The source distribution: built, installed without this checkout, asked what it is")
    run(*maturin(python), "sdist", "--out", folder)
    [archive] = folder.glob("*.tar.gz")
    inside = venv("sdist", python)
    # Whether it compiles does not depend on how well: this takes a third of the time.
    quick = {"LTO": "off", "OPT_LEVEL": "0", "CODEGEN_UNITS": "16"}
    environment = {f"CARGO_PROFILE_RELEASE_{name}": value for name, value in quick.items()}
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*inside, *install, archive, CARGO_TARGET_DIR=str(TARGET / "sdist-build"), **environment)
    # -P: not the package in the current folder, should there be one.
    run(*inside, "-P", "-m", "rloop")


def python_tests() -> None:
    """Every Python's tests, in parts."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    jobs: list[tuple[str, list[str | Path], dict[str, str]]] = []
    for python in pythons().values():
        path = wheel(python)
        inside = venv(f"test-{python.name}", python, path, ROOT / "tests" / "requirements.txt")
        pytest = [*inside, "-m", "pytest", "--quiet", "-p", "no:cacheprovider"]
        for part in range(PARTS):
            jobs.append((f"{python.name}, part {part + 1} of {PARTS}", [*pytest, *files[part::PARTS]], {}))
        if python is default_python():
            portable = [path for path in files if path.parent.name == "tls"]
            environment = {"RLOOP_TLS_ENGINE": "portable", "RLOOP_TEST_LOOPS": "rloop"}
            jobs.append((f"{python.name}, TLS by the portable engine", [*pytest, *portable], environment))
    say("Python tests: rloop and asyncio, side by side")
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        results = [pool.submit(run_quietly, *job) for job in jobs]
        failed = [name for (name, _, _), result in zip(jobs, results, strict=True) if not result.result()]
    if failed:
        sys.exit(f"FAILED: Python tests on {'; '.join(failed)}")


def run_quietly(name: str, command: list[str | Path], environment: dict[str, str]) -> bool:
    """Run a command whose output is shown at its end: in full if it fails, its last line if it does not."""
    started = time.monotonic()
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    output = done.stdout.rstrip()
    shown = output if done.returncode else output.rpartition("\n")[2]
    print(f"-- {name}, {time.monotonic() - started:.0f} s: {shown}", flush=True)
    return done.returncode == 0


def conformance(*arguments: str) -> None:
    """Arguments are those of tests/conformance/run.py: modules, --loop asyncio, ..."""
    sys.exit(conformance_of(default_python(), *arguments))


def conformance_left_out(*arguments: str) -> None:
    sys.exit(conformance_of(default_python(), "--left-out", *arguments))


def conformance_all() -> None:
    started = time.monotonic()
    failed = [python.name for python in all_pythons() if conformance_of(python)]
    versions = [python.name for python in all_pythons()]
    run(sys.executable, "tests/conformance/table.py", *versions)
    if failed:
        sys.exit(f"FAILED: asyncio's own tests on Python {', '.join(failed)}")
    say(f"asyncio's own tests passed on Python {', '.join(versions)}, in {time.monotonic() - started:.0f} s")


def conformance_of(python: Python, *arguments: str) -> int:
    """The exit status."""
    bring_asyncio_tests(python)
    path = wheel(python)
    say(f"asyncio's own tests on rloop, Python {python.name}")
    inside = venv(f"conformance-{python.name}", python, path)
    return status_of(*inside, "tests/conformance/run.py", *arguments)


def bring_asyncio_tests(python: Python) -> None:
    """Debian has the interpreter's tests in a package of their own."""
    if has_asyncio_tests(python):
        return
    if not may_install():
        sys.exit(f"Missing: {testsuite_of(python)}. Install it, or set {INSTALL}=1 and have it installed by apt-get")
    if os.geteuid() or shutil.which("apt-get") is None:
        sys.exit(f"Missing: {testsuite_of(python)}, and it takes root and apt-get to install it")
    package = f"libpython{python.minor[0]}.{python.minor[1]}-testsuite"
    say(f"Installing {package}")
    run(*python.prefix, "apt-get", "update", "-qq")
    run(*python.prefix, "apt-get", "install", "-y", "-qq", "--no-install-recommends", package)


def libpython(python: Python) -> dict[str, str]:
    """The environment to build and run programs in that host this Python."""
    code = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    [command] = python.command
    folder = subprocess.run([command, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    path = os.pathsep.join(filter(None, [folder, os.environ.get("LD_LIBRARY_PATH")]))
    return {"PYO3_PYTHON": command, "LD_LIBRARY_PATH": path}


def hosting() -> None:
    python = default_python()
    environment = libpython(python)
    say(f"Rust programs that host Python {python.name}: tests, examples in the documentation")
    run("cargo", "test", *CARGO, *EMBED, "--test", "embed", **environment)
    run("cargo", "test", *CARGO, *EMBED, "--doc", **environment)
    run("cargo", "doc", *CARGO, *EMBED, "--no-deps", RUSTDOCFLAGS="-D warnings", **environment)
    say("The same: examples/embed-plain and examples/embed-axum, built and driven")
    run("cargo", "build", *CARGO, *HOSTS, **environment)
    run(*python.command, "examples/embed_checks.py", TARGET / "debug", **environment)


def demo() -> None:
    run_demo()


def run_demo(*arguments: str) -> None:
    python = default_python()
    path = wheel(python)
    say("The demo: an ASGI application under uvicorn, on rloop and on asyncio")
    inside = venv("demo", python, path, ROOT / "examples" / "demo" / "requirements.txt")
    run(*inside, "examples/demo/run.py", *arguments)


def bench(*arguments: str) -> None:
    python = default_python()
    say("Building the load generator")
    run("cargo", "build", *CARGO, "--release", *BENCHMARKS, "--package", "rloop-loadgen")
    path = wheel(python)
    rivals = ["uvloop", "aiofastnet", *(["zuvloop"] if python.minor >= (3, 14) else [])]
    say(f"Measuring rloop beside asyncio, {', '.join(rivals)} on Python {python.name}")
    inside = venv("bench", python, path, *rivals)
    run(*inside, "benchmarks/bench.py", *arguments)
    if not arguments:
        run(*inside, "benchmarks/syscalls.py")
        say("Measuring awaits between Rust and Python beside pyo3-async-runtimes")
        environment = libpython(python)
        run("cargo", "build", *CARGO, "--release", *BENCHMARKS, "--package", "rloop-awaits", **environment)
        run(*inside, "benchmarks/hosting.py", TARGET / "release" / "rloop-awaits", **environment)


def check_rust() -> None:
    wanted = re.search(r'^rust-version = "(\d+)\.(\d+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert wanted
    needed = f"Rust {wanted[1]}.{wanted[2]} or newer is needed"
    if shutil.which("cargo") is None or shutil.which("rustc") is None:
        sys.exit(f"{needed}: cargo and rustc are not on PATH")
    version = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True).stdout
    found = re.search(r"(\d+)\.(\d+)", version)
    if found is None or tuple(map(int, found.groups())) < tuple(map(int, wanted.groups())):
        sys.exit(f"{needed}, not {version.strip() or 'one that does not say its version'}")


def main(arguments: Sequence[str]) -> None:
    tasks = {
        "demo": demo,
        "test": test,
        "lint": lint,
        "bench": bench,
        "conformance": conformance,
        "conformance-left-out": conformance_left_out,
        "conformance-all": conformance_all,
    }
    with_arguments = ("bench", "conformance", "conformance-left-out")
    if not arguments or arguments[0] not in tasks or (len(arguments) > 1 and arguments[0] not in with_arguments):
        sys.exit(f"usage: task.py {'|'.join(tasks)}")
    check_rust()
    tasks[arguments[0]](*arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
