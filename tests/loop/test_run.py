"""run_forever, run_until_complete, stop and close. Whole programs are in test_runner.py."""

import asyncio
import os
import signal
import sys

import pytest

from support.turns import turn


@pytest.fixture
def refuses_nesting(loop_name):
    """Skips the test if the loop cannot run on after it has refused to be run within itself."""
    if loop_name == "asyncio" and sys.version_info[:3] == (3, 13, 0):
        pytest.skip("asyncio of Python 3.13.0 takes the running loop down")


class Awaitable:
    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return "awaited"


async def value(result="value"):
    await asyncio.sleep(0)
    return result


# --- run_forever and stop ---


def test_run_forever_ends_by_stop(loop):
    ran = []
    loop.call_soon(ran.append, 1)
    loop.call_later(0.001, loop.stop)
    assert loop.run_forever() is None
    assert ran == [1]


def test_stop_before_run_gives_one_turn(loop):
    ran = []
    loop.call_soon(lambda: (ran.append(1), loop.call_soon(ran.append, 2)))
    assert loop.stop() is None
    loop.run_forever()
    assert ran == [1]


def test_stop_does_not_block(loop):
    loop.call_later(3600, print)
    turn(loop)


def test_stop_twice_is_once(loop):
    ran = []
    loop.stop()
    loop.stop()
    loop.run_forever()
    loop.call_later(0.001, lambda: (ran.append(1), loop.stop()))
    loop.run_forever()
    assert ran == [1]


def test_stop_finishes_the_turn(loop):
    ran = []
    loop.call_soon(loop.stop)
    loop.call_soon(lambda: (ran.append("this turn"), loop.call_soon(ran.append, "next turn")))
    loop.run_forever()
    assert ran == ["this turn"]
    turn(loop)
    assert ran == ["this turn", "next turn"]


def test_nested_run_is_refused(loop, refuses_nesting):
    errors = []

    def nested():
        for run in loop.run_forever, lambda: loop.run_until_complete(loop.create_future()):
            with pytest.raises(RuntimeError) as raised:
                run()
            errors.append(str(raised.value))

    loop.call_soon(nested)
    turn(loop)
    assert errors == ["This event loop is already running"] * 2


def test_second_loop_while_one_runs_is_refused(loop, loop_factory, refuses_nesting):
    other = loop_factory()
    errors = []

    def nested():
        for run in other.run_forever, lambda: other.run_until_complete(other.create_future()):
            with pytest.raises(RuntimeError) as raised:
                run()
            errors.append(str(raised.value))

    loop.call_soon(nested)
    turn(loop)
    assert errors == ["Cannot run the event loop while another loop is running"] * 2
    turn(other)
    other.close()


def test_state(loop):
    states = []

    def note():
        states.append((loop.is_running(), loop.is_closed(), asyncio.get_running_loop() is loop))

    assert (loop.is_running(), loop.is_closed()) == (False, False)
    loop.call_soon(note)
    turn(loop)
    assert states == [(True, False, True)]
    assert (loop.is_running(), loop.is_closed()) == (False, False)
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
    loop.close()
    assert (loop.is_running(), loop.is_closed()) == (False, True)


def test_repr(loop, loop_name):
    # asyncio says the bare name.
    name = "rloop.Loop" if loop_name == "rloop" else type(loop).__name__
    loop.set_debug(False)
    reprs = [repr(loop)]
    loop.call_soon(lambda: reprs.append(repr(loop)))
    loop.set_debug(True)
    turn(loop)
    loop.close()
    reprs.append(repr(loop))
    assert reprs == [
        f"<{name} running=False closed=False debug=False>",
        f"<{name} running=True closed=False debug=True>",
        f"<{name} running=False closed=True debug=True>",
    ]


def test_new_loops_are_independent(loop, loop_factory):
    other = loop_factory()
    assert other is not loop
    ran = []
    loop.call_soon(ran.append, "loop")
    other.call_soon(ran.append, "other")
    turn(other)
    assert ran == ["other"]
    other.close()
    turn(loop)
    assert ran == ["other", "loop"]


# --- run_until_complete ---


def test_result(loop):
    assert loop.run_until_complete(value()) == "value"
    assert loop.run_until_complete(loop.create_task(value("task"))) == "task"
    assert loop.run_until_complete(Awaitable()) == "awaited"
    assert loop.run_until_complete(asyncio.wait_for(value("in time"), 10)) == "in time"


