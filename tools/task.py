"""The commands of the project: `make TASK` runs `task.py TASK`. What this machine has, `machine.py` finds out.

Each task is a function near the end of this file. It runs its steps one after the other; each step says what it does,
and the first step that fails ends the task with that step's exit status. This file uses the standard library only.
What a task needs beyond that, it installs into virtual environments in target/venvs. It installs nothing anywhere
else, unless the environment variable RLOOP_INSTALL=1 allows it.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import machine
from machine import INSTALL, ROOT, Python

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
VENVS = TARGET / "venvs"
WHEELS = TARGET / "wheels"
# The tests of each Python are split into so many parts, and so many parts run at a time. Tests wait as much as they
# compute, so there may be more of them than CPUs.
PARTS = 4
AT_A_TIME = 4
MATURIN = "maturin>=1.9.4,<2"
CARGO = ("--quiet", "--locked")
STRICT = ("--", "-D", "warnings")
# Cargo's options for the crate with the features that Rust programs use to host Python.
EMBED = ("--package", "rloop", "--no-default-features", "--features", "tokio")
# The Rust programs in benchmarks/, examples/ and lab/ are workspaces of their own.
BENCHMARKS = ("--manifest-path", "benchmarks/Cargo.toml")
HOSTS = ("--manifest-path", "examples/Cargo.toml")
FUZZERS = ("--manifest-path", "lab/fuzz/Cargo.toml")
MODELS = ("--manifest-path", "lab/models/Cargo.toml")
WORKSPACES = ((), BENCHMARKS, HOSTS, FUZZERS, MODELS)
# The event loops that `make bench` measures beside rloop, and the web servers that it runs on all of them.
RIVALS = ("uvloop", "aiofastnet", "zuvloop", "rsloop")
SERVERS = ("uvicorn", "httptools", "aiohttp", "websockets")
# Every folder with Python files.
PYTHON_FOLDERS = ("python", "tests", "benchmarks", "examples", "lab", "tools", "src/embed")
# What `make build` installs beside rloop: whatever tests, checks and examples need.
DEVELOPMENT = (
    MATURIN,
    ROOT / "tests" / "requirements.txt",
    ROOT / "tools" / "requirements-lint.txt",
    ROOT / "examples" / "requirements.txt",
    ROOT / "tests" / "demo" / "requirements.txt",
    ROOT / "lab" / "requirements.txt",
)


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def say_missing(lacking: Sequence[str], title: str) -> None:
    if lacking:
        print("\n".join([f"\n== {title}", *(f"  {line}" for line in lacking)]), flush=True)


def status_of(*command: str | Path, **environment: str) -> int:
    """Run a command in the project's folder; return its exit status."""
    return subprocess.run([str(part) for part in command], cwd=ROOT, env={**os.environ, **environment}).returncode


def run(*command: str | Path, **environment: str) -> None:
    """Run a command in the project's folder. If it fails, end the task with the same exit status."""
    status = status_of(*command, **environment)
    if status:
        print(f"\nFAILED (exit status {status}): {shlex.join(map(str, command))}", flush=True)
        sys.exit(status if status > 0 else 1)


# ------------------------------------------------------------------------------------------------ environments, builds


