"""run_in_executor, the default executor and its shutdown."""

import asyncio
import concurrent.futures
import gc
import os
import socket
import sys
import threading
import weakref
from typing import Any

import pytest

from support.turns import turn


class CustomExecutor(concurrent.futures.ThreadPoolExecutor):
    pass


async def test_default_executor():
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(None, threading.get_ident)
    assert asyncio.isfuture(future)
    assert future.get_loop() is loop
    assert await future != threading.get_ident()
    assert await loop.run_in_executor(None, divmod, 17, 5) == (3, 2)
    assert (await loop.run_in_executor(None, threading.current_thread)).name.startswith("asyncio_")


async def test_given_executor():
    loop = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="given") as executor:
        thread = await loop.run_in_executor(executor, threading.current_thread)
        assert thread.name == "given_0"


async def test_exception():
    loop = asyncio.get_running_loop()
    with pytest.raises(ValueError, match="invalid literal for int"):
        await loop.run_in_executor(None, int, "x")


async def test_many_at_a_time():
    loop = asyncio.get_running_loop()
    results = await asyncio.gather(*(loop.run_in_executor(None, pow, number, 2) for number in range(200)))
    assert results == [number**2 for number in range(200)]


async def test_cancel():
    loop = asyncio.get_running_loop()
    release = threading.Event()
    future = loop.run_in_executor(None, release.wait, 10)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    release.set()


def test_cancelled_before_it_starts(loop):
    """A job that is cancelled before it starts never starts."""
    ran, started, release = [], threading.Event(), threading.Event()

    def work():
        started.set()
        release.wait(10)

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        busy = loop.run_in_executor(executor, work)
        started.wait(10)
        waiting = loop.run_in_executor(executor, ran.append, 1)
        waiting.cancel()
        turn(loop)
        turn(loop)
        release.set()
        assert loop.run_until_complete(busy) is None
    assert waiting.cancelled()
    assert ran == []


def test_executor_that_cancels_what_waits(loop):
    started, release = threading.Event(), threading.Event()

    def work():
        started.set()
        release.wait(10)

    executor = concurrent.futures.ThreadPoolExecutor(1)
    busy, waiting = (loop.run_in_executor(executor, work) for _ in range(2))
    started.wait(10)
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(waiting)
    release.set()
    loop.run_until_complete(busy)


@pytest.mark.parametrize("kind", ["CancelledError", "InvalidStateError", "TimeoutError"])
def test_exceptions_of_concurrent_futures(loop, kind):
    """Exceptions of concurrent.futures become those of asyncio."""

    def work():
        raise getattr(concurrent.futures, kind)("text")

    with pytest.raises(getattr(asyncio, kind), match="^text$"):
        loop.run_until_complete(loop.run_in_executor(None, work))


def test_exception_that_is_no_error(loop):
    def work():
        raise GeneratorExit("text")

    with pytest.raises(GeneratorExit, match="^text$"):
        loop.run_until_complete(loop.run_in_executor(None, work))


def test_stop_iteration(loop, loop_errors):
    """A future cannot raise StopIteration. Versions of asyncio differ in what they do about it."""
    future = loop.run_in_executor(None, next, iter([]))
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    if future.done():
        assert isinstance(future.exception(), RuntimeError)
    else:
        assert isinstance(loop_errors.pop()["exception"], TypeError)
        future.cancel()


def test_result_for_a_closed_loop_is_dropped(loop, caplog):
    started, release = threading.Event(), threading.Event()

    def work():
        started.set()
        release.wait(10)

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        future = loop.run_in_executor(executor, work)
        started.wait(10)
        loop.close()
        release.set()
    assert not future.done()
    assert caplog.records == []


def test_other_kinds_of_executors(loop):
    """Any object with a submit() method can be an executor."""
    future = concurrent.futures.Future()
    native = loop.create_future()

    class Executor:
        def __init__(self, answer):
            self.answer = answer

        def submit(self, function, *args):
            self.args = function, args
            return self.answer

    executor = Executor(future)
    result = loop.run_in_executor(executor, print, 1)
    assert executor.args == (print, (1,))
    future.set_result("done")
    assert loop.run_until_complete(result) == "done"
    assert loop.run_in_executor(Executor(native), print) is native
    with pytest.raises(AssertionError, match="^concurrent.futures.Future is expected, got 42$"):
        loop.run_in_executor(Executor(42), print)


def test_completed_before_it_is_asked_for(loop):
    class Executor:
        def submit(self, function, *args):
            future = concurrent.futures.Future()
            future.set_result(function(*args))
            return future

    future = loop.run_in_executor(Executor(), pow, 2, 3)
    assert loop.run_until_complete(future) == 8


