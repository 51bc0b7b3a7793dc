"""UNIX sockets with messages: the end of a SOCK_SEQPACKET, and a receiver whose queue is full.

rloop only: at the end asyncio delivers empty datagrams for ever, and it waits busily in both cases.
"""

import asyncio
import socket

import pytest

from support.datagrams import Datagrams, unix_socket
from support.idle import sleeps
from support.peers import on_asyncio, released, settle

HAS_SEQUENCES = hasattr(socket, "SOCK_SEQPACKET")


@pytest.fixture(autouse=True)
async def not_asyncio():
    if on_asyncio():
        pytest.skip("see above")


class Own(socket.socket):
    """A subclass of socket. The loop calls its methods."""


async def sequence(made_by=socket.socket, factory=Datagrams):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near = made_by(near.family, near.type, near.proto, fileno=near.detach())
    near.setblocking(False)
    waiter = asyncio.get_running_loop().create_future()
    protocol = factory()
    # create_datagram_endpoint takes such sockets since 3.14.
    transport = asyncio.get_running_loop()._make_datagram_transport(near, protocol, None, waiter)  # type: ignore[attr-defined]
    await waiter
    return transport, protocol, far


@pytest.mark.skipif(not HAS_SEQUENCES, reason="no such sockets here")
@pytest.mark.parametrize("made_by", [socket.socket, Own])
@pytest.mark.parametrize(
    "sent",
    [
        [],
        [b"one"],
        [b"one", b"", b"two"],
        [b"x"] * 40,
        [b""] * 3 + [b"x"],
        # More than one receive takes at once, with an empty message wherever the first one ends.
        [b"x", b""] * 40 + [b"y"],
        [b""] * 80 + [b"x"],
    ],
)
@pytest.mark.parametrize("half", [False, True])
async def test_end_of_a_sequence(made_by, sent, half):
    transport, protocol, far = await sequence(made_by)
    with far:
        for data in sent:
            far.send(data)
        if half:
            far.shutdown(socket.SHUT_WR)
        else:
            far.close()
        assert await protocol.lost is None
        assert protocol.data == sent
        assert not protocol.errors
        await released(transport)


@pytest.mark.skipif(not HAS_SEQUENCES, reason="no such sockets here")
async def test_empty_messages_of_a_sequence():
    transport, protocol, far = await sequence()
    with far:
        for _ in range(3):
            far.send(b"")
            await settle()
        assert protocol.data == [b""] * 3
        transport.sendto(b"hello")
        assert far.recv(100) == b"hello"
        transport.pause_reading()
        far.send(b"last")
        far.close()
        await settle()
        assert protocol.data == [b""] * 3
        transport.resume_reading()
        assert await protocol.lost is None
        assert protocol.data == [b""] * 3 + [b"last"]
        await released(transport)


@pytest.mark.parametrize("made_by", [socket.socket, Own])
async def test_full_receiver_is_no_busy_wait(made_by):
    """A sender that is not connected is not told when its peer takes more. The loop tries now and then, and sleeps
    between.
    """
    with unix_socket("") as far:
        address = far.getsockname()
        sock = made_by(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind("")
        sock.setblocking(False)
        protocol = Datagrams()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, sock=sock)
        sent = [b"%d" % number for number in range(500)]
        for data in sent:
            transport.sendto(data, address)
        slept = sleeps()
        await asyncio.sleep(0.1)
        assert sleeps() > slept
        assert transport.get_write_buffer_size() > 0  # type: ignore[attr-defined]
        far.setblocking(False)
        received = []
        while len(received) < len(sent):
            try:
                received.append(far.recv(100))
            except BlockingIOError:
                await asyncio.sleep(0.001)
        assert received == sent
        transport.close()
        await protocol.lost
