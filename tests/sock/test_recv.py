"""sock_recv, sock_recv_into, sock_recvfrom and sock_recvfrom_into over streams and datagram sockets.

Calls that are cancelled are in test_cancel.py, several at a time in test_concurrent.py, wrong
sockets in test_misuse.py.
"""

import array
import asyncio
import mmap
import random
import socket
import sys

import pytest

from support.peers import HOST
from support.sock_peers import DATAGRAMS, STREAMS, available, datagrams, receive, streams, waiting

METHODS = pytest.mark.parametrize("method", ["sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into"])
KINDS = pytest.mark.parametrize("kind", STREAMS)
DATAGRAM_KINDS = pytest.mark.parametrize("kind", available(DATAGRAMS))

PLENTY = bytes(range(256)) * 4096


# --- streams, by every call ---


@KINDS
@METHODS
async def test_data_that_is_there(method, kind):
    """The call is tried first, so that no turn of the loop passes."""
    loop = asyncio.get_running_loop()
    with streams(kind) as (sock, peer):
        peer.send(b"hello world")
        turns = []
        loop.call_soon(turns.append, 1)
        assert await receive(method, sock, 5) == b"hello"
        assert await receive(method, sock, 100) == b" world"
        assert turns == []


@KINDS
@METHODS
async def test_data_that_comes(method, kind):
    with streams(kind) as (sock, peer):
        for number in range(10):
            task = await waiting(receive(method, sock, 100))
            data = b"%d" % number
            peer.send(data)
            assert await task == data


@KINDS
@METHODS
async def test_end(method, kind):
    with streams(kind) as (sock, peer):
        task = await waiting(receive(method, sock, 100))
        peer.send(b"last")
        assert await task == b"last"
        task = await waiting(receive(method, sock, 100))
        peer.send_eof()
        assert await task == b""
        assert await receive(method, sock, 100) == b""


@pytest.mark.parametrize("wanted", [100, 4096, 65536, 1 << 19])
async def test_what_was_received_stays_as_it_is(wanted):
    """rloop receives into memory that it uses again."""
    loop = asyncio.get_running_loop()
    received = []
    with streams() as (sock, peer):
        for number, size in enumerate([1, 100, 4095, 4096, 4097, 30_000, 100, 1] * 2):
            task = await waiting(loop.sock_recv(sock, wanted))
            data = bytes([number]) * size
            peer.send(data)
            pieces = [await task]
            while sum(map(len, pieces)) < size:
                pieces.append(await loop.sock_recv(sock, wanted))
            assert b"".join(pieces) == data
            assert max(map(len, pieces)) <= wanted
            # A `bytes` keeps its hash from the first call on.
            received += [(piece, bytearray(piece), hash(piece)) for piece in pieces]
    for piece, copy, before in received:
        assert piece == copy
        assert hash(piece) == hash(bytes(copy)) == before


@METHODS
async def test_data_and_end_at_once(method):
    with streams() as (sock, peer):
        task = await waiting(receive(method, sock, 2))
        peer.send(b"last words")
        peer.close()
        received = await task
        while data := await receive(method, sock, 3):
            received += data
        assert received == b"last words"


@METHODS
async def test_reset(method):
    with streams() as (sock, peer):
        task = await waiting(receive(method, sock, 100))
        peer.reset()
        with pytest.raises(ConnectionResetError):
            await task
        assert await receive(method, sock, 100) == b""  # the kernel reports it once


@METHODS
async def test_everything_arrives(method):
    rng = random.Random(1)
    data = PLENTY * 4
    with streams() as (sock, peer):
        sending = asyncio.create_task(peer.send_all(data))
        received = bytearray()
        while len(received) < len(data):
            received += await receive(method, sock, rng.randrange(1, 100_000))
        assert received == data
        await sending


# --- what comes after a receive that has emptied the socket ---


