"""Threads around a loop that starts, runs, stops and closes: what is accepted runs, the rest is refused, nobody waits
for ever. Plain use of call_soon_threadsafe is in test_threadsafe.py."""

import asyncio
import sys
import threading
import time

import pytest

from support.turns import turn

THREADS = 4


@pytest.fixture(autouse=True)
def switch_often():
    """Makes threads switch as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)


class Posters:
    """Threads that post until they are refused, and note what was accepted and what ran."""

    def __init__(self, loop, count=THREADS):
        self.accepted, self.ran, self.errors = [0] * count, [0] * count, []
        self.threads = [threading.Thread(target=self.post, args=(loop, number)) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def post(self, loop, number):
        try:
            while True:
                loop.call_soon_threadsafe(self.run, number)
                self.accepted[number] += 1
                if self.accepted[number] % 50 == 0:
                    time.sleep(0.0001)  # otherwise they would fill the queue faster than the loop empties it
        except RuntimeError as error:
            self.errors.append(str(error))

    def run(self, number):
        self.ran[number] += 1

    def join(self):
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


def test_from_start_to_close(loop_factory):
    """Each turn runs every call that was accepted before the turn began, at every stage of the loop's life."""
    for _ in range(5):
        loop = loop_factory()
        posters = Posters(loop)
        for number in range(5):
            before = list(posters.accepted)
            if number % 2:
                loop.run_until_complete(asyncio.sleep(0.001))
            else:
                turn(loop)
            assert all(ran >= accepted for ran, accepted in zip(posters.ran, before, strict=True))
        loop.close()
        posters.join()
        assert posters.errors == ["Event loop is closed"] * THREADS


def test_close_between_two_calls(loop_factory):
    """A call that was accepted has a handle; one that was refused leaves nothing behind."""
    for _ in range(20):
        loop = loop_factory()
        handles, refused = [], []

        def post(loop=loop, handles=handles, refused=refused):
            try:
                for _ in range(1000):
                    handles.append(loop.call_soon_threadsafe(int))
            except RuntimeError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=post) for _ in range(2)]
        for thread in threads:
            thread.start()
        turn(loop)
        loop.close()
        for thread in threads:
            thread.join()
        assert set(refused) <= {"Event loop is closed"}
        assert all(isinstance(handle, asyncio.Handle) for handle in handles)


def test_wakes_at_every_stage_of_falling_asleep(loop):
    """The call comes at another moment of the loop's turn each time; it always ends the wait."""
    for count in range(200):
        future = loop.create_future()

        def finish(future=future, count=count):
            end = time.perf_counter() + count * 1e-6
            while time.perf_counter() < end:
                pass
            loop.call_soon_threadsafe(future.set_result, None)

        thread = threading.Thread(target=finish)
        thread.start()
        loop.run_until_complete(future)
        thread.join()


def test_stop_of_another_thread(loop):
    """Another thread stops the loop by call_soon_threadsafe(loop.stop), as asyncio's documentation asks."""
    for _ in range(100):
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(loop.stop,))
        thread.start()
        loop.run_forever()
        thread.join()


def test_several_loops_in_several_threads(loop_factory):
    """Each loop passes a number on to the next one."""
    loops = [loop_factory() for _ in range(THREADS)]
    threads = [threading.Thread(target=loop.run_forever) for loop in loops]
    rounds, done = 200, threading.Event()
    seen = [[] for _ in loops]

    def take(number, count):
        assert asyncio.get_running_loop() is loops[number]
        seen[number].append(count)
        if count == rounds:
            done.set()
        else:
            following = (number + 1) % THREADS
            loops[following].call_soon_threadsafe(take, following, count + 1)

    for thread in threads:
        thread.start()
    loops[0].call_soon_threadsafe(take, 0, 0)
    assert done.wait(20)
    for loop, thread in zip(loops, threads, strict=True):
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
    assert sorted(count for counts in seen for count in counts) == list(range(rounds + 1))


def test_loops_made_and_closed_in_many_threads(loop_factory):
    results = []

    def work():
        for _ in range(10):
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                results.append(runner.run(asyncio.wait_for(asyncio.to_thread(int, "7"), 10)))

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [7] * 10 * THREADS


def test_loop_moves_from_thread_to_thread(loop):
    got = []
    for number in range(20):
        thread = threading.Thread(target=lambda: (loop.call_soon(got.append, number), turn(loop)))  # noqa: B023
        thread.start()
        thread.join()
        loop.call_soon(got.append, -number)
        turn(loop)
    assert got == [value for number in range(20) for value in (number, -number)]


def test_two_threads_cannot_run_one_loop(loop):
    errors = []

    def run():
        try:
            loop.run_forever()
        except RuntimeError as error:
            errors.append(str(error))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=run)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert errors == ["This event loop is already running"]


async def test_coroutines_of_other_threads():
    """run_coroutine_threadsafe: results, exceptions, and cancelling from the other side."""
    loop = asyncio.get_running_loop()
    started = threading.Event()

    async def answer(number):
        await asyncio.sleep(0)
        return number

    async def fail():
        raise ValueError("text")

    async def wait():
        started.set()
        await asyncio.sleep(20)

    def ask():
        futures = [asyncio.run_coroutine_threadsafe(answer(number), loop) for number in range(100)]
        assert [future.result(10) for future in futures] == list(range(100))
        with pytest.raises(ValueError, match="text"):
            asyncio.run_coroutine_threadsafe(fail(), loop).result(10)
        waiting = asyncio.run_coroutine_threadsafe(wait(), loop)
        started.wait(10)
        return waiting.cancel()

    assert await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(2))) == [True, True]
    for _ in range(100):
        if len(asyncio.all_tasks()) == 1:
            break
        await asyncio.sleep(0.001)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("threads", [1, 16])
async def test_executor_round_trips(threads):
    loop = asyncio.get_running_loop()

    async def work():
        for number in range(100):
            assert await loop.run_in_executor(None, pow, number, 2) == number**2

    await asyncio.gather(*(work() for _ in range(threads)))


def test_close_while_a_thread_posts_with_a_result(loop_factory):
    """A job that ends while the loop closes is dropped silently."""
    for _ in range(20):
        loop = loop_factory()
        for _ in range(8):
            loop.run_in_executor(None, time.sleep, 0.0005)
        turn(loop)
        loop.close()
