"""The public methods of rloop's classes: asyncio's of the running version, with the same parameters. rloop only."""

import asyncio
import inspect
import socket
from asyncio import selector_events

import pytest

rloop = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)


def public(cls):
    return sorted(name for name in dir(cls) if not name.startswith("_"))


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


@pytest.fixture(scope="module")
def classes():
    """{name: (rloop's class, asyncio's)}, asked of objects: some native classes have no name in the package."""
    found = {"loop": (rloop.Loop, asyncio.SelectorEventLoop)}
    loop = rloop.new_event_loop()
    for name, model, handle in [
        ("handle", asyncio.Handle, loop.call_soon(print)),
        ("timer", asyncio.TimerHandle, loop.call_later(60, print)),
    ]:
        handle.cancel()
        found[name] = (type(handle), model)
    left, right = socket.socketpair()
    transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=left))
    found["stream transport"] = (type(transport), selector_events._SelectorSocketTransport)
    transport.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    right.close()
    return found


@pytest.mark.parametrize("name", ["loop", "handle", "timer", "stream transport"])
def test_signatures(classes, name):
    assert differences(*classes[name]) == []


def test_loop_has_every_method_of_the_abstract_loop():
    assert set(public(asyncio.AbstractEventLoop)) <= set(public(rloop.Loop))


def test_loop_has_no_public_names_of_its_own():
    assert set(public(rloop.Loop)) <= set(public(asyncio.SelectorEventLoop))


def test_differences_are_found():
    class Model:
        def same(self, a, *, b=None): ...
        def renamed(self, a): ...
        def other_default(self, a=1): ...
        def missing(self): ...
        async def awaited(self): ...

    class Ours:
        def same(this, a, *, b=None): ...
        def renamed(self, b): ...
        def other_default(self, a=2): ...
        def awaited(self): ...

    assert [text.split("(")[0].split(" ")[0] for text in differences(Ours, Model)] == [
        "awaited",
        "missing",
        "other_default",
        "renamed",
    ]
