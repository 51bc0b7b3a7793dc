"""What is left of connections that are over, in thousands: no file, no object, no memory.

One connection's end is in test_end.py, the contexts of callbacks in test_context.py.
"""

import asyncio
import gc
import os
import socket
import sys
import weakref

import pytest

from support.peers import HOST, Recorder, connection, on_asyncio, released, socket_pair

BATCH = 100


def resident():
    """Bytes of memory that the process occupies."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def transports_alive():
    # By the type's name: isinstance asks objects for their __class__, which some weak proxy may not survive.
    return sum(type(thing).__name__.endswith("Transport") for thing in gc.get_objects())


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


async def connections(count, address, counting):
    """That many connections, a batch at a time; both ends belong to the loop."""
    loop = asyncio.get_running_loop()
    for _ in range(count // BATCH):
        expected = counting.over + 2 * BATCH
        connecting = [loop.create_connection(lambda: Asking(counting), *address) for _ in range(BATCH)]
        await asyncio.gather(*connecting)
        await counting.wait_for(expected)


@pytest.mark.time_limit(60)
async def test_five_thousand_connections():
    loop = asyncio.get_running_loop()
    counting = Counting()
    server = await loop.create_server(lambda: Echo(counting), HOST, 0, backlog=BATCH)
    address = server.sockets[0].getsockname()
    async with server:
        # What is made once, and kept, is made by the first.
        await connections(1000, address, counting)
        gc.collect()
        files, memory, objects = os.listdir("/proc/self/fd"), resident(), len(gc.get_objects())
        await connections(4000, address, counting)
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == len(files)
        assert len(counting.alive) == 0
        assert transports_alive() == 0
        assert len(gc.get_objects()) - objects < 100
        # 8000 transports: a leak of a few hundred bytes each would show.
        assert resident() - memory < 2 << 20


async def test_connections_reset_by_the_peer():
    loop = asyncio.get_running_loop()
    counting = Counting()
    files = len(os.listdir("/proc/self/fd"))
    async with await loop.create_server(lambda: Echo(counting), HOST, 0, backlog=BATCH) as server:
        address = server.sockets[0].getsockname()
        for _ in range(5):
            expected = counting.over + BATCH
            clients = [socket.create_connection(address) for _ in range(BATCH)]
            for client in clients:
                client.sendall(b"unread answer")
            while clients:
                # Most of them have an answer waiting, so that this is a RST, and some come before the accept.
                clients.pop().close()
            await counting.wait_for(expected)
    gc.collect()
    assert len(counting.alive) == 0
    assert len(os.listdir("/proc/self/fd")) == files


async def test_a_transport_goes_without_the_garbage_collector():
    """By the end of connection_lost nothing of the loop refers to the transport, nor it to the protocol."""
    if on_asyncio() and sys.version_info < (3, 12):
        pytest.skip("asyncio's transport refers to a method of its own")
    near, far = socket_pair()
    with far:
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=near)
        transport.write(b"hello")
        transport.close()
        await protocol.lost
        await released(transport)
        await asyncio.sleep(0)
        gc.collect()
        gc.disable()
        try:
            reference = weakref.ref(protocol)
            protocol.transport = None
            del protocol
            assert reference() is None
            reference = weakref.ref(transport)
            del transport
            assert reference() is None
        finally:
            gc.enable()


async def test_a_cycle_of_transport_and_protocol_is_found():
    """The garbage collector sees through a transport, its attributes included."""
    async with connection() as (transport, protocol, _):
        transport.owner = protocol
        transport.itself = transport
        transport.close()
        await protocol.lost
        await released(transport)
    references = [weakref.ref(transport), weakref.ref(protocol)]
    await asyncio.sleep(0)
    del transport, protocol
    gc.collect()
    assert [reference() for reference in references] == [None, None]


async def test_pending_writes_are_let_go():
    """An aborted transport keeps none of the bytes it had queued."""

    class Data(bytearray):
        pass

    async with connection(buffers=65536) as (transport, protocol, _):
        transport.write(bytes(1 << 20))
        data = Data(1 << 20)
        reference = weakref.ref(data)
        transport.write(data)
        del data
        transport.abort()
        await protocol.lost
        await released(transport)
        gc.collect()
        assert reference() is None


async def test_refused_connections_leave_nothing():
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        files = len(os.listdir("/proc/self/fd"))
        for _ in range(200):
            with pytest.raises(ConnectionRefusedError):
                await loop.create_connection(asyncio.Protocol, *sock.getsockname())
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == files
        assert transports_alive() == 0


def test_many_loops(loop_factory):
    """A loop that served is gone with its files once it is closed, though somebody still refers to it."""
    files = len(os.listdir("/proc/self/fd"))
    loops = []

    async def serve(loop):
        counting = Counting()
        server = await loop.create_server(lambda: Echo(counting), HOST, 0)
        async with server:
            await loop.create_connection(lambda: Asking(counting), *server.sockets[0].getsockname())
            await counting.wait_for(2)

    for _ in range(20):
        loop = loop_factory()
        loop.run_until_complete(serve(loop))
        loop.close()
        loops.append(loop)
    assert len(os.listdir("/proc/self/fd")) == files
    references = [weakref.ref(loop) for loop in loops]
    del loop, loops
    gc.collect()
    assert [reference() for reference in references] == [None] * 20
