"""Handle, which call_soon returns. TimerHandle is tested in test_timer_handle.py."""

import asyncio
import contextvars
import functools
import gc
import sys
import weakref
from typing import Any

import pytest

from support.turns import turn


class Thing:
    """Can be weakly referenced, which an object() cannot."""

    handle: Any

    def method(self, *args):
        pass

    def __call__(self, *args):
        pass


def function(*args):
    pass


def wrapped(*args):
    pass


wrapped.__wrapped__ = function  # type: ignore[attr-defined]


def line():
    return sys._getframe(1).f_lineno


def test_class(loop):
    handle = loop.call_soon(function)
    assert isinstance(handle, asyncio.Handle)
    assert not isinstance(handle, asyncio.TimerHandle)
    assert isinstance(loop.call_soon_threadsafe(function), asyncio.Handle)


def test_cancel_before_it_runs(loop):
    ran = []
    handle = loop.call_soon(ran.append, 1)
    assert handle.cancelled() is False
    assert handle.cancel() is None
    assert handle.cancelled() is True
    handle.cancel()
    turn(loop)
    assert ran == []


def test_cancel_after_it_ran(loop):
    ran = []
    handle = loop.call_soon(ran.append, 1)
    turn(loop)
    assert handle.cancelled() is False
    handle.cancel()
    assert handle.cancelled() is True
    turn(loop)
    assert ran == [1]


def test_cancel_in_own_callback(loop):
    handles, ran = [], []

    def callback(argument):
        handles[0].cancel()
        ran.append(argument)

    handles.append(loop.call_soon(callback, "argument"))
    turn(loop)
    turn(loop)
    assert ran == ["argument"]
    assert handles[0].cancelled()


def test_cancel_in_own_callback_that_then_fails(loop, loop_errors):
    handles = []

    def callback():
        handles[0].cancel()
        raise ZeroDivisionError

    handles.append(loop.call_soon(callback))
    turn(loop)
    context = loop_errors.pop()
    assert isinstance(context["exception"], ZeroDivisionError)
    assert context["handle"] is handles[0]


def test_cancel_in_earlier_callback_of_the_turn(loop):
    ran, handles = [], []
    loop.call_soon(lambda: handles[0].cancel())
    handles.append(loop.call_soon(ran.append, "cancelled"))
    loop.call_soon(ran.append, "after")
    turn(loop)
    assert ran == ["after"]


@pytest.mark.parametrize("debug", [False, True])
def test_cancel_drops_callback_and_arguments_at_once(loop, debug):
    loop.set_debug(debug)
    callback, argument = Thing(), Thing()
    gone = weakref.ref(callback), weakref.ref(argument)
    handle = loop.call_soon(callback, argument)
    del callback, argument
    assert all(ref() is not None for ref in gone)
    handle.cancel()
    assert [ref() for ref in gone] == [None, None]


def test_loop_drops_what_it_ran(loop):
    callback, argument = Thing(), Thing()
    gone = weakref.ref(callback), weakref.ref(argument)
    loop.call_soon(callback, argument)
    del callback, argument
    turn(loop)
    assert [ref() for ref in gone] == [None, None]


def test_loop_drops_what_failed(loop, loop_errors):
    def fail(argument):
        raise ZeroDivisionError

    argument = Thing()
    gone = weakref.ref(argument)
    loop.call_soon(fail, argument)
    del argument
    turn(loop)
    loop_errors.clear()
    gc.collect()  # the exception's traceback and its frame refer to each other
    assert gone() is None


@pytest.mark.parametrize("schedule", ["call_soon", "call_soon_threadsafe", "call_later"])
def test_close_drops_what_is_pending(loop, schedule):
    argument = Thing()
    gone = weakref.ref(argument)
    if schedule == "call_later":
        loop.call_later(3600, function, argument)
    else:
        getattr(loop, schedule)(function, argument)
    del argument
    loop.close()
    assert gone() is None


@pytest.mark.parametrize("state", ["pending", "ran", "cancelled"])
@pytest.mark.parametrize("schedule", ["call_soon", "call_soon_threadsafe", "call_later"])
def test_cycle_through_a_handle_is_collected(loop, schedule, state):
    when = (-1,) if schedule == "call_later" else ()
    for _ in range(10):
        # A loop may use the memory of a handle again for a new one, in which nothing of the old one may be left.
        getattr(loop, schedule)(*when, function)
    turn(loop)
    owner = Thing()
    owner.handle = getattr(loop, schedule)(*when, owner.method, owner)
    if state == "ran":
        turn(loop)
    elif state == "cancelled":
        owner.handle.cancel()
    loop.close()  # the loop's own reference to the handle ends here
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("callback", [function, int, Thing().method])
@pytest.mark.parametrize("ran", [False, True])
def test_cycle_through_a_loop_is_collected(loop_factory, callback, ran):
    loop = loop_factory()
    gone = weakref.ref(loop)
    loop.handle = loop.call_soon(callback)
    loop.timer = loop.call_later(-1, callback)
    loop.bound = loop.call_soon(loop.time)
    if ran:
        turn(loop)
    loop.close()
    del loop
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("schedule", ["call_soon(print)", "call_later(3600, print)", "call_soon_threadsafe(print)"])
def test_a_loop_with_cancelled_handles_is_collected_unclosed(child, schedule, count):
    result = child(f"""
        import gc, warnings, weakref
        warnings.simplefilter("ignore")
        # A class of its own, as weak references need one on asyncio's loop too.
        class Loop(type(new_event_loop())): pass
        loop = Loop()
        for _ in range({count}):
            loop.{schedule}.cancel()
        gone = weakref.ref(loop)
        del loop
        gc.collect()
        print(gone())
    """)
    assert result.stdout == "None\n", result.stderr


