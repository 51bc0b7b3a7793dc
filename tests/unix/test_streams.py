"""Stream connections over UNIX sockets: data, ends, flow control, asyncio's streams, many of them.

The transport is the same as TCP's, which is tested in stream/. Here is what the kernel does differently. How
connections are made is in test_connect.py and test_server.py.
"""

import asyncio
import contextlib
import os
import re
import select
import socket

import pytest

from support.loops import open_files
from support.peers import BufferedRecorder, Peer, Recorder, arrived, echo, raising, released, settle
from support.streams import Streams

PLENTY = bytes(range(256)) * 16384  # 4 MiB, more than the kernel takes

KINDS = pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])


@contextlib.asynccontextmanager
async def connection(factory=Recorder):
    """A connection that the running loop owns, as (transport, protocol, peer). Gone after the block."""
    near, far = socket.socketpair()
    with Peer(far) as peer:
        transport, protocol = await asyncio.get_running_loop().create_unix_connection(factory, sock=near)
        try:
            yield transport, protocol, peer
        finally:
            if transport.get_extra_info("socket").fileno() != -1:
                transport.abort()
            await released(transport)


# --- data ---


@KINDS
@pytest.mark.parametrize("size", [1, 1024, 65536, 1 << 20])
async def test_there_and_back(factory, size):
    data = PLENTY[:size]
    async with connection(factory) as (transport, protocol, peer):
        for count in range(1, 4):
            sending = asyncio.create_task(peer.send_all(data))
            await protocol.read(count * size)
            await sending
            transport.write(data)
            assert await peer.read(size) == data
        assert bytes(protocol.data) == data * 3


@pytest.mark.skipif(not os.path.isdir("/proc/self/fdinfo"), reason="Linux tells what epoll watches")
async def test_watched_for_writing_only_while_a_write_waits():
    """Epoll reports a UNIX socket as writable whenever its peer has read. A loop that is not sending must not wake for
    it.
    """

    def watched_for_writing():
        number = transport.get_extra_info("socket").fileno()
        for name in os.listdir("/proc/self/fdinfo"):
            with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{name}") as info:
                if found := re.search(rf"^tfd: +{number} events: +(\w+)", info.read(), re.MULTILINE):
                    return bool(int(found[1], 16) & select.EPOLLOUT)
        raise AssertionError("not watched")

    async with connection() as (transport, protocol, peer):
        await settle()
        assert not watched_for_writing()
        for _ in range(3):
            transport.write(PLENTY)
            await settle()
            assert watched_for_writing()
            assert await peer.read(len(PLENTY)) == PLENTY
            await settle()
            transport.write(b"x")
            assert await peer.read(1) == b"x"
            await settle()
            assert not watched_for_writing()
        assert protocol.calls == ["connection_made", *["pause_writing", "resume_writing"] * 3]


async def test_big_transfers_in_both_directions_at_once():
    async with connection() as (transport, protocol, peer):
        sending = asyncio.create_task(peer.send_all(PLENTY))
        reading = asyncio.create_task(peer.read(len(PLENTY)))
        transport.write(PLENTY)
        assert await reading == PLENTY
        await sending
        assert await protocol.read(len(PLENTY)) == PLENTY


async def test_many_small_writes_keep_their_order():
    async with connection() as (transport, _, peer):
        for number in range(10_000):
            transport.write(b"%08d" % number)
        transport.writelines(b"%08d" % number for number in range(10_000, 20_000))
        expected = b"".join(b"%08d" % number for number in range(20_000))
        assert await peer.read(len(expected)) == expected


@pytest.mark.parametrize("close", ["sender", "reader"])
async def test_data_that_came_with_the_end(close):
    """One event says both "closed" and "readable", and the kernel holds more than one read takes."""
    async with connection() as (transport, protocol, peer):
        transport.pause_reading()
        data = PLENTY[:100_000]
        peer.send(data)
        if close == "sender":
            peer.close()
        else:
            peer.send_eof()
        await arrived(transport, len(data), ended=True)
        await settle()
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        assert await protocol.lost is None
        assert bytes(protocol.data) == data
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


# --- ends ---


@KINDS
async def test_eof(factory):
    async with connection(factory) as (transport, protocol, peer):
        peer.send(b"last words")
        peer.send_eof()
        assert await protocol.lost is None
        assert bytes(protocol.data) == b"last words"
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
        assert await peer.read_until_eof() == b""
        await released(transport)


async def test_half_close_by_the_peer():
    class Open(Recorder):
        keep_open = True

    async with connection(Open) as (transport, protocol, peer):
        peer.send_eof()
        await protocol.ended
        transport.write(PLENTY)
        transport.close()
        assert await peer.read_until_eof() == PLENTY
        assert await protocol.lost is None


async def test_half_close_by_write_eof():
    async with connection() as (transport, protocol, peer):
        assert transport.can_write_eof() is True
        transport.write(PLENTY)
        transport.write_eof()
        assert await peer.read_until_eof() == PLENTY
        peer.send(b"answer")
        assert await protocol.read(6) == b"answer"
        assert not transport.is_closing()
        peer.send_eof()
        assert await protocol.lost is None


async def test_close_sends_what_is_queued():
    async with connection() as (transport, protocol, peer):
        transport.write(PLENTY)
        transport.close()
        assert await peer.read_until_eof() == PLENTY
        assert await protocol.lost is None


