"""What `make` runs: `task.py demo|test|lint|bench`. Standard library only; everything else goes into target/venvs.

A task is a list of steps; each says what it does, and the first that fails ends the run with its exit status.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
VENVS = TARGET / "venvs"
WHEELS = TARGET / "wheels"
# The Pythons that rloop supports.
SUPPORTED = [(3, minor) for minor in range(11, 16)]
MATURIN = "maturin>=1.9.4,<2"


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def run(*command: str | Path, **environment: str) -> None:
    """Run a command in the project's folder; end with its exit status if it fails."""
    status = subprocess.run([str(part) for part in command], cwd=ROOT, env={**os.environ, **environment}).returncode
    if status:
        print(f"\nFAILED (exit status {status}): {' '.join(map(str, command))}", flush=True)
        sys.exit(status if status > 0 else 1)


# ------------------------------------------------------------------------------------------------ environments


def version_of(python: str | Path) -> tuple[int, int] | None:
    """The version of a CPython that can build and run the project: with venv and headers. None for any other."""
    code = (
        "import sys, os, sysconfig, ensurepip\n"
        "header = os.path.join(sysconfig.get_path('include'), 'Python.h')\n"
        "gil = getattr(sys, '_is_gil_enabled', lambda: True)()\n"
        "assert sys.implementation.name == 'cpython' and gil and os.path.exists(header)\n"
        "print(*sys.version_info[:2])"
    )
    try:
        output = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if output.returncode:
        return None
    major, minor = map(int, output.stdout.split())
    return (major, minor) if (major, minor) in SUPPORTED else None


@functools.cache
def pythons() -> dict[tuple[int, int], str]:
    """Every supported CPython of this machine, by version: this one first, then those on PATH and of pyenv."""
    found: dict[tuple[int, int], str] = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [sys.executable]
    for major, minor in SUPPORTED:
        if on_path := shutil.which(f"python{major}.{minor}"):
            candidates.append(on_path)
        candidates += sorted(map(str, pyenv.glob(f"{major}.{minor}.*/bin/python{major}.{minor}")))
    for candidate in candidates:
        version = version_of(candidate)
        if version is not None:
            found.setdefault(version, candidate)
    if not found:
        sys.exit(f"No CPython of {SUPPORTED[0]} to {SUPPORTED[-1]} with venv and headers found")
    return found


def name_of(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def venv(name: str, python: str, *requirements: str | Path) -> Path:
    """A fresh virtual environment with the given packages (a path is a requirements file); returns its Python."""
    folder = VENVS / name
    run(python, "-m", "venv", "--clear", folder)
    inside = folder / "bin" / "python"
    packages: list[str | Path] = []
    for requirement in requirements:
        is_file = isinstance(requirement, Path) and requirement.suffix == ".txt"
        packages += ["-r", requirement] if is_file else [requirement]
    if packages:
        run(inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return inside


@functools.cache
def wheel(version: tuple[int, int], python: str) -> Path:
    """Build the wheel for one Python from this checkout."""
    say(f"Building the wheel for Python {name_of(version)}")
    builder = VENVS / "build" / "bin" / "python"
    if not builder.exists():
        venv("build", sys.executable, MATURIN)
    folder = WHEELS / name_of(version)
    shutil.rmtree(folder, ignore_errors=True)
    options = ("--quiet", "--release", "--locked", "--interpreter", python)
    run(builder, "-m", "maturin", "build", *options, "--out", folder)
    [path] = folder.glob("*.whl")
    return path


def default_python() -> tuple[tuple[int, int], str]:
    return next(iter(pythons().items()))


# ------------------------------------------------------------------------------------------------ tasks


def lint() -> None:
    say("Rust: format and clippy, with and without Python")
    run("cargo", "fmt", "--all", "--check")
    for features in ([], ["--no-default-features"]):
        clippy = ["cargo", "clippy", "--quiet", "--locked", "--workspace", *features, "--", "-D", "warnings"]
        run(*clippy, PYO3_BUILD_EXTENSION_MODULE="1", PYO3_PYTHON=default_python()[1])
    version, python = default_python()
    path = wheel(version, python)
    say("Python: format, mypy, and the stub against the built extension")
    inside = venv("lint", python, path, ROOT / "tools" / "requirements-lint.txt")
    run(inside, "-m", "ruff", "check", "python", "tests", "benchmarks", "examples", "tools")
    run(inside, "-m", "mypy", "--strict", "python/rloop", "tools/task.py")
    run(inside, "-m", "mypy.stubtest", "rloop")


def test() -> None:
    started = time.monotonic()
    lint()
    say("Rust tests: the reactor and the decisions of the transports, without Python")
    run("cargo", "test", "--quiet", "--locked", "--no-default-features")
    run("cargo", "test", "--quiet", "--locked", "--package", "rloop-loadgen")
    for version, python in pythons().items():
        path = wheel(version, python)
        say(f"Python tests on {name_of(version)}: rloop and asyncio, side by side")
        inside = venv(f"test-{name_of(version)}", python, path, ROOT / "tests" / "requirements.txt")
        run(inside, "-m", "pytest", "--quiet")
        say(f"TLS tests on {name_of(version)}: rloop's other engine, without a look into OpenSSL")
        run(inside, "-m", "pytest", "--quiet", "-k", "test_tls", RLOOP_TLS_ENGINE="portable", RLOOP_TEST_LOOPS="rloop")
    run_demo("--seconds", "0.3", "--rounds", "1")
    say("Soak: uvicorn, aiohttp and asyncio's servers under load, nothing may be left")
    inside = venv("soak", sys.executable, wheel(*default_python()), ROOT / "examples" / "requirements.txt")
    run(inside, "examples/soak.py", "rloop", "--quick")
    say(f"Everything passed, in {time.monotonic() - started:.0f} s")


def demo() -> None:
    run_demo()


def run_demo(*arguments: str) -> None:
    version, python = default_python()
    path = wheel(version, python)
    say("The demo: an ASGI application under uvicorn, on rloop and on asyncio")
    inside = venv("demo", python, path, ROOT / "examples" / "demo" / "requirements.txt")
    run(inside, "examples/demo/run.py", *arguments)


def bench(*arguments: str) -> None:
    version, python = default_python()
    say("Building the load generator")
    run("cargo", "build", "--quiet", "--release", "--locked", "--package", "rloop-loadgen")
    path = wheel(version, python)
    rivals = ["uvloop", "zuvloop"] if version >= (3, 14) else ["uvloop"]
    say(f"Measuring rloop beside asyncio, {', '.join(rivals)} on Python {name_of(version)}")
    # Not a loop: other transports for uvloop, measured for TLS.
    inside = venv("bench", python, path, *rivals, "aiofastnet")
    run(inside, "benchmarks/bench.py", *arguments)
    if not arguments:
        run(inside, "benchmarks/syscalls.py")


def main(arguments: Sequence[str]) -> None:
    tasks = {"demo": demo, "test": test, "lint": lint, "bench": bench}
    if not arguments or arguments[0] not in tasks or (len(arguments) > 1 and arguments[0] != "bench"):
        sys.exit(f"usage: task.py {'|'.join(tasks)}")
    if shutil.which("cargo") is None:
        sys.exit("Rust is needed: cargo is not on PATH")
    tasks[arguments[0]](*arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
