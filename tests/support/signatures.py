"""Compares two classes: their public names, and the parameters of their methods.

No test lives here.
"""

import inspect
from typing import Any


def public(thing: object) -> list[str]:
    return sorted(name for name in dir(thing) if not name.startswith("_"))


def parameters(method: Any) -> list[tuple[str, object, object]]:
    """All parameters but self. A native method takes self by position only, one written in Python does not."""
    return [(p.name, p.kind, p.default) for p in list(inspect.signature(method).parameters.values())[1:]]


def differences(ours: type, theirs: type) -> list[str]:
    """What asyncio's class has and ours lacks, or has with other parameters, or as a coroutine function in one only."""
    found = []
    for name in public(theirs):
        method, model = getattr(ours, name, None), getattr(theirs, name)
        if not callable(model):
            continue
        if method is None:
            found.append(f"{name} is missing")
        elif parameters(method) != parameters(model):
            found.append(f"{name}{inspect.signature(method)} is {name}{inspect.signature(model)} in asyncio")
        elif inspect.iscoroutinefunction(method) != inspect.iscoroutinefunction(model):
            found.append(f"{name} is a coroutine function in one of them only")
    return found
