"""asyncio's streams over the loop's transports: open_connection and start_server, as most programs use TCP.

The streams are asyncio's own code. These tests show that they find in a transport what they need.
"""

import asyncio
import inspect

import pytest

from support.peers import HOST, Peer, echo, released, socket_pair
from support.streams import Streams


@pytest.mark.parametrize("size", [1, 2, 100, 1023, 1024, 4096, 65535, 65536, 65537, 262_144, 1_048_576])
async def test_echo(size):
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    async with Streams(echo) as address:
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(3):
            writer.write(data)
            received, _ = await asyncio.gather(reader.readexactly(size), writer.drain())
            assert received == data
        writer.write_eof()
        assert await reader.read() == b""
        assert reader.at_eof()
        writer.close()
        await writer.wait_closed()


async def test_hundred_clients():
    async def client(number):
        reader, writer = await asyncio.open_connection(*address)
        for round_ in range(20):
            line = b"client %d round %d\n" % (number, round_)
            writer.write(line)
            assert await reader.readline() == line
        writer.close()
        await writer.wait_closed()

    async with Streams(echo) as address:
        await asyncio.gather(*(client(number) for number in range(100)))


async def test_reading_by_line_separator_and_count():
    async def serve(reader, writer):
        writer.writelines([b"first line\n", b"second line\n", b"head\r\n\r\n", b"body of 15 byte"])
        writer.close()
        await writer.wait_closed()

    async with Streams(serve) as address:
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.readline() == b"first line\n"
        assert await reader.readuntil(b"\n") == b"second line\n"
        assert await reader.readuntil(b"\r\n\r\n") == b"head\r\n\r\n"
        assert await reader.readexactly(15) == b"body of 15 byte"
        assert await reader.readline() == b""
        writer.close()
        await writer.wait_closed()


async def test_async_iteration():
    lines = [b"line %d\n" % number for number in range(1000)]

    async def serve(reader, writer):
        for line in lines:
            writer.write(line)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with Streams(serve) as address:
        reader, writer = await asyncio.open_connection(*address)
        assert [line async for line in reader] == lines
        writer.close()
        await writer.wait_closed()


async def test_end_in_the_middle():
    async def serve(reader, writer):
        writer.write(b"half")
        writer.close()
        await writer.wait_closed()

    async with Streams(serve) as address:
        reader, writer = await asyncio.open_connection(*address)
        with pytest.raises(asyncio.IncompleteReadError) as info:
            await reader.readexactly(10)
        assert (info.value.partial, info.value.expected) == (b"half", 10)
        writer.close()
        await writer.wait_closed()


async def test_limit_overrun():
    async def serve(reader, writer):
        writer.write(b"x" * 1000 + b"\n" + b"rest\n")
        writer.close()
        await writer.wait_closed()

    async with Streams(serve) as address:
        reader, writer = await asyncio.open_connection(*address, limit=100)
        with pytest.raises(asyncio.LimitOverrunError) as info:
            await reader.readuntil(b"\n")
        assert info.value.consumed >= 100
        assert await reader.readexactly(1001) == b"x" * 1000 + b"\n"
        assert await reader.readline() == b"rest\n"
        writer.close()
        await writer.wait_closed()


async def test_reader_that_does_not_read_stops_the_sender():
    """The reader pauses its transport at twice its limit, and nothing is lost."""
    near, far = socket_pair(buffers=65536)
    with Peer(far) as peer:
        reader, writer = await asyncio.open_connection(sock=near, limit=1000)
        data = bytes(range(256)) * 8192
        sending = asyncio.create_task(peer.send_all(data))
        await reader.readexactly(10)
        while writer.transport.is_reading():  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        assert not sending.done()
        assert await reader.readexactly(len(data) - 10) == data[10:]
        assert writer.transport.is_reading()  # type: ignore[attr-defined]
        await sending
        writer.close()
        await writer.wait_closed()


