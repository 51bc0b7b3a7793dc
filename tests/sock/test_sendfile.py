"""sock_sendfile: by sendfile(2) where the file allows it, by reading and sending where not.

sendfile over a transport is in stream/test_sendfile_native.py.
"""

import array
import asyncio
import io
import os
import socket
import sys

import pytest

from support.peers import on_asyncio, settle
from support.sendfile import BUFFERS, DATA, SMALL
from support.sock_peers import STREAMS, cancelled, registered, streams, waiting

KINDS = pytest.mark.parametrize("kind", STREAMS)

# Until some releases of 3.13, asyncio does not touch the file's position when nothing was sent.
MOVES_ALWAYS = sys.version_info >= (3, 14)

# Before that, asyncio sends from the file's position if the offset is 0.
BEGINS_AT_OFFSET = sys.version_info >= (3, 14, 5)


class Numbered:
    """A file whose only method is fileno()."""

    def __init__(self, fileno):
        self.fileno = lambda: fileno


async def send(sock, *args, **kwargs):
    """Returns what sock_sendfile returns. Then the peer reads EOF."""
    try:
        return await asyncio.get_running_loop().sock_sendfile(sock, *args, **kwargs)
    finally:
        sock.shutdown(socket.SHUT_WR)


# --- by sendfile(2) ---


@KINDS
@pytest.mark.parametrize("fallback", [True, False])
async def test_whole_file(kind, fallback, data_path):
    with open(data_path, "rb") as file, streams(kind, buffers=BUFFERS) as (sock, peer):
        sent, received = await asyncio.gather(send(sock, file, fallback=fallback), peer.read_until_eof())
        assert (sent, received) == (len(DATA), DATA)
        assert file.tell() == len(DATA)
        assert not registered(sock)


@pytest.mark.parametrize(
    ("offset", "count", "expected"),
    [
        (0, None, SMALL),
        (3, None, SMALL[3:]),
        (0, 4, SMALL[:4]),
        (3, 4, SMALL[3:7]),
        (3, 100, SMALL[3:]),
        (9, 1, SMALL[9:]),
        (True, True, SMALL[1:2]),
    ],
)
async def test_part_of_a_file(offset, count, expected, small_file):
    with streams() as (sock, peer):
        sent = await send(sock, small_file, offset, count, fallback=False)
        assert type(sent) is int
        assert sent == len(expected)
        assert await peer.read_until_eof() == expected
        assert small_file.tell() == offset + len(expected)


@pytest.mark.parametrize(("offset", "count"), [(1000, None), (1000, 1_500_000), (0, 1), (len(DATA) - 1, None)])
async def test_part_of_a_large_file(offset, count, data_path):
    end = len(DATA) if count is None else offset + count
    with open(data_path, "rb") as file, streams(buffers=BUFFERS) as (sock, peer):
        sent, received = await asyncio.gather(send(sock, file, offset, count, fallback=False), peer.read_until_eof())
        assert sent == end - offset
        assert received == DATA[offset:end]
        assert file.tell() == end


async def test_keywords(small_file):
    with streams() as (sock, peer):
        loop = asyncio.get_running_loop()
        assert await loop.sock_sendfile(sock=sock, file=small_file, offset=2, count=3, fallback=False) == 3
        assert await peer.read(3) == b"234"
        with pytest.raises(TypeError):
            await loop.sock_sendfile(sock, small_file, 0, None, False)  # type: ignore[call-arg]


@pytest.mark.parametrize("fallback", [True, False])
async def test_position_of_the_file_does_not_matter(fallback, small_file):
    """The offset counts from the start of the file."""
    with streams() as (sock, peer):
        small_file.seek(7)
        assert await send(sock, small_file, fallback=fallback) == 10
        assert await peer.read_until_eof() == SMALL
        assert small_file.tell() == 10


async def test_again_and_again(small_file):
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        for start in range(0, 10, 2):
            assert await loop.sock_sendfile(sock, small_file, start, 2) == 2
            assert small_file.tell() == start + 2
        await loop.sock_sendall(sock, b"!")
        assert await loop.sock_sendfile(sock, small_file) == 10
        assert await peer.read(21) == SMALL + b"!" + SMALL


