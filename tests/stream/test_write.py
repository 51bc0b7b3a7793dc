"""write and writelines: what may be written, what arrives, and that nothing is lost when the loop stops.

The water marks are in test_flow_control.py, write_eof in test_half_close.py, failing writes in
test_errors.py.
"""

import array
import asyncio
import logging
import sys

import pytest

from support.loops import logged
from support.peers import (
    Recorder,
    connection,
    on_asyncio,
    serving,
    settle,
)

LOST = "socket.send() raised exception."


# --- what may be written ---


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        bytearray(b"hello"),
        memoryview(b"hello"),
        memoryview(bytearray(b"say hello"))[4:],
        memoryview(array.array("I", [1, 2, 3, 4])),
        b"x" * 100_000,
        bytearray(b"x" * 100_000),
        memoryview(b"x" * 100_000),
    ],
    ids=lambda data: f"{type(data).__name__}-{len(data)}",
)
async def test_kinds_of_data(data):
    async with connection() as (transport, _, peer):
        assert transport.write(data) is None
        assert await peer.read(memoryview(data).nbytes) == bytes(data)


@pytest.mark.parametrize("data", ["text", 5, None, [b"x"], {}])
async def test_what_is_no_data(data):
    async with connection() as (transport, protocol, peer):
        for _ in range(2):
            with pytest.raises(TypeError) as info:
                transport.write(data)
            # The text changed in a bug fix of 3.13.
            kinds, _, got = str(info.value).removeprefix("data argument must be a ").partition(", not ")
            assert kinds in ("bytes-like object", "bytes, bytearray, or memoryview object")
            assert got == repr(type(data).__name__)
        transport.write(b"goes on")
        assert await peer.read(7) == b"goes on"
        transport.close()
        with pytest.raises(TypeError):
            transport.write(data)
        assert await protocol.lost is None


async def test_no_argument():
    async with connection() as (transport, _, _):
        for method in (transport.write, transport.writelines):
            with pytest.raises(TypeError):
                method()


class Bytes(bytes):
    pass


async def test_subclass_of_bytes():
    async with connection() as (transport, _, peer):
        transport.write(Bytes(b"hello"))
        transport.writelines([Bytes(b"hel"), Bytes(b"lo")])
        assert await peer.read(10) == b"hellohello"


async def test_nothing():
    async with connection() as (transport, protocol, peer):
        for nothing in (b"", bytearray(), memoryview(b"")):
            transport.write(nothing)
            assert transport.get_write_buffer_size() == 0
        await settle()
        transport.write(b"x")
        transport.write(b"")
        transport.close()
        assert await peer.read_until_eof() == b"x"
        assert await protocol.lost is None


async def test_mutable_data_may_change_after_write():
    async with connection() as (transport, _, peer):
        data = bytearray(b"original")
        transport.write(data)
        data[:] = b"replaced"
        transport.write(memoryview(data))
        data[:] = b"scribble"
        data.clear()  # a bytearray that somebody views could not be resized
        assert await peer.read(16) == b"originalreplaced"


async def test_mutable_data_may_change_while_the_peer_is_slow():
    if on_asyncio() and sys.version_info >= (3, 12):
        pytest.skip("asyncio keeps a view of the caller's buffer since 3.12")
    async with connection(buffers=16384) as (transport, _, peer):
        filler = bytes(range(256)) * 16384
        transport.write(filler)
        assert transport.get_write_buffer_size() > 0
        data = bytearray(b"original" * 1000)
        transport.write(data)
        data[:] = b"replaced" * 1000
        data.clear()
        transport.close()
        assert await peer.read_until_eof() == filler + b"original" * 1000


# --- writelines ---


@pytest.mark.parametrize(
    "pieces",
    [
        [b"one", b"two", b"six"],
        (b"one", bytearray(b"two"), memoryview(b"six")),
        [b"", b"one", b"", b"two", b"six", b""],
        [b"onetwosix"],
    ],
    ids=["list", "tuple of all kinds", "empty pieces", "one piece"],
)
async def test_writelines(pieces):
    if on_asyncio() and (3, 12) <= sys.version_info < (3, 14) and b"" in pieces:
        pytest.skip("asyncio tries to send an empty last piece for ever")
    async with connection() as (transport, _, peer):
        assert transport.writelines(pieces) is None
        assert await peer.read(9) == b"onetwosix"


async def test_writelines_of_a_generator():
    async with connection() as (transport, _, peer):
        transport.writelines(b"%d," % number for number in range(1000))
        expected = b"".join(b"%d," % number for number in range(1000))
        assert await peer.read(len(expected)) == expected


@pytest.mark.parametrize("nothing", [[], ()])
async def test_writelines_of_nothing(nothing):
    async with connection() as (transport, _, peer):
        transport.writelines(nothing)
        transport.write(b"x")
        assert await peer.read(1) == b"x"


@pytest.mark.parametrize("lines", [["text"], [b"good", "text"], 5, [5]])
async def test_writelines_of_what_is_no_data(lines):
    if on_asyncio() and sys.version_info >= (3, 15) and lines == [b"good", "text"]:
        pytest.skip("asyncio keeps the first piece, and sends nothing more")
    async with connection() as (transport, protocol, peer):
        with pytest.raises(TypeError):
            transport.writelines(lines)
        # If a list is refused, none of its pieces is sent.
        transport.write(b"goes on")
        transport.close()
        assert await peer.read_until_eof() == b"goes on"
        assert await protocol.lost is None


