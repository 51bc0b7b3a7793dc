"""Sockets that are not what they seem: of a family that was guessed, as that of an inherited fd often is, or with
messages where a stream is expected.
"""

import asyncio
import contextlib
import socket

import pytest

from support.peers import HOST, BufferedRecorder, Peer, Recorder, on_asyncio, released

HAS_MESSAGES = hasattr(socket, "SOCK_SEQPACKET") and hasattr(socket, "AF_UNIX")


@pytest.mark.skipif(not HAS_MESSAGES, reason="no such sockets here")
@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
async def test_a_read_is_a_message(factory):
    """As on SCTP, each read gives one message. A short read does not mean that nothing else waits."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    with Peer(far) as peer:
        for _ in range(3):
            peer.send(b"abc")
        protocol = factory()
        transport = asyncio.get_running_loop()._make_socket_transport(near, protocol)  # type: ignore[attr-defined]
        assert await protocol.read(9) == b"abcabcabc"
        for _ in range(2):
            peer.send(b"de")
        assert await protocol.read(13) == b"abcabcabcdede"
        peer.close()
        assert await protocol.lost is None
        await released(transport)


@contextlib.asynccontextmanager
async def serving(listener, family, factory):
    """A server whose socket object has this family."""
    sock = socket.socket(family, socket.SOCK_STREAM, fileno=listener.detach())
    server = await asyncio.get_running_loop().create_server(factory, sock=sock)
    try:
        yield
    finally:
        server.close()


async def test_unix_called_tcp(tmp_path):
    path = str(tmp_path / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    async with serving(listener, socket.AF_INET, factory):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b""
        (protocol,) = protocols
        assert await protocol.lost is None
        assert bytes(protocol.data) == b"hello"
        writer.close()
        await writer.wait_closed()


async def test_tcp_called_unix():
    listener = socket.create_server((HOST, 0))
    address = listener.getsockname()
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    async with serving(listener, socket.AF_UNIX, factory):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"hello")
        await writer.drain()
        while not protocols:
            await asyncio.sleep(0)
        (protocol,) = protocols
        assert await protocol.read(5) == b"hello"
        sock = protocol.transport.get_extra_info("socket")
        if not on_asyncio():
            # asyncio believes the socket object, and leaves Nagle's algorithm on.
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
        await writer.wait_closed()
        assert await reader.read() == b""
        assert await protocol.lost is None


@pytest.mark.parametrize("backlog", [-1, -100, 0, 1, 2**31 - 1])
async def test_backlog(backlog):
    """The kernel takes a negative backlog for the largest."""
    if on_asyncio() and backlog <= 0:
        pytest.skip("asyncio listens, and never accepts")
    server = await asyncio.start_server(lambda reader, writer: writer.close(), HOST, 0, backlog=backlog)
    async with server:
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
