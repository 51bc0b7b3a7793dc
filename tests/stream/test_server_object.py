"""The Server object: serving, closing, waiting until closed, with the differences between Python's versions.

How it is made, and what it accepts, is in test_server.py.
"""

import asyncio
import gc
import socket
import sys
import weakref
from asyncio import trsock

import pytest

from support.peers import HOST, Peer, Recorder, on_asyncio, recorded_warnings, released, serving, settle

since_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")


class Served(Recorder):
    """A server's protocol that puts itself into a queue when its connection is made."""

    def __init__(self, arrivals):
        super().__init__()
        self.arrivals = arrivals

    def connection_made(self, transport):
        super().connection_made(transport)
        self.arrivals.put_nowait(self)


async def start_server(**kwargs):
    """(server, address, queue of its connections' protocols)"""
    arrivals = asyncio.Queue()
    server = await asyncio.get_running_loop().create_server(lambda: Served(arrivals), HOST, 0, **kwargs)
    return server, server.sockets[0].getsockname(), arrivals


async def drop(protocol):
    protocol.transport.abort()
    await released(protocol.transport)


def refuses(address):
    with socket.socket() as sock:
        sock.settimeout(10)
        return sock.connect_ex(address) != 0


async def test_attributes():
    async with serving(asyncio.Protocol) as (server, address):
        assert isinstance(server, asyncio.AbstractServer)
        assert server.get_loop() is asyncio.get_running_loop()
        assert server.is_serving() is True
        assert isinstance(server.sockets, tuple)
        (sock,) = server.sockets
        assert isinstance(sock, trsock.TransportSocket)
        assert sock.getsockname() == address
        assert repr(server).startswith("<Server sockets=(<asyncio.TransportSocket fd=")
        assert weakref.ref(server)() is server
    assert server.is_serving() is False
    assert server.sockets == ()
    assert server.get_loop() is asyncio.get_running_loop()
    assert repr(server) == "<Server sockets=()>"


async def test_not_serving_until_told():
    server, address, arrivals = await start_server(start_serving=False)
    assert server.is_serving() is False
    assert len(server.sockets) == 1
    assert refuses(address)
    await server.start_serving()
    assert server.is_serving() is True
    with socket.create_connection(address):
        await drop(await arrivals.get())
    await server.start_serving()  # once more changes nothing
    server.close()
    assert refuses(address)


async def test_close_before_serving():
    server, address, _ = await start_server(start_serving=False)
    server.close()
    await server.wait_closed()
    assert server.sockets == ()
    assert refuses(address)


async def test_close_keeps_connections():
    server, address, arrivals = await start_server()
    with Peer(socket.create_connection(address)) as peer:
        protocol = await arrivals.get()
        server.close()
        server.close()
        assert refuses(address)
        peer.send(b"ping")
        assert await protocol.read(4) == b"ping"
        protocol.transport.write(b"pong")
        assert await peer.read(4) == b"pong"
        await drop(protocol)


