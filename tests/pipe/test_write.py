"""connect_write_pipe: everything that is written arrives, whatever it is and whenever it is written.

How writing ends is in test_write_end.py, flow control in test_flow.py, reading in
test_read.py, the file that a transport works on (and what is no pipe) in test_files.py.
"""

import asyncio
import gc
import logging
import os
import re

import pytest

from support.peers import on_asyncio, raising, settle
from support.pipe_peers import KINDS, FarEnd, WriteRecorder, make_ends, released, write_pipe

ALL_KINDS = pytest.mark.parametrize("kind", KINDS)
PIPE_KINDS = pytest.mark.parametrize("kind", ["pipe", "fifo", "socket"])

BIG = bytes(range(256)) * (8 * 4096)
PLENTY = bytes(range(256)) * 4096  # more than any pipe or socket pair holds


def pipe_of(transport):
    return transport.get_extra_info("pipe")


# --- data ---


@ALL_KINDS
async def test_data(kind):
    async with write_pipe(kind) as (transport, protocol, far):
        assert transport.write(b"hello") is None
        transport.write(bytearray(b", "))
        transport.write(memoryview(b"-world-")[1:6])
        assert await far.read(12) == b"hello, world"
        assert transport.get_write_buffer_size() == 0
        assert protocol.calls == ["connection_made"]


@ALL_KINDS
async def test_data_and_close(kind):
    async with write_pipe(kind) as (transport, protocol, far):
        pipe = pipe_of(transport)
        transport.write(b"hello")
        assert await far.read(5) == b"hello"
        assert transport.close() is None
        assert await protocol.lost is None
        await released(pipe)
        assert await far.read_until_eof() == b""
        assert protocol.calls == ["connection_made", "connection_lost"]


@ALL_KINDS
async def test_much_data(kind):
    data = BIG[: 1 << 20] if kind in ("master", "slave") else BIG
    async with write_pipe(kind) as (transport, protocol, far):
        reading = asyncio.create_task(far.read(len(data)))
        for start in range(0, len(data), 1 << 18):
            transport.write(data[start : start + (1 << 18)])
        assert await reading == data
        assert not transport.is_closing()


@PIPE_KINDS
async def test_one_large_write(kind):
    async with write_pipe(kind) as (transport, protocol, far):
        transport.write(BIG)
        transport.close()
        assert await far.read_until_eof() == BIG
        assert await protocol.lost is None


@PIPE_KINDS
async def test_many_small_writes(kind):
    async with write_pipe(kind) as (transport, _, far):
        pieces = [b"%d," % number for number in range(50_000)]
        reading = asyncio.create_task(far.read(sum(map(len, pieces))))
        for number, piece in enumerate(pieces):
            transport.write(piece)
            if number % 1000 == 0:
                await asyncio.sleep(0)
        assert await reading == b"".join(pieces)


async def test_large_write_leaves_at_once():
    """A large write is sent while the callback still runs, behind what was written before it."""
    async with write_pipe() as (transport, _, far):
        transport.write(b"first,")
        transport.write(bytes(40_000))
        assert transport.get_write_buffer_size() == 0
        transport.write(b",last")
        assert await far.read(40_011) == b"first," + bytes(40_000) + b",last"


async def test_writelines():
    async with write_pipe() as (transport, _, far):
        transport.writelines([b"one", bytearray(b"two"), memoryview(b"six"), b""])
        transport.writelines(iter([b"ten"]))
        transport.writelines([])
        assert await far.read(12) == b"onetwosixten"


async def test_nothing_is_written_by_an_empty_write():
    async with write_pipe() as (transport, protocol, far):
        for empty in (b"", bytearray(), memoryview(b"")):
            transport.write(empty)
        await settle()
        assert transport.get_write_buffer_size() == 0
        transport.write(b"x")
        assert await far.read(1) == b"x"


async def test_buffer_that_changes_after_write():
    """Once write() has returned, the caller may change its buffer."""
    async with write_pipe() as (transport, _, far):
        data = bytearray(PLENTY)
        view = bytearray(PLENTY)
        transport.write(data)
        transport.write(memoryview(view))
        data[:] = bytes(len(data))
        data.clear()
        view[:] = bytes(len(view))
        transport.close()
        assert await far.read_until_eof() == PLENTY * 2


