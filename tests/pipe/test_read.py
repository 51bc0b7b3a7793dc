"""connect_read_pipe: what is received over every kind of pipe, and how it ends.

pause_reading is in test_pause.py, writing in test_write.py, the file that a transport works on
(and what is no pipe) in test_files.py.
"""

import asyncio
import errno
import gc
import logging
import os
import re

import pytest

from support.peers import Recorder, raising, resolve, settle
from support.pipe_peers import KINDS, FarEnd, fifo_files, is_closed, make_ends, read_pipe, released

ALL_KINDS = pytest.mark.parametrize("kind", KINDS)
# The master of a terminal ends by an error instead of an EOF.
ENDING_KINDS = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "master"])

BIG = bytes(range(256)) * (8 * 4096)


# --- data ---


@ALL_KINDS
async def test_data(kind):
    async with read_pipe(kind) as (_, protocol, far):
        assert protocol.calls[0] == "connection_made"
        far.send(b"hello")
        assert await protocol.read(5) == b"hello"
        far.send(b" world")
        assert await protocol.read(11) == b"hello world"
        assert set(protocol.calls) == {"connection_made", "data_received"}


@ALL_KINDS
async def test_data_is_bytes(kind):
    received = asyncio.get_running_loop().create_future()

    class Keeping(Recorder):
        def data_received(self, data):
            resolve(received, data)

    async with read_pipe(kind, Keeping) as (_, _, far):
        far.send(b"hello")
        assert type(await received) is bytes


@ENDING_KINDS
async def test_end(kind):
    async with read_pipe(kind) as (transport, protocol, far):
        far.send(b"last words")
        await protocol.read(10)
        assert transport.is_closing() is False
        far.close()
        assert await protocol.lost is None
        assert transport.is_closing() is True
        assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]


@pytest.mark.parametrize("kind", ["pipe", "fifo", "socket"])
async def test_data_and_end_before_anybody_reads(kind):
    near, far = make_ends(kind, near_reads=True)
    with FarEnd(far) as far_end:
        far_end.send(b"last words")
    _, protocol = await asyncio.get_running_loop().connect_read_pipe(Recorder, near)
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert bytes(protocol.data) == b"last words"
    await released(near)


async def test_end_without_data():
    async with read_pipe() as (_, protocol, far):
        far.close()
        assert await protocol.lost is None
        assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]


async def test_end_of_a_socket_that_is_half_closed():
    async with read_pipe("socket") as (_, protocol, far):
        far.send(b"hello")
        far.file.shutdown(1)
        assert await protocol.lost is None
        assert bytes(protocol.data) == b"hello"
        assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]


async def test_pipe_cannot_be_kept_open():
    """eof_received cannot keep a pipe open, because nothing can be done with a read end that has ended."""

    class Keeping(Recorder):
        keep_open = True

    async with read_pipe(factory=Keeping) as (transport, protocol, far):
        far.close()
        assert await protocol.lost is None
        assert transport.is_closing()


@ALL_KINDS
async def test_much_data(kind):
    data = BIG[: 1 << 20] if kind in ("master", "slave") else BIG
    async with read_pipe(kind) as (_, protocol, far):
        sending = asyncio.create_task(far.send_all(data))
        assert await protocol.read(len(data)) == data
        await sending
        far.close()
        await protocol.lost
        assert len(protocol.data) == len(data)


async def test_two_pipes_at_a_time():
    async with read_pipe() as (_, one, first), read_pipe("socket") as (_, two, second):
        sending = asyncio.gather(first.send_all(BIG), second.send_all(BIG[::-1]))
        assert await one.read(len(BIG)) == BIG
        assert await two.read(len(BIG)) == BIG[::-1]
        await sending


async def test_stream_reader():
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    near, far = make_ends("pipe", near_reads=True)
    with FarEnd(far) as far_end:
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), near)
        far_end.send(b"one\ntwo\nrest")
        assert await reader.readline() == b"one\n"
        assert await reader.readline() == b"two\n"
        # This is more than the reader's limit, so that it pauses and resumes its transport.
        sending = asyncio.create_task(far_end.send_all(BIG))
        assert await reader.readexactly(4 + len(BIG)) == b"rest" + BIG
        await sending
    assert await reader.read() == b""
    await released(near)


