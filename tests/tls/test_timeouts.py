"""ssl_handshake_timeout and ssl_shutdown_timeout: which values are taken, and what a program is told when they expire.

No test here says how long anything took.
"""

import asyncio
import socket
import ssl

import pytest

from support import certificates
from support.peers import HOST, Recorder, noting, socket_pair
from support.tls_peers import TlsPeer, connect, gone, handshaking, tls_connection

BRIEF = 0.05


def taking_longer(seconds):
    return f"SSL handshake is taking longer than {seconds} seconds: aborting the connection"


@pytest.mark.parametrize("server_side", [False, True])
async def test_handshake_timeout(server_side):
    async with handshaking(server_side=server_side, ssl_handshake_timeout=BRIEF) as (task, _):
        with pytest.raises(ConnectionAbortedError) as info:
            await task
        assert type(info.value) is ConnectionAbortedError
        assert str(info.value) == taking_longer(BRIEF)


async def test_handshake_timeout_of_a_peer_that_trickles():
    """The timeout is for the whole handshake. A peer that sends slowly does not extend it."""
    async with handshaking(server_side=True, ssl_handshake_timeout=0.2) as (task, peer):
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        hello = peer.pending()
        sent = 0
        while not task.done() and sent < len(hello) - 1:
            peer.send_raw(hello[sent : sent + 1])
            sent += 1
            await asyncio.sleep(0.01)
        assert sent < len(hello) - 1
        with pytest.raises(ConnectionAbortedError):
            await task


async def test_handshake_timeout_at_the_server():
    """At the server a timeout closes the connection, and is not reported."""
    made = []

    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        noting(made), HOST, 0, ssl=certificates.server_context(), ssl_handshake_timeout=BRIEF
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        assert await reader.read() == b""
    except ConnectionResetError:
        pass
    writer.close()
    server.close()
    assert made[0].calls == []


async def test_handshake_timeout_at_the_server_in_debug_mode(loop_errors):
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    server = await loop.create_server(Recorder, HOST, 0, ssl=certificates.server_context(), ssl_handshake_timeout=BRIEF)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    while not loop_errors:
        await asyncio.sleep(0.01)
    (report,) = loop_errors
    loop_errors.clear()
    assert report["message"] == "Error on transport creation for incoming connection"
    assert type(report["exception"]) is ConnectionAbortedError
    assert str(report["exception"]) == taking_longer(BRIEF)
    writer.close()
    server.close()


async def test_handshake_in_time():
    """The timer does not outlive the handshake."""
    async with tls_connection(ssl_handshake_timeout=0.5) as (_, protocol, peer):
        await asyncio.sleep(0.6)
        peer.send(b"alive")
        assert await protocol.read(5) == b"alive"
        assert protocol.calls == ["connection_made", "data_received"]


@pytest.mark.parametrize("server_side", [False, True])
@pytest.mark.parametrize("queued", [False, True])
async def test_shutdown_timeout(server_side, queued):
    """connection_lost gets the timeout, with and without data that the peer does not read."""
    buffers = 4096 if queued else None
    async with tls_connection(server_side=server_side, ssl_shutdown_timeout=BRIEF, buffers=buffers) as (
        transport,
        protocol,
        _,
    ):
        if queued:
            transport.write(bytes(1 << 20))
        transport.close()
        exc = await protocol.lost
        assert type(exc) is TimeoutError
        assert str(exc) == "SSL shutdown timed out"
        assert protocol.calls.count("connection_lost") == 1


async def test_shutdown_in_time():
    """The timer does not outlive the connection, which it would keep alive."""
    async with tls_connection(ssl_shutdown_timeout=0.3) as (transport, protocol, peer):
        transport.close()
        assert await peer.read_until_end() == b""
        await peer.unwrap()
        assert await protocol.lost is None
        await asyncio.sleep(0.4)
        assert protocol.calls.count("connection_lost") == 1


async def test_shutdown_timeout_of_a_server():
    protocols = []

    class Noting(Recorder):
        def __init__(self):
            super().__init__()
            protocols.append(self)

        def connection_made(self, transport):
            super().connection_made(transport)
            transport.close()

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Noting, HOST, 0, ssl=certificates.server_context(), ssl_shutdown_timeout=BRIEF)

    with TlsPeer(socket.create_connection(server.sockets[0].getsockname()), server_side=False) as peer:
        await peer.handshake()
        exc = await protocols[0].lost
        assert (type(exc), str(exc)) == (TimeoutError, "SSL shutdown timed out")
    server.close()


# --- values ---


BAD = pytest.mark.parametrize("value", [0, 0.0, -1, -0.5])
ARGUMENTS = pytest.mark.parametrize("argument", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])


@BAD
@ARGUMENTS
@pytest.mark.parametrize("server_side", [False, True])
async def test_not_positive(argument, value, server_side):
    near, far = socket_pair()
    with near, far:
        with pytest.raises(ValueError) as info:
            await connect(Recorder, near, server_side=server_side, **{argument: value})
        assert str(info.value) == f"{argument} should be a positive number, got {value}"


@BAD
@ARGUMENTS
async def test_not_positive_for_start_tls(argument, value):
    loop = asyncio.get_running_loop()
    near, far = socket_pair()
    with far:
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        with pytest.raises(ValueError) as info:
            await loop.start_tls(transport, protocol, certificates.blind_context(), **{argument: value})
        assert str(info.value) == f"{argument} should be a positive number, got {value}"
        # The connection is not affected.
        far.send(b"x")
        assert await protocol.read(1) == b"x"
        transport.abort()
        await gone(near)


@ARGUMENTS
async def test_not_a_number(argument):
    near, far = socket_pair()
    with near, far:
        with pytest.raises(TypeError):
            await connect(Recorder, near, **{argument: "soon"})  # type: ignore[arg-type]


@ARGUMENTS
@pytest.mark.parametrize("value", [10, 10.5, 1e6, True])
async def test_values_that_are_taken(argument, value):
    async with tls_connection(**{argument: value}) as (transport, protocol, peer):
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"


async def test_none_is_the_default():
    async with tls_connection(ssl_handshake_timeout=None, ssl_shutdown_timeout=None) as (_, protocol, peer):
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