@pytest.mark.parametrize(("offset", "count"), [(0, None), (0, 5), (5, None), (5, 5)])
@pytest.mark.parametrize("fallback", [True, False])
async def test_empty_file(offset, count, fallback, tmp_path):
    (tmp_path / "empty").touch()
    with open(tmp_path / "empty", "rb") as file, streams() as (sock, peer):
        assert await send(sock, file, offset, count, fallback=fallback) == 0
        assert await peer.read_until_eof() == b""
        assert not registered(sock)


@pytest.mark.parametrize(("offset", "count"), [(10, None), (10, 5), (1 << 40, None), (100, 1)])
async def test_offset_behind_the_end(offset, count, small_file):
    with streams() as (sock, peer):
        small_file.seek(3)
        assert await send(sock, small_file, offset, count, fallback=False) == 0
        assert await peer.read_until_eof() == b""
        assert small_file.tell() == offset or (on_asyncio() and not MOVES_ALWAYS and small_file.tell() == 3)


async def test_unbuffered_file(data_path):
    with open(data_path, "rb", buffering=0) as file, streams(buffers=BUFFERS) as (sock, peer):
        sent, received = await asyncio.gather(send(sock, file), peer.read_until_eof())
        assert (sent, received) == (len(DATA), DATA)
        assert file.tell() == len(DATA)


async def test_file_object_with_a_number_only(data_path):
    fileno = os.open(data_path, os.O_RDONLY)
    try:
        with streams(buffers=BUFFERS) as (sock, peer):
            sent, received = await asyncio.gather(send(sock, Numbered(fileno), fallback=False), peer.read_until_eof())
            assert (sent, received) == (len(DATA), DATA)
            assert os.lseek(fileno, 0, os.SEEK_CUR) == len(DATA)
    finally:
        os.close(fileno)


async def test_file_that_grows_during_the_call(data_path):
    """Without a count, the file is sent up to the end that it has when that is reached."""
    loop = asyncio.get_running_loop()
    with open(data_path, "rb") as file, streams(buffers=BUFFERS) as (sock, peer):
        task = await waiting(loop.sock_sendfile(sock, file))
        with open(data_path, "ab") as more:
            more.write(b"more")
        assert await peer.read(len(DATA) + 4) == DATA + b"more"
        assert await task == len(DATA) + 4
        assert file.tell() == len(DATA) + 4


async def test_file_that_shrinks_during_the_call(data_path):
    loop = asyncio.get_running_loop()
    with open(data_path, "rb") as file, streams(buffers=BUFFERS) as (sock, peer):
        task = await waiting(loop.sock_sendfile(sock, file, 0, len(DATA)))
        os.truncate(data_path, 1000)  # this is less than has been sent by now
        received = asyncio.create_task(peer.read_until_eof())
        sent = await task
        sock.shutdown(socket.SHUT_WR)
        assert 1000 < sent < len(DATA)
        assert len(await received) == sent


async def test_receive_meanwhile(data_path):
    loop = asyncio.get_running_loop()
    with open(data_path, "rb") as file, streams(buffers=BUFFERS) as (sock, peer):
        task = await waiting(loop.sock_sendfile(sock, file))
        peer.send(b"hello")
        assert await loop.sock_recv(sock, 5) == b"hello"
        assert not task.done()
        assert await peer.read(len(DATA)) == DATA
        assert await task == len(DATA)


# --- what can go wrong ---


@KINDS
async def test_peer_goes_away(kind, data_path):
    loop = asyncio.get_running_loop()
    with open(data_path, "rb") as file, streams(kind, buffers=BUFFERS) as (sock, peer):
        task = await waiting(loop.sock_sendfile(sock, file))
        peer.close()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await task
        # The position counts what the kernel has taken, though nobody knows what has arrived.
        assert 0 < file.tell() < len(DATA)
        assert not registered(sock)