async def emptied(sock, peer):
    """A call has waited and got less than it asked for. Its registration is still there, and its edge has been used."""
    task = await waiting(asyncio.get_running_loop().sock_recv(sock, 100))
    peer.send(b"first")
    assert await task == b"first"


@KINDS
async def test_emptied_then_data_at_once(kind):
    with streams(kind) as (sock, peer):
        await emptied(sock, peer)
        for number in range(5):
            peer.send(b"%d" % number)
            assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"%d" % number


@KINDS
async def test_emptied_then_end(kind):
    loop = asyncio.get_running_loop()
    with streams(kind) as (sock, peer):
        await emptied(sock, peer)
        peer.send(b"last")
        peer.close()
        assert await loop.sock_recv(sock, 100) == b"last"
        assert await loop.sock_recv(sock, 100) == b""
        assert await loop.sock_recv(sock, 100) == b""


async def test_emptied_then_reset():
    with streams() as (sock, peer):
        await emptied(sock, peer)
        peer.reset()
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(sock, 100)


async def test_emptied_then_urgent_data():
    """A receive stops in front of the urgent byte, and gets less than there is."""
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        await emptied(sock, peer)
        peer.send(b"before")
        peer.sock.send(b"!", socket.MSG_OOB)
        peer.send(b"behind")
        received = b""
        while len(received) < 13:
            received += await loop.sock_recv(sock, 100)
        assert received == b"before!behind"


async def test_emptied_by_somebody_else():
    with streams() as (sock, peer):
        await emptied(sock, peer)
        peer.send(b"mine")
        await asyncio.sleep(0.01)
        assert sock.recv(100) == b"mine"
        task = await waiting(asyncio.get_running_loop().sock_recv(sock, 100))
        peer.send(b"yours")
        assert await task == b"yours"


async def test_emptied_then_watched_by_a_reader():
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        await emptied(sock, peer)
        readable = loop.create_future()
        loop.add_reader(sock, lambda: readable.done() or readable.set_result(None))
        peer.send(b"seen")
        await readable
        loop.remove_reader(sock)
        assert await loop.sock_recv(sock, 100) == b"seen"


@METHODS
async def test_nothing_is_received_before_it_is_awaited(method):
    """The call is a coroutine, which does nothing until it runs."""
    with streams() as (sock, peer):
        peer.send(b"hello")
        coroutine = receive(method, sock, 5)
        assert sock.recv(5) == b"hello"
        coroutine.close()
        loop = asyncio.get_running_loop()
        call = getattr(loop, method)(sock, bytearray(5) if method.endswith("_into") else 5)
        assert asyncio.iscoroutine(call)
        peer.send(b"world")
        assert sock.recv(5) == b"world"
        call.close()


# --- sock_recv ---


async def test_recv_of_a_size():
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        peer.send(b"hello")
        assert await loop.sock_recv(sock, 0) == b""
        data = await loop.sock_recv(sock, 1 << 20)
        assert (type(data), data) == (bytes, b"hello")


@pytest.mark.parametrize("method", ["sock_recv", "sock_recvfrom"])
@pytest.mark.parametrize("size", [-1, "1", 1.5, None, 1 << 46, sys.maxsize, 1 << 80], ids=repr)
async def test_sizes_that_are_wrong(method, size):
    """The program gets the error of the socket's own method."""
    with streams() as (sock, _):
        with pytest.raises(Exception) as expected:
            getattr(sock, method.removeprefix("sock_"))(size)
        with pytest.raises(type(expected.value)) as info:
            await getattr(asyncio.get_running_loop(), method)(sock, size)
        assert info.value.args == expected.value.args


async def test_recv_of_a_datagram():
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near.setblocking(False)
    with near, far:
        for data in (b"", b"one", b"much too long"):
            far.send(data)
        assert await loop.sock_recv(near, 4) == b""
        assert await loop.sock_recv(near, 4) == b"one"
        assert await loop.sock_recv(near, 4) == b"much"
        task = await waiting(loop.sock_recv(near, 4))
        far.send(b"two")
        assert await task == b"two"


