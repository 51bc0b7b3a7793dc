"""The event loops that are compared: their names, how each is made, which are installed. No measuring."""

import asyncio
import importlib
import importlib.metadata

RIVALS = ("asyncio", "uvloop", "aiofastnet", "zuvloop")
NAMES = ("rloop", *RIVALS)
# The loop that the others are put in proportion to.
BASE = "uvloop"
# Transports of its own for another loop, which schedules: uvloop here. Only its I/O is worth measuring.
TRANSPORTS_ONLY = frozenset({"aiofastnet"})


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    module = importlib.import_module(name)
    if name == "aiofastnet":
        return module.loop_factory(importlib.import_module(BASE).new_event_loop)()
    return module.new_event_loop()


def installed(names: list[str]) -> dict[str, str]:
    """The versions of those loops that can be imported; says so about the others."""
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
