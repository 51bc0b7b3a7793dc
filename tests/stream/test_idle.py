"""A loop that has nothing to do sleeps, whatever its transports wait for."""

import asyncio

import pytest

from support.datagrams import pair
from support.idle import sleeps_between_timers
from support.peers import Echo, arrived, connection, on_asyncio, serving, settle
from support.pipe_peers import read_pipe, write_pipe
from support.sock_peers import cancelled, streams, waiting
from support.tls_peers import tls_connection

PLENTY = bytes(8 << 20)  # more than the kernel takes


@pytest.mark.parametrize("opened", [connection, tls_connection, pair, read_pipe, write_pipe])
async def test_open_transports(opened):
    async with opened():
        await settle()
        assert await sleeps_between_timers()


async def test_server():
    async with serving(Echo):
        await settle()
        assert await sleeps_between_timers()


@pytest.mark.parametrize("ended", [False, True])
async def test_paused_reading(ended):
    """The peer has sent data, and perhaps its end."""
    async with connection() as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"x")
        if ended:
            peer.send_eof()
        await arrived(transport, 1, ended=ended)
        await settle()
        assert await sleeps_between_timers()
        assert protocol.calls == ["connection_made"]


@pytest.mark.parametrize("opened", [tls_connection, read_pipe])
async def test_paused_reading_of_others(opened):
    async with opened() as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"x")
        await settle()
        assert await sleeps_between_timers()
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        assert await protocol.read(1) == b"x"


@pytest.mark.parametrize("opened", [connection, tls_connection, write_pipe])
async def test_peer_that_does_not_read(opened):
    """The transport has more to send than the kernel takes."""
    async with opened() as (transport, protocol, _):
        transport.write(PLENTY)
        await settle()
        # asyncio's TLS does not count what it has given to the transport below.
        if not (on_asyncio() and opened is tls_connection):
            assert protocol.calls[-1] == "pause_writing"
        assert await sleeps_between_timers()
        transport.abort()


async def test_one_direction_has_ended():
    class Listening(Echo):
        keep_open = True

    async with connection(Listening) as (transport, protocol, peer):
        peer.send_eof()
        await protocol.ended
        await settle()
        assert await sleeps_between_timers()
        transport.write(b"still open")
        assert await peer.read(10) == b"still open"


async def test_waiting_sock_call():
    with streams() as (sock, _):
        receiving = await waiting(asyncio.get_running_loop().sock_recv(sock, 10))
        assert await sleeps_between_timers()
        assert await cancelled(receiving)
