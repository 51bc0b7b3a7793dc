"""Waiting for what a process publishes of its loops (`rloop.publish`). No test lives here, and no assertion."""

import importlib
import os
import time
from collections.abc import Callable
from typing import Any


def read_until(condition: Callable[..., object], which: int | str | os.PathLike[str] | None = None) -> Any:
    """Read what is published by a process, by this one if none is given, or at a path, until it is what the test waits
    for. Returns what was read last."""
    which = os.getpid() if which is None else which
    rloop = importlib.import_module("rloop")
    # It is replaced ten times a second.
    while not condition(found := rloop.read_published(which)):
        time.sleep(0.001)
    return found
