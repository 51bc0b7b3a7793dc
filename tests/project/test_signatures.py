"""The public methods of rloop's loop and handles: asyncio's of the running version, with the same parameters. Those of
transports are in stream/test_methods.py. rloop only.
"""

import asyncio
from typing import Any

import pytest

from support.signatures import differences, public

rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)


@pytest.fixture(scope="module")
def classes():
    """{name: (rloop's class, asyncio's)}, asked of objects: some native classes have no name in the package."""
    found: dict[str, tuple[type, type]] = {"loop": (rloop.Loop, asyncio.SelectorEventLoop)}
    loop = rloop.new_event_loop()
    for name, model, handle in [
        ("handle", asyncio.Handle, loop.call_soon(print)),
        ("timer", asyncio.TimerHandle, loop.call_later(60, print)),
    ]:
        handle.cancel()
        found[name] = (type(handle), model)
    loop.close()
    return found


@pytest.mark.parametrize("name", ["loop", "handle", "timer"])
def test_signatures(classes, name):
    assert differences(*classes[name]) == []


def test_loop_has_every_method_of_the_abstract_loop():
    assert set(public(asyncio.AbstractEventLoop)) <= set(public(rloop.Loop))


def test_loop_has_no_public_names_of_its_own():
    # But for what asyncio has nothing like.
    assert set(public(rloop.Loop)) <= {*public(asyncio.SelectorEventLoop), "metrics"}


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
