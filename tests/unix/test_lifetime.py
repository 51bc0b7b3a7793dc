"""What is left of UNIX connections and servers that are over: no file, no object.

One connection's end is in test_streams.py, TCP in stream/test_lifetime.py.
"""

import asyncio
import gc
import os
import socket
import weakref

import pytest

BATCH = 50


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


def open_files():
    return len(os.listdir("/proc/self/fd"))


class Counting:
    """Counts the ends of the transports it is told of, and which of them are still there."""

    def __init__(self):
        self.over = 0
        self.alive = weakref.WeakSet()
        self.changed = asyncio.Event()

    def made(self, transport):
        self.alive.add(transport)

    def lost(self):
        self.over += 1
        self.changed.set()

    async def wait_for(self, count):
        while self.over < count:
            self.changed.clear()
            await self.changed.wait()


class Echo(asyncio.Protocol):
    def __init__(self, counting):
        self.counting = counting

    def connection_made(self, transport):
        self.transport = transport
        self.counting.made(transport)

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, exc):
        self.counting.lost()


class Asking(Echo):
    """Sends one message, closes when it comes back."""

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.write(b"hello")

    def data_received(self, data):
        self.transport.close()


async def everything_over(counting, files):
    await asyncio.sleep(0)  # a file is closed after connection_lost
    gc.collect()
    assert len(counting.alive) == 0
    assert open_files() == files


async def test_two_thousand_connections(path):
    loop = asyncio.get_running_loop()
    counting = Counting()
    async with await loop.create_unix_server(lambda: Echo(counting), path):
        files = open_files()
        for _ in range(2000 // BATCH):
            expected = counting.over + 2 * BATCH
            connecting = [loop.create_unix_connection(lambda: Asking(counting), path) for _ in range(BATCH)]
            await asyncio.gather(*connecting)
            await counting.wait_for(expected)
        await everything_over(counting, files)


async def test_clients_that_are_gone_before_they_are_accepted(path):
    loop = asyncio.get_running_loop()
    counting = Counting()
    async with await loop.create_unix_server(lambda: Echo(counting), path):
        files = open_files()
        for _ in range(5):
            expected = counting.over + BATCH
            for number in range(BATCH):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(path)
                    if number % 2:
                        client.sendall(b"unread answer")
            await counting.wait_for(expected)
        await everything_over(counting, files)


async def test_many_servers(path):
    loop = asyncio.get_running_loop()
    files = open_files()
    references = []
    for _ in range(100):
        server = await loop.create_unix_server(asyncio.Protocol, path)
        references.append(weakref.ref(server))
        server.close()
        await server.wait_closed()
        del server
    gc.collect()
    assert [reference for reference in references if reference() is not None] == []
    assert open_files() == files


async def test_failed_servers(path):
    loop = asyncio.get_running_loop()
    os.mkdir(path)
    files = open_files()
    for _ in range(50):
        with pytest.raises(OSError, match="already in use"):
            await loop.create_unix_server(asyncio.Protocol, path)
    assert open_files() == files