async def test_abort_drops_what_is_queued():
    async with connection() as (transport, protocol, peer):
        transport.write(PLENTY)
        assert transport.get_write_buffer_size() > 0
        transport.abort()
        assert await protocol.lost is None
        assert len(await peer.read_until_eof()) < len(PLENTY)


async def test_peer_that_goes_with_unread_data():
    """For a UNIX socket this is a reset, like a RST of TCP."""
    async with connection() as (transport, protocol, peer):
        transport.write(b"unread")
        await settle()
        peer.close()
        assert type(await protocol.lost) is ConnectionResetError
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_peer_that_goes_while_data_is_queued():
    async with connection() as (transport, protocol, peer):
        transport.pause_reading()
        transport.write(PLENTY)
        await settle()
        assert transport.get_write_buffer_size() > 0
        peer.close()
        assert isinstance(await protocol.lost, (ConnectionResetError, BrokenPipeError))
        assert protocol.calls == ["connection_made", "pause_writing", "connection_lost"]
        assert transport.get_write_buffer_size() == 0


async def test_write_to_a_peer_that_has_gone():
    async with connection() as (transport, protocol, peer):
        transport.pause_reading()
        peer.close()
        transport.write(b"x")
        assert type(await protocol.lost) is BrokenPipeError
        assert protocol.calls == ["connection_made", "connection_lost"]


@pytest.mark.parametrize("method", ["data_received", "eof_received"])
async def test_protocol_that_raises(method, loop_errors):
    error = ZeroDivisionError("why")
    async with connection(raising(method, error)) as (transport, protocol, peer):
        peer.send(b"x")
        peer.send_eof()
        assert await protocol.lost is error
        (context,) = loop_errors
        loop_errors.clear()
        assert context["message"] == f"Fatal error: protocol.{method}() call failed."
        assert context["transport"] is transport


# --- flow control ---


async def test_backpressure():
    async with connection() as (transport, protocol, peer):
        transport.write(PLENTY)
        await settle()
        assert protocol.calls == ["connection_made", "pause_writing"]
        assert transport.get_write_buffer_size() > 65536
        assert await peer.read(len(PLENTY)) == PLENTY
        while transport.get_write_buffer_size():
            await asyncio.sleep(0)
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]


async def test_pause_reading_holds_the_peer():
    async with connection() as (transport, protocol, peer):
        transport.pause_reading()
        sending = asyncio.create_task(peer.send_all(PLENTY))
        await arrived(transport, 65536)
        await settle()
        assert protocol.calls == ["connection_made"]
        assert not sending.done()
        transport.resume_reading()
        await sending
        assert await protocol.read(len(PLENTY)) == PLENTY


# --- asyncio's streams ---


class UnixStreams(Streams):
    def __init__(self, handler, path, **kwargs):
        super().__init__(handler, **kwargs)
        self.path = path

    async def start(self):
        return await asyncio.start_unix_server(self.handle, self.path, **self.kwargs)

    def target(self):
        return self.server


@pytest.mark.parametrize("size", [1, 1024, 65536, 65537, 1 << 20])
async def test_streams(path, size):
    data = PLENTY[:size]
    async with UnixStreams(echo, path):
        reader, writer = await asyncio.open_unix_connection(path)
        assert writer.get_extra_info("peername") == path
        for _ in range(3):
            writer.write(data)
            received, _ = await asyncio.gather(reader.readexactly(size), writer.drain())
            assert received == data
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_streams_with_a_limit(path):
    async def serve(reader, writer):
        with pytest.raises(asyncio.LimitOverrunError):
            await reader.readuntil(b"\n")
        writer.write(await reader.read())
        writer.close()
        await writer.wait_closed()

    async with UnixStreams(serve, path, limit=100):
        reader, writer = await asyncio.open_unix_connection(path, limit=100)
        writer.write(b"x" * 1000 + b"\n")
        writer.write_eof()
        assert await reader.read() == b"x" * 1000 + b"\n"
        writer.close()
        await writer.wait_closed()


async def test_streams_over_a_socket():
    near, far = socket.socketpair()
    with Peer(far) as peer:
        reader, writer = await asyncio.open_unix_connection(sock=near)
        peer.send(b"line\nrest")
        peer.send_eof()
        assert await reader.readline() == b"line\n"
        assert await reader.read() == b"rest"
        writer.write(b"answer")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert await peer.read_until_eof() == b"answer"


async def test_hundred_clients(path):
    async def client(number):
        reader, writer = await asyncio.open_unix_connection(path)
        for round_ in range(20):
            line = b"client %d round %d\n" % (number, round_)
            writer.write(line)
            assert await reader.readline() == line
        writer.close()
        await writer.wait_closed()

    async with UnixStreams(echo, path) as server:
        files = len(open_files())
        await asyncio.gather(*(client(number) for number in range(100)))
        assert len(server.sockets) == 1
    assert len(open_files()) == files - 1  # without the listener


async def test_server_closed_while_clients_talk(path):
    async with UnixStreams(echo, path) as server:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        server.close()
        assert not server.is_serving()
        writer.write(b"two")
        assert await reader.readexactly(3) == b"two"
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            await asyncio.open_unix_connection(path)
        writer.close()
        await writer.wait_closed()
