"""`rloop.dump`: what it says of tasks, timers, transports, children and executors. rloop only."""

import asyncio
import contextlib
import io
import re
import socket
import sys
import threading
import time
from typing import Any

import pytest

rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)


def dumped():
    file = io.StringIO()
    rloop.dump(file)
    return file.getvalue()


def dumped_while_it_waits(waits):
    """What is written while the task "waiter" runs `waits(future)`, whose future is not done."""

    async def main():
        future = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(waits(future), name="waiter")
        await asyncio.sleep(0)
        text = dumped()
        future.set_result(None)
        await task
        return text

    return rloop.run(main())


def test_a_task_that_waits():
    async def inner(future):
        await future

    async def outer(future):
        await inner(future)

    text = dumped_while_it_waits(outer)
    lines = text[text.index("waiter: ") :].splitlines()
    assert "outer" in lines[0]
    assert re.fullmatch(r" +.*test_dump\.py:\d+ in outer", lines[1])
    assert re.fullmatch(r" +.*test_dump\.py:\d+ in inner", lines[2])
    assert re.fullmatch(r" +waits for <Future pending .*", lines[3])
    assert re.search(r"Task-\d+: .*main, running\n", text)
    assert re.search(r"test_dump\.py:\d+ in dumped\n", text)


def test_an_asynchronous_generator():
    async def numbers(future):
        yield 1
        await future

    async def read(future):
        async for _ in numbers(future):
            pass

    text = dumped_while_it_waits(read)
    assert re.search(r"in read\n", text) and "waits for " in text


def test_timers_and_transports():
    async def main():
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        timer = loop.call_later(60, print)
        left, right = socket.socketpair()
        with right:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
            transport.write(bytes(10_000_000))
            queued = transport.get_write_buffer_size()
            loop.add_reader(right, print)
            await asyncio.sleep(0.01)
            text = dumped()
            longest = time.monotonic() - started
            loop.remove_reader(right)
            transport.abort()
            timer.cancel()
            await asyncio.sleep(0)
        return text, queued, longest

    text, queued, longest = rloop.run(main())
    assert re.search(r"due in (59|60)\.\d+ s: <TimerHandle ", text)
    [[sent, age]] = re.findall(r"Transport.*, (\d+) bytes to send, ([\d.]+) s old\n", text)
    assert 0 < queued == int(sent)
    # It waits for 10 ms. The age is rounded to a millisecond.
    assert 0.009 <= float(age) <= longest + 0.001
    # A plain handle has neither.
    assert re.search(r"\d+: <Handle print\(.*>\n", text)


def test_children_and_executor():
    async def main():
        loop = asyncio.get_running_loop()
        begun, end = threading.Event(), threading.Event()

        def job():
            begun.set()
            end.wait()

        waiting = loop.run_in_executor(None, job)
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=pipe)
        begun.wait()
        text = dumped()
        end.set()
        await waiting
        await child.communicate(b"\n")
        return text, child.pid

    text, pid = rloop.run(main())
    assert f"pid={pid}" in text
    assert "1 threads, 0 jobs that wait" in text and " in job\n" in text


def test_of_a_blocked_loop_in_another_thread():
    begun, end = threading.Event(), threading.Event()

    async def blocks():
        begun.set()
        end.wait()

    thread = threading.Thread(target=lambda: rloop.run(blocks()))
    thread.start()
    begun.wait()
    text = dumped()
    end.set()
    thread.join()
    assert re.search(r"test_dump\.py:\d+ in blocks\n", text)
    assert re.search(r"blocks, running\n", text)


def test_a_repr_that_raises():
    class Bad:
        def __await__(self):
            yield

        def __repr__(self):
            raise ZeroDivisionError

    async def main():
        asyncio.get_running_loop().call_later(60, print, Bad()).cancel()
        task = asyncio.create_task(wait(Bad()))
        await asyncio.sleep(0)
        text = dumped()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return text

    async def wait(bad):
        await bad

    assert "in wait\n" in rloop.run(main())


def test_to_stderr(capsys):
    loop = rloop.new_event_loop()
    loop.set_debug(False)
    rloop.dump()
    loop.close()
    assert "<rloop.Loop running=False closed=False debug=False>" in capsys.readouterr().err


def test_a_closed_loop():
    loop = rloop.new_event_loop()
    loop.set_debug(False)
    loop.close()
    assert "<rloop.Loop running=False closed=True debug=False>\n" in dumped()
