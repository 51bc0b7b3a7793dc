"""contextvars: the context in which callbacks run, for every way to schedule one. Protocols: stream/test_context.py."""

import asyncio
import concurrent.futures
import contextvars
import functools
import signal
import socket
import sys
import threading

import pytest

from support.turns import turn, turn_until

var = contextvars.ContextVar("var", default="unset")

# From Python 3.14 on, an interpreter may be told to start threads with their parent's context.
IN_A_NEW_THREAD = "main" if getattr(sys.flags, "thread_inherit_context", False) else None


def in_thread(target):
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()


SCHEDULE = {
    "call_soon": lambda loop, *args, **kwargs: loop.call_soon(*args, **kwargs),
    "call_soon_threadsafe": lambda loop, *args, **kwargs: loop.call_soon_threadsafe(*args, **kwargs),
    "call_later": lambda loop, *args, **kwargs: loop.call_later(-1, *args, **kwargs),
    "call_at": lambda loop, *args, **kwargs: loop.call_at(0, *args, **kwargs),
}


@pytest.fixture(params=SCHEDULE)
def schedule(request):
    return SCHEDULE[request.param]


@pytest.fixture(autouse=True)
def unset():
    token = var.set("unset")
    yield
    var.reset(token)


def test_inherited_from_where_it_is_scheduled(loop, schedule):
    got = []
    var.set("at the time")
    schedule(loop, lambda: got.append(var.get()))
    var.set("later")
    turn(loop)
    assert got == ["at the time"]


def test_given(loop, schedule):
    context = contextvars.Context()
    context.run(var.set, "given")
    got = []

    def callback():
        got.append(var.get())
        var.set("changed by the callback")

    schedule(loop, callback, context=context)
    turn(loop)
    assert got == ["given"]
    assert context[var] == "changed by the callback"
    assert var.get() == "unset"


def test_none_is_not_given(loop, schedule):
    got = []
    var.set("at the time")
    schedule(loop, lambda: got.append(var.get()), context=None)
    turn(loop)
    assert got == ["at the time"]


def test_changes_stay_inside(loop, schedule):
    got = []

    def callback(value):
        got.append(var.get())
        var.set(value)

    schedule(loop, callback, 1)
    schedule(loop, callback, 2)
    turn(loop)
    assert got == ["unset", "unset"]
    assert var.get() == "unset"


def test_one_context_for_many_callbacks(loop, schedule):
    context = contextvars.Context()
    got = []

    def callback(value):
        got.append(var.get())
        var.set(value)

    for value in range(3):
        schedule(loop, callback, value, context=context)
    turn(loop)
    assert got == ["unset", 0, 1]


def test_passed_on_by_callbacks(loop, schedule):
    got = []

    def outer():
        var.set("outer")
        schedule(loop, inner)

    def inner():
        got.append(var.get())

    schedule(loop, outer)
    turn(loop)
    turn(loop)
    assert got == ["outer"]


def test_empty_context(loop, schedule):
    got = []
    contextvars.Context().run(schedule, loop, lambda: got.append(list(contextvars.copy_context())))
    turn(loop)
    assert got == [[]]


def test_failing_callback_leaves_the_context(loop, loop_errors, schedule):
    def fail():
        var.set("failed")
        raise ZeroDivisionError

    schedule(loop, fail)
    turn(loop)
    assert var.get() == "unset"
    loop_errors.clear()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")
def test_exception_handler_runs_in_the_context_of_the_callback(loop, schedule):
    def fail():
        var.set("failed")
        raise ZeroDivisionError

    got = []
    loop.set_exception_handler(lambda loop, context: got.append(var.get()))
    schedule(loop, fail)
    turn(loop)
    assert got == ["failed"]


def test_files_in_a_context_that_was_empty(loop):
    """A reader is one handle, so that each call sees what the call before has set."""

    def callback():
        got.append(var.get())
        var.set(len(got))  # type: ignore[arg-type]

    got = []
    left, right = socket.socketpair()
    right.send(b"x")
    contextvars.Context().run(loop.add_reader, left, callback)
    turn_until(loop, lambda: len(got) == 3)
    loop.remove_reader(left)
    assert got == ["unset", 1, 2]
    left.close()
    right.close()


@pytest.mark.parametrize("method, remove", [("add_reader", "remove_reader"), ("add_writer", "remove_writer")])
def test_files(loop, method, remove):
    left, right = socket.socketpair()
    with left, right:
        right.send(b"x")
        got = []

        def callback():
            got.append(var.get())
            var.set("changed by the callback")

        var.set("at the time")
        getattr(loop, method)(left, callback)
        var.set("later")
        turn(loop)
        turn(loop)
        getattr(loop, remove)(left)
    # One context for every call.
    assert got == ["at the time", "changed by the callback"]


