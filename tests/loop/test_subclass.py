"""Loops as Python classes: subclasses that override methods, attributes of one's own, weak references."""

import asyncio
import gc
import socket
import weakref
from typing import Any

import pytest

from support.turns import turn


@pytest.fixture
def base(loop_factory):
    """The class of the loops under test."""
    loop = loop_factory()
    loop.close()
    return type(loop)


@pytest.fixture
def new(loop_errors):
    """Makes loops that are closed after the test."""
    loops = []

    def make(cls, *args, **kwargs):
        loop = cls(*args, **kwargs)
        loop.set_exception_handler(lambda loop, context: loop_errors.append(context))
        loops.append(loop)
        return loop

    yield make
    for loop in loops:
        loop.close()


def test_class_of_a_loop(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert isinstance(loop, asyncio.BaseEventLoop)
    assert type(loop).__module__.split(".")[0] in ("rloop", "asyncio")


def test_plain_subclass(base: Any, new):
    class Loop(base):
        pass

    loop = new(Loop)
    assert loop.run_until_complete(asyncio.sleep(0, "value")) == "value"
    # asyncio shows the bare name; rloop shows the module as well.
    name = "Loop" if base.__module__.startswith("asyncio.") else f"{__name__}.{Loop.__qualname__}"
    assert repr(loop) == f"<{name} running=False closed=False debug={loop.get_debug()}>"


def test_constructor(base: Any, new):
    class Loop(base):
        def __init__(self, given, *, key):
            super().__init__()
            self.given = given, key

    loop = new(Loop, 1, key=2)
    assert loop.given == (1, 2)
    turn(loop)


def test_attributes(loop):
    loop.attribute = "value"
    assert loop.attribute == "value"
    assert vars(loop)["attribute"] == "value"
    del loop.attribute
    assert not hasattr(loop, "attribute")


def test_methods_replaced_on_an_instance(loop):
    calls = []
    original = loop.call_soon
    loop.call_soon = lambda *args, **kwargs: (calls.append(args), original(*args, **kwargs))[1]
    loop.run_until_complete(asyncio.sleep(0))
    assert calls


def test_weak_references(loop_factory):
    loop = loop_factory()
    ref, seen = weakref.ref(loop), []
    weakref.finalize(loop, seen.append, "gone")
    assert ref() is loop
    loop.close()
    del loop
    gc.collect()
    assert ref() is None
    assert seen == ["gone"]


def test_hash_and_equality(loop, loop_factory):
    other = loop_factory()
    assert loop == loop
    assert loop != other
    assert len({loop, other, loop}) == 2
    other.close()


def test_cycle_through_attributes_is_collected(loop_factory):
    loop = loop_factory()
    loop.itself = loop
    loop.set_exception_handler(lambda loop, context, cycle=loop: None)
    loop.set_task_factory(lambda loop, coro, cycle=loop: None)
    ref = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert ref() is None


def test_call_soon_overridden(base: Any, new):
    class Loop(base):
        def call_soon(self, callback, *args, context=None):
            calls.append(callback)
            return super().call_soon(callback, *args, context=context)

    calls = []
    loop = new(Loop)
    loop.call_soon(print)
    assert calls.pop() is print
    # Tasks and futures schedule by the same method.
    loop.run_until_complete(asyncio.sleep(0))
    assert len(calls) >= 2


def test_call_at_overridden(base: Any, new):
    class Loop(base):
        def call_at(self, when, callback, *args, context=None):
            calls.append(when)
            return super().call_at(when, callback, *args, context=context)

    calls = []
    loop = new(Loop)
    timer = loop.call_later(10, print)
    assert calls == [timer.when()]
    timer.cancel()


def test_time_overridden(base: Any, new):
    """A clock that moves only when the test moves it. Test suites of programs have such loops."""

    class Loop(base):
        now = 1000.0

        def time(self):
            return self.now

    loop = new(Loop)
    ran = []
    timer = loop.call_later(10, ran.append, 1)
    assert timer.when() == 1010.0
    turn(loop)
    assert ran == []
    loop.now = 1010.0
    turn(loop)
    assert ran == [1]


def test_exception_handler_overridden(base: Any, loop_errors):
    class Loop(base):
        def call_exception_handler(self, context):
            seen.append(context)

    seen = []
    loop = Loop()
    loop.call_soon(lambda: 1 / 0)
    turn(loop)
    loop.close()
    assert [type(context["exception"]) for context in seen] == [ZeroDivisionError]


def test_create_task_overridden(base: Any, new):
    class Loop(base):
        def create_task(self, coro, **kwargs):
            tasks.append(super().create_task(coro, **kwargs))
            return tasks[-1]

    async def main():
        return await asyncio.create_task(asyncio.sleep(0, "value"), name="inner")

    tasks = []
    loop = new(Loop)
    assert loop.run_until_complete(main()) == "value"
    assert len(tasks) == 2
    assert tasks[1].get_name() == "inner"


def test_run_and_close_overridden(base: Any, new):
    class Loop(base):
        def run_forever(self):
            calls.append("run_forever")
            super().run_forever()

        def stop(self):
            calls.append("stop")
            super().stop()

        def close(self):
            calls.append("close")
            super().close()

    calls = []
    loop = new(Loop)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert calls[0] == "run_forever"
    assert calls[-1] == "close"


def test_add_reader_overridden(base: Any, new):
    class Loop(base):
        def add_reader(self, fd, callback, *args):
            calls.append(fd)
            return super().add_reader(fd, callback, *args)

    calls = []
    loop = new(Loop)
    left, right = socket.socketpair()
    with left, right:
        right.send(b"x")
        loop.add_reader(left, loop.stop)
        loop.run_forever()
        loop.remove_reader(left)
    assert calls == [left]


def test_mixin(base: Any, new):
    class Counting:
        count = 0

        def call_soon(self, *args, **kwargs):
            self.count += 1
            return super().call_soon(*args, **kwargs)  # type: ignore[misc]

    class Loop(Counting, base):
        pass

    loop = new(Loop)
    loop.run_until_complete(asyncio.sleep(0))
    assert loop.count >= 2


def test_under_a_runner(base: Any):
    class Loop(base):
        pass

    async def main():
        return type(asyncio.get_running_loop())

    with asyncio.Runner(loop_factory=Loop) as runner:
        assert runner.run(main()) is Loop


def test_failing_constructor(base: Any, recwarn):
    class Loop(base):
        def __init__(self):
            super().__init__()
            self.close()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Loop()
    gc.collect()
    assert not recwarn
