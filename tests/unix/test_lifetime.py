"""UNIX connections and servers have ended: no file and no object is left of them.

One connection's end is in test_streams.py, TCP in stream/test_lifetime.py.
"""

import asyncio
import gc
import os
import socket
import weakref

import pytest

from support.counting import CountedClient, CountedEcho, Counting
from support.loops import open_files

BATCH = 50


async def everything_over(counting, files):
    await asyncio.sleep(0)  # a file is closed after connection_lost
    gc.collect()
    assert len(counting.alive) == 0
    assert len(open_files()) == files


async def test_two_thousand_connections(path):
    loop = asyncio.get_running_loop()
    counting = Counting()
    async with await loop.create_unix_server(lambda: CountedEcho(counting), path):
        files = len(open_files())
        for _ in range(2000 // BATCH):
            expected = counting.over + 2 * BATCH
            connecting = [loop.create_unix_connection(lambda: CountedClient(counting), path) for _ in range(BATCH)]
            await asyncio.gather(*connecting)
            await counting.wait_for(expected)
        await everything_over(counting, files)


async def test_clients_that_are_gone_before_they_are_accepted(path):
    loop = asyncio.get_running_loop()
    counting = Counting()
    async with await loop.create_unix_server(lambda: CountedEcho(counting), path):
        files = len(open_files())
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
    files = len(open_files())
    references = []
    for _ in range(100):
        server = await loop.create_unix_server(asyncio.Protocol, path)
        references.append(weakref.ref(server))
        server.close()
        await server.wait_closed()
        del server
    gc.collect()
    assert [reference for reference in references if reference() is not None] == []
    assert len(open_files()) == files


async def test_failed_servers(path):
    loop = asyncio.get_running_loop()
    os.mkdir(path)
    files = len(open_files())
    for _ in range(50):
        with pytest.raises(OSError, match="already in use"):
            await loop.create_unix_server(asyncio.Protocol, path)
    assert len(open_files()) == files
