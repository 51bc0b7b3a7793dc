"""The event loops that are compared: their names, how each is made, which are installed. Nothing here measures.

The name `rloop` on the package index belongs to another project. Its release 0.5 is the rival "rloop-0.5". It cannot be
installed beside ours, because both packages have the same name. So it is in a folder of its own (`PUBLISHED`), which
`make bench` fills. A process that measures it has that folder first in its path, and never imports ours.
"""

import asyncio
import importlib
import importlib.metadata
import os
import pathlib
import subprocess
import sys

OTHER_RLOOP = "rloop-0.5"
RIVALS = ("asyncio", "uvloop", "aiofastnet", "zuvloop", "rsloop", OTHER_RLOOP)
NAMES = ("rloop", *RIVALS)
# The loop that the others are compared with.
BASE = "uvloop"
# These have transports only, and use another loop, here uvloop, for everything else. Only their I/O is measured.
TRANSPORTS_ONLY = frozenset({"aiofastnet"})
_TARGET = os.environ.get("CARGO_TARGET_DIR") or pathlib.Path(__file__).resolve().parents[1] / "target"
# Where the other project's package is installed for this version of Python.
PUBLISHED = pathlib.Path(_TARGET, "venvs", "rloop-0.5", "{}.{}".format(*sys.version_info))


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == OTHER_RLOOP:
        if "rloop" in sys.modules:
            raise RuntimeError("a process can have only one of the two packages with the name rloop")
        sys.path.insert(0, str(PUBLISHED))
        module = importlib.import_module("rloop")
        if PUBLISHED not in pathlib.Path(module.__file__ or "").parents:
            raise ImportError(f"it is not in {PUBLISHED}")
        return module.new_event_loop()
    module = importlib.import_module(name)
    if name == "aiofastnet":
        return module.loop_factory(importlib.import_module(BASE).new_event_loop)()
    return module.new_event_loop()


def installed(names: list[str]) -> dict[str, str]:
    """The versions of the loops that can be imported. A line is printed for each of the others."""
    versions = {}
    for name in names:
        try:
            versions[name] = _version_of_other_rloop() if name == OTHER_RLOOP else _version(name)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return versions


def _version(name: str) -> str:
    importlib.import_module(name)
    if name == "asyncio":
        return "standard library"
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"


def _version_of_other_rloop() -> str:
    """The version of the other project's package. It is imported in another process, so that ours can be imported in
    this one."""
    trial = [sys.executable, "-c", f"import loops; loops.new_loop({OTHER_RLOOP!r}).close()"]
    done = subprocess.run(trial, cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise ImportError((done.stderr.splitlines() or ["it ends without a word"])[-1])
    [distribution] = importlib.metadata.distributions(name="rloop", path=[str(PUBLISHED)])
    return distribution.version
