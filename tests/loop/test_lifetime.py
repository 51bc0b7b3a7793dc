"""A closed loop that nobody holds is gone at once, without a garbage collection: tornado's tests look for cycles."""

import asyncio
import gc
import signal
import threading
import weakref

import pytest

from support.peers import HOST


async def nothing():
    pass


async def call_in_thread():
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, int)
    await loop.shutdown_default_executor()


async def call_back():
    loop = asyncio.get_running_loop()
    loop.call_soon(int)
    loop.call_later(60, int)
    loop.call_soon_threadsafe(int)
    await asyncio.sleep(0)


async def handle_signal():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, int)
    signal.raise_signal(signal.SIGUSR1)
    await asyncio.sleep(0)


async def connect():
    async def answer(reader, writer):
        writer.write(await reader.readexactly(4))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, HOST, 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"ping")
        assert await reader.read() == b"ping"
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0)


async def start_process():
    process = await asyncio.create_subprocess_exec("/bin/true")
    assert await process.wait() == 0
    # asyncio's threads that wait for a child refer to the loop, and may outlive the news by a moment.
    for thread in threading.enumerate():
        if thread.name.startswith("asyncio-waitpid-"):
            thread.join()


@pytest.fixture
def no_collection():
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("use", [None, nothing, call_back, call_in_thread, handle_signal, connect, start_process])
def test_closed_loop_is_gone(loop_factory, no_collection, use):
    loop = loop_factory()
    if use is not None:
        loop.run_until_complete(use())
    loop.close()
    alive = weakref.ref(loop)
    del loop
    assert alive() is None


def test_methods_after_the_end(loop_factory):
    loop = loop_factory()
    loop.add_signal_handler(signal.SIGUSR1, int)
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.add_signal_handler(signal.SIGUSR1, int)
    assert loop.remove_signal_handler(signal.SIGUSR1) is False
    loop.close()
