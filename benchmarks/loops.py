"""The event loops that are compared: their names, how each is made, which are installed. Nothing here measures."""

import asyncio
import importlib
import importlib.metadata

RIVALS = ("asyncio", "uvloop", "aiofastnet", "zuvloop")
NAMES = ("rloop", *RIVALS)
# The loop that the others are compared with.
BASE = "uvloop"
# These have transports only, and use another loop, here uvloop, for everything else. Only their I/O is measured.
TRANSPORTS_ONLY = frozenset({"aiofastnet"})


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    module = importlib.import_module(name)
    if name == "aiofastnet":
        return module.loop_factory(importlib.import_module(BASE).new_event_loop)()
    return module.new_event_loop()


def installed(names: list[str]) -> dict[str, str]:
    """The versions of the loops that can be imported. A line is printed for each of the others."""
    versions = {}
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"{name} is left out: {error}")
        else:
            versions[name] = _version(name)
    return versions


def _version(name: str) -> str:
    if name == "asyncio":
        return "standard library"
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"
