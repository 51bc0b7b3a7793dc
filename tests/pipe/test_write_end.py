"""The end of a pipe that is written: close, abort and write_eof, and readers that go away.

What is written is in test_write.py.
"""

import asyncio
import errno
import logging
import os

import pytest

from support.peers import on_asyncio, settle
from support.pipe_peers import KINDS, FarEnd, WriteRecorder, make_ends, released, write_pipe

ALL_KINDS = pytest.mark.parametrize("kind", KINDS)
# If the other side of a terminal is gone, only a write tells.
WATCHED_KINDS = pytest.mark.parametrize("kind", ["pipe", "fifo", "socket"])

PLENTY = bytes(range(256)) * 4096  # more than any pipe or socket pair holds


def pipe_of(transport):
    return transport.get_extra_info("pipe")


# --- the end that the program chooses ---

ENDS = pytest.mark.parametrize("end", ["close", "abort", "write_eof"])


@ENDS
@ALL_KINDS
async def test_end(kind, end):
    loop = asyncio.get_running_loop()
    async with write_pipe(kind) as (transport, protocol, far):
        pipe = pipe_of(transport)
        loop.call_soon(protocol.calls.append, "before")
        assert getattr(transport, end)() is None
        loop.call_soon(protocol.calls.append, "after")
        assert transport.is_closing() is True
        assert protocol.calls == ["connection_made"]
        assert await protocol.lost is None
        await released(pipe)
        await settle()
        assert protocol.calls == ["connection_made", "before", "connection_lost", "after"]
        assert await far.read_until_eof() == b""


@pytest.mark.parametrize("end", ["close", "write_eof"])
@WATCHED_KINDS
async def test_end_sends_what_is_queued(kind, end):
    async with write_pipe(kind) as (transport, protocol, far):
        transport.write(PLENTY)
        size = transport.get_write_buffer_size()
        assert size > 0
        getattr(transport, end)()
        assert transport.is_closing() is True
        assert transport.get_write_buffer_size() == size
        transport.write(b"too late")
        await settle()
        assert "connection_lost" not in protocol.calls
        assert await far.read_until_eof() == PLENTY
        assert await protocol.lost is None
        assert protocol.calls.count("connection_lost") == 1


@WATCHED_KINDS
async def test_abort_drops_what_is_queued(kind):
    async with write_pipe(kind) as (transport, protocol, far):
        transport.write(PLENTY)
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        assert await protocol.lost is None
        assert len(await far.read_until_eof()) < len(PLENTY)
        assert protocol.calls == ["connection_made", "pause_writing", "connection_lost"]


async def test_abort_sends_what_the_kernel_takes():
    async with write_pipe() as (transport, protocol, far):
        transport.write(b"x")
        transport.abort()
        assert await protocol.lost is None
        assert await far.read_until_eof() == b"x"


async def test_can_write_eof():
    async with write_pipe() as (transport, protocol, _):
        assert transport.can_write_eof() is True
        transport.write_eof()
        transport.write_eof()
        transport.close()
        assert await protocol.lost is None
        await settle()
        assert transport.can_write_eof() is True
        assert protocol.calls == ["connection_made", "connection_lost"]


@pytest.mark.parametrize("ends", [("abort", "abort"), ("close", "abort"), ("write_eof", "abort")], ids=str)
@pytest.mark.parametrize("queued", [b"", PLENTY], ids=["idle", "queued"])
async def test_connection_lost_is_called_once(ends, queued):
    if on_asyncio() and not (queued and ends[0] != "abort"):
        pytest.skip("asyncio calls it twice")
    async with write_pipe() as (transport, protocol, _):
        transport.write(queued)
        for end in ends:
            getattr(transport, end)()
        assert await protocol.lost is None
        await settle()
        assert protocol.calls.count("connection_lost") == 1


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("method", ["connection_made", "connection_lost"])
async def test_end_inside_a_callback(method, end):
    if on_asyncio() and (method, end) != ("connection_lost", "close"):
        pytest.skip("asyncio calls connection_lost twice, or watches the file when it is closed")

    def call(self, *args):
        getattr(WriteRecorder, method)(self, *args)
        getattr(self.transport, end)()
        self.calls.append("returned")

    ending = type("Ending", (WriteRecorder,), {method: call})
    async with write_pipe(factory=ending) as (transport, protocol, _):
        transport.close()
        assert await protocol.lost is None
        await settle()
        assert protocol.calls[protocol.calls.index(method) + 1] == "returned"
        assert protocol.calls.count("connection_lost") == 1