LINKS = {
    "call_soon": "loop.call_soon(function, last)",
    "call_later": "loop.call_later(delay, function, last)",
    "callback": "loop.call_soon(functools.partial(function, last))",
    "context": "context_with(last).run(loop.call_soon, function)",
    "when": "loop.call_at(When(last), function)",
}


@pytest.mark.parametrize("end", ["close", "run", "cancel"])
@pytest.mark.parametrize("link", LINKS)
def test_a_long_chain_of_handles_is_released(child, link, end):
    """Each handle is held by the next one only. If freeing them were recursive, the stack would overflow."""
    result = child(f"""
        import contextvars, functools, sys

        delay = -1 if {end!r} == "run" else 1e6
        variable = contextvars.ContextVar("variable")

        def context_with(last):
            context = contextvars.Context()
            context.run(variable.set, last)
            return context

        class When(float):
            def __new__(cls, last):
                when = float.__new__(cls, delay)
                when.last = last
                return when

        def function(*args):
            pass

        loop = new_event_loop()
        last = None
        for _ in range(50_000):
            last = {LINKS[link]}
        if {end!r} == "run":
            loop.call_later(0, loop.stop)
            loop.run_forever()
        elif {end!r} == "cancel":
            last.cancel()
        loop.close()
        del last
        sys.stdout.write("released")
    """)
    assert (result.stdout, result.returncode) == ("released", 0), result.stderr


def test_weakref(loop):
    handle = loop.call_soon(function)
    ref = weakref.ref(handle)
    assert ref() is handle
    turn(loop)
    del handle
    assert ref() is None


def test_equality_is_identity(loop):
    first, second = loop.call_soon(function), loop.call_soon(function)
    assert first == first
    assert first != second
    assert len({first, second, first}) == 2


def test_arguments_are_passed_as_they_are(loop):
    arguments = [Thing() for _ in range(10)]
    got = []
    for count in range(len(arguments) + 1):
        loop.call_soon(lambda *args: got.append(args), *arguments[:count])
    turn(loop)
    assert got == [tuple(arguments[:count]) for count in range(len(arguments) + 1)]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")
def test_get_context(loop):
    context = contextvars.copy_context()
    assert loop.call_soon(function, context=context).get_context() is context
    assert loop.call_later(3600, function, context=context).get_context() is context

    var = contextvars.ContextVar("var")
    var.set("at the time")
    inherited = loop.call_soon(function).get_context()
    var.set("later")
    assert inherited[var] == "at the time"


@pytest.mark.parametrize(
    "callback",
    [
        function,
        wrapped,
        Thing().method,
        Thing(),
        functools.partial(function, 1, key=2),  # type: ignore[call-arg]
        functools.partial(functools.partial(function, 1), 2),
        print,
        [].append,
        lambda *args: None,
    ],
    ids=["function", "wrapped", "method", "object", "partial", "partials", "builtin", "bound", "lambda"],
)
@pytest.mark.parametrize("args", [(), (1,), ("two", [3, 4]), ("x" * 100,)], ids=["0", "1", "2", "long"])
def test_repr_is_that_of_asyncio(loop, callback, args):
    # Patch releases of Python differ in how a repr shows arguments, so that asyncio's own function is asked.
    assert repr(loop.call_soon(callback, *args)) == repr(asyncio.Handle(callback, args, loop))


def test_repr(loop):
    loop.set_debug(False)
    handle = loop.call_soon(function, 1)
    args = "(1)" if sys.version_info < (3, 13) else "()"
    source = f"{__file__}:{function.__code__.co_firstlineno}"
    assert repr(handle) == f"<Handle function{args} at {source}>"
    handle.cancel()
    assert repr(handle) == "<Handle cancelled>"


def test_repr_in_debug_mode(loop):
    loop.set_debug(True)
    handle, here = loop.call_soon(function, 1), line()
    source = f"{__file__}:{function.__code__.co_firstlineno}"
    described = f"function(1) at {source} created at {__file__}:{here}"
    assert repr(handle) == f"<Handle {described}>"
    handle.cancel()
    assert repr(handle) == f"<Handle cancelled {described}>"


@pytest.mark.parametrize("schedule", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_debug_mode_tells_where_a_handle_was_created(loop, schedule):
    loop.set_debug(True)
    when = (3600,) if schedule in ("call_later", "call_at") else ()
    handle, here = getattr(loop, schedule)(*when, function), line()
    assert repr(handle).endswith(f" created at {__file__}:{here}>")