async def test_drain_waits_for_the_peer():
    near, far = socket_pair(buffers=65536)
    data = bytes(range(256)) * 4096
    with Peer(far) as peer:
        _, writer = await asyncio.open_connection(sock=near)
        writer.write(data)
        drains = [asyncio.create_task(writer.drain()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(drain.done() for drain in drains)
        assert await peer.read(len(data)) == data
        await asyncio.gather(*drains)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def test_drain_when_the_peer_is_gone():
    near, far = socket_pair(buffers=65536)
    reader, writer = await asyncio.open_connection(sock=near)
    writer.write(bytes(1 << 20))
    drain = asyncio.create_task(writer.drain())
    await asyncio.sleep(0)
    Peer(far).reset()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await drain
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await reader.read()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await writer.drain()
    writer.close()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await writer.wait_closed()


async def test_close_and_wait_closed():
    near, far = socket_pair()
    with Peer(far) as peer:
        reader, writer = await asyncio.open_connection(sock=near)
        assert writer.is_closing() is False
        writer.write(b"bye")
        writer.close()
        assert writer.is_closing() is True
        await writer.wait_closed()
        await writer.wait_closed()
        assert await reader.read() == b""
        assert await peer.read_until_eof() == b"bye"
        await released(writer.transport)


async def test_half_close():
    """The stream protocol keeps the connection open after the peer's EOF."""
    near, far = socket_pair()
    with Peer(far) as peer:
        reader, writer = await asyncio.open_connection(sock=near)
        peer.send(b"question")
        peer.send_eof()
        assert await reader.read() == b"question"
        assert writer.is_closing() is False
        assert writer.can_write_eof() is True
        writer.write(b"answer")
        writer.write_eof()
        assert await peer.read_until_eof() == b"answer"
        writer.close()
        await writer.wait_closed()


async def test_read_cancelled():
    """A cancelled read takes no data."""
    near, far = socket_pair()
    with Peer(far) as peer:
        reader, writer = await asyncio.open_connection(sock=near)
        peer.send(b"12")
        read = asyncio.create_task(reader.readexactly(4))
        for _ in range(10):
            await asyncio.sleep(0)
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
        peer.send(b"34")
        assert await reader.readexactly(4) == b"1234"
        writer.close()
        await writer.wait_closed()


async def test_handler_that_raises(loop_errors):
    told = "Unhandled exception in client_connected_cb"
    if told not in inspect.getsource(asyncio.StreamReaderProtocol.connection_made):
        pytest.skip("this release of 3.11 leaves it to the task to tell of it")
    error = ZeroDivisionError("why")
    done = asyncio.get_running_loop().create_future()

    async def serve(reader, writer):
        try:
            writer.write(b"hello")
            raise error
        finally:
            done.set_result(writer)

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.readexactly(5) == b"hello"
        served = await done
        served.close()
        await served.wait_closed()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert [context["exception"] for context in loop_errors] == [error]
    assert loop_errors[0]["message"] == told
    loop_errors.clear()


async def test_callback_that_is_no_coroutine():
    made = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda *streams: made.set_result(streams), HOST, 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        their_reader, their_writer = await made
        their_writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.write(b"bye")
        assert await their_reader.readexactly(3) == b"bye"
        for stream in (writer, their_writer):
            stream.close()
            await stream.wait_closed()


async def test_extra_info_of_a_writer():
    near, far = socket_pair()
    with far:
        _, writer = await asyncio.open_connection(sock=near)
        assert writer.get_extra_info("peername") == far.getsockname()
        assert writer.get_extra_info("sockname") == far.getpeername()
        assert writer.get_extra_info("socket").fileno() == near.fileno()
        assert writer.get_extra_info("nonsense", 1) == 1
        assert repr(writer.transport) in repr(writer)
        writer.close()
        await writer.wait_closed()


async def test_timeout():
    near, far = socket_pair()
    with Peer(far) as peer:
        reader, writer = await asyncio.open_connection(sock=near)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await reader.read(1)
        peer.send(b"late")
        assert await reader.readexactly(4) == b"late"
        writer.close()
        await writer.wait_closed()
