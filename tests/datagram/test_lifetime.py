"""Thousands of datagram endpoints have ended: nothing is left of them. And endpoints that nobody closes.

One endpoint's end is in test_end.py.
"""

import asyncio
import gc
import re
import warnings
import weakref

import pytest

from support.datagrams import Datagrams, bound, receive, udp_socket, unix_socket_pair
from support.loops import open_files
from support.peers import HOST, settle


class Asking(asyncio.DatagramProtocol):
    """Sends one datagram, closes when it comes back."""

    def __init__(self, alive, lost):
        self.alive = alive
        self.lost = lost

    def connection_made(self, transport):
        self.transport = transport
        self.alive.add(transport)
        transport.sendto(b"hello")

    def datagram_received(self, data, addr):
        self.transport.close()

    def connection_lost(self, exc):
        self.lost.put_nowait(exc)


async def test_thousand_endpoints():
    class Echo(Datagrams):
        def datagram_received(self, data, addr):
            self.transport.sendto(data, addr)

    loop = asyncio.get_running_loop()
    alive, lost = weakref.WeakSet(), asyncio.Queue()
    async with bound(Echo) as (transport, _):
        address = transport.get_extra_info("sockname")
        files = len(open_files())
        for _ in range(20):
            creating = [
                loop.create_datagram_endpoint(lambda: Asking(alive, lost), remote_addr=address) for _ in range(50)
            ]
            await asyncio.gather(*creating)
            for _ in range(50):
                assert await lost.get() is None
        await settle()
        gc.collect()
        assert len(alive) == 0
        assert len(open_files()) == files


async def test_endpoint_that_nobody_keeps():
    """The loop keeps an endpoint that the program does not refer to."""
    alive, lost = weakref.WeakSet(), asyncio.Queue()
    near, far = unix_socket_pair()
    with far:
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: Asking(alive, lost), sock=near)
        del near
        assert [data for data, _ in await receive(far)] == [b"hello"]
        gc.collect()
        assert len(alive) == 1
        far.send(b"close now")
        assert await lost.get() is None
        await settle()
        gc.collect()
        assert len(alive) == 0


async def test_failed_endpoints():
    loop = asyncio.get_running_loop()
    with udp_socket() as taken:
        files = len(open_files())
        for _ in range(50):
            with pytest.raises(OSError, match="in use"):
                await loop.create_datagram_endpoint(Datagrams, local_addr=taken.getsockname())
        assert len(open_files()) == files


def test_unclosed_transport_warns(loop_factory):
    loop = loop_factory()
    create = loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(HOST, 0))
    transport, _ = loop.run_until_complete(create)
    fileno = transport.get_extra_info("socket").fileno()
    loop.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport, create, loop
        gc.collect()
    texts = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
    # asyncio's socket may warn before the transport does.
    assert re.search(rf"^unclosed transport <.*fd={fileno}\b.*>$", "\n".join(texts), re.MULTILINE)