def test_future_of_the_past(loop):
    future = loop.create_future()
    future.set_result(1)
    assert loop.run_until_complete(future) == 1


def test_exception(loop):
    async def fail():
        await asyncio.sleep(0)
        raise ZeroDivisionError("text")

    with pytest.raises(ZeroDivisionError, match="^text$"):
        loop.run_until_complete(fail())
    assert loop.run_until_complete(value()) == "value"


def test_cancelled_task(loop):
    task = loop.create_task(asyncio.sleep(3600))
    loop.call_soon(task.cancel, "message")
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_runs_no_longer_than_needed(loop):
    future = loop.create_future()
    ran = []

    def again():
        ran.append(1)
        loop.call_soon(again)

    loop.call_soon(again)
    loop.call_soon(future.set_result, None)
    loop.run_until_complete(future)
    # One turn that sets the result, one for the future's callback.
    assert len(ran) == 2


def test_stopped_too_early(loop):
    task = loop.create_task(asyncio.sleep(3600))
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match="^Event loop stopped before Future completed.$"):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_coroutine_that_is_stopped_too_early_is_not_reported_as_pending(loop):
    async def wait_for_ever():
        loop.stop()
        await loop.create_future()

    # If it were not finished, the fixture would find "Task was destroyed but it is pending!".
    with pytest.raises(RuntimeError, match="^Event loop stopped before Future completed.$"):
        loop.run_until_complete(wait_for_ever())


def test_future_of_another_loop(loop, loop_factory):
    other = loop_factory()
    with pytest.raises(ValueError, match="The future belongs to a different loop"):
        loop.run_until_complete(other.create_future())
    other.close()


@pytest.mark.parametrize("what", [None, 42, "text", value, [], lambda: None])
def test_what_cannot_be_awaited(loop, what):
    with pytest.raises(TypeError, match="^An asyncio.Future, a coroutine or an awaitable is required$"):
        loop.run_until_complete(what)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_in_a_coroutine(loop, error):
    async def interrupt():
        await asyncio.sleep(0)
        raise error("text")

    with pytest.raises(error, match="^text$"):
        loop.run_until_complete(interrupt())
    assert not loop.is_running()
    assert loop.run_until_complete(value()) == "value"


def test_interrupt_leaves_a_pending_future_reusable(loop):
    def interrupt():
        raise KeyboardInterrupt

    future = loop.create_future()
    loop.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(future)
    # The first run must not have left its stop on the future.
    ran = []
    future.add_done_callback(lambda future: loop.call_soon(lambda: loop.call_soon(ran.append, 1)))
    loop.call_soon(future.set_result, None)
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert ran == [1]


# --- close ---


def test_close_twice(loop):
    assert loop.close() is None
    assert loop.close() is None
    assert loop.is_closed()


def test_close_while_running(loop):
    errors = []

    def close():
        with pytest.raises(RuntimeError) as raised:
            loop.close()
        errors.append(str(raised.value))

    loop.call_soon(close)
    turn(loop)
    assert errors == ["Cannot close a running event loop"]
    assert not loop.is_closed()


def test_closed_loop_does_not_run(loop):
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.run_forever()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.run_until_complete(None)


def test_close_forgets_what_is_pending(loop):
    ran = []
    loop.call_soon(ran.append, 1)
    loop.call_later(0, ran.append, 2)
    loop.close()
    assert ran == []


def test_stop_of_a_closed_loop(loop):
    loop.close()
    assert loop.stop() is None


def test_many_loops(loop_factory):
    """None of the loops leaves a file open: the fixture `loop_errors` counts them."""
    for _ in range(100):
        loop = loop_factory()
        turn(loop)
        loop.close()


# --- signals ---


def test_interrupt_key(loop):
    loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert not loop.is_running()
    assert loop.run_until_complete(value()) == "value"


def test_exception_of_a_signal_handler_leaves_run_forever(loop, loop_errors):
    class Alarm(SystemExit):
        pass

    def handler(*args):
        raise Alarm

    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        with pytest.raises(Alarm):
            loop.run_forever()
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_signal_that_changes_nothing_does_not_end_a_wait(loop):
    """A signal handler runs while the loop waits. Afterwards the loop goes on waiting."""
    handled = []
    previous = signal.signal(signal.SIGUSR1, lambda *args: handled.append(1))
    try:
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        loop.run_until_complete(asyncio.sleep(0.002))
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert handled == [1]