async def test_peer_has_gone_before(small_file):
    """For asyncio any error of the first call means that sendfile(2) does not take the file."""
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        sock.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            await loop.sock_sendfile(sock, small_file)
        with pytest.raises(asyncio.SendfileNotAvailableError) as info:
            await loop.sock_sendfile(sock, small_file, fallback=False)
        assert str(info.value) == "os.sendfile call failed"


async def test_cancel(data_path):
    loop = asyncio.get_running_loop()
    with open(data_path, "rb") as file, streams(buffers=BUFFERS) as (sock, peer):
        task = await waiting(loop.sock_sendfile(sock, file))
        assert await cancelled(task)
        assert not registered(sock)
        sock.shutdown(socket.SHUT_WR)
        received = await peer.read_until_eof()
        assert 0 < len(received) < len(DATA)
        assert received == DATA[: len(received)]
        # The file is still open, and no more of it is sent.
        await settle()
        file.seek(0)
        assert file.read() == DATA


async def test_random_cancels(small_file):
    """Each call that is cancelled sends the file up to some point, or all of it."""
    loop = asyncio.get_running_loop()
    with streams(buffers=4096) as (sock, peer):
        reading = asyncio.create_task(peer.read_until_eof())
        for turns in range(300):
            task = asyncio.create_task(loop.sock_sendfile(sock, small_file))
            for _ in range(turns % 4):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        assert not registered(sock)
        sock.shutdown(socket.SHUT_WR)
        received = await reading
        assert received == SMALL * (len(received) // len(SMALL))


async def test_closed_file(small_file):
    loop = asyncio.get_running_loop()
    small_file.close()
    with streams() as (sock, _):
        with pytest.raises(ValueError, match="closed file"):
            await loop.sock_sendfile(sock, small_file)


# --- arguments ---


async def test_file_in_text_mode(tmp_path):
    (tmp_path / "text").write_text("text")
    with open(tmp_path / "text") as file, streams() as (sock, _):
        with pytest.raises(ValueError) as info:
            await asyncio.get_running_loop().sock_sendfile(sock, file)  # type: ignore[arg-type]
        assert str(info.value) == "file should be opened in binary mode"


ARGUMENTS = [
    ({"count": 0}, ValueError, "count must be a positive integer (got 0)"),
    ({"count": -1}, ValueError, "count must be a positive integer (got -1)"),
    ({"count": "1"}, TypeError, "count must be a positive integer (got '1')"),
    ({"count": 1.5}, TypeError, "count must be a positive integer (got 1.5)"),
    ({"offset": -1}, ValueError, "offset must be a non-negative integer (got -1)"),
    ({"offset": "1"}, TypeError, "offset must be a non-negative integer (got '1')"),
    ({"offset": 1.5}, TypeError, "offset must be a non-negative integer (got 1.5)"),
    ({"offset": None}, TypeError, "offset must be a non-negative integer (got None)"),
    ({"offset": -1, "count": 0}, ValueError, "count must be a positive integer (got 0)"),
]


@pytest.mark.parametrize(("arguments", "error", "text"), ARGUMENTS, ids=str)
async def test_wrong_arguments(arguments, error, text, small_file):
    with streams() as (sock, peer):
        with pytest.raises(error) as info:
            await asyncio.get_running_loop().sock_sendfile(sock, small_file, **arguments)
        assert type(info.value) is error
        assert str(info.value) == text
        assert small_file.tell() == 0


async def test_socket_of_a_wrong_type(small_file):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with pytest.raises(ValueError) as info:
            await asyncio.get_running_loop().sock_sendfile(sock, small_file)
        assert str(info.value) == "only SOCK_STREAM type sockets are supported"


# --- by reading and sending ---


@pytest.mark.parametrize(
    ("offset", "count", "expected"),
    [(0, None, SMALL), (3, None, SMALL[3:]), (0, 4, SMALL[:4]), (3, 4, SMALL[3:7])],
)
async def test_file_in_memory(offset, count, expected):
    with io.BytesIO(SMALL) as file, streams() as (sock, peer):
        assert await send(sock, file, offset, count) == len(expected)
        assert await peer.read_until_eof() == expected
        assert file.tell() == offset + len(expected)


@pytest.mark.parametrize("position", [3, len(SMALL)])
async def test_position_of_a_file_in_memory_does_not_matter(position):
    if on_asyncio() and not BEGINS_AT_OFFSET:
        pytest.skip("begins where the file is (gh-150107)")
    with io.BytesIO(SMALL) as file, streams() as (sock, peer):
        file.seek(position)
        assert await send(sock, file, 0, 5) == 5
        assert await peer.read_until_eof() == SMALL[:5]
        assert file.tell() == 5


@pytest.mark.parametrize(("offset", "count"), [(0, None), (1000, None), (1000, 1_500_000)])
async def test_large_file_in_memory(offset, count):
    end = len(DATA) if count is None else offset + count
    with io.BytesIO(DATA) as file, streams(buffers=BUFFERS) as (sock, peer):
        sent, received = await asyncio.gather(send(sock, file, offset, count), peer.read_until_eof())
        assert sent == end - offset
        assert received == DATA[offset:end]
        assert file.tell() == end


async def test_readinto_is_all_that_is_needed():
    class Source:
        def __init__(self, data):
            self.rest = data

        def readinto(self, buffer):
            count = min(len(buffer), len(self.rest), 700)
            buffer[:count], self.rest = self.rest[:count], self.rest[count:]
            return count

    with streams(buffers=BUFFERS) as (sock, peer):
        sent, received = await asyncio.gather(send(sock, Source(DATA[:100_000])), peer.read_until_eof())
        assert (sent, received) == (100_000, DATA[:100_000])


FILES = {"memory": io.BytesIO(SMALL), "object": object(), "array": array.array("B", SMALL)}


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
async def test_no_fallback(file):
    with streams() as (sock, peer):
        with pytest.raises(asyncio.SendfileNotAvailableError) as info:
            await send(sock, file, fallback=False)
        assert str(info.value) == "not a regular file"
        assert await peer.read_until_eof() == b""


async def test_file_that_the_kernel_refuses(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with streams() as (sock, peer):
            with pytest.raises(asyncio.SendfileNotAvailableError) as info:
                await asyncio.get_running_loop().sock_sendfile(sock, Numbered(folder), 0, 5, fallback=False)  # type: ignore[arg-type]
            assert str(info.value) == "os.sendfile call failed"
    finally:
        os.close(folder)


async def test_pipe():
    """A pipe has the size zero, so that it counts as an empty file."""
    reader, writer = map(os.fdopen, os.pipe(), ("rb", "wb"))
    with reader, writer, streams() as (sock, peer):
        writer.write(b"hello")
        writer.flush()
        assert await asyncio.get_running_loop().sock_sendfile(sock, reader) == 0


async def test_read_that_fails():
    class Failing:
        def readinto(self, buffer):
            raise ZeroDivisionError("unreadable")

    with streams() as (sock, peer):
        with pytest.raises(ZeroDivisionError, match="unreadable"):
            await send(sock, Failing())


async def test_peer_goes_away_from_a_file_in_memory():
    loop = asyncio.get_running_loop()
    with io.BytesIO(DATA) as file, streams(buffers=BUFFERS) as (sock, peer):
        task = asyncio.create_task(loop.sock_sendfile(sock, file))
        await peer.read(1000)
        peer.close()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await task
        assert not registered(sock)


async def test_cancel_of_a_file_in_memory():
    loop = asyncio.get_running_loop()
    with io.BytesIO(DATA) as file, streams(buffers=BUFFERS) as (sock, peer):
        task = asyncio.create_task(loop.sock_sendfile(sock, file))
        await peer.read(1000)
        assert await cancelled(task)
        assert not registered(sock)
        sock.shutdown(socket.SHUT_WR)
        received = await peer.read_until_eof()
        assert received == DATA[1000 : 1000 + len(received)]


async def test_coroutine(small_file):
    with streams() as (sock, peer):
        call = asyncio.get_running_loop().sock_sendfile(sock, small_file)
        assert asyncio.iscoroutine(call)
        call.close()
        sock.shutdown(socket.SHUT_WR)
        assert await peer.read_until_eof() == b""