async def test_view_of_something_larger_than_bytes():
    if on_asyncio():
        pytest.skip("asyncio takes the number of items for the number of bytes")
    data = memoryview(PLENTY).cast("I")
    async with write_pipe() as (transport, _, far):
        transport.write(data[:1000])
        transport.write(data)
        transport.close()
        assert await far.read_until_eof() == PLENTY[:4000] + PLENTY


@pytest.mark.parametrize("data", ["text", 42, None, [b"x"]], ids=repr)
async def test_data_of_a_wrong_type(data):
    async with write_pipe() as (transport, _, far):
        # In asyncio this is an assert statement, which python -O leaves out.
        with pytest.raises((AssertionError, TypeError), match=re.escape(repr(data)) + "|" + type(data).__name__):
            transport.write(data)
        transport.write(b"x")
        assert await far.read(1) == b"x"


async def test_write_in_connection_made():
    class Eager(WriteRecorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"hello")

    async with write_pipe(factory=Eager) as (_, _, far):
        assert await far.read(5) == b"hello"


def test_write_while_the_loop_does_not_run(loop):
    async def connect():
        return await loop.connect_write_pipe(WriteRecorder, near)

    near, far = make_ends("pipe", near_reads=False)
    with FarEnd(far):
        transport, _ = loop.run_until_complete(connect())
        transport.write(b"one")
        assert os.read(far.fileno(), 10) == b"one"
        loop.call_soon(transport.write, b"two")
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert os.read(far.fileno(), 10) == b"two"
        transport.close()
        loop.run_until_complete(released(near))


async def test_stream_writer():
    """Programs get a StreamWriter for standard output like this."""
    loop = asyncio.get_running_loop()
    near, far = make_ends("pipe", near_reads=False)
    with FarEnd(far) as far_end:
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, near)
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        reading = asyncio.create_task(far_end.read(len(PLENTY) * 4))
        for _ in range(4):
            writer.write(PLENTY)
            await writer.drain()
        assert await reading == PLENTY * 4
        writer.close()
        await released(near)
        assert await far_end.read_until_eof() == b""


async def test_transport_that_nobody_holds():
    near, far = make_ends("pipe", near_reads=False)
    with FarEnd(far) as far_end:
        transport, _ = await asyncio.get_running_loop().connect_write_pipe(WriteRecorder, near)
        transport.write(PLENTY)
        transport.close()
        del transport
        gc.collect()
        assert await far_end.read_until_eof() == PLENTY
        await released(near)


# --- the protocol ---


async def test_set_protocol():
    async with write_pipe() as (transport, protocol, far):
        successor = WriteRecorder()
        assert transport.get_protocol() is protocol
        assert transport.set_protocol(successor) is None
        assert transport.get_protocol() is successor
        transport.write(PLENTY)
        assert await far.read(len(PLENTY)) == PLENTY
        await settle()
        far.close()
        assert await successor.lost is None
        assert successor.calls == ["pause_writing", "resume_writing", "connection_lost"]
        assert protocol.calls == ["connection_made"]


@pytest.mark.parametrize("error", [ZeroDivisionError, OSError, asyncio.CancelledError])
@pytest.mark.parametrize("method", ["connection_made", "connection_lost"])
async def test_method_that_raises(method, error, loop_errors):
    error = error("why")
    async with write_pipe(factory=raising(method, error, WriteRecorder)) as (transport, protocol, far):
        transport.write(b"hello")
        assert await far.read(5) == b"hello"
        transport.close()
        await protocol.lost
        await released(pipe_of(transport))
        await settle()
        (context,) = loop_errors
        loop_errors.clear()
        assert context["message"].startswith("Exception in callback ")
        assert context["exception"] is error
        assert protocol.calls == ["connection_made", "connection_lost"]


# --- what is logged in debug mode ---


async def test_debug_log(caplog):
    caplog.set_level(logging.DEBUG, "asyncio")
    asyncio.get_running_loop().set_debug(True)
    async with write_pipe() as (transport, protocol, far):
        fileno = pipe_of(transport).fileno()
        far.close()
        await protocol.lost
    asyncio.get_running_loop().set_debug(False)
    texts = [record.getMessage() for record in caplog.records]
    for pattern in (
        rf"Write pipe {fileno} connected: \(<.*fd={fileno}.*>, <.*WriteRecorder object.*>\)",
        rf"<.*fd={fileno}.*> was closed by peer",
    ):
        assert any(re.fullmatch(pattern, text) for text in texts), pattern
