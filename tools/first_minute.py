"""A newcomer's first minute, as the terminal shows it: a block of text for README.md.

    python tools/first_minute.py target/dist/rloop-...whl

Each command really runs, in an empty folder and in an empty virtual environment, with the wheel that is given. It is
printed behind a `$`, with what it has written, but for the last part of the kernel's version. The Python that runs this
file has to be the one that the wheel is for. A command that fails ends the program with its output.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PROGRAM = """\
import asyncio
import rloop

async def main():
    print(asyncio.get_running_loop())

rloop.run(main())
"""
# The folder of the newcomer, as it is shown.
SHOWN_FOLDER = "~/try"
LIMIT = 120


def commands(python: str, wheel: Path) -> list[tuple[str, str]]:
    """What is shown, and what is run: these differ by the path of the wheel and the name of the Python."""
    install = "pip install --quiet --disable-pip-version-check --no-index"
    return [
        ("python3 -m venv .venv && . .venv/bin/activate", f"{python} -m venv .venv && . .venv/bin/activate"),
        (f"pip install {wheel.name}", f"{install} {wheel}"),
        ("cat hello.py", "cat hello.py"),
        ("python hello.py", "python hello.py"),
        ("python -m rloop", "python -m rloop"),
    ]


def run(command: str, folder: Path) -> str:
    """Run a command of the shell in a folder whose environment is active, if it is there. Returns its output."""
    active = f"{folder}/.venv/bin{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": active, "VIRTUAL_ENV": f"{folder}/.venv", "PYTHONPATH": ""}
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )
    if done.returncode:
        sys.exit(f"FAILED (exit status {done.returncode}): {command}\n{done.stdout}")
    return done.stdout


def block(outputs: Sequence[tuple[str, str]], folder: Path) -> str:
    """Commands and their outputs as a terminal shows them, as a block of Markdown."""
    lines = []
    for command, output in outputs:
        lines.append(f"$ {command}")
        shown = re.sub(r"\b(Linux-\d+\.\d+)\S*?(-[^-\s]+-with-)", r"\1\2", output.replace(str(folder), SHOWN_FOLDER))
        lines += shown.rstrip("\n").splitlines()
    return "\n".join(["```text", *lines, "```"])


def main(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        (folder / "hello.py").write_text(PROGRAM)
        outputs = [(shown, run(real, folder)) for shown, real in commands(sys.executable, wheel.resolve())]
    print(block(outputs, folder))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: first_minute.py WHEEL")
    main(Path(sys.argv[1]))