def test_no_reference_cycle_is_left(loop):
    class Result:
        pass

    async def work():
        return weakref.ref(await loop.run_in_executor(None, Result))

    gc.disable()
    try:
        result = loop.run_until_complete(work())
        loop.run_until_complete(loop.run_in_executor(None, int))
        assert result() is None
    finally:
        gc.enable()


def test_set_default_executor(loop):
    executor = CustomExecutor(1, thread_name_prefix="custom")
    assert loop.set_default_executor(executor) is None
    thread = loop.run_until_complete(loop.run_in_executor(None, threading.current_thread))
    assert thread.name == "custom_0"
    loop.run_until_complete(loop.shutdown_default_executor())
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(print)


@pytest.mark.parametrize("executor", [None, 42, "text", object()])
def test_what_is_no_default_executor(loop, executor):
    with pytest.raises(TypeError, match="^executor must be ThreadPoolExecutor instance$"):
        loop.set_default_executor(executor)


def test_shutdown_waits_for_the_threads(loop):
    ended = []
    started, release = threading.Event(), threading.Event()

    def work():
        started.set()
        release.wait(10)
        ended.append(1)

    future = loop.run_in_executor(None, work)
    started.wait(10)
    loop.call_soon(release.set)
    assert loop.run_until_complete(loop.shutdown_default_executor()) is None
    assert ended == [1]
    loop.run_until_complete(future)


def test_shutdown_without_an_executor(loop):
    assert loop.run_until_complete(loop.shutdown_default_executor()) is None
    loop.run_until_complete(loop.shutdown_default_executor())


def test_after_shutdown(loop):
    loop.run_until_complete(loop.shutdown_default_executor())
    with pytest.raises(RuntimeError, match="^Executor shutdown has been called$"):
        loop.run_in_executor(None, print)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        assert loop.run_until_complete(loop.run_in_executor(executor, int, "1")) == 1


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.12, whose first releases wait for ever")
def test_shutdown_that_takes_too_long(loop):
    started, release = threading.Event(), threading.Event()

    def work():
        started.set()
        release.wait(10)

    future = loop.run_in_executor(None, work)
    started.wait(10)
    message = "^The executor did not finishing joining its threads within 0.01 seconds.$"
    with pytest.warns(RuntimeWarning, match=message):
        loop.run_until_complete(loop.shutdown_default_executor(timeout=0.01))
    release.set()
    loop.run_until_complete(future)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="timeout is new in Python 3.12")
def test_shutdown_in_time(loop):
    loop.run_until_complete(loop.run_in_executor(None, int, "1"))
    loop.run_until_complete(loop.shutdown_default_executor(10))


# --- look-ups of names, which rloop's own executor has daemon threads for ---


class LookUps:
    """Takes the place of a function of `socket`, and blocks until it is released."""

    def __init__(self):
        self.started, self.release = threading.Semaphore(0), threading.Event()
        self.threads = []

    def __call__(self, *args):
        self.threads.append(threading.current_thread())
        self.started.release()
        self.release.wait(10)
        if args[0] == "bad.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "none")
        return [args[0]]

    def wait(self, count):
        return all(self.started.acquire(timeout=10) for _ in range(count))


@pytest.fixture
def look_ups(monkeypatch):
    look_ups = LookUps()
    monkeypatch.setattr(socket, "getaddrinfo", look_ups)
    yield look_ups
    look_ups.release.set()


def ask(loop, host="name.invalid"):
    return loop.create_task(loop.getaddrinfo(host, 80))


def test_shutdown_waits_for_look_ups(loop, look_ups):
    tasks = [ask(loop), ask(loop, "bad.invalid")]
    turn(loop)
    assert look_ups.wait(2)
    loop.call_soon(look_ups.release.set)
    assert loop.run_until_complete(loop.shutdown_default_executor()) is None
    assert not any(thread.is_alive() for thread in look_ups.threads)
    good, bad = loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    assert (good, type(bad)) == (["name.invalid"], socket.gaierror)
    with pytest.raises(RuntimeError, match="^Executor shutdown has been called$"):
        loop.run_until_complete(ask(loop))


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.12, whose first releases wait for ever")
def test_shutdown_that_does_not_wait_for_look_ups(loop, look_ups):
    task = ask(loop)
    turn(loop)
    assert look_ups.wait(1)
    with pytest.warns(RuntimeWarning, match="^The executor did not finishing joining"):
        loop.run_until_complete(loop.shutdown_default_executor(timeout=0.01))
    look_ups.release.set()
    assert loop.run_until_complete(task) == ["name.invalid"]


