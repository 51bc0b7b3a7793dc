"""call_soon: what runs in which order and turn, and what an exception in a callback does."""

import asyncio
import contextvars
import socket

import pytest

from support.turns import turn


def function(*args):
    pass


class Custom(BaseException):
    pass


def test_order(loop):
    ran = []
    for number in range(1000):
        loop.call_soon(ran.append, number)
    assert ran == []
    turn(loop)
    assert ran == list(range(1000))


def test_what_a_callback_schedules_waits_for_the_next_turn(loop):
    ran = []

    def callback(generation):
        ran.append(generation)
        loop.call_soon(callback, generation + 1)

    loop.call_soon(callback, 1)
    loop.call_soon(ran.append, "beside")
    turn(loop)
    assert ran == [1, "beside"]
    turn(loop)
    assert ran == [1, "beside", 2]
    turn(loop)
    assert ran == [1, "beside", 2, 3]


def test_endless_chain_starves_neither_files_nor_timers(loop):
    left, right = socket.socketpair()
    with left, right:
        missing = {"file", "timer"}

        def seen(name):
            missing.discard(name)
            if not missing:
                loop.stop()

        def again():
            loop.call_soon(again)

        loop.add_reader(left, seen, "file")
        loop.call_later(0.001, seen, "timer")
        again()
        right.send(b"x")
        loop.run_forever()
        loop.remove_reader(left)


def test_ready_then_files_then_timers(loop):
    ran = []
    left, right = socket.socketpair()
    with left, right:
        right.send(b"x")
        loop.call_later(-1, ran.append, "timer")
        loop.add_reader(left, ran.append, "file")
        loop.call_soon(ran.append, "ready")
        turn(loop)
        loop.remove_reader(left)
    assert ran == ["ready", "file", "timer"]


def test_callbacks_that_nobody_keeps_a_handle_of(loop):
    ran = []
    for _ in range(1000):
        loop.call_soon(lambda: ran.append(1))
    turn(loop)
    assert len(ran) == 1000


# --- exceptions ---


@pytest.mark.parametrize("error", [ZeroDivisionError(), asyncio.CancelledError(), GeneratorExit(), Custom()])
@pytest.mark.parametrize("debug", [False, True])
def test_exception_goes_to_the_handler(loop, loop_errors, error, debug):
    def fail(*args):
        raise error

    loop.set_debug(debug)
    ran = []
    handle = loop.call_soon(fail, 1)
    # Only what stands before the arguments, because some versions of Python do not show those.
    described = repr(handle).removeprefix("<Handle ").split(" created at ")[0].removesuffix(">")
    loop.call_soon(ran.append, "after")
    turn(loop)
    assert ran == ["after"]

    [context] = loop_errors
    loop_errors.clear()
    assert set(context) == {"message", "exception", "handle"} | ({"source_traceback"} if debug else set())
    assert context["message"] == f"Exception in callback {described}"
    assert context["exception"] is error
    assert context["handle"] is handle
    if debug:
        assert context["source_traceback"][-1].name == "test_exception_goes_to_the_handler"
        assert context["source_traceback"][-1].filename == __file__


def test_exception_in_a_timer_and_in_a_reader(loop, loop_errors):
    left, right = socket.socketpair()
    with left, right:
        right.send(b"x")
        loop.add_reader(left, lambda: 1 / 0)
        loop.call_later(-1, lambda: 1 / 0)
        turn(loop)
        assert loop.remove_reader(left)
    assert [type(context["exception"]) for context in loop_errors] == [ZeroDivisionError] * 2
    assert [type(context["handle"]).__name__ for context in loop_errors] == ["Handle", "TimerHandle"]
    assert all(context["message"].startswith("Exception in callback ") for context in loop_errors)
    loop_errors.clear()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("schedule", ["call_soon", "call_soon_threadsafe", "call_later"])
def test_interrupts_leave_run_forever(loop, error, schedule):
    def interrupt():
        raise error("text")

    ran = []
    args = (-1,) if schedule == "call_later" else ()
    getattr(loop, schedule)(*args, ran.append, "before")
    getattr(loop, schedule)(*args, interrupt)
    getattr(loop, schedule)(*args, ran.append, "after")
    with pytest.raises(error, match="^text$"):
        loop.run_forever()
    assert not loop.is_running()
    assert not loop.is_closed()
    assert asyncio._get_running_loop() is None
    assert ran == ["before"]
    turn(loop)
    assert ran == ["before", "after"]


def test_interrupt_keeps_what_the_turn_had_scheduled(loop):
    def interrupt():
        loop.call_soon(ran.append, "scheduled")
        raise KeyboardInterrupt

    ran = []
    loop.call_soon(interrupt)
    loop.call_soon(ran.append, "ready")
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    turn(loop)
    assert ran == ["ready", "scheduled"]


# --- misuse ---


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_closed_loop(loop, method):
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        getattr(loop, method)(function)


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
@pytest.mark.parametrize(
    "args, kwargs, message",
    [
        ((), {}, "callback"),
        ((), {"context": None}, "callback"),
        ((function,), {"key": 1}, "key"),
        ((function,), {"callback": function}, "callback"),
    ],
)
def test_misuse(loop, method, args, kwargs, message):
    with pytest.raises(TypeError, match=message):
        getattr(loop, method)(*args, **kwargs)


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_callback_by_keyword(loop, method):
    ran = []
    getattr(loop, method)(callback=lambda: ran.append(1), context=None)
    turn(loop)
    assert ran == [1]


@pytest.mark.parametrize("callback", [None, 42, "text"])
def test_what_cannot_be_called_is_found_when_it_runs(loop, loop_errors, callback):
    loop.call_soon(callback)
    turn(loop)
    context = loop_errors.pop()
    assert isinstance(context["exception"], TypeError)
    assert "is not callable" in str(context["exception"])
    assert context["message"] == f"Exception in callback {callback!r}()"


@pytest.mark.parametrize("callback", [None, 42, "text"])
@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_what_cannot_be_called_is_refused_in_debug_mode(loop, callback, method):
    loop.set_debug(True)
    args = (1,) if method in ("call_later", "call_at") else ()
    checked_by = "call_at" if method == "call_later" else method
    message = f"^a callable object was expected by {checked_by}\\(\\), got {callback!r}$"
    with pytest.raises(TypeError, match=message):
        getattr(loop, method)(*args, callback)


def test_wrong_number_of_arguments(loop, loop_errors):
    loop.call_soon(lambda: None, 1)
    turn(loop)
    assert "takes 0 positional arguments but 1 was given" in str(loop_errors.pop()["exception"])


def test_context_already_entered(loop, caplog):
    # Logged, because from Python 3.12 on a handler would be called in that same context.
    loop.set_exception_handler(None)
    context = contextvars.copy_context()
    ran = []
    loop.call_soon(ran.append, "refused", context=context)
    loop.call_soon(ran.append, "after")
    context.run(turn, loop)
    assert ran == ["after"]
    assert "RuntimeError: cannot enter context" in caplog.text
