"""sendfile over a stream transport: in order with what is written, with the file's position, and what happens
to the transport meanwhile and afterwards.

What is refused and what goes wrong is in test_sendfile_errors.py, the same without a transport in
sock/test_sendfile.py.
"""

import asyncio
import io
import socket
import sys

import pytest

from support.peers import Recorder, connection, settle
from support.sendfile import BUFFERS, DATA, PLENTY, SMALL, sendfile, sending


def unix_connection(factory=Recorder):
    return connection(factory, ends=socket.socketpair())


# --- what is sent ---


@pytest.mark.parametrize("connect", [lambda: connection(buffers=BUFFERS), unix_connection], ids=["tcp", "unix"])
@pytest.mark.parametrize("fallback", [True, False])
async def test_whole_file(connect, fallback, data_file):
    async with connect() as (transport, protocol, peer):
        reading = asyncio.create_task(peer.read(len(DATA)))
        assert await sendfile(transport, data_file, fallback=fallback) == len(DATA)
        assert await reading == DATA
        assert data_file.tell() == len(DATA)
        assert transport.get_write_buffer_size() == 0
        assert protocol.calls == ["connection_made"]
        assert transport.get_protocol() is protocol


@pytest.mark.parametrize(
    ("offset", "count", "expected"),
    [
        (0, None, SMALL),
        (3, None, SMALL[3:]),
        (0, 4, SMALL[:4]),
        (3, 4, SMALL[3:7]),
        (3, 100, SMALL[3:]),
        (9, 1, SMALL[9:]),
    ],
)
@pytest.mark.parametrize("native", [True, False])
async def test_part_of_a_file(offset, count, expected, native, small_file):
    file = small_file if native else io.BytesIO(SMALL)
    async with connection() as (transport, _, peer):
        sent = await sendfile(transport, file, offset, count, fallback=not native)
        assert sent == len(expected)
        assert await peer.read(len(expected)) == expected
        assert file.tell() == offset + len(expected)
        transport.write(b"!")
        assert await peer.read(1) == b"!"


@pytest.mark.parametrize(("offset", "count"), [(1000, None), (1000, 1_500_000), (len(DATA) - 1, None)])
@pytest.mark.parametrize("native", [True, False])
async def test_part_of_a_large_file(offset, count, native, data_path):
    end = len(DATA) if count is None else offset + count
    with open(data_path, "rb") if native else io.BytesIO(DATA) as file:
        async with connection(buffers=BUFFERS) as (transport, _, peer):
            reading = asyncio.create_task(peer.read(end - offset))
            assert await sendfile(transport, file, offset, count, fallback=not native) == end - offset
            assert await reading == DATA[offset:end]
            assert file.tell() == end


@pytest.mark.parametrize(("offset", "count"), [(0, None), (0, 5), (5, 5)])
@pytest.mark.parametrize("fallback", [True, False])
async def test_empty_file(offset, count, fallback, tmp_path):
    (tmp_path / "empty").touch()
    async with connection() as (transport, _, peer):
        with open(tmp_path / "empty", "rb") as file:
            assert await sendfile(transport, file, offset, count, fallback=fallback) == 0
        transport.write(b"!")
        assert await peer.read(1) == b"!"


@pytest.mark.parametrize("offset", [10, 100])
async def test_offset_behind_the_end(offset, small_file):
    async with connection() as (transport, _, peer):
        assert await sendfile(transport, small_file, offset, fallback=False) == 0
        transport.write(b"!")
        assert await peer.read(1) == b"!"


async def test_position_of_the_file_does_not_matter(small_file):
    async with connection() as (transport, _, peer):
        small_file.seek(7)
        assert await sendfile(transport, small_file) == 10
        assert await peer.read(10) == SMALL
        assert small_file.tell() == 10


# --- in order with what is written ---


@pytest.mark.parametrize("native", [True, False])
async def test_between_small_writes(native, small_file):
    async with connection() as (transport, _, peer):
        for number in range(10):
            transport.write(b"<%d>" % number)
            file = small_file if native else io.BytesIO(SMALL)
            assert await sendfile(transport, file, number, fallback=not native) == 10 - number
        transport.write(b"end")
        transport.close()
        expected = b"".join(b"<%d>" % number + SMALL[number:] for number in range(10)) + b"end"
        assert await peer.read_until_eof() == expected


def never_paused_by_the_fallback(transport):
    """The last block of the fallback could pause the protocol, which would then be resumed twice."""
    transport.set_write_buffer_limits(high=len(PLENTY) + len(DATA), low=0)


