"""`python -m rloop`: which rloop is installed, and whether it is this project and works.

On PyPI the name belongs to another project, with the same import name. Exit status 1 if something is amiss.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import pathlib
import platform
import ssl
import sys

import rloop

# `description` in pyproject.toml, by which the metadata of this project's wheels is known.
SUMMARY = "An asyncio event loop written in Rust"


def complaints() -> list[str]:
    """What is wrong with the installation; an empty list if nothing is."""
    try:
        installed = importlib.metadata.metadata("rloop")
    except importlib.metadata.PackageNotFoundError:
        # A program that hosts Python has the package compiled into it, without metadata.
        return []
    if installed["Summary"] != SUMMARY:
        return [f"the package installed as rloop {installed['Version']} is another project: {installed['Summary']}"]
    if installed["Version"] != rloop.__version__:
        return [f"the files are of {rloop.__version__}, but {installed['Version']} is installed"]
    return []


async def running_loop() -> str:
    await asyncio.sleep(0)
    return repr(asyncio.get_running_loop())


def main() -> int:
    wrong = complaints()
    lines = {
        "rloop": f"{rloop.__version__}, {SUMMARY[0].lower()}{SUMMARY[1:]} on mio and PyO3",
        "package": str(pathlib.Path(rloop.__file__).parent),
        "Python": f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}",
        "platform": f"{platform.platform()}, {ssl.OPENSSL_VERSION}",
        "loop": rloop.run(running_loop()),
        "project": "; ".join(wrong) or "this is the one: not PyPI's rloop, another project of the same name",
    }
    for what, text in lines.items():
        print(f"{what + ':':<10}{text}")
    return 1 if wrong else 0
