"""What two classes have in common: their public names, and the parameters of their methods.

No test lives here.
"""

import inspect


def public(thing):
    return sorted(name for name in dir(thing) if not name.startswith("_"))


def parameters(method):
    """All but self, which a native method takes by position only."""
    return [(p.name, p.kind, p.default) for p in list(inspect.signature(method).parameters.values())[1:]]


def differences(ours, theirs):
    """What is asyncio's and missing, or has other parameters, or is a coroutine function in one of them only."""
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
