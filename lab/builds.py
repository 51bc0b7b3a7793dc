"""What several parts of the laboratory need: how a part ends, rloop built in another way, an environment that has this
build, and the tests run in it. This is no part by itself, and no check lives here.

Each build has a folder of its own below target/lab/, so that no build throws another one's files away.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "lab"
# Folders of tests/ that say something about the compiled code. Left out are `project`, which reads the sources, and
# `conformance` and `embed`, which pytest does not run.
FOLDERS = ("loop", "stream", "unix", "tls", "datagram", "pipe", "process", "sock")
# The lines that a tool writes about an error are shown up to this number.
SHOWN = 60


def skip(why: str) -> NoReturn:
    """End the part: something that it needs is missing here."""
    print(json.dumps({"skipped": why}))
    sys.exit(0)


def finish(tried: int, failed: int, **more: str) -> NoReturn:
    """End the part with its result; `more` is shown beside it. A part that tried nothing has failed."""
    failed = failed or int(tried == 0)
    print(json.dumps({"tried": tried, "failed": failed, **more}), flush=True)
    sys.exit(1 if failed else 0)


def triple() -> str:
    """The name that rustc gives to this machine."""
    text = subprocess.run(["rustc", "-vV"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [name] = re.findall(r"^host: (.+)$", text, re.MULTILINE)
    return name


def cargo(
    arguments: Sequence[str], folder: Path, variables: Mapping[str, str], timeout: float = 1800, tree: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run cargo in the source tree `tree`, with a target folder of its own. Its output is returned, not shown."""
    return subprocess.run(
        ["cargo", *arguments],
        cwd=tree,
        env={**os.environ, "CARGO_TARGET_DIR": str(folder), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
    )


def extension(
    folder: Path,
    flags: str = "",
    features: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    tree: Path = ROOT,
) -> Path:
    """Build the extension module for this interpreter: with these flags of rustc and these features of cargo, by cargo
    with these environment variables. The flags hold for all crates of the program, but not for build scripts and
    macros. Debug assertions are on. Returns the library. Ends the part if the build fails."""
    # Without PYO3_BUILD_EXTENSION_MODULE, the extension would be linked to libpython.
    variables = {
        "PYO3_BUILD_EXTENSION_MODULE": "1",
        "PYO3_PYTHON": sys.executable,
        "RUSTFLAGS": flags,
        **(variables or {}),
    }
    target = triple()
    arguments = ["build", "--quiet", "--locked", "--lib", "--target", target, "--features", ",".join(features)]
    built = cargo(arguments, folder, variables, tree=tree)
    if built.returncode:
        sys.exit(f"{built.stdout}\nthe extension cannot be built")
    return folder / target / "debug" / "librloop.so"


def environment_with(library: Path, folder: Path, tree: Path = ROOT) -> Path:
    """Make a virtual environment that has this build of rloop, and otherwise what this one has. Returns its
    interpreter. A test that starts another interpreter starts this one, so that it uses this build as well."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    # Python looks into this environment's own folder first.
    (packages / "installed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for package in ("rloop", "rloop_pytest"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(tree / "python" / package, packages / package, ignore=ignored)
    shutil.copy(library, packages / "rloop" / "_rloop.so")
    return folder / "bin" / "python"


def pytest(
    command: Sequence[str], tests: Sequence[str], seconds: float, variables: Mapping[str, str]
) -> tuple[int, int, str]:
    """Run tests of rloop by this interpreter for at most so many seconds. Returns how many ran, how many failed, and
    the output. Tests that there was no time for do not count. If the interpreter dies, that is one failure."""
    arguments = [*command, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "--tb=short", *tests]
    environment = {**os.environ, "RLOOP_TEST_LOOPS": "rloop", "PYTHONDONTWRITEBYTECODE": "1", **variables}
    with tempfile.TemporaryFile() as file:
        try:
            done = subprocess.run(
                arguments, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return 0, 0, "no time left"
        file.seek(0)
        output = file.read().decode(errors="replace")
    numbers = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)s?\b", output)}
    failed = numbers.get("failed", 0) + numbers.get("error", 0)
    if done.returncode and not failed:
        failed = 1
    return numbers.get("passed", 0) + failed, failed, output


class Clock:
    """The time that the part has, in seconds from now."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return max(self.end - time.monotonic(), 1.0)

    def is_over(self) -> bool:
        return time.monotonic() >= self.end


def test_files(names: Sequence[str] = FOLDERS) -> list[str]:
    """The files of tests in these folders of tests/, ordered so that every folder has its turn early."""
    folders = [sorted((ROOT / "tests" / name).glob("test_*.py")) for name in names]
    rows = [[files[row] for files in folders if row < len(files)] for row in range(max(map(len, folders)))]
    return [str(path.relative_to(ROOT)) for row in rows for path in row]


def shown(output: str) -> str:
    """The end of an output."""
    return "\n".join(output.rstrip().splitlines()[-SHOWN:])
