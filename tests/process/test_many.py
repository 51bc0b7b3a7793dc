"""Many children at a time, and what disturbs them: cancels, kills, signals, other threads, somebody who reaps them all.
Each return code is its own, nobody waits for ever, and nothing is left behind.

One at a time is in test_cancel.py and test_exit.py.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import threading
from typing import Any

import pytest

from support.children import PIPE, all_gone, lowest_fd, run, shell
from support.peers import on_asyncio, result_or_error

pytestmark = pytest.mark.usefixtures("no_child_left")


@pytest.mark.time_limit(60)
async def test_many_short_children():
    """A hundred children at a time. Some are killed, some are cancelled while they start. Each return code is right."""
    before = await lowest_fd()
    rng = random.Random(1)
    count = 300 if on_asyncio() else 2000
    slots = asyncio.Semaphore(100)
    cancelled = []

    async def one(number):
        async with slots:
            kind = rng.choice(["exit", "exit", "exit", "kill", "cancel"])
            if kind == "exit":
                code, out, _ = await run(shell('echo "$1"; exit $(($1 % 251))', str(number)))
                assert (code, out) == (number % 251, b"%d\n" % number)
            elif kind == "kill":
                process = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
                await asyncio.sleep(rng.random() / 1000)
                number = rng.choice([signal.SIGKILL, signal.SIGTERM])
                process.send_signal(number)
                assert await process.wait() == -number
            else:
                task = asyncio.create_task(asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE))
                for _ in range(rng.randrange(12)):
                    await asyncio.sleep(0)
                too_late = not task.cancel()
                cancelled.append(not too_late)
                outcome = await result_or_error(task)
                if too_late:
                    outcome.stdin.close()
                    assert await outcome.wait() == 0

    await asyncio.gather(*map(one, range(count)))
    assert any(cancelled) and not all(cancelled)
    await all_gone(before)


@pytest.mark.time_limit(60)
async def test_many_cancelled_starts():
    """Starts are cancelled at any point, one after the other and several at a time."""
    before = await lowest_fd()
    rng = random.Random(2)
    left = 100 if on_asyncio() else 500

    async def starts():
        nonlocal left
        while left > 0:
            left -= 1
            pipes: dict[str, Any] = {name: PIPE for name in ("stdin", "stdout", "stderr") if rng.random() < 0.5}
            task = asyncio.create_task(asyncio.create_subprocess_exec("sleep", "100", **pipes))
            for _ in range(rng.randrange(10)):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                process = await task
                process.kill()
                assert await process.wait() == -signal.SIGKILL

    await asyncio.gather(*(starts() for _ in range(5)))
    await all_gone(before)


async def exit_codes(count, at_a_time=20):
    """The return codes of children that end with the codes 0, 1, 2 and so on."""
    slots = asyncio.Semaphore(at_a_time)

    async def one(code):
        async with slots:
            process = await asyncio.create_subprocess_exec(*shell('exit "$1"', str(code)))
            return await process.wait()

    return await asyncio.gather(*(one(code % 200) for code in range(count)))


@pytest.mark.time_limit(60)
async def test_somebody_reaps_whatever_ends():
    """If somebody else has reaped a child, its code is reported as 255, and nobody waits for ever."""
    if on_asyncio() and sys.version_info >= (3, 12):
        pytest.skip("a child that has gone already makes asyncio fail")
    before = await lowest_fd()
    ended = threading.Event()
    taken = []

    def reap():
        while not ended.is_set():
            try:
                taken.append(os.wait())
            except ChildProcessError:
                ended.wait(0.0005)

    thief = threading.Thread(target=reap)
    thief.start()
    try:
        codes = await exit_codes(200)
    finally:
        ended.set()
        thief.join()
    assert all(code in (number, 255) for number, code in enumerate(codes))
    assert taken
    assert codes.count(255) <= len(taken) + 1
    await all_gone(before)


@pytest.mark.time_limit(60)
def test_loops_in_several_threads(loop_factory):
    """Loops in several threads have children. A handler for SIGCHLD in the main thread is called and stays."""
    outcomes, called = [], []

    def handler(number, frame):
        called.append(number)

    def work():
        loop = loop_factory()
        try:
            outcomes.append(loop.run_until_complete(exit_codes(50)))
        finally:
            loop.close()

    previous = signal.signal(signal.SIGCHLD, handler)
    threads = [threading.Thread(target=work) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, previous)
    assert outcomes == [list(range(50))] * 4
    assert called


@pytest.mark.time_limit(60)
async def test_signals_all_the_time():
    """Signals come all the time. No start, pipe or wait is disturbed, and at the end every kind is still handled."""
    loop = asyncio.get_running_loop()
    kinds = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD]
    answered = dict.fromkeys(kinds, 0)
    ended = threading.Event()
    # asyncio's buffer for signals is full after 278, if the loop does not run for so long. Then Python complains.
    pause = 0.05 if on_asyncio() else 0.002

    def answer(sig):
        answered[sig] += 1

    def send():
        while not ended.wait(pause):
            for sig in kinds:
                os.kill(os.getpid(), sig)

    for sig in kinds:
        loop.add_signal_handler(sig, answer, sig)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        assert await exit_codes(100) == list(range(100))
        results = await asyncio.gather(*(run(shell('head -c "$1" /dev/zero', "100000")) for _ in range(20)))
        assert results == [(0, bytes(100000), b"")] * 20
    finally:
        ended.set()
        sender.join()
        await asyncio.sleep(0.01)
        before = dict(answered)
        for sig in kinds:
            os.kill(os.getpid(), sig)
        await asyncio.sleep(0.05)
        for sig in kinds:
            loop.remove_signal_handler(sig)
    assert all(0 < before[sig] < answered[sig] for sig in kinds)