def venv(name: str, python: Python, *requirements: str | Path) -> tuple[str, ...]:
    """Make a virtual environment, anew if it exists, and install these packages. A requirement that is the path of a
    .txt file is a requirements file. Returns the command that runs the environment's Python."""
    folder = VENVS / name
    run(*python.command, "-m", "venv", "--clear", folder)
    inside = python_in(folder, python)
    packages: list[str | Path] = []
    for requirement in requirements:
        is_file = isinstance(requirement, Path) and requirement.suffix == ".txt"
        packages += ["-r", requirement] if is_file else [requirement]
    if packages:
        run(*inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return inside


def python_in(folder: Path, python: Python) -> tuple[str, ...]:
    return (*python.prefix, str(folder / "bin" / "python"))


def kept_venv(name: str, python: Python, *requirements: str | Path) -> tuple[str, ...]:
    """As `venv`, but an environment that exists is kept while its Python and its requirements stay the same."""
    texts = [requirement.read_text() if isinstance(requirement, Path) else requirement for requirement in requirements]
    content = "\n".join([*python.command, python.name, *texts])
    record = VENVS / name / "made-of.txt"
    if record.is_file() and record.read_text() == content:
        return python_in(VENVS / name, python)
    say(f"Making the environment {VENVS / name} for Python {python.name}")
    inside = venv(name, python, *requirements)
    record.write_text(content)
    return inside


def maturin(python: Python) -> tuple[str, ...]:
    """The command that runs maturin in the file system of this Python."""
    if python.prefix:
        inside = kept_venv(f"build-elsewhere-{python.name}", python, MATURIN)
    else:
        inside = kept_venv("build", machine.default_python(), MATURIN)
    return (*inside, "-m", "maturin")


def development_venv() -> tuple[str, ...]:
    """The environment for daily work: rloop's requirements and tools, without rloop. `build` adds that."""
    python = machine.default_python()
    major, minor = python.minor
    return kept_venv(f"dev-{major}.{minor}", python, *DEVELOPMENT)


@functools.cache
def wheel(python: Python) -> Path:
    """The release build for one Python. It is built only if a file has changed since the last time."""
    folder = WHEELS / python.name
    if (built := next(folder.glob("*.whl"), None)) and built.stat().st_mtime > last_change():
        return built
    say(f"Building the wheel for Python {python.name}")
    return release(python, ROOT, folder, TARGET / "elsewhere" if python.prefix else TARGET)


def release(python: Python, source: Path, folder: Path, target: Path) -> Path:
    """Build the wheel of a source tree into a folder, where nothing else is left. `target`: where cargo builds."""
    shutil.rmtree(folder, ignore_errors=True)
    options = ("--quiet", "--release", "--locked", "--interpreter", python.command[-1], "--out", folder)
    manifest = ("--manifest-path", source / "Cargo.toml")
    run(*maturin(python), "build", *options, *manifest, CARGO_TARGET_DIR=str(target))
    [path] = folder.glob("*.whl")
    return path


def last_change() -> float:
    """When the newest of the files that a wheel is made of was written."""
    files = [*ROOT.glob("Cargo.*"), ROOT / "pyproject.toml", ROOT / "README.md"]
    files += [
        path
        for folder in ("src", "python")
        for path in (ROOT / folder).rglob("*")
        # Not what Python and `make build` leave there.
        if path.is_file() and path.suffix not in (".pyc", ".so")
    ]
    return max(path.stat().st_mtime for path in files)


# ------------------------------------------------------------------------------------------------ tasks


def build() -> tuple[str, ...]:
    """Build rloop for daily work: without optimisation, and installed so that changed Python files count at once."""
    inside = development_venv()
    python = machine.default_python()
    folder = Path(inside[-1]).parent.parent
    say(f"Building rloop for Python {python.name}, without optimisation")
    # maturin installs into the environment that VIRTUAL_ENV names, and refuses if conda names one, too.
    os.environ.pop("CONDA_PREFIX", None)
    run(*inside, "-m", "maturin", "develop", "--quiet", "--locked", VIRTUAL_ENV=str(folder))
    print(f"rloop is installed in {folder}", flush=True)
    return inside


def check(*arguments: str) -> None:
    """Build, then run tests. Arguments are pytest's; without any, all tests run on this one Python."""
    run(*build(), "-m", "pytest", *arguments)


def fmt() -> None:
    say("Rust: cargo fmt")
    for workspace in WORKSPACES:
        run("cargo", "fmt", "--all", *workspace)
    inside = development_venv()
    say("Python: ruff format")
    run(*inside, "-m", "ruff", "format", *PYTHON_FOLDERS)


def lint() -> None:
    lacking = machine.missing_for_lint()
    say_missing(lacking, "Missing here, and what is skipped for it")
    if machine.has_cargo("fmt"):
        say("Rust: format")
        for workspace in WORKSPACES:
            run("cargo", "fmt", "--all", "--check", *workspace)
    if machine.has_cargo("clippy"):
        clippy()
    inside = build()
    say("Python: format and ruff's rules")
    run(*inside, "-m", "ruff", "format", "--check", *PYTHON_FOLDERS)
    run(*inside, "-m", "ruff", "check", *PYTHON_FOLDERS)
    say("Python: types, and the stub against the built extension")
    run(*inside, "-m", "mypy", "--strict", "python/rloop", "python/rloop_pytest", "tools")
    run(*inside, "-m", "mypy", "--strict", "tests/conformance")
    # Tests mark what only later versions of Python have, so they are checked as for the oldest one.
    oldest = ".".join(map(str, machine.SUPPORTED[0]))
    run(
        *inside, "-m", "mypy", "--strict", "--python-version", oldest, "--exclude", "tests/(conformance|demo)/", "tests"
    )
    # These are programs, so their functions need no annotations; mypy checks the bodies of functions without, too.
    # union-attr: the programs know which pipes their children have.
    options = ("--check-untyped-defs", "--disable-error-code", "union-attr")
    for folder in ("benchmarks", "examples", "tests/demo", "lab"):
        run(*inside, "-m", "mypy", *options, *sorted((ROOT / folder).glob("*.py")), MYPYPATH="tests:tools")
    run(*inside, "-m", "mypy.stubtest", "rloop", "--mypy-config-file", "pyproject.toml")


def clippy() -> None:
    say("Rust: clippy, with and without Python")
    [command] = machine.default_python().command
    module = {"PYO3_BUILD_EXTENSION_MODULE": "1", "PYO3_PYTHON": command}
    for features in ([], ["--no-default-features"]):
        run("cargo", "clippy", *CARGO, "--package", "rloop", *features, *STRICT, **module)
    run("cargo", "clippy", *CARGO, *EMBED, "--lib", "--test", "embed", *STRICT, PYO3_PYTHON=command)
    fuzzers = [FUZZERS] if machine.has_cpp() else []
    for workspace in (BENCHMARKS, HOSTS, *fuzzers, MODELS):
        run("cargo", "clippy", *CARGO, *workspace, *STRICT, PYO3_PYTHON=command)


def test() -> None:
    started = time.monotonic()
    lacking = machine.missing()
    say_missing(lacking, "Missing here, and what is skipped for it")
    lint()
    say("Rust tests: the reactor and the decisions of the transports, without Python; the load generator")
    run("cargo", "test", *CARGO, "--no-default-features")
    run("cargo", "test", *CARGO, *BENCHMARKS, "--package", "rloop-loadgen")
    python = machine.default_python()
    if machine.is_shared(python):
        hosting()
    python_tests()
    source_distribution()
    if machine.may_install() or machine.has_asyncio_tests(python):
        if status := conformance_of(python):
            sys.exit(status)
    run_demo("--seconds", "0.3", "--rounds", "1")
    docs()
    say_missing(lacking, "Skipped, because something is missing here")
    say(f"Everything {'else ' if lacking else ''}passed, in {time.monotonic() - started:.0f} s")


def source_distribution() -> None:
    """Do what pip does where there is no wheel: build from the source distribution, in a folder of its own."""
    python = machine.default_python()
    folder = TARGET / "sdist"
    shutil.rmtree(folder, ignore_errors=True)
    say("The source distribution: built, installed as if there were no checkout, asked for its version")
    run(*maturin(python), "sdist", "--out", folder)
    [archive] = folder.glob("*.tar.gz")
    inside = venv("sdist", python)
    # The question is whether it compiles. Without optimisation that takes a third of the time.
    quick = {"LTO": "off", "OPT_LEVEL": "0", "CODEGEN_UNITS": "16"}
    environment = {f"CARGO_PROFILE_RELEASE_{name}": value for name, value in quick.items()}
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*inside, *install, archive, CARGO_TARGET_DIR=str(TARGET / "sdist-build"), **environment)
    # -P keeps the current folder out of sys.path, so that it is the installed package that runs.
    run(*inside, "-P", "-m", "rloop")