async def test_writelines_of_many_large_pieces():
    """There are more pieces than one vectored call takes, and more bytes than the kernel takes."""
    pieces = [bytes([number % 256]) * (number % 3000 + 1) for number in range(5000)]
    async with connection() as (transport, _, peer):
        transport.writelines(pieces)
        transport.writelines(pieces)
        transport.close()
        assert await peer.read_until_eof() == b"".join(pieces) * 2


async def test_writelines_after_write_keeps_the_order():
    async with connection() as (transport, _, peer):
        transport.write(b"1")
        transport.writelines([b"2", b"3"])
        transport.write(b"4")
        transport.writelines([b"5"])
        assert await peer.read(5) == b"12345"


# --- order and size ---


async def test_many_small_writes_keep_their_order():
    pieces = [b"%d," % number for number in range(20_000)]
    async with connection() as (transport, _, peer):
        reading = asyncio.create_task(peer.read_until_eof())
        for number, piece in enumerate(pieces):
            transport.write(piece)
            if number % 1000 == 0:
                await asyncio.sleep(0)
        transport.close()
        assert await reading == b"".join(pieces)


async def test_large_and_small_writes_keep_their_order():
    pieces = [bytes([number % 256]) * (200_000 if number % 5 == 0 else 3) for number in range(50)]
    async with connection() as (transport, _, peer):
        for piece in pieces:
            transport.write(piece)
        transport.close()
        assert await peer.read_until_eof() == b"".join(pieces)


async def test_large_write_and_close_arrives_whole():
    data = bytes(range(256)) * 32768
    async with connection() as (transport, protocol, peer):
        transport.write(data)
        transport.close()
        assert protocol.calls[-1] != "connection_lost"
        assert await peer.read_until_eof() == data
        assert await protocol.lost is None
        assert transport.get_write_buffer_size() == 0


async def test_large_echo():
    """Data goes in both directions at once, more in each than the kernel holds."""
    data = bytes(range(256)) * 16384

    class Echo(Recorder):
        def data_received(self, data):
            self.transport.write(data)

    async with connection(Echo) as (_, _, peer):
        sending = asyncio.create_task(peer.send_all(data))
        assert await peer.read(len(data)) == data
        await sending


async def test_write_from_connection_made():
    class Greeting(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"hello, ")
            transport.write(b"world")

    async with connection(Greeting) as (_, _, peer):
        assert await peer.read(12) == b"hello, world"
    async with serving(Greeting) as (_, address):
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.readexactly(12) == b"hello, world"
        writer.close()
        await writer.wait_closed()


async def test_write_from_connection_made_and_close():
    class Brief(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"go away")
            transport.close()

    async with serving(Brief) as (_, address):
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b"go away"
        writer.close()
        await writer.wait_closed()


async def test_write_from_resume_writing_is_sent():
    """Data that resume_writing writes is sent, too."""

    class Refilling(Recorder):
        refills = 3

        def resume_writing(self):
            super().resume_writing()
            if self.refills:
                self.refills -= 1
                self.transport.write(chunk)

    chunk = bytes(range(256)) * 4096
    async with connection(Refilling, buffers=65536) as (transport, protocol, peer):
        transport.write(chunk)
        assert await peer.read(len(chunk) * 4) == chunk * 4
        assert protocol.calls == ["connection_made"] + ["pause_writing", "resume_writing"] * 4


# --- after the end ---


async def test_write_after_close(caplog):
    caplog.set_level(logging.WARNING)
    async with connection() as (transport, protocol, peer):
        transport.write(b"in time")
        transport.close()
        for number in range(1, 11):
            transport.write(b"too late")
            assert logged(caplog) == [LOST] * max(0, number - 4)
        assert await protocol.lost is None
        transport.write(b"too late")
        assert logged(caplog) == [LOST] * 7
        transport.write(b"")  # an empty write does not count
        assert logged(caplog) == [LOST] * 7
        assert await peer.read_until_eof() == b"in time"


async def test_write_after_abort(caplog):
    caplog.set_level(logging.WARNING)
    async with connection() as (transport, protocol, _):
        transport.abort()
        for number in range(1, 8):
            transport.write(b"too late")
            assert logged(caplog) == [LOST] * max(0, number - 4)
        assert transport.get_write_buffer_size() == 0
        assert await protocol.lost is None


async def test_write_after_the_connection_is_lost(caplog):
    caplog.set_level(logging.WARNING)
    async with connection() as (transport, protocol, peer):
        peer.reset()
        assert isinstance(await protocol.lost, ConnectionResetError)
        for number in range(1, 8):
            transport.write(b"too late")
            assert logged(caplog) == [LOST] * max(0, number - 4)


async def test_writelines_after_close(caplog):
    if on_asyncio() and (3, 12) <= sys.version_info < (3, 14):
        pytest.skip("asyncio raises TypeError in 3.12 and the first 3.13")
    caplog.set_level(logging.WARNING)
    async with connection() as (transport, protocol, peer):
        transport.close()
        for number in range(1, 8):
            transport.writelines([b"too", b"late"])
            assert logged(caplog) == [LOST] * max(0, number - 4)
        assert await protocol.lost is None
        assert await peer.read_until_eof() == b""