def test_close_does_not_wait_for_look_ups(loop, look_ups):
    task = ask(loop)
    turn(loop)
    assert look_ups.wait(1)
    task.cancel()
    turn(loop)
    loop.close()
    (thread,) = look_ups.threads
    assert thread.is_alive()
    look_ups.release.set()
    thread.join(10)
    assert not thread.is_alive()


def test_threads_of_look_ups(loop, look_ups):
    """Threads for look-ups have names like others, are made when they are needed, and are used again."""
    tasks = [ask(loop) for _ in range(3)]
    turn(loop)
    assert look_ups.wait(3)
    look_ups.release.set()
    loop.run_until_complete(asyncio.gather(*tasks))
    for _ in range(20):
        loop.run_until_complete(ask(loop))
    # A look-up could come just before the thread of the last one says that it is free. Then there would be one more.
    assert 3 <= len(set(look_ups.threads)) < 23
    assert all(thread.name.startswith("asyncio_") for thread in look_ups.threads)


def test_many_look_ups(loop, look_ups):
    """As many look-ups run at a time as there may be threads. The others run after them."""
    count = 100
    tasks = [ask(loop, f"{number}.invalid") for number in range(count)]
    turn(loop)
    assert look_ups.wait(min(32, (os.cpu_count() or 1) + 4))
    look_ups.release.set()
    assert loop.run_until_complete(asyncio.gather(*tasks)) == [[f"{number}.invalid"] for number in range(count)]
    assert len(set(look_ups.threads)) <= 32


def test_look_up_cancelled_before_it_starts(loop, look_ups):
    """A look-up that is cancelled before it starts is never made."""
    tasks = [ask(loop) for _ in range(40)]
    turn(loop)
    last = tasks.pop()
    last.cancel()
    turn(loop)
    look_ups.release.set()
    loop.run_until_complete(asyncio.gather(*tasks))
    assert last.cancelled()
    loop.run_until_complete(loop.shutdown_default_executor())
    assert len(look_ups.threads) == 39


@pytest.mark.parametrize("debug", [False, True])
def test_look_ups_ask_the_executor_that_was_set(loop, look_ups, debug):
    submitted = []

    class Executor(concurrent.futures.ThreadPoolExecutor):
        def submit(self, fn, *args):  # type: ignore[override]
            submitted.append((fn, args))
            return super().submit(fn, *args)

    loop.set_debug(debug)
    loop.set_default_executor(Executor(1, thread_name_prefix="custom"))
    look_ups.release.set()
    assert loop.run_until_complete(ask(loop)) == ["name.invalid"]
    assert [thread.name for thread in look_ups.threads] == ["custom_0"]
    asked = loop._getaddrinfo_debug if debug else look_ups
    assert submitted == [(asked, ("name.invalid", 80, 0, 0, 0, 0))]
    loop.run_until_complete(loop.shutdown_default_executor())


def test_look_ups_go_through_run_in_executor(loop_factory, look_ups):
    """A subclass may have overridden run_in_executor."""
    calls = []

    unused = loop_factory()
    unused.close()

    base: Any = type(unused)

    class Loop(base):
        def run_in_executor(self, executor, func, *args):
            calls.append((executor, func, args))
            return super().run_in_executor(executor, func, *args)

    loop = Loop()
    loop.set_debug(False)
    try:
        look_ups.release.set()
        assert loop.run_until_complete(ask(loop)) == ["name.invalid"]
        assert calls == [(None, look_ups, ("name.invalid", 80, 0, 0, 0, 0))]
    finally:
        loop.close()


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_threads_of_a_dropped_loop_end(loop_factory, look_ups):
    loop = loop_factory()
    look_ups.release.set()
    loop.run_until_complete(ask(loop))
    (thread,) = look_ups.threads
    assert thread.is_alive()
    del loop
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


# --- the end ---


def test_closed_loop(loop):
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.run_in_executor(None, print)


def test_close_does_not_wait_for_the_threads(loop):
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work():
        started.set()
        release.wait(10)
        ended.set()

    loop.run_in_executor(None, work)
    started.wait(10)
    loop.close()
    assert not ended.is_set()
    release.set()
    assert ended.wait(10)


@pytest.mark.parametrize("function", [None, 42])
def test_what_cannot_be_called_is_refused_in_debug_mode(loop, function):
    loop.set_debug(True)
    with pytest.raises(TypeError) as raised:
        loop.run_in_executor(None, function)
    assert str(raised.value) == f"a callable object was expected by run_in_executor(), got {function!r}"


def test_results_arrive_while_the_loop_waits(loop):
    """Each result must wake the loop up: nothing else does."""
    for number in range(200):
        assert loop.run_until_complete(loop.run_in_executor(None, int, str(number))) == number
    turn(loop)
