"""write() and writelines() of a TLS transport: what they take, what they refuse, and what arrives.

Flow control is in test_flow.py. Writes after the end are in test_outcomes_end.py.
"""

import array
import asyncio

import pytest

from support.peers import Echo
from support.tls_peers import tls_connection

SIDES = pytest.mark.parametrize("server_side", [False, True])


@SIDES
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_types(kind, server_side):
    async with tls_connection(server_side=server_side) as (transport, _, peer):
        transport.write(kind(b"hello"))
        assert await peer.read(5) == b"hello"
        transport.write(kind(b""))
        transport.writelines([kind(b"he"), kind(b"llo")])
        assert await peer.read(5) == b"hello"


@pytest.mark.parametrize("data", ["text", 5, None, [b"x"], array.array("B", b"x"), object()])
async def test_not_bytes(data):
    async with tls_connection() as (transport, _, peer):
        with pytest.raises(TypeError) as info:
            transport.write(data)
        assert str(info.value) == f"data: expecting a bytes-like instance, got {type(data).__name__}"
        transport.write(b"still there")
        assert await peer.read(11) == b"still there"


async def test_bytes_that_change_afterwards():
    """Changing a bytearray after the write does not change what is sent."""
    async with tls_connection() as (transport, _, peer):
        data = bytearray(b"before")
        transport.write(data)
        data[:] = b"after."
        assert await peer.read(6) == b"before"


async def test_memoryview_of_larger_items():
    """A memoryview with larger items is sent as bytes."""
    async with tls_connection() as (transport, _, peer):
        items = array.array("I", range(4))
        transport.write(memoryview(items).cast("B"))
        assert await peer.read(16) == items.tobytes()


async def test_slice_of_a_memoryview():
    async with tls_connection() as (transport, _, peer):
        transport.write(memoryview(b"0123456789")[3:7])
        transport.write(memoryview(bytearray(b"0123456789"))[7:])
        assert await peer.read(7) == b"3456789"


@SIDES
@pytest.mark.parametrize("size", [1, 100, 1350, 4096, 16383, 16384, 16385, 32768, 100_000, 1_000_001])
async def test_sizes(size, server_side):
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    async with tls_connection(server_side=server_side) as (transport, protocol, peer):
        transport.write(data)
        assert await peer.read(size) == data
        sending = asyncio.create_task(peer.send_all(data))
        assert await protocol.read(size) == data
        await sending


async def test_order():
    """Data arrives in the order of the calls: write, writelines and empty ones, across turns of the loop."""
    async with tls_connection() as (transport, _, peer):
        expected = bytearray()
        for number in range(300):
            line = b"line %d\n" % number
            if number % 3 == 0:
                transport.writelines([line[:3], b"", line[3:]])
            else:
                transport.write(line)
            expected += line
            if number % 10 == 0:
                await asyncio.sleep(0)
        assert await peer.read(len(expected)) == bytes(expected)


async def test_writelines_of_an_iterator():
    async with tls_connection() as (transport, _, peer):
        transport.writelines(b"%d" % number for number in range(10))
        transport.writelines([])
        transport.writelines(())
        assert await peer.read(10) == b"0123456789"


@pytest.mark.parametrize("lines", [None, 5])
async def test_writelines_of_nothing_iterable(lines):
    async with tls_connection() as (transport, _, peer):
        with pytest.raises(TypeError):
            transport.writelines(lines)
        transport.write(b"still there")
        assert await peer.read(11) == b"still there"


async def test_many_small_writes_in_one_turn():
    """asyncio makes one record of each write. Another loop may join them, but everything arrives in order."""
    async with tls_connection() as (transport, _, peer):
        for number in range(2000):
            transport.write(b"%04d" % number)
        assert await peer.read(8000) == b"".join(b"%04d" % number for number in range(2000))


async def test_write_in_data_received():
    async with tls_connection(Echo) as (_, _, peer):
        for number in range(20):
            peer.send(b"message %d" % number)
            assert await peer.read(len(b"message %d" % number)) == b"message %d" % number


async def test_eight_mebibytes_and_close():
    """Everything arrives, and then a close_notify, however slow the peer is."""
    data = bytes(range(256)) * (8 << 12)
    async with tls_connection(buffers=65536) as (transport, protocol, peer):
        transport.write(data)
        transport.close()
        assert transport.is_closing()
        assert await peer.read_until_end() == data
        assert peer.ended == "close_notify"
        await peer.unwrap()
        assert await protocol.lost is None
        assert protocol.calls[-1] == "connection_lost"


async def test_writelines_of_eight_mebibytes_and_close():
    chunk = bytes(range(256)) * 128
    async with tls_connection(server_side=True, buffers=65536) as (transport, protocol, peer):
        transport.writelines([chunk] * 256)
        transport.close()
        assert await peer.read_until_end() == chunk * 256
        assert peer.ended == "close_notify"
        await peer.unwrap()
        assert await protocol.lost is None


async def test_both_directions_at_once():
    data = bytes(range(256)) * (4 << 12)
    async with tls_connection(buffers=65536) as (transport, protocol, peer):
        transport.write(data)

        def converse():
            """Writes and reads alternately, so that neither side waits for the other for ever."""
            received = bytearray()
            for start in range(0, len(data), 16384):
                peer.send(data[start : start + 16384])
                received += peer.blocking_read(16384)
            return bytes(received)

        conversing = asyncio.create_task(asyncio.to_thread(converse))
        assert await protocol.read(len(data)) == data
        assert await conversing == data


def test_written_before_the_loop_stops(loop):
    async def begin():
        stack = tls_connection()
        transport, protocol, peer = await stack.__aenter__()
        transport.write(b"in a turn ")
        return stack, transport, peer

    stack, transport, peer = loop.run_until_complete(begin())
    transport.write(b"and outside")
    assert peer.blocking_read(21) == b"in a turn and outside"
    loop.run_until_complete(stack.__aexit__(None, None, None))
    loop.run_until_complete(loop.shutdown_default_executor())