@pytest.mark.parametrize("native", [True, False])
async def test_after_much_that_is_queued(native, data_path):
    with open(data_path, "rb") if native else io.BytesIO(DATA) as file:
        async with connection(buffers=BUFFERS) as (transport, protocol, peer):
            transport.write(PLENTY)
            assert transport.get_write_buffer_size() > 0
            task = await sending(transport, file, fallback=not native)
            never_paused_by_the_fallback(transport)
            reading = asyncio.create_task(peer.read_until_eof())
            assert await task == len(DATA)
            transport.set_write_buffer_limits()
            transport.write(PLENTY)
            transport.close()
            assert await reading == PLENTY + DATA + PLENTY
            assert await protocol.lost is None
            flow = protocol.calls[1:-1]
            assert flow == ["pause_writing", "resume_writing"] * 2
            assert file.tell() == len(DATA)


@pytest.mark.parametrize("native", [True, False])
async def test_close_afterwards(native, data_path):
    """close() right after sendfile loses nothing."""
    with open(data_path, "rb") if native else io.BytesIO(DATA) as file:
        async with connection(buffers=BUFFERS) as (transport, protocol, peer):
            reading = asyncio.create_task(peer.read_until_eof())
            await sendfile(transport, file)
            transport.close()
            assert await reading == DATA
            assert await protocol.lost is None


async def test_write_eof_afterwards(small_file):
    async with connection() as (transport, protocol, peer):
        await sendfile(transport, small_file)
        transport.write_eof()
        assert await peer.read_until_eof() == SMALL
        assert not transport.is_closing()


async def test_writes_meanwhile_are_refused(data_file):
    async with connection(buffers=BUFFERS) as (transport, _, peer):
        task = await sending(transport, data_file)
        with pytest.raises(RuntimeError) as info:
            transport.write(b"no")
        assert str(info.value) == "unable to write; sendfile is in progress"
        name = "writelines" if sys.version_info >= (3, 12) else "write"
        with pytest.raises(RuntimeError) as info:
            transport.writelines([b"no"])
        assert str(info.value) == f"unable to {name}; sendfile is in progress"
        assert await peer.read(len(DATA)) == DATA
        assert await task == len(DATA)
        transport.write(b"!")
        assert await peer.read(1) == b"!"


async def test_second_call_meanwhile_is_refused(data_file, small_file):
    async with connection(buffers=BUFFERS) as (transport, _, peer):
        task = await sending(transport, data_file)
        # asyncio raises an accidental error here.
        with pytest.raises((RuntimeError, KeyError)):
            await sendfile(transport, small_file)
        assert await peer.read(len(DATA)) == DATA
        assert await task == len(DATA)


async def test_several_transports(data_path):
    async def one():
        async with connection(buffers=BUFFERS) as (transport, _, peer):
            with open(data_path, "rb") as file:
                sent, received = await asyncio.gather(sendfile(transport, file), peer.read(len(DATA)))
                return sent == len(DATA) and received == DATA

    assert all(await asyncio.gather(*(one() for _ in range(4))))


# --- reading meanwhile ---


@pytest.mark.parametrize("native", [True, False])
async def test_reading_is_paused_meanwhile(native, data_path):
    with open(data_path, "rb") if native else io.BytesIO(DATA) as file:
        async with connection(buffers=BUFFERS) as (transport, protocol, peer):
            task = await sending(transport, file, fallback=not native)
            assert not transport.is_reading()
            peer.send(b"hello")
            await settle()
            assert bytes(protocol.data) == b""
            assert await peer.read(len(DATA)) == DATA
            assert await task == len(DATA)
            assert transport.is_reading()
            assert await protocol.read(5) == b"hello"


@pytest.mark.parametrize("native", [True, False])
async def test_paused_reading_stays_paused(native, small_file):
    async with connection() as (transport, protocol, peer):
        transport.pause_reading()
        await sendfile(transport, small_file if native else io.BytesIO(SMALL))
        assert not transport.is_reading()
        peer.send(b"hello")
        await settle()
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        assert await protocol.read(5) == b"hello"


async def test_paused_writing_goes_on():
    """A protocol that was paused is resumed, though a file was sent in between."""
    async with connection(buffers=BUFFERS) as (transport, protocol, peer):
        transport.write(PLENTY)
        assert protocol.calls == ["connection_made", "pause_writing"]
        task = await sending(transport, io.BytesIO(DATA))
        never_paused_by_the_fallback(transport)
        assert await peer.read(len(PLENTY) + len(DATA)) == PLENTY + DATA
        assert await task == len(DATA)
        await settle()
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]
        assert transport.get_protocol() is protocol