def test_signal_handlers(loop):
    got = []
    var.set("at the time")
    loop.add_signal_handler(signal.SIGUSR1, lambda: got.append(var.get()))
    var.set("later")
    signal.raise_signal(signal.SIGUSR1)
    turn_until(loop, lambda: got)
    assert got == ["at the time"]
    assert loop.remove_signal_handler(signal.SIGUSR1)


def test_callbacks_of_futures(loop):
    got = []
    future = loop.create_future()
    var.set("at the time")
    future.add_done_callback(lambda future: got.append(var.get()))
    context = contextvars.copy_context()
    context.run(var.set, "given")
    future.add_done_callback(lambda future: got.append(var.get()), context=context)
    var.set("later")
    future.set_result(None)
    turn(loop)
    assert got == ["at the time", "given"]


def test_thread_of_its_own(loop):
    got = []
    var.set("main")
    in_thread(lambda: loop.call_soon_threadsafe(lambda: got.append(var.get())))
    turn(loop)
    assert got == [IN_A_NEW_THREAD or "unset"]


async def test_tasks():
    async def change():
        before = var.get()
        var.set("changed by the task")
        await asyncio.sleep(0)
        return before, var.get()

    var.set("main")
    task = asyncio.create_task(change())
    var.set("later")
    assert await task == ("main", "changed by the task")
    assert var.get() == "later"


async def test_executors():
    loop = asyncio.get_running_loop()
    var.set("main")
    assert await asyncio.to_thread(var.get) == "main"
    executor = concurrent.futures.ThreadPoolExecutor(1)  # a new thread for sure
    with executor:
        assert await loop.run_in_executor(executor, var.get) == (IN_A_NEW_THREAD or "unset")


class SetsVariable:
    """Sets the variable when it is freed, in whatever context that happens."""

    def __del__(self):
        var.set("by a finalizer")


@pytest.mark.parametrize("held_as", ["callback", "argument"])
def test_finalizers_leave_nothing_for_the_next_callback(loop, held_as):
    def scheduled():
        got = []
        if held_as == "argument":
            loop.call_soon(lambda finalized: None, SetsVariable())
        else:
            loop.call_soon(functools.partial(lambda finalized: None, SetsVariable()))
        loop.call_soon(lambda: got.append(var.get()))
        loop.call_soon(lambda: got.append(len(contextvars.copy_context())))  # type: ignore[arg-type]
        turn(loop)
        return got

    assert contextvars.Context().run(scheduled) == ["unset", 0]


def test_callbacks_in_a_row(loop):
    """Some callbacks have an empty context, some do not. Each must see its own."""
    got = []

    def note_and_set(value):
        got.append((var.get(), len(contextvars.copy_context())))
        var.set(value)

    def scheduled():
        given = contextvars.Context()
        given.run(var.set, "given")
        for value in range(3):
            loop.call_soon(note_and_set, value)
            loop.call_soon(note_and_set, value, context=given)
            loop.call_soon(lambda: 1 / 0)
        loop.set_exception_handler(lambda loop, details: got.append(type(details["exception"])))  # type: ignore[arg-type]
        turn(loop)

    contextvars.Context().run(scheduled)
    expected = []
    for before in ["given", 0, 1]:
        expected += [("unset", 0), (before, 1), ZeroDivisionError]
    assert got == expected


@pytest.mark.parametrize("keep", [False, True])
def test_exception_handler(loop, keep):
    """Since CPython 3.12 the handler runs in the context of the callback that failed."""
    got = []

    def fail():
        var.set("callback's")
        1 / 0  # noqa: B018

    def scheduled():
        var.set("loop's")
        loop.set_exception_handler(lambda loop, details: got.append(var.get()))
        handle = contextvars.Context().run(loop.call_soon, fail)
        if not keep:
            del handle
        turn(loop)

    contextvars.Context().run(scheduled)
    assert got == ["callback's" if sys.version_info >= (3, 12) else "loop's"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Handle.get_context is new in Python 3.12")
def test_handle_shows_what_the_callback_has_left(loop):
    got = []

    def callback():
        var.set("callback's")
        got.append(handle.get_context().get(var))

    handle = contextvars.Context().run(loop.call_soon, callback)
    turn(loop)
    assert got == ["callback's"]
    assert handle.get_context()[var] == "callback's"