async def test_transport_that_nobody_holds():
    """The loop keeps the transport as long as data may come."""
    loop = asyncio.get_running_loop()
    received, lost = loop.create_future(), loop.create_future()

    class Careless(asyncio.Protocol):
        def data_received(self, data):
            resolve(received, data)

        def connection_lost(self, exc):
            resolve(lost, exc)

    near, far = make_ends("pipe", near_reads=True)
    with FarEnd(far) as far_end:
        await loop.connect_read_pipe(Careless, near)
        gc.collect()
        far_end.send(b"hello")
        assert await received == b"hello"
    assert await lost is None
    await released(near)


# --- a FIFO's writers come and go ---


async def test_fifo_that_nobody_writes_yet(tmp_path):
    """A read of a FIFO without writers gives EOF, but this must not end the transport."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    near = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0)
    _, protocol = await asyncio.get_running_loop().connect_read_pipe(Recorder, near)
    await settle()
    assert protocol.calls == ["connection_made"]
    with open(path, "wb", buffering=0) as writer:
        writer.write(b"hello")
        assert await protocol.read(5) == b"hello"
        await settle()
        assert not protocol.lost.done()
    assert await protocol.lost is None
    await released(near)


async def test_fifo_of_two_writers(tmp_path):
    near, far = fifo_files()
    transport, protocol = await asyncio.get_running_loop().connect_read_pipe(Recorder, near)
    with open(os.dup(far.fileno()), "wb", buffering=0) as second:
        second.write(b"one")
        assert await protocol.read(3) == b"one"
        far.close()
        await settle()
        assert not transport.is_closing()
        second.write(b"two")
        assert await protocol.read(6) == b"onetwo"
    assert await protocol.lost is None
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
    await released(near)


# --- errors of the file ---


async def test_terminal_whose_programs_have_ended(caplog):
    """Linux gives EIO to the master when the last program has closed its side. This is an EOF, and is not reported."""
    caplog.set_level(logging.DEBUG, "asyncio")
    async with read_pipe("master") as (transport, protocol, far):
        far.send(b"bye")
        assert await protocol.read(3) == b"bye"
        far.close()
        exc = await protocol.lost
        assert type(exc) is OSError and exc.errno == errno.EIO
        assert transport.is_closing()
        assert protocol.calls == ["connection_made", "data_received", "connection_lost"]
    assert caplog.records == []


async def test_reset(loop_errors):
    """Any other error of the file is reported, unlike those of connections."""
    near, far = make_ends("socket", near_reads=True)
    near.send(b"never read")
    far.close()
    transport, protocol = await asyncio.get_running_loop().connect_read_pipe(Recorder, near)
    exc = await protocol.lost
    assert type(exc) is ConnectionResetError and exc.errno == errno.ECONNRESET
    assert loop_errors == [
        {
            "message": "Fatal read error on pipe transport",
            "exception": exc,
            "transport": transport,
            "protocol": protocol,
        }
    ]
    loop_errors.clear()
    assert protocol.calls == ["connection_made", "connection_lost"]
    await released(near)


# --- the end that the program chooses ---


@ALL_KINDS
async def test_close(kind):
    loop = asyncio.get_running_loop()
    async with read_pipe(kind) as (transport, protocol, far):
        pipe = transport.get_extra_info("pipe")
        loop.call_soon(protocol.calls.append, "before")
        assert transport.close() is None
        loop.call_soon(protocol.calls.append, "after")
        assert transport.is_closing() is True
        assert transport.is_reading() is False
        assert not is_closed(pipe)
        transport.close()
        assert protocol.calls == ["connection_made"]
        assert await protocol.lost is None
        await released(pipe)
        await settle()
        assert protocol.calls == ["connection_made", "before", "connection_lost", "after"]


@pytest.mark.parametrize("kind", ["pipe", "fifo", "socket"])
async def test_nothing_is_received_after_close(kind):
    async with read_pipe(kind) as (transport, protocol, far):
        far.send(b"unread")
        transport.close()
        transport.resume_reading()
        transport.pause_reading()
        assert await protocol.lost is None
        await settle()
        assert protocol.calls == ["connection_made", "connection_lost"]


@pytest.mark.parametrize("method", ["connection_made", "data_received", "eof_received", "connection_lost"])
async def test_close_inside_a_callback(method):
    def call(self, *args):
        getattr(Recorder, method)(self, *args)
        self.transport.close()
        self.calls.append("returned")

    ending = type("Ending", (Recorder,), {method: call})
    async with read_pipe(factory=ending) as (_, protocol, far):
        if method != "connection_made":
            far.send(b"x")
            far.close()
        assert await protocol.lost is None
        await settle()
        assert protocol.calls[protocol.calls.index(method) + 1] == "returned"
        assert protocol.calls.count("connection_lost") == 1


async def test_methods_after_the_end():
    async with read_pipe() as (transport, protocol, far):
        far.close()
        await protocol.lost
        await released(transport.get_extra_info("pipe"))
        transport.close()
        transport.pause_reading()
        transport.resume_reading()
        assert transport.is_closing() is True
        assert transport.is_reading() is False
        assert "closed" in repr(transport)
        await settle()
        assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]


# --- the protocol ---


async def test_set_protocol():
    async with read_pipe() as (transport, protocol, far):
        far.send(b"one")
        await protocol.read(3)
        successor = Recorder()
        assert transport.get_protocol() is protocol
        assert transport.set_protocol(successor) is None
        assert transport.get_protocol() is successor
        far.send(b"two")
        assert await successor.read(3) == b"two"
        far.close()
        assert await successor.lost is None
        assert successor.calls == ["data_received", "eof_received", "connection_lost"]
        assert protocol.calls == ["connection_made", "data_received"]


ERRORS = pytest.mark.parametrize("error", [ZeroDivisionError, OSError, asyncio.CancelledError])


@ERRORS
@pytest.mark.parametrize("method", ["connection_made", "data_received"])
async def test_method_that_raises(method, error, loop_errors):
    """The exception is reported, as for any callback, and the loop goes on reading."""
    error = error("why")
    async with read_pipe(factory=raising(method, error)) as (transport, protocol, far):
        far.send(b"x")
        await protocol.read(1)
        far.send(b"y")
        await protocol.read(2)
        await settle()
        assert not transport.is_closing()
        for context in loop_errors:
            assert context["message"].startswith("Exception in callback ")
            assert context["exception"] is error
        assert len(loop_errors) == protocol.calls.count(method)
        loop_errors.clear()
        far.close()
        assert await protocol.lost is None


@ERRORS
@pytest.mark.parametrize("method", ["eof_received", "connection_lost"])
async def test_last_method_that_raises(method, error, loop_errors):
    """The exception is reported, and the end goes on as usual."""
    error = error("why")
    async with read_pipe(factory=raising(method, error)) as (transport, protocol, far):
        far.close()
        assert await protocol.lost is None
        await released(transport.get_extra_info("pipe"))
        await settle()
        (context,) = loop_errors
        loop_errors.clear()
        assert context["message"].startswith("Exception in callback ")
        assert context["exception"] is error
        assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exit_in_data_received(loop, error):
    """The exit leaves the loop. The pipe is still read when the loop runs again."""

    class Leaving(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if len(self.data) == 3:
                raise error("now")

    near, far = make_ends("pipe", near_reads=True)
    with FarEnd(far) as far_end:

        async def connect():
            return await loop.connect_read_pipe(Leaving, near)

        _, protocol = loop.run_until_complete(connect())
        far_end.send(b"one")
        with pytest.raises(error, match="now"):
            loop.run_forever()
        far_end.send(b"two")
        assert loop.run_until_complete(protocol.read(6)) == b"onetwo"
        far_end.close()
        assert loop.run_until_complete(protocol.lost) is None
        loop.run_until_complete(released(near))


# --- what is logged in debug mode ---


async def test_debug_log(caplog):
    caplog.set_level(logging.DEBUG, "asyncio")
    asyncio.get_running_loop().set_debug(True)
    async with read_pipe() as (transport, protocol, far):
        fileno = transport.get_extra_info("pipe").fileno()
        transport.pause_reading()
        transport.resume_reading()
        far.close()
        await protocol.lost
    asyncio.get_running_loop().set_debug(False)
    texts = [record.getMessage() for record in caplog.records]
    for pattern in (
        rf"Read pipe {fileno} connected: \(<.*fd={fileno}.*>, <.*Recorder object.*>\)",
        rf"<.*fd={fileno}.*> pauses reading",
        rf"<.*fd={fileno}.*> resumes reading",
        rf"<.*fd={fileno}.*> was closed by peer",
    ):
        assert any(re.fullmatch(pattern, text) for text in texts), pattern