def python_tests() -> None:
    """Run the tests on every Python of this machine. Several parts run at the same time."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    jobs: list[tuple[str, list[str | Path], dict[str, str]]] = []
    for python in machine.pythons().values():
        path = wheel(python)
        inside = venv(f"test-{python.name}", python, path, ROOT / "tests" / "requirements.txt")
        pytest = [*inside, "-m", "pytest", "--quiet", "-p", "no:cacheprovider"]
        for part in range(PARTS):
            jobs.append((f"{python.name}, part {part + 1} of {PARTS}", [*pytest, *files[part::PARTS]], {}))
        if python is machine.default_python():
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
    """Run a command and show its output when it has ended: all of it after a failure, else its last line. Returns
    whether it passed."""
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
    """Run asyncio's own tests. Arguments are those of tests/conformance/run.py: modules, --loop asyncio, ..."""
    sys.exit(conformance_of(machine.default_python(), *arguments))


def conformance_left_out(*arguments: str) -> None:
    sys.exit(conformance_of(machine.default_python(), "--left-out", *arguments))


def conformance_all() -> None:
    started = time.monotonic()
    failed = [python.name for python in machine.all_pythons() if conformance_of(python)]
    versions = [python.name for python in machine.all_pythons()]
    run(sys.executable, "tests/conformance/table.py", *versions)
    if failed:
        sys.exit(f"FAILED: asyncio's own tests on Python {', '.join(failed)}")
    say(f"asyncio's own tests passed on Python {', '.join(versions)}, in {time.monotonic() - started:.0f} s")


