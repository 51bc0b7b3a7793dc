"""Debug mode: what it finds, what it logs, and how it is switched on."""

import asyncio
import gc
import logging
import re
import sys
import time

import pytest

from support.loops import logged
from support.turns import turn


def slow(*args):
    time.sleep(0.02)


async def coroutine_function():
    pass


class Awaitable:
    async def method(self):
        pass


# --- the switch ---


def test_off_at_first(loop_factory):
    loop = loop_factory()
    assert loop.get_debug() is False
    loop.close()


def test_set_and_get(loop):
    assert loop.set_debug(True) is None
    assert loop.get_debug() is True
    loop.set_debug(False)
    assert loop.get_debug() is False


@pytest.mark.parametrize(
    "flags, environ, debug",
    [
        ((), {}, False),
        ((), {"PYTHONASYNCIODEBUG": "1"}, True),
        ((), {"PYTHONASYNCIODEBUG": ""}, False),
        (("-E",), {"PYTHONASYNCIODEBUG": "1"}, False),
        (("-X", "dev"), {}, True),
    ],
)
def test_switched_on_from_outside(child, flags, environ, debug):
    source = """
        loop = new_event_loop()
        print(loop.get_debug())
        loop.close()
    """
    result = child(source, *flags, **environ)
    assert (result.stdout, result.stderr) == (f"{debug}\n", "")


# --- slow callbacks ---


@pytest.fixture
def impatient(loop):
    """The loop in debug mode. It takes the callback `slow` for too slow."""
    loop.set_debug(True)
    loop.slow_callback_duration = 0.01
    return loop


def test_default_duration(loop):
    assert loop.slow_callback_duration == 0.1


def test_slow_callback(impatient, caplog):
    handle = impatient.call_soon(slow, 1)
    impatient.call_soon(int)
    turn(impatient)
    [text] = logged(caplog)
    match = re.fullmatch(r"Executing (<Handle slow\(1\) at .* created at .*>) took (\d\.\d{3}) seconds", text)
    assert match is not None
    assert match[1] == repr(handle)
    assert float(match[2]) >= 0.02
    assert caplog.records[0].levelno == logging.WARNING


def test_slow_timer(impatient, caplog):
    impatient.call_later(-1, slow)
    turn(impatient)
    [text] = logged(caplog)
    assert re.fullmatch(r"Executing <TimerHandle when=.* slow\(\) at .*> took \d+\.\d{3} seconds", text)


def test_slow_task(impatient, caplog):
    async def step():
        slow()

    task = impatient.create_task(step(), name="too slow")
    turn(impatient)
    [text] = logged(caplog)
    # The report of a slow step describes the task.
    assert re.fullmatch(r"Executing <Task finished name='too slow' coro=<.*> took \d+\.\d{3} seconds", text)
    assert task.done()


def test_slow_and_failing_callback(impatient, loop_errors, caplog):
    def fail():
        slow()
        raise ZeroDivisionError

    impatient.call_soon(fail)
    turn(impatient)
    assert isinstance(loop_errors.pop()["exception"], ZeroDivisionError)
    [text] = logged(caplog)
    assert text.startswith("Executing <Handle test_slow_and_failing_callback.<locals>.fail() at ")


def test_slow_callback_that_cancels_itself(impatient, caplog):
    def callback():
        slow()
        handle.cancel()

    handle = impatient.call_soon(callback)
    turn(impatient)
    [text] = logged(caplog)
    assert text.startswith("Executing <Handle cancelled test_slow_callback_that_cancels_itself.")


def test_duration_is_adjustable(impatient, caplog):
    impatient.slow_callback_duration = 3600
    impatient.call_soon(slow)
    turn(impatient)
    assert logged(caplog) == []


def test_no_slow_callback_without_debug_mode(impatient, caplog):
    impatient.set_debug(False)
    impatient.call_soon(slow)
    turn(impatient)
    assert logged(caplog) == []


# --- coroutines given where a function is expected ---


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at", "run_in_executor"])
@pytest.mark.parametrize("callback", [coroutine_function, Awaitable().method], ids=["function", "method"])
def test_coroutine_function_is_refused(loop, method, callback):
    loop.set_debug(True)
    args = {"call_later": (1,), "call_at": (1,), "run_in_executor": (None,)}.get(method, ())
    checked_by = "call_at" if method == "call_later" else method
    with pytest.raises(TypeError, match=f"^coroutines cannot be used with {checked_by}\\(\\)$"):
        getattr(loop, method)(*args, callback)


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe"])
def test_coroutine_is_refused(loop, method):
    loop.set_debug(True)
    coroutine = coroutine_function()
    with pytest.raises(TypeError, match=f"^coroutines cannot be used with {method}\\(\\)$"):
        getattr(loop, method)(coroutine)
    coroutine.close()


def test_coroutine_function_is_called_without_debug_mode(loop):
    loop.call_soon(coroutine_function)
    with pytest.warns(RuntimeWarning, match="coroutine 'coroutine_function' was never awaited"):
        turn(loop)
        gc.collect()


# --- where coroutines come from ---


def test_origin_tracking_while_the_loop_runs(loop):
    loop.set_debug(True)
    depths = [sys.get_coroutine_origin_tracking_depth()]
    loop.call_soon(lambda: depths.append(sys.get_coroutine_origin_tracking_depth()))
    turn(loop)
    depths.append(sys.get_coroutine_origin_tracking_depth())
    assert depths == [0, 10, 0]


def test_origin_tracking_puts_back_what_was(loop):
    loop.set_debug(True)
    before = sys.get_coroutine_origin_tracking_depth()
    sys.set_coroutine_origin_tracking_depth(3)
    try:
        turn(loop)
        assert sys.get_coroutine_origin_tracking_depth() == 3
    finally:
        sys.set_coroutine_origin_tracking_depth(before)


async def test_switched_while_running():
    loop = asyncio.get_running_loop()
    depths = []
    for debug in (True, False):
        loop.set_debug(debug)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        depths.append(sys.get_coroutine_origin_tracking_depth())
        assert loop.get_debug() is debug
    assert depths == [10, 0]


async def test_origin_of_a_coroutine_that_is_never_awaited():
    asyncio.get_running_loop().set_debug(True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.warns(RuntimeWarning, match="Coroutine created at") as warned:
        coroutine_function()  # type: ignore[unused-coroutine]
        gc.collect()
    assert "test_origin_of_a_coroutine_that_is_never_awaited" in str(warned[0].message)


async def test_source_of_futures_and_tasks():
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    assert re.fullmatch(r"<Future pending created at .+:\d+>", repr(loop.create_future()))
    task = loop.create_task(coroutine_function())
    assert f"created at {__file__}:" in repr(task)
    await task


# --- loops that are never closed ---


@pytest.mark.parametrize("debug", [False, True])
def test_unclosed_loop(loop_factory, debug):
    loop = loop_factory()
    loop.set_debug(debug)
    text = f"unclosed event loop {loop!r}"
    with pytest.warns(ResourceWarning) as warned:
        del loop
        gc.collect()
    # asyncio's own loop contains sockets. They are freed with the loop, and warn as well.
    assert [str(warning.message) for warning in warned if "event loop" in str(warning.message)] == [text]


def test_closed_loop_is_silent(loop_factory):
    loop = loop_factory()
    loop.close()
    del loop
    gc.collect()


def test_close_is_logged(loop, caplog):
    caplog.set_level(logging.DEBUG, "asyncio")
    loop.set_debug(True)
    loop.close()
    assert f"Close {loop!r}" in logged(caplog)  # formatted after the loop was closed
