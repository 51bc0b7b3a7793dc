"""The event loops that are compared: their names, how each is made, which are installed. No measuring."""

import asyncio
import importlib
import importlib.metadata

NAMES = ("rloop", "asyncio", "uvloop", "zuvloop")
# Not a loop, but other transports for one: put into uvloop here, and looked at for TLS.
FASTNET = "aiofastnet"
# The loop that the others are put in proportion to.
BASE = "uvloop"


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == FASTNET:
        return importlib.import_module(name).patch_loop(new_loop("uvloop"))
    return importlib.import_module(name).new_event_loop()


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
