"""Several loop.sock_* calls on one socket, and beside add_reader and add_writer: a socket has one reader and
one writer, and the later one replaces the earlier.

Two sock_accept are in test_connect_accept.py, cancelled calls in test_cancel.py.
"""

import asyncio
import contextlib
import socket

import pytest

from support.peers import resolve, settle
from support.sock_peers import STREAMS, cancelled, fill, receive, registered, streams, waiting

RECEIVING = ["sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into"]
METHODS = pytest.mark.parametrize("method", RECEIVING)
KINDS = pytest.mark.parametrize("kind", STREAMS)

PLENTY = bytes(range(256)) * 4096
BUFFERS = 65536  # this is less than PLENTY


# --- one reader and one writer ---


@KINDS
@METHODS
async def test_receive_while_sending(method, kind):
    loop = asyncio.get_running_loop()
    with streams(kind, buffers=BUFFERS) as (sock, peer):
        sending = await waiting(loop.sock_sendall(sock, PLENTY))
        receiving = await waiting(receive(method, sock, 100))
        peer.send(b"hello")
        assert await receiving == b"hello"
        assert not sending.done()
        # The same the other way round: a call that ends leaves the registration of the other in place.
        receiving = await waiting(receive(method, sock, 100))
        assert await peer.read(len(PLENTY)) == PLENTY
        assert await sending is None
        await settle()
        assert not receiving.done()
        peer.send(b"world")
        assert await receiving == b"world"
        assert not registered(sock)


@METHODS
async def test_cancel_of_one_leaves_the_other(method):
    loop = asyncio.get_running_loop()
    with streams(buffers=BUFFERS) as (sock, peer):
        sending = await waiting(loop.sock_sendall(sock, PLENTY))
        receiving = await waiting(receive(method, sock, 100))
        assert await cancelled(receiving)
        assert await peer.read(len(PLENTY)) == PLENTY
        assert await sending is None
        filled = fill(sock)
        sending = await waiting(loop.sock_sendall(sock, PLENTY))
        receiving = await waiting(receive(method, sock, 100))
        assert await cancelled(sending)
        peer.send(b"hello")
        assert await receiving == b"hello"
        assert len(await peer.read(filled)) == filled


@KINDS
async def test_full_duplex(kind):
    """Much data goes in both directions at once."""
    loop = asyncio.get_running_loop()
    data = PLENTY * 4

    async def receive_all(sock):
        received = bytearray()
        while len(received) < len(data):
            received += await loop.sock_recv(sock, 65536)
        return received

    with streams(kind) as (sock, peer):
        results = await asyncio.gather(
            loop.sock_sendall(sock, data), receive_all(sock), peer.send_all(data[::-1]), peer.read(len(data))
        )
        assert results == [None, data[::-1], None, data]  # type: ignore[comparison-overlap]


async def test_both_ends_on_one_loop():
    loop = asyncio.get_running_loop()
    one, two = socket.socketpair()
    one.setblocking(False)
    two.setblocking(False)

    async def echo():
        while data := await loop.sock_recv(two, 1000):
            await loop.sock_sendall(two, data)

    with one, two:
        server = asyncio.create_task(echo())
        for number in range(1000):
            data = b"%d" % number
            await loop.sock_sendall(one, data)
            assert await loop.sock_recv(one, 1000) == data
        one.shutdown(socket.SHUT_WR)
        await server


async def test_many_sockets():
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(200)]
    try:
        for one, two in pairs:
            one.setblocking(False)
            two.setblocking(False)
        receiving = [asyncio.create_task(loop.sock_recv(one, 10)) for one, _ in pairs]
        await settle()
        for number, (_, two) in enumerate(pairs):
            await loop.sock_sendall(two, b"%d" % number)
        assert await asyncio.gather(*receiving) == [b"%d" % number for number in range(200)]
    finally:
        for one, two in pairs:
            one.close()
            two.close()


# --- two readers, two writers ---


@METHODS
async def test_later_receiver_replaces_the_earlier(method):
    with streams() as (sock, peer):
        first = await waiting(receive(method, sock, 100))
        second = await waiting(receive("sock_recv", sock, 100))
        peer.send(b"hello")
        assert await second == b"hello"
        peer.send(b"world")
        await settle()
        assert not first.done()
        assert sock.recv(100) == b"world"
        assert await cancelled(first)
        assert not registered(sock)


@METHODS
async def test_cancel_of_the_replaced_receiver(method):
    with streams() as (sock, peer):
        first = await waiting(receive("sock_recv", sock, 100))
        second = await waiting(receive(method, sock, 100))
        assert await cancelled(first)
        peer.send(b"hello")
        assert await second == b"hello"
        assert not registered(sock)


@METHODS
async def test_cancel_of_the_replacing_receiver(method):
    """The later receiver is cancelled. The earlier one is not registered again."""
    with streams() as (sock, peer):
        first = await waiting(receive("sock_recv", sock, 100))
        second = await waiting(receive(method, sock, 100))
        assert await cancelled(second)
        assert not registered(sock)
        peer.send(b"hello")
        await settle()
        assert not first.done()
        assert sock.recv(100) == b"hello"
        assert await cancelled(first)


