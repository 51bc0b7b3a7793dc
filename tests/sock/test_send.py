"""sock_sendall over streams: all data is sent, of whatever type it is. And peers that go away.

Datagrams are in test_sendto.py, calls that are cancelled in test_cancel.py, several at a time in
test_concurrent.py, wrong sockets in test_misuse.py.
"""

import array
import asyncio
import mmap
import socket

import pytest

from support.peers import on_asyncio, settle
from support.sock_peers import STREAMS, fill, registered, streams, waiting

KINDS = pytest.mark.parametrize("kind", STREAMS)

BIG = bytes(range(256)) * (8 * 4096)
PLENTY = bytes(range(256)) * 4096
BUFFERS = 65536  # this is less than PLENTY


@KINDS
async def test_small(kind):
    """The call is tried first, so that no turn of the loop passes."""
    loop = asyncio.get_running_loop()
    with streams(kind) as (sock, peer):
        turns = []
        loop.call_soon(turns.append, 1)
        for data in (b"hello", bytearray(b", "), memoryview(b"-world-")[1:6]):
            assert await loop.sock_sendall(sock, data) is None
        assert turns == []
        assert await peer.read(12) == b"hello, world"
        assert not registered(sock)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))[:]])
@KINDS
async def test_large(kind, wrap):
    loop = asyncio.get_running_loop()
    with streams(kind) as (sock, peer):
        reading = asyncio.create_task(peer.read(len(BIG)))
        assert await loop.sock_sendall(sock, wrap(BIG)) is None
        assert await reading == BIG
        assert not registered(sock)


@KINDS
async def test_waits_until_the_last_byte_is_taken(kind):
    loop = asyncio.get_running_loop()
    with streams(kind, buffers=BUFFERS) as (sock, peer):
        task = await waiting(loop.sock_sendall(sock, PLENTY))
        received = await peer.read(100_000)
        await settle()
        assert not task.done()
        received += await peer.read(len(PLENTY) - len(received))
        assert await task is None
        assert received == PLENTY


@KINDS
async def test_nothing_is_free_at_first(kind):
    """The kernel takes nothing at first, and everything is sent later."""
    loop = asyncio.get_running_loop()
    with streams(kind, buffers=BUFFERS) as (sock, peer):
        filled = fill(sock)
        task = await waiting(loop.sock_sendall(sock, b"hello"))
        assert (await peer.read(filled + 5)).endswith(b"\0hello")
        assert await task is None


async def test_in_order():
    loop = asyncio.get_running_loop()
    with streams(buffers=BUFFERS) as (sock, peer):
        pieces = [b"%d" % number * (number * 7 % 1000) for number in range(3000)]
        reading = asyncio.create_task(peer.read_until_eof())
        for piece in pieces:
            await loop.sock_sendall(sock, piece)
        sock.shutdown(socket.SHUT_WR)
        assert await reading == b"".join(pieces)


@pytest.mark.parametrize("empty", [b"", bytearray(), memoryview(b"")], ids=repr)
async def test_nothing(empty):
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        assert await loop.sock_sendall(sock, empty) is None
        await loop.sock_sendall(sock, b"x")
        assert await peer.read(10 if empty else 1) == b"x"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: memoryview(data).cast("I"),
        lambda data: memoryview(data).cast("I")[1:],
        lambda data: memoryview(data).cast("B", (len(data) // 16, 16)),
        lambda data: array.array("d", data),
        lambda data: array.array("b", data),
    ],
    ids=["view of int", "slice of int", "two dimensions", "array of double", "array of bytes"],
)
@pytest.mark.parametrize("size", [64, len(PLENTY)])
async def test_items_larger_than_bytes(wrap, size):
    data = wrap(PLENTY[:size])
    if on_asyncio() and memoryview(data).nbytes != len(data):
        pytest.skip("asyncio takes the number of items for the number of bytes, and never ends")
    loop = asyncio.get_running_loop()
    with streams(buffers=BUFFERS) as (sock, peer):
        expected = memoryview(data).tobytes()
        reading = asyncio.create_task(peer.read(len(expected)))
        await loop.sock_sendall(sock, data)
        assert await reading == expected


