"""Whole programs under asyncio.Runner and asyncio.run, and Ctrl-C in them."""

import asyncio
import os
import signal
import sys
import threading

import pytest


async def value():
    await asyncio.sleep(0)
    return "value"


def test_runner(loop_factory):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(value()) == "value"
        loop = runner.get_loop()
        assert runner.run(value()) == "value"
        assert runner.get_loop() is loop
    assert loop.is_closed()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="loop_factory is new in Python 3.12")
def test_run(loop_factory):
    assert asyncio.run(value(), loop_factory=loop_factory) == "value"  # type: ignore[call-arg]


@pytest.mark.parametrize("debug", [None, False, True])
def test_debug(loop_factory, debug):
    async def main():
        return asyncio.get_running_loop().get_debug()

    expected = asyncio.coroutines._is_debug_mode() if debug is None else debug  # type: ignore[attr-defined]
    with asyncio.Runner(loop_factory=loop_factory, debug=debug) as runner:
        assert runner.run(main()) is expected


def test_end_cancels_what_is_left(loop_factory):
    ended = []

    async def endless():
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            ended.append("task")
            raise

    async def generate():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            ended.append("generator")

    async def main():
        tasks.append(asyncio.create_task(endless()))
        generators.append(generate())
        await anext(generators[0])
        await asyncio.to_thread(ended.append, "thread")

    tasks, generators = [], []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert ended == ["thread", "task", "generator"]
    assert tasks[0].cancelled()


def test_error_of_a_task_that_is_left(loop_factory, caplog):
    async def fail():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            raise ZeroDivisionError

    async def main():
        tasks.append(asyncio.create_task(fail()))
        await asyncio.sleep(0)

    tasks = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert "unhandled exception during asyncio.run() shutdown" in caplog.text


def test_interrupt_cancels_the_main_task(loop_factory):
    seen = []

    async def main():
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        with pytest.raises(KeyboardInterrupt):
            runner.run(main())
        assert seen == ["cancelled", "cleaned up"]
        assert runner.run(value()) == "value"


def test_interrupt_while_the_loop_waits(loop_factory, loop_name):
    async def main():
        if loop_name == "asyncio":
            # asyncio does not wake up for a signal that comes just before it goes to sleep.
            tickers.append(asyncio.create_task(tick()))
        loop = asyncio.get_running_loop()
        # Called when the loop has woken up by itself, so that only the signal can end its next wait.
        loop.call_soon_threadsafe(thread.start)
        await loop.create_future()

    async def tick():
        while True:
            await asyncio.sleep(0.05)

    for _ in range(20):
        tickers = []
        thread = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            with pytest.raises(KeyboardInterrupt):
                runner.run(main())
        thread.join()


def test_second_interrupt_ends_at_once(loop_factory):
    async def main():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(3600)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        with pytest.raises(KeyboardInterrupt):
            runner.run(main())


def test_interrupt_of_a_busy_program(child):
    result = child(
        """
        import os, signal

        async def main():
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
            try:
                while True:
                    await asyncio.sleep(0)
            finally:
                print("cleaned up", flush=True)

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
        """
    )
    assert result.stdout == "cleaned up\n"
    assert result.stderr.rstrip().endswith("KeyboardInterrupt")
    assert result.returncode == -signal.SIGINT


def test_nested_run_is_refused(loop_factory):
    async def main():
        coroutine = value()
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            inner.run(coroutine)
        coroutine.close()
        return "refused"

    with asyncio.Runner(loop_factory=loop_factory) as inner:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            assert runner.run(main()) == "refused"
        assert inner.run(value()) == "value"