async def test_later_sender_replaces_the_earlier():
    loop = asyncio.get_running_loop()
    with streams(buffers=BUFFERS) as (sock, peer):
        filled = fill(sock)
        first = await waiting(loop.sock_sendall(sock, b"first"))
        second = await waiting(loop.sock_sendall(sock, b"second"))
        received = await peer.read(filled + 6)
        assert received.endswith(b"\0second")
        assert await second is None
        await settle()
        assert not first.done()
        assert await cancelled(first)
        assert not registered(sock)
        sock.shutdown(socket.SHUT_WR)
        assert await peer.read_until_eof() == b""


async def test_receiver_that_finds_data_replaces_nobody():
    """A call that need not wait replaces no reader."""
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        first = await waiting(loop.sock_recv(sock, 3))
        first_seen = []
        first.add_done_callback(first_seen.append)
        peer.send(b"onetwo")
        assert await loop.sock_recv(sock, 3) == b"one"
        assert await first == b"two"


@METHODS
@pytest.mark.parametrize("turns", range(5))
async def test_data_that_somebody_else_takes(method, turns):
    """The loop has seen data, but somebody else takes it. The call goes on waiting."""
    with streams("unix") as (sock, peer):
        task = await waiting(receive(method, sock, 100))
        peer.send(b"hello")
        for _ in range(turns):
            await asyncio.sleep(0)
        with contextlib.suppress(BlockingIOError):
            assert sock.recv(100) == b"hello"
            await settle()
            assert not task.done()
            peer.send(b"hello")
        assert await task == b"hello"


@pytest.mark.parametrize("turns", range(5))
async def test_room_that_somebody_else_takes(turns):
    """Somebody else fills the room to send. The call goes on waiting."""
    loop = asyncio.get_running_loop()
    with streams("unix", buffers=BUFFERS) as (sock, peer):
        sent = fill(sock, b"." * 1000)
        task = await waiting(loop.sock_sendall(sock, b"at last"))
        assert len(await peer.read(sent)) == sent
        for _ in range(turns):
            await asyncio.sleep(0)
        sent = fill(sock, b"." * 1000)
        await settle()
        received = await peer.read(sent + 7)
        assert await task is None
        assert received.replace(b"at last", b"", 1) == b"." * sent


# --- beside add_reader and add_writer ---


@METHODS
async def test_receiver_replaces_a_reader(method):
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        calls = []
        loop.add_reader(sock, calls.append, 1)
        task = await waiting(receive(method, sock, 100))
        peer.send(b"hello")
        assert await task == b"hello"
        peer.send(b"x")
        await settle()
        assert calls == []
        assert loop.remove_reader(sock) is False


@METHODS
async def test_reader_replaces_a_receiver(method):
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        task = await waiting(receive(method, sock, 100))
        readable = loop.create_future()
        loop.add_reader(sock, resolve, readable, None)
        peer.send(b"hello")
        await readable
        assert not task.done()
        assert await cancelled(task)
        # That call was not the reader any more.
        assert loop.remove_reader(sock) is True
        assert sock.recv(100) == b"hello"


@METHODS
async def test_remove_reader_of_a_receiver(method):
    """remove_reader leaves a waiting call waiting for ever."""
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        task = await waiting(receive(method, sock, 100))
        assert loop.remove_reader(sock) is True
        assert loop.remove_reader(sock) is False
        peer.send(b"hello")
        await settle()
        assert not task.done()
        assert await cancelled(task)
        assert sock.recv(100) == b"hello"


async def test_writer_and_sender():
    loop = asyncio.get_running_loop()
    with streams(buffers=BUFFERS) as (sock, peer):
        filled = fill(sock)
        calls = []
        loop.add_writer(sock, calls.append, 1)
        first = await waiting(loop.sock_sendall(sock, b"first"))
        writable = loop.create_future()
        loop.add_writer(sock, resolve, writable, None)
        assert len(await peer.read(filled)) == filled
        await writable
        assert calls == []
        assert not first.done()
        assert await cancelled(first)
        assert loop.remove_writer(sock) is True
        assert loop.remove_writer(sock) is False


async def test_other_direction_stays():
    """A call that ends removes only its own direction."""
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        writable = asyncio.Event()
        loop.add_writer(sock, writable.set)
        task = await waiting(loop.sock_recv(sock, 100))
        peer.send(b"hello")
        assert await task == b"hello"
        writable.clear()
        await writable.wait()
        assert loop.remove_writer(sock) is True
        readable = asyncio.Event()
        loop.add_reader(sock, readable.set)
        await loop.sock_sendall(sock, b"bye")
        peer.send(b"x")
        await readable.wait()
        assert loop.remove_reader(sock) is True


async def test_reader_after_a_call():
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        task = await waiting(loop.sock_recv(sock, 3))
        peer.send(b"hello")
        assert await task == b"hel"
        # The rest was there before, and is reported again.
        readable = loop.create_future()
        loop.add_reader(sock, resolve, readable, None)
        await readable
        assert loop.remove_reader(sock) is True
        assert await loop.sock_recv(sock, 100) == b"lo"