async def test_methods_after_the_end(caplog):
    async with write_pipe() as (transport, protocol, _):
        transport.close()
        await protocol.lost
        await released(pipe_of(transport))
        transport.close()
        transport.write_eof()
        transport.writelines([b"x"])
        assert transport.get_write_buffer_size() == 0
        assert transport.is_closing() is True
        assert "closed" in repr(transport)
        await settle()
        assert protocol.calls == ["connection_made", "connection_lost"]
        assert caplog.records == []
        # The sixth and every later write to a pipe that has ended is logged as a warning.
        for _ in range(4):
            transport.write(b"x")
        assert caplog.records == []
        transport.write(b"x")
        (record,) = caplog.records
        assert record.getMessage() == "pipe closed by peer or os.write(pipe, data) raised exception."
        assert (record.levelno, record.name) == (logging.WARNING, "asyncio")


# --- the reader goes away ---


@WATCHED_KINDS
async def test_reader_goes_away(kind, caplog):
    caplog.set_level(logging.INFO, "asyncio")
    async with write_pipe(kind) as (transport, protocol, far):
        far.close()
        assert await protocol.lost is None
        assert transport.is_closing()
        await released(pipe_of(transport))
        assert protocol.calls == ["connection_made", "connection_lost"]
    assert caplog.records == []


@WATCHED_KINDS
async def test_reader_goes_away_with_data_queued(kind):
    async with write_pipe(kind) as (transport, protocol, far):
        transport.write(PLENTY)
        assert transport.get_write_buffer_size() > 0
        far.close()
        exc = await protocol.lost
        # asyncio notices in one of two ways, and over a socket the second may be a reset.
        assert type(exc) is BrokenPipeError or kind == "socket" and type(exc) is ConnectionResetError
        assert transport.get_write_buffer_size() == 0
        assert protocol.calls == ["connection_made", "pause_writing", "connection_lost"]


@WATCHED_KINDS
async def test_write_to_a_reader_that_is_gone(kind):
    """The loop has not looked yet, so that the write finds out."""
    async with write_pipe(kind) as (transport, protocol, far):
        far.close()
        transport.write(b"x")
        transport.write(b"y")
        exc = await protocol.lost
        assert type(exc) is BrokenPipeError and exc.errno == errno.EPIPE
        await settle()
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_reader_goes_away_while_flushing():
    """close() has been called, and then the queued data cannot be sent: connection_lost gets the error."""
    async with write_pipe() as (transport, protocol, far):
        transport.write(PLENTY)
        transport.close()
        far.close()
        assert type(await protocol.lost) is BrokenPipeError
        assert protocol.calls.count("connection_lost") == 1


async def test_reader_that_answers():
    """Nothing should come from the reading side of a pipe. If data comes, it counts as the end."""
    async with write_pipe("socket") as (transport, protocol, far):
        far.send(b"answer")
        assert await protocol.lost is None
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_fifo_with_another_reader():
    """The transport ends only when the last reader has closed."""
    near, far = make_ends("fifo", near_reads=False)
    transport, protocol = await asyncio.get_running_loop().connect_write_pipe(WriteRecorder, near)
    with FarEnd(open(os.dup(far.fileno()), "rb", buffering=0)) as second:
        far.close()
        await settle()
        assert not transport.is_closing()
        transport.write(b"hello")
        assert await second.read(5) == b"hello"
    assert await protocol.lost is None
    await released(near)


async def test_terminal_whose_master_is_gone(caplog):
    """An idle terminal is not watched. The error of the next write ends the transport, and is not reported."""
    caplog.set_level(logging.INFO, "asyncio")
    async with write_pipe("slave") as (transport, protocol, far):
        far.close()
        await settle()
        assert protocol.calls == ["connection_made"]
        assert not transport.is_closing()
        transport.write(b"x")
        exc = await protocol.lost
        assert type(exc) is OSError and exc.errno == errno.EIO
        assert protocol.calls == ["connection_made", "connection_lost"]
    assert caplog.records == []


async def test_null_device():
    """/dev/null cannot be polled, and need not be, because it takes everything at once."""
    near = open("/dev/null", "wb", buffering=0)
    transport, protocol = await asyncio.get_running_loop().connect_write_pipe(WriteRecorder, near)
    for _ in range(10):
        transport.write(PLENTY)
        assert transport.get_write_buffer_size() == 0
        await asyncio.sleep(0)
    assert protocol.calls == ["connection_made"]
    transport.close()
    assert await protocol.lost is None
    await released(near)
    assert protocol.calls == ["connection_made", "connection_lost"]


async def test_closed_in_connection_made():
    """What was written is sent all the same, also if the pipe is full."""

    class Hasty(WriteRecorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(PLENTY)
            transport.close()

    reading, writing = os.pipe()
    with open(reading, "rb", 0) as far:
        near = open(writing, "wb", 0)
        _, protocol = await asyncio.get_running_loop().connect_write_pipe(Hasty, near)
        received = await asyncio.to_thread(far.readall)
        assert await protocol.lost is None
        await released(near)
    assert received == PLENTY