async def test_close_inside_connection_made():
    loop = asyncio.get_running_loop()
    served = loop.create_future()

    class Last(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            server.close()
            served.set_result(self)

    server = await loop.create_server(Last, HOST, 0)
    with Peer(socket.create_connection(server.sockets[0].getsockname())) as peer:
        protocol = await served
        peer.send(b"ping")
        assert await protocol.read(4) == b"ping"
        await drop(protocol)


async def test_async_with():
    server, address, _ = await start_server()
    async with server as entered:
        assert entered is server
        assert server.is_serving()
    assert not server.is_serving()
    assert refuses(address)


async def test_server_is_released():
    server, _, _ = await start_server()
    reference = weakref.ref(server)
    server.close()
    await server.wait_closed()
    del server
    gc.collect()
    assert reference() is None


# --- wait_closed ---


async def test_wait_closed_without_connections():
    server, _, _ = await start_server()
    waiter = asyncio.create_task(server.wait_closed())
    await asyncio.sleep(0)
    assert not waiter.done()  # the server still serves
    server.close()
    assert await waiter is None
    assert await server.wait_closed() is None


async def test_wait_closed_before_close_waits_for_connections():
    server, address, arrivals = await start_server()
    with socket.create_connection(address):
        protocol = await arrivals.get()
        waiters = [asyncio.create_task(server.wait_closed()) for _ in range(2)]
        await asyncio.sleep(0)
        server.close()
        await asyncio.sleep(0)
        assert not any(waiter.done() for waiter in waiters)
        await drop(protocol)
        await asyncio.gather(*waiters)


async def test_wait_closed_after_close_with_connections():
    server, address, arrivals = await start_server()
    with socket.create_connection(address):
        protocol = await arrivals.get()
        server.close()
        waiter = asyncio.create_task(server.wait_closed())
        await asyncio.sleep(0)
        # Before 3.12 wait_closed only looked whether the server was closed.
        assert waiter.done() == (sys.version_info < (3, 12))
        await drop(protocol)
        await waiter


async def test_connections_that_ended_before_close_are_not_waited_for():
    server, address, arrivals = await start_server()
    for _ in range(3):
        with socket.create_connection(address):
            await drop(await arrivals.get())
    server.close()
    await server.wait_closed()


# --- close_clients, abort_clients ---


@since_3_13
async def test_close_clients():
    server, address, arrivals = await start_server()
    with Peer(socket.create_connection(address)) as one, Peer(socket.create_connection(address)) as two:
        protocols = [await arrivals.get(), await arrivals.get()]
        for protocol in protocols:
            protocol.transport.write(b"last words")
        server.close()
        server.close_clients()
        assert all(protocol.transport.is_closing() for protocol in protocols)
        assert all(protocol.calls == ["connection_made"] for protocol in protocols)  # not called inside close_clients
        await server.wait_closed()
        for protocol in protocols:
            assert await protocol.lost is None
        for peer in (one, two):
            assert await peer.read_until_eof() == b"last words"


@since_3_13
async def test_close_clients_sends_what_is_queued():
    server, address, arrivals = await start_server()
    data = bytes(range(256)) * 32768  # 8 MiB, more than the kernel takes
    with Peer(socket.create_connection(address)) as peer:
        protocol = await arrivals.get()
        protocol.transport.write(data)
        assert protocol.transport.get_write_buffer_size() > 0
        server.close()
        server.close_clients()
        assert await peer.read_until_eof() == data
        assert await protocol.lost is None


@since_3_13
async def test_abort_clients_drops_what_is_queued():
    server, address, arrivals = await start_server()
    data = bytes(8 * 1024 * 1024)
    with Peer(socket.create_connection(address)) as peer:
        protocol = await arrivals.get()
        protocol.transport.write(data)
        assert protocol.transport.get_write_buffer_size() > 0
        server.close()
        server.abort_clients()
        assert protocol.transport.get_write_buffer_size() == 0
        assert await protocol.lost is None
        await server.wait_closed()
        assert len(await peer.read_until_eof()) < len(data)


@since_3_13
async def test_server_goes_on_after_close_clients():
    server, address, arrivals = await start_server()
    async with server:
        with Peer(socket.create_connection(address)) as one:
            first = await arrivals.get()
            server.close_clients()
            assert await one.read_until_eof() == b""
            assert await first.lost is None
        with socket.create_connection(address):
            await drop(await arrivals.get())


@since_3_13
async def test_the_server_does_not_keep_its_clients():
    """The server has weak references only: a transport that ended is freed, though the server lives."""
    server, address, arrivals = await start_server()
    async with server:
        with socket.create_connection(address):
            protocol = await arrivals.get()
            reference = weakref.ref(protocol.transport)
            await drop(protocol)
            del protocol
        gc.collect()
        assert reference() is None


class Half(Served):
    """Keeps its connection open when the peer has sent its last byte."""

    def eof_received(self):
        super().eof_received()
        self.arrivals.put_nowait(self)
        return True


@since_3_13
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
async def test_which_clients_are_closed(method):
    """All of this server, whatever they are doing, and none of another one."""
    arrivals = asyncio.Queue()
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(lambda: Half(arrivals), HOST, 0) for _ in range(2)]
    addresses = [server.sockets[0].getsockname() for server in servers]
    states = ("idle", "paused", "no data to come", "told of its connection", "of the other server")
    peers, protocols = {}, {}
    for state in states:
        peers[state] = socket.create_connection(addresses[state == "of the other server"])
        protocol = protocols[state] = await arrivals.get()
        if state == "paused":
            protocol.transport.pause_reading()
        elif state == "no data to come":
            peers[state].shutdown(socket.SHUT_WR)
            assert await arrivals.get() is protocol
            protocol.transport.pause_reading()
        elif state == "told of its connection":
            getattr(servers[0], method)()
    closing = {state: protocol.transport.is_closing() for state, protocol in protocols.items()}
    assert closing == {state: state != "of the other server" for state in states}
    getattr(servers[1], method)()
    assert protocols["of the other server"].transport.is_closing()
    for server in servers:
        server.close()
        await server.wait_closed()
    for protocol in protocols.values():
        assert await protocol.lost is None
    for peer in peers.values():
        peer.close()