def conformance_of(python: Python, *arguments: str) -> int:
    """Run asyncio's own tests on one Python; return the exit status."""
    bring_asyncio_tests(python)
    path = wheel(python)
    say(f"asyncio's own tests on rloop, Python {python.name}")
    inside = venv(f"conformance-{python.name}", python, path)
    return status_of(*inside, "tests/conformance/run.py", *arguments)


def bring_asyncio_tests(python: Python) -> None:
    """See to it that the interpreter's own tests are installed. Debian has them in a package of their own."""
    if machine.has_asyncio_tests(python):
        return
    if not machine.may_install():
        sys.exit(
            f"Missing: {machine.testsuite_of(python)}. Install it, or set {INSTALL}=1 and have it installed by apt-get"
        )
    if os.geteuid() or shutil.which("apt-get") is None:
        sys.exit(f"Missing: {machine.testsuite_of(python)}, and it takes root and apt-get to install it")
    package = f"libpython{python.minor[0]}.{python.minor[1]}-testsuite"
    say(f"Installing {package}")
    run(*python.prefix, "apt-get", "update", "-qq")
    run(*python.prefix, "apt-get", "install", "-y", "-qq", "--no-install-recommends", package)


def hosting() -> None:
    python = machine.default_python()
    environment = machine.libpython(python)
    say(f"Rust programs that host Python {python.name}: tests, examples in the documentation")
    run("cargo", "test", *CARGO, *EMBED, "--test", "embed", **environment)
    run("cargo", "test", *CARGO, *EMBED, "--doc", **environment)
    run("cargo", "doc", *CARGO, *EMBED, "--no-deps", RUSTDOCFLAGS="-D warnings", **environment)
    say("The same: examples/embed-plain and examples/embed-axum, built and driven")
    run("cargo", "build", *CARGO, *HOSTS, **environment)
    run(*python.command, "tests/embed/host_programs.py", TARGET / "debug", **environment)


def demo() -> None:
    run_demo()


def run_demo(*arguments: str) -> None:
    python = machine.default_python()
    path = wheel(python)
    say("The demo: an ASGI application under uvicorn, on rloop and on asyncio")
    inside = venv("demo", python, path, ROOT / "tests" / "demo" / "requirements.txt")
    run(*inside, "tests/demo/run.py", *arguments)


def bench(*arguments: str) -> None:
    python = machine.default_python()
    say("Building the load generator")
    run("cargo", "build", *CARGO, "--release", *BENCHMARKS, "--package", "rloop-loadgen")
    inside = venv("bench", python, wheel(python), *SERVERS)
    install_rivals(inside, python)
    say(f"Measuring rloop and its rivals on Python {python.name}")
    figures = TARGET / "bench.json"
    run(*inside, "benchmarks/bench.py", "--json", figures, *arguments)
    if not arguments:
        # docs/performance.md shows each Python on which the whole was measured in this checkout.
        shutil.copy(figures, TARGET / "bench-{}.{}.json".format(*python.minor))
        measured = sorted(TARGET.glob("bench-3.*.json"))
        run(*inside, "benchmarks/published.py", *measured)
        run(*inside, "benchmarks/syscalls.py")
        say("Measuring awaits between Rust and Python beside pyo3-async-runtimes")
        environment = machine.libpython(python)
        run("cargo", "build", *CARGO, "--release", *BENCHMARKS, "--package", "rloop-awaits", **environment)
        run(*inside, "benchmarks/hosting.py", TARGET / "release" / "rloop-awaits", **environment)


