"""call_soon_threadsafe: nothing is lost, a waiting loop wakes up. Wrong threads are found in debug mode."""

import asyncio
import contextvars
import os
import signal
import threading

import pytest

from support.turns import turn

THREADS = 8
CALLS = 2000


def function(*args):
    pass


def in_threads(*targets):
    """Starts a thread for each of `targets`, to be joined by the caller."""
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    return threads


def join(threads):
    for thread in threads:
        thread.join()


def assert_in_order(ran):
    """Every call of every thread was made, and the calls of one thread in their order."""
    assert len(ran) == THREADS * CALLS
    for number in range(THREADS):
        assert [count for thread, count in ran if thread == number] == list(range(CALLS))


def poster(loop, number, callback):
    def post():
        for count in range(CALLS):
            loop.call_soon_threadsafe(callback, (number, count))

    return post


def test_before_the_loop_runs(loop):
    ran = []
    join(in_threads(*(poster(loop, number, ran.append) for number in range(THREADS))))
    assert ran == []
    turn(loop)
    assert_in_order(ran)


def test_while_the_loop_runs(loop):
    ran = []

    def callback(call):
        ran.append(call)
        if len(ran) == THREADS * CALLS:
            loop.stop()

    threads = in_threads(*(poster(loop, number, callback) for number in range(THREADS)))
    loop.run_forever()
    join(threads)
    assert_in_order(ran)


def test_order_among_call_soon_and_call_soon_threadsafe(loop):
    ran = []
    for number in range(100):
        method = loop.call_soon_threadsafe if number % 3 else loop.call_soon
        method(ran.append, number)
    turn(loop)
    assert ran == list(range(100))


def test_wakes_a_waiting_loop(loop):
    # One call at a time, so that the loop goes to sleep between them.
    answers = []

    def ping_pong():
        for _ in range(1000):
            answered = threading.Event()
            loop.call_soon_threadsafe(answered.set)
            answers.append(answered.wait(10))
        loop.call_soon_threadsafe(loop.stop)

    threads = in_threads(ping_pong)
    loop.run_forever()
    join(threads)
    assert answers == [True] * 1000


def test_wakes_a_loop_that_waits_for_a_far_timer(loop):
    timer = loop.call_later(3600, function)
    threads = in_threads(lambda: loop.call_soon_threadsafe(loop.stop))
    loop.run_forever()
    join(threads)
    timer.cancel()


def test_from_the_own_thread(loop):
    ran = []
    loop.call_soon(loop.call_soon_threadsafe, ran.append, 1)
    loop.call_soon(loop.call_soon_threadsafe, loop.stop)
    loop.run_forever()
    assert ran == [1]


def test_what_the_loop_schedules_for_itself_waits_for_the_next_turn(loop):
    ran = []
    loop.call_soon(loop.call_soon_threadsafe, ran.append, 1)
    turn(loop)
    assert ran == []
    turn(loop)
    assert ran == [1]


@pytest.mark.parametrize("round", range(10))
def test_against_close(loop, round):
    """Until close, everything that was accepted runs. From then on everything is refused."""
    ran, accepted, refused = [], [0] * THREADS, []

    def post(number):
        try:
            while True:
                loop.call_soon_threadsafe(ran.append, number)
                accepted[number] += 1
        except RuntimeError as error:
            refused.append(str(error))

    threads = in_threads(*(lambda number=number: post(number) for number in range(THREADS)))
    while min(accepted) < 10:
        turn(loop)
    before = list(accepted)
    turn(loop)
    for number in range(THREADS):
        assert ran.count(number) >= before[number]
    loop.close()
    join(threads)
    assert refused == ["Event loop is closed"] * THREADS


def test_cancel_from_another_thread(loop):
    ran = []
    handles = [loop.call_soon_threadsafe(ran.append, number) for number in range(3)]
    join(in_threads(handles[1].cancel))
    assert handles[1].cancelled()
    turn(loop)
    assert ran == [0, 2]


def test_context_is_that_of_the_thread(loop):
    var = contextvars.ContextVar("var", default="unset")
    var.set("main")
    got = []

    def post():
        var.set("thread")
        loop.call_soon_threadsafe(lambda: got.append(var.get()))
        context = contextvars.copy_context()
        context.run(var.set, "given")
        loop.call_soon_threadsafe(lambda: got.append(var.get()), context=context)

    join(in_threads(post))
    turn(loop)
    assert got == ["thread", "given"]


def test_exception_reaches_the_handler(loop, loop_errors):
    join(in_threads(lambda: loop.call_soon_threadsafe(int, "x")))
    turn(loop)
    assert isinstance(loop_errors.pop()["exception"], ValueError)


def test_from_a_signal_handler(loop, loop_name):
    count = 0

    def count_up():
        nonlocal count
        count += 1
        handled.set()

    handled = threading.Event()
    previous = signal.signal(signal.SIGUSR1, lambda *args: loop.call_soon_threadsafe(count_up))

    def send():
        for _ in range(50):
            handled.clear()
            os.kill(os.getpid(), signal.SIGUSR1)
            handled.wait(10)
        loop.call_soon_threadsafe(loop.stop)

    def tick():
        loop.call_later(0.05, tick)

    if loop_name == "asyncio":
        # asyncio does not wake up for a signal that comes just before it goes to sleep.
        loop.call_soon(tick)
    try:
        threads = in_threads(send)
        loop.run_forever()
        join(threads)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert count == 50


async def test_run_coroutine_threadsafe():
    loop = asyncio.get_running_loop()

    async def double(number):
        await asyncio.sleep(0)
        return number * 2

    def ask():
        return asyncio.run_coroutine_threadsafe(double(21), loop).result(10)

    assert await asyncio.to_thread(ask) == 42


async def test_tasks_of_two_loops_in_two_threads():
    """Each loop is awaited from the other's thread."""
    factory = type(asyncio.get_running_loop())

    def other_thread():
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.sleep(0.001, "done"))

    results = await asyncio.gather(*(asyncio.to_thread(other_thread) for _ in range(4)))
    assert results == ["done"] * 4


@pytest.mark.parametrize("method, args", [("call_soon", ()), ("call_later", (0,)), ("call_at", (0,))])
def test_wrong_thread_is_refused_in_debug_mode(loop, method, args):
    refused = []

    def misuse():
        try:
            getattr(loop, method)(*args, function)
        except RuntimeError as error:
            refused.append(str(error))
        loop.call_soon_threadsafe(loop.stop)

    loop.set_debug(True)
    threads = []
    loop.call_soon(lambda: threads.extend(in_threads(misuse)))
    loop.run_forever()
    join(threads)
    assert refused == ["Non-thread-safe operation invoked on an event loop other than the current one"]


def test_any_thread_may_use_a_loop_that_does_not_run(loop):
    loop.set_debug(True)
    ran = []
    join(in_threads(lambda: loop.call_soon(ran.append, 1)))
    turn(loop)
    assert ran == [1]