async def test_refused_datagrams():
    """If ICMP refuses a datagram, the next call gets that error."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind((HOST, 0))
            sock.connect(gone.getsockname())
        task = await waiting(loop.sock_recv(sock, 10))
        sock.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            await task


# --- into a buffer ---


@pytest.mark.parametrize(
    "make",
    [
        lambda: bytearray(8),
        lambda: memoryview(bytearray(8)),
        lambda: array.array("B", bytes(8)),
        lambda: array.array("I", [0, 0]),
        lambda: memoryview(bytearray(8)).cast("I"),
        lambda: mmap.mmap(-1, 8),
    ],
    ids=["bytearray", "memoryview", "array", "array of int", "memoryview of int", "mmap"],
)
@pytest.mark.parametrize("late", [False, True])
async def test_buffers(make, late):
    loop = asyncio.get_running_loop()
    buffer = make()
    with streams() as (sock, peer):
        if late:
            task = await waiting(loop.sock_recv_into(sock, buffer))
            peer.send(b"hello world")
            count = await task
        else:
            peer.send(b"hello world")
            count = await loop.sock_recv_into(sock, buffer)
        assert count == 8
        with memoryview(buffer).cast("B") as view:
            assert bytes(view) == b"hello wo"
        assert sock.recv(10) == b"rld"


@pytest.mark.parametrize("late", [False, True])
async def test_slice_of_a_buffer(late):
    loop = asyncio.get_running_loop()
    buffer = bytearray(b"." * 10)
    with streams() as (sock, peer):
        call = loop.sock_recv_into(sock, memoryview(buffer)[3:6])
        if late:
            task = await waiting(call)
            peer.send(b"hello")
            assert await task == 3
        else:
            peer.send(b"hello")
            assert await call == 3
        assert buffer == b"...hel...."
        assert await loop.sock_recv_into(sock, memoryview(buffer)[8:]) == 2
        assert buffer == b"...hel..lo"


@pytest.mark.parametrize("method", ["sock_recv_into", "sock_recvfrom_into"])
async def test_buffer_is_let_go(method):
    loop = asyncio.get_running_loop()
    buffer = bytearray(8)
    with streams() as (sock, peer):
        task = await waiting(getattr(loop, method)(sock, buffer))
        peer.send(b"hello")
        await task
        buffer.extend(b"longer")
        task = await waiting(getattr(loop, method)(sock, buffer))
        task.cancel()
        await asyncio.wait([task])
        buffer.clear()


async def test_empty_buffer():
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        peer.send(b"x")
        assert await loop.sock_recv_into(sock, bytearray()) == 0
        assert sock.recv(1) == b"x"


@pytest.mark.parametrize("method", ["sock_recv_into", "sock_recvfrom_into"])
@pytest.mark.parametrize("buffer", [b"read-only", memoryview(b"read-only"), 42, "text", None], ids=repr)
async def test_what_is_no_buffer(method, buffer):
    with streams() as (sock, peer):
        peer.send(b"hello")
        with pytest.raises(TypeError):
            await getattr(asyncio.get_running_loop(), method)(sock, buffer)
        assert sock.recv(5) == b"hello"


# --- with the sender's address ---


@DATAGRAM_KINDS
@pytest.mark.parametrize("late", [False, True])
async def test_recvfrom(kind, late, tmp_path):
    loop = asyncio.get_running_loop()
    with datagrams(kind, tmp_path) as (sock, address, peer, sender):
        for data in (b"hello", b"", b"long enough to be cut off"):
            task = await waiting(loop.sock_recvfrom(sock, 12)) if late else loop.sock_recvfrom(sock, 12)
            peer.sock.sendto(data, address)
            result = await task
            assert type(result) is tuple
            assert result == (data[:12], sender)


@DATAGRAM_KINDS
@pytest.mark.parametrize("late", [False, True])
async def test_recvfrom_into(kind, late, tmp_path):
    loop = asyncio.get_running_loop()
    buffer = bytearray(12)
    with datagrams(kind, tmp_path) as (sock, address, peer, sender):
        for data in (b"hello", b"", b"long enough to be cut off"):
            call = loop.sock_recvfrom_into(sock, buffer)
            task = await waiting(call) if late else call
            peer.sock.sendto(data, address)
            count = len(data[:12])
            assert await task == (count, sender)
            assert buffer[:count] == data[:12]


async def test_datagrams_stay_apart(tmp_path):
    loop = asyncio.get_running_loop()
    with datagrams("udp", tmp_path) as (sock, address, peer, sender):
        for number in range(100):
            peer.sock.sendto(b"%d" % number, address)
        for number in range(100):
            assert await loop.sock_recvfrom(sock, 100) == (b"%d" % number, sender)


async def test_sender_without_a_name(tmp_path):
    loop = asyncio.get_running_loop()
    with datagrams("unix", tmp_path) as (sock, address, _, _):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody:
            for _ in range(2):
                nobody.sendto(b"hello", address)
        expected = sock.recvfrom(100)
        assert await loop.sock_recvfrom(sock, 100) == expected


@KINDS
async def test_address_of_a_stream(kind):
    """The kernel gives no address for a stream."""
    loop = asyncio.get_running_loop()
    with streams(kind) as (sock, peer):
        peer.send(b"twice")
        expected = sock.recvfrom(2)[1]
        assert await loop.sock_recvfrom(sock, 1) == (b"i", expected)
        assert await loop.sock_recvfrom_into(sock, bytearray(1)) == (1, expected)
        assert sock.recv(10) == b"e"
        task = await waiting(loop.sock_recvfrom(sock, 10))
        peer.send(b"x")
        assert await task == (b"x", expected)


@pytest.mark.parametrize(("nbytes", "expected"), [(0, b"hello wo"), (3, b"hel"), (8, b"hello wo")])
@pytest.mark.parametrize("late", [False, True])
async def test_recvfrom_into_of_a_size(nbytes, expected, late):
    loop = asyncio.get_running_loop()
    buffer = bytearray(8)
    with streams() as (sock, peer):
        call = loop.sock_recvfrom_into(sock, buffer, nbytes)
        task = await waiting(call) if late else call
        peer.send(b"hello world")
        count, _ = await task
        assert count == len(expected)
        assert buffer == expected.ljust(8, b"\0")


@pytest.mark.parametrize("nbytes", [9, -1, "1", 1.5], ids=repr)
async def test_recvfrom_into_of_a_wrong_size(nbytes):
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        with pytest.raises(Exception) as expected:
            sock.recvfrom_into(bytearray(8), nbytes)
        with pytest.raises(type(expected.value)) as info:
            await loop.sock_recvfrom_into(sock, bytearray(8), nbytes)
        assert info.value.args == expected.value.args
        peer.send(b"x")
        assert await loop.sock_recvfrom_into(sock, bytearray(8)) == (1, None)


# --- sockets of one's own ---


@METHODS
async def test_subclass_with_a_method_of_its_own(method):
    """The loop calls the object's method, as asyncio does. It may do more than the kernel."""
    name = method.removeprefix("sock_")
    calls = []

    def call(self, *args):
        calls.append(name)
        return getattr(socket.socket, name)(self, *args)

    special = type("Special", (socket.socket,), {name: call})
    near, far = socket.socketpair()
    with special(fileno=near.detach()) as sock, far:
        sock.setblocking(False)
        far.send(b"hello")
        assert await receive(method, sock, 5) == b"hello"
        assert calls == [name]
        task = await waiting(receive(method, sock, 5))
        far.send(b"world")
        assert await task == b"world"
        assert len(calls) >= 3
