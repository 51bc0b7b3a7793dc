"""Thousands of connections have ended: no file, no object and no memory is left of them.

One connection's end is in test_end.py, the contexts of callbacks in test_context.py.
"""

import asyncio
import gc
import socket
import sys
import weakref

import pytest

from support.counting import CountedClient, CountedEcho, Counting, resident, transports_alive
from support.datagrams import pair
from support.loops import open_files
from support.peers import HOST, Recorder, connection, on_asyncio, released, socket_pair

BATCH = 100


async def connections(count, address, counting):
    """Makes that many connections, a batch at a time. Both ends belong to the loop."""
    loop = asyncio.get_running_loop()
    for _ in range(count // BATCH):
        expected = counting.over + 2 * BATCH
        connecting = [loop.create_connection(lambda: CountedClient(counting), *address) for _ in range(BATCH)]
        await asyncio.gather(*connecting)
        await counting.wait_for(expected)


@pytest.mark.time_limit(60)
async def test_five_thousand_connections():
    loop = asyncio.get_running_loop()
    counting = Counting()
    server = await loop.create_server(lambda: CountedEcho(counting), HOST, 0, backlog=BATCH)
    address = server.sockets[0].getsockname()
    async with server:
        # The first connections make whatever is made once and kept.
        await connections(1000, address, counting)
        gc.collect()
        files, memory, objects = len(open_files()), resident(), len(gc.get_objects())
        await connections(4000, address, counting)
        gc.collect()
        assert len(open_files()) == files
        assert len(counting.alive) == 0
        assert transports_alive() == 0
        assert len(gc.get_objects()) - objects < 100
        # There were 8000 transports: a leak of a few hundred bytes in each would show.
        assert resident() - memory < 2 << 20


async def test_connections_reset_by_the_peer():
    loop = asyncio.get_running_loop()
    counting = Counting()
    files = len(open_files())
    async with await loop.create_server(lambda: CountedEcho(counting), HOST, 0, backlog=BATCH) as server:
        address = server.sockets[0].getsockname()
        for _ in range(5):
            expected = counting.over + BATCH
            clients = [socket.create_connection(address) for _ in range(BATCH)]
            for client in clients:
                client.sendall(b"unread answer")
            while clients:
                # Most have an unread answer, so that this sends a RST. Some are closed before the server accepts them.
                clients.pop().close()
            await counting.wait_for(expected)
    gc.collect()
    assert len(counting.alive) == 0
    assert len(open_files()) == files


async def test_a_transport_goes_without_the_garbage_collector():
    """After connection_lost the loop does not refer to the transport, nor the transport to its protocol."""
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
            reference = weakref.ref(transport)  # type: ignore[arg-type]
            del transport
            assert reference() is None
        finally:
            gc.enable()


@pytest.mark.parametrize("opened", [connection, pair], ids=["stream", "datagram"])
async def test_a_cycle_of_transport_and_protocol_is_found(opened):
    """The garbage collector sees through a transport, its attributes included."""
    async with opened() as (transport, protocol, _):
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
        files = len(open_files())
        for _ in range(200):
            with pytest.raises(ConnectionRefusedError):
                await loop.create_connection(asyncio.Protocol, *sock.getsockname())
        gc.collect()
        assert len(open_files()) == files
        assert transports_alive() == 0


def test_many_loops(loop_factory):
    """A closed loop that served has no open file, even while somebody still refers to it."""
    files = len(open_files())
    loops = []

    async def serve(loop):
        counting = Counting()
        server = await loop.create_server(lambda: CountedEcho(counting), HOST, 0)
        async with server:
            await loop.create_connection(lambda: CountedClient(counting), *server.sockets[0].getsockname())
            await counting.wait_for(2)

    for _ in range(20):
        loop = loop_factory()
        loop.run_until_complete(serve(loop))
        loop.close()
        loops.append(loop)
    assert len(open_files()) == files
    references = [weakref.ref(loop) for loop in loops]
    del loop, loops
    gc.collect()
    assert [reference() for reference in references] == [None] * 20
