"""Reads that bring fewer bytes than asked for although more has arrived: the kernel stops where something else
than data lies in the stream. A loop that takes every short read for the last one would wait for ever.

Reads of all sizes are in test_read_sizes.py.
"""

import asyncio
import contextlib
import socket

import pytest

from support.peers import BufferedRecorder, Peer, Recorder, arrived, released, settle, socket_pair

KINDS = pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
PAIRS = pytest.mark.parametrize("pair", [socket_pair, socket.socketpair], ids=["tcp", "unix"])


@contextlib.asynccontextmanager
async def connection(factory, pair):
    near, far = pair()
    with Peer(far) as peer:
        transport, protocol = await asyncio.get_running_loop().create_connection(factory, sock=near)
        try:
            yield transport, protocol, peer
        finally:
            transport.abort()
            await released(transport)


@KINDS
@pytest.mark.parametrize("at_once", [True, False])
async def test_passed_files(factory, at_once):
    """A read of a UNIX socket ends at every message that carries file descriptors. A transport drops those."""
    async with connection(factory, socket.socketpair) as (transport, protocol, peer):
        if at_once:
            transport.pause_reading()
        peer.send(b"a")
        for _ in range(3):
            socket.send_fds(peer.sock, [b"b"], [peer.sock.fileno()])
            peer.send(b"c")
        peer.send(b"d")
        if at_once:
            await arrived(transport, 8)
            await settle()
            transport.resume_reading()
        assert await protocol.read(8) == b"abcbcbcd"


@KINDS
@PAIRS
async def test_urgent_data(factory, pair):
    """Urgent data is no part of the stream, and a read ends in front of it."""
    async with connection(factory, pair) as (transport, protocol, peer):
        try:
            peer.sock.send(b"!", socket.MSG_OOB)
        except OSError:
            pytest.skip("no urgent data here")
        for count in range(1, 4):
            peer.send(b"ab")
            peer.sock.send(b"!", socket.MSG_OOB)
            peer.send(b"cd")
            # Some kernels treat an urgent byte as an ordinary one once there is a later urgent byte.
            while len(protocol.data) - protocol.data.count(b"!") < 4 * count:
                await protocol.read(len(protocol.data) + 1)
        assert bytes(protocol.data).replace(b"!", b"") == b"abcd" * 3


@PAIRS
async def test_urgent_data_before_the_end(pair):
    async with connection(Recorder, pair) as (transport, protocol, peer):
        transport.pause_reading()
        try:
            peer.send(b"ab")
            peer.sock.send(b"!", socket.MSG_OOB)
        except OSError:
            pytest.skip("no urgent data here")
        peer.send(b"cd")
        peer.send_eof()
        await arrived(transport, 2, ended=True)
        transport.resume_reading()
        assert await protocol.lost is None
        assert bytes(protocol.data) == b"abcd"
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