async def test_mapped_file(tmp_path):
    loop = asyncio.get_running_loop()
    path = tmp_path / "file"
    path.write_bytes(PLENTY)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped, streams() as (sock, peer):
        reading = asyncio.create_task(peer.read(len(PLENTY)))
        await loop.sock_sendall(sock, mapped)
        assert await reading == PLENTY


@pytest.mark.parametrize("data", ["text", 42, None, [b"x"], memoryview(b"abcdef")[::2]], ids=repr)
async def test_what_is_no_buffer(data):
    """The program gets the error of the socket's own method."""
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        with pytest.raises((TypeError, BufferError)) as expected:
            sock.send(data)
        with pytest.raises(type(expected.value)) as info:
            await loop.sock_sendall(sock, data)
        assert info.value.args == expected.value.args
        await loop.sock_sendall(sock, b"x")
        assert await peer.read(1) == b"x"


async def test_buffer_is_held_while_it_is_sent():
    loop = asyncio.get_running_loop()
    with streams(buffers=BUFFERS) as (sock, peer):
        data = bytearray(PLENTY)
        task = await waiting(loop.sock_sendall(sock, data))
        with pytest.raises(BufferError):
            data.clear()
        assert await peer.read(len(PLENTY)) == PLENTY
        await task
        data.clear()
        data += PLENTY
        task = await waiting(loop.sock_sendall(sock, data))
        task.cancel()
        await asyncio.wait([task])
        data.clear()


async def test_nothing_is_sent_before_it_is_awaited():
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        call = loop.sock_sendall(sock, b"never")
        assert asyncio.iscoroutine(call)
        call.close()
        await loop.sock_sendall(sock, b"x")
        sock.shutdown(socket.SHUT_WR)
        assert await peer.read_until_eof() == b"x"


# --- the peer goes away ---


@KINDS
async def test_broken_pipe(kind):
    loop = asyncio.get_running_loop()
    with streams(kind) as (sock, peer):
        sock.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            await loop.sock_sendall(sock, b"x")
        assert not registered(sock)


@KINDS
async def test_peer_that_closes_during_the_call(kind):
    loop = asyncio.get_running_loop()
    with streams(kind, buffers=BUFFERS) as (sock, peer):
        task = await waiting(loop.sock_sendall(sock, PLENTY))
        peer.close()  # with bytes unread in it
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await task
        assert not registered(sock)


async def test_reset_during_the_call():
    loop = asyncio.get_running_loop()
    with streams(buffers=BUFFERS) as (sock, peer):
        task = await waiting(loop.sock_sendall(sock, PLENTY))
        await peer.read(1000)
        peer.reset()
        with pytest.raises(ConnectionResetError):
            await task
        with pytest.raises(BrokenPipeError):
            await loop.sock_sendall(sock, b"x")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
async def test_not_connected(family, kind):
    """The program gets the kernel's own error."""
    loop = asyncio.get_running_loop()
    with socket.socket(family, kind) as sock:
        sock.setblocking(False)
        with pytest.raises(OSError) as expected:
            sock.send(b"x")
        with pytest.raises(type(expected.value)) as info:
            await loop.sock_sendall(sock, b"x")
        assert info.value.errno == expected.value.errno
        assert str(info.value) == str(expected.value)


# --- sockets of one's own ---


async def test_subclass_with_a_method_of_its_own():
    """The loop calls the object's method, as asyncio does. It may do more than the kernel."""
    calls = []

    class Special(socket.socket):
        def send(self, data, *args):
            calls.append(len(data))
            return super().send(data[:10], *args)

    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with Special(fileno=near.detach()) as sock, far:
        sock.setblocking(False)
        await loop.sock_sendall(sock, b"x" * 25)
        assert calls == [25, 15, 5]
        assert far.recv(100) == b"x" * 25


async def test_subclass_and_items_larger_than_bytes():
    if on_asyncio():
        pytest.skip("asyncio takes the number of items for the number of bytes, and never ends")

    class Special(socket.socket):
        def send(self, data, *args):
            return super().send(memoryview(data).cast("B")[:10], *args)

    near, far = socket.socketpair()
    with Special(fileno=near.detach()) as sock, far:
        sock.setblocking(False)
        data = bytes(range(64))
        await asyncio.get_running_loop().sock_sendall(sock, memoryview(data).cast("I"))
        far.setblocking(False)
        assert far.recv(100) == data