@since_3_13
async def test_client_of_another_kind():
    """A program may have a transport of its own counted."""

    class Transport:
        closed = 0

        def close(self):
            self.closed += 1

    server, address, arrivals = await start_server()
    transport = Transport()
    with socket.create_connection(address):
        protocol = await arrivals.get()
        for _ in range(2):
            # More than once is as good as once.
            server._attach(transport)
            server._attach(protocol.transport)
        assert len(server._clients) == 2
        assert set(server._clients) == set(server._clients.copy()) == {transport, protocol.transport}
        server.close()
        server.close_clients()
        assert transport.closed == 1
        assert await protocol.lost is None
    waiting = asyncio.ensure_future(server.wait_closed())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    server._detach(transport)
    await waiting


@since_3_13
@pytest.mark.parametrize("closed_first", [False, True])
async def test_client_that_is_dropped_is_not_waited_for(closed_first):
    if on_asyncio() and sys.version_info >= (3, 15):
        pytest.skip("asyncio keeps it, by version")
    server, address, arrivals = await start_server()
    with recorded_warnings() as warned, socket.create_connection(address):
        protocol = await arrivals.get()
        protocol.transport.pause_reading()
        reference = weakref.ref(protocol.transport)
        if closed_first:
            server.close()
            waiting = asyncio.ensure_future(server.wait_closed())
            await settle()
            assert not waiting.done()
        del protocol
        await settle()
        gc.collect()
        assert reference() is None
        if not closed_first:
            server.close()
            waiting = asyncio.ensure_future(server.wait_closed())
        await waiting
    assert any(text.startswith("unclosed transport <") for text in warned)


# --- serve_forever ---


async def test_serve_forever_until_cancelled():
    server, address, arrivals = await start_server(start_serving=False)
    task = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    assert server.is_serving()
    with socket.create_connection(address):
        await drop(await arrivals.get())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.is_serving()
    assert server.sockets == ()
    assert refuses(address)


async def test_serve_forever_until_closed():
    server, _, _ = await start_server()
    task = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_serve_forever_twice():
    server, _, _ = await start_server()
    task = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError) as info:
        await server.serve_forever()
    assert str(info.value) == f"server {server!r} is already being awaited on serve_forever()"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_serve_forever_once_closed():
    server, _, _ = await start_server()
    server.close()
    with pytest.raises(RuntimeError) as info:
        await server.serve_forever()
    assert str(info.value) == f"server {server!r} is closed"


# --- the loop ---


def test_loop_closed_while_serving(loop):
    """Closing the loop closes the listener, even if nobody closed the server."""
    server = loop.run_until_complete(loop.create_server(asyncio.Protocol, HOST, 0))
    address = server.sockets[0].getsockname()
    loop.close()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del server
        gc.collect()
    assert refuses(address)


def test_serving_goes_on_when_the_loop_does(loop):
    """A client that connects while the loop is stopped is served when the loop runs again."""
    arrivals = []

    class Arrival(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            arrivals.append(self)

    server = loop.run_until_complete(loop.create_server(Arrival, HOST, 0))
    with Peer(socket.create_connection(server.sockets[0].getsockname())) as peer:
        peer.send(b"hello")

        async def served():
            while not arrivals:
                await asyncio.sleep(0)
            assert await arrivals[0].read(5) == b"hello"
            server.close()
            await drop(arrivals[0])

        loop.run_until_complete(served())