def install_rivals(inside: tuple[str, ...], python: Python) -> None:
    """Install the loops that rloop is measured beside. Not each of them has a wheel for each Python."""
    install = (*inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:")
    # In a folder of its own, because this package has the name of ours: see benchmarks/loops.py.
    folder = VENVS / "rloop-0.5" / "{}.{}".format(*python.minor)
    shutil.rmtree(folder, ignore_errors=True)
    others = ("--no-deps", "--target", str(folder), "rloop==0.5.*")
    for words in (*((rival,) for rival in RIVALS), others):
        if status_of(*install, *words):
            print(f"{words[-1]} cannot be installed for Python {python.name}, and is left out", flush=True)


def bench_compare(revision: str, *arguments: str) -> None:
    """Compare the build of a commit with this checkout. Further arguments are those of benchmarks/compare.py."""
    python = machine.default_python()
    folder = TARGET / "compare"
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    say(f"Building the wheel of {revision}")
    archive = folder / "source.tar"
    run("git", "archive", "--output", archive, revision)
    run("tar", "-xf", archive, "-C", source)
    old = release(python, source, folder / "wheels", folder / "build")
    sides = [venv(f"compare-{name}", python, path)[-1] for name, path in (("old", old), ("new", wheel(python)))]
    say(f"Counting instructions: {revision} and this checkout")
    sys.exit(status_of(*python.command, "benchmarks/compare.py", *sides, *arguments))


def docs() -> None:
    """Build the site into target/site. A link or an anchor that leads nowhere is an error (not with --quiet, by which
    MkDocs does not count its warnings)."""
    inside = kept_venv("docs", machine.default_python(), ROOT / "tools" / "requirements-docs.txt")
    say("The site")
    run(*inside, "-m", "mkdocs", "build", "--strict", NO_MKDOCS_2_WARNING="1")
    print(f"The site is in {ROOT / 'target' / 'site'}: open index.html", flush=True)


def frameworks() -> None:
    """Run every snippet of docs/frameworks.md, and write the table of that page."""
    python = machine.default_python()
    path = wheel(python)
    inside = kept_venv(f"frameworks-{python.name}", python)
    run(*inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--force-reinstall", path)
    say("Servers and frameworks on rloop")
    run(*inside, "tests/frameworks/run.py")


def lab(*arguments: str) -> None:
    """Run the laboratory. Arguments are those of lab/run.py: parts, --seconds N."""
    inside = lab_venv()
    say("The laboratory")
    sys.exit(status_of(*inside, "lab/run.py", *arguments))


def soak(hours: str = "1") -> None:
    """Run servers under load for hours; nothing may be left of it."""
    inside = lab_venv()
    say(f"The long run: {hours} hours; its figures go to {TARGET / 'lab' / 'soak.svg'}")
    sys.exit(status_of(*inside, "lab/soak.py", "--seconds", str(float(hours) * 3600), "--watch", "0.1"))


def reach(*arguments: str) -> None:
    """Run the tests in strict, poor and closed surroundings. Arguments are those of lab/reach.py."""
    inside = lab_venv()
    say("The tests in other surroundings")
    sys.exit(status_of(*inside, "lab/reach.py", *arguments))


def lab_venv() -> tuple[str, ...]:
    """The environment of the laboratory, with the wheel of today."""
    python = machine.default_python()
    path = wheel(python)
    requirements = [ROOT / folder / "requirements.txt" for folder in ("tests", "tests/demo", "examples", "lab")]
    inside = kept_venv(f"lab-{python.name}", python, MATURIN, *requirements)
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--force-reinstall", "--no-deps")
    run(*inside, *install, path)
    return inside


def main(arguments: Sequence[str]) -> None:
    tasks: dict[str, Callable[..., object]] = {
        "build": build,
        "check": check,
        "fmt": fmt,
        "lint": lint,
        "demo": demo,
        "frameworks": frameworks,
        "docs": docs,
        "test": test,
        "bench": bench,
        "bench-compare": bench_compare,
        "lab": lab,
        "soak": soak,
        "reach": reach,
        "conformance": conformance,
        "conformance-left-out": conformance_left_out,
        "conformance-all": conformance_all,
    }
    with_arguments = ("check", "bench", "bench-compare", "lab", "soak", "reach", "conformance", "conformance-left-out")
    if not arguments or arguments[0] not in tasks or (len(arguments) > 1 and arguments[0] not in with_arguments):
        sys.exit(f"usage: task.py {'|'.join(tasks)}")
    if arguments[0] != "docs":
        machine.check_rust()
    tasks[arguments[0]](*arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
