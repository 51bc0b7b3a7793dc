"""The file that a pipe transport works on: what may be one, who owns it, when it is closed.

Reading and writing are in test_read.py and test_write.py.
"""

import asyncio
import contextlib
import gc
import os
import re
import socket
import warnings
import weakref

import pytest

from support.peers import Recorder, resolve, settle
from support.pipe_peers import KINDS, Counted, FarEnd, WriteRecorder, is_closed, make_ends, released

ALL_KINDS = pytest.mark.parametrize("kind", KINDS)

REFUSALS = {
    "read": "Pipe transport is for pipes/sockets only.",
    "write": "Pipe transport is only for pipes, sockets and character devices",
}
DIRECTIONS = pytest.mark.parametrize("direction", ["read", "write"])


async def connect(direction, file, factory=None):
    loop = asyncio.get_running_loop()
    if direction == "read":
        return await loop.connect_read_pipe(factory or Recorder, file)
    return await loop.connect_write_pipe(factory or WriteRecorder, file)


@contextlib.asynccontextmanager
async def connected(direction, kind="pipe", wrap=lambda file: file):
    """(transport, protocol, the file that the loop got, far end)"""
    near, far = make_ends(kind, direction == "read")
    given = wrap(near)
    with FarEnd(far) as far_end:
        transport, protocol = await connect(direction, given)
        try:
            yield transport, protocol, given, far_end
        finally:
            transport.close()
            await released(near)


# --- what is a pipe ---


@DIRECTIONS
@ALL_KINDS
async def test_what_a_pipe_is(direction, kind):
    async with connected(direction, kind) as (transport, protocol, file, _):
        # asyncio's write transport is an instance of ReadTransport, too.
        assert isinstance(transport, asyncio.ReadTransport if direction == "read" else asyncio.WriteTransport)
        assert isinstance(transport, asyncio.Transport) == (direction == "write")
        assert isinstance(protocol, asyncio.BaseProtocol)
        assert protocol.transport is transport  # type: ignore[attr-defined]
        assert transport.get_protocol() is protocol
        assert transport.is_closing() is False
        assert transport.get_extra_info("pipe") is file
        assert transport.get_extra_info("socket") is None
        assert transport.get_extra_info("socket", "default") == "default"


@DIRECTIONS
async def test_regular_file(direction, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hello")
    with open(path, "r+b") as file:
        with pytest.raises(ValueError) as info:
            await connect(direction, file)
        assert str(info.value) == REFUSALS[direction]
        assert type(info.value) is ValueError
        gc.collect()
        # The file is neither closed nor changed.
        assert file.read() == b"hello"
        assert os.get_blocking(file.fileno())


@DIRECTIONS
async def test_other_files(direction, tmp_path):
    @contextlib.contextmanager
    def opened(fileno):
        with open(fileno, "rb", buffering=0) as file:
            yield file

    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with opened(os.eventfd(1)) as event, opened(os.memfd_create("memory")) as memory:
            for file in event, memory, Counted(event):
                with pytest.raises(ValueError, match=re.escape(REFUSALS[direction])):
                    await connect(direction, file)
                assert not is_closed(file)
        number = type("Number", (), {"fileno": lambda self: folder, "close": lambda self: None})()
        with pytest.raises(ValueError, match=re.escape(REFUSALS[direction])):
            await connect(direction, number)
    finally:
        os.close(folder)


# The transport that asyncio has begun to make warns when it is collected.
HALF_MADE = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@HALF_MADE
@DIRECTIONS
async def test_what_is_no_file(direction):
    near, far = make_ends("pipe", direction == "read")
    with near, far:
        for wrong in near.fileno(), None, "pipe":
            with pytest.raises(AttributeError, match="has no attribute 'fileno'"):
                await connect(direction, wrong)
    with pytest.raises(ValueError, match="I/O operation on closed file"):
        await connect(direction, near)


@HALF_MADE
@DIRECTIONS
async def test_number_of_a_closed_file(direction):
    near, far = make_ends("pipe", direction == "read")
    far.close()
    gone = type("Gone", (), {"fileno": lambda self: number, "close": lambda self: None})()  # type: ignore[has-type]
    number = near.fileno()
    near.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        await connect(direction, gone)


@DIRECTIONS
async def test_factory_that_raises(direction):
    def factory():
        raise ZeroDivisionError("no protocol")

    near, far = make_ends("pipe", direction == "read")
    with near, far:
        with pytest.raises(ZeroDivisionError, match="no protocol"):
            await connect(direction, near, factory)
        assert os.get_blocking(near.fileno())


async def test_device_that_cannot_be_polled(loop_errors):
    """asyncio notices too late to raise: there is a transport, which never receives anything."""
    near = open("/dev/null", "rb", buffering=0)
    transport, protocol = await connect("read", near)
    await settle()
    (context,) = loop_errors
    loop_errors.clear()
    assert context["message"].startswith("Exception in callback ")
    assert isinstance(context["exception"], PermissionError)
    assert protocol.calls == ["connection_made"]
    transport.close()
    assert await protocol.lost is None
    await released(near)


# --- who owns the file ---


@DIRECTIONS
@ALL_KINDS
async def test_made_non_blocking(direction, kind):
    near, far = make_ends(kind, direction == "read")
    assert os.get_blocking(near.fileno())
    assert os.get_blocking(far.fileno())
    transport, protocol = await connect(direction, near)
    assert not os.get_blocking(near.fileno())
    # Each end of a terminal or a pipe has its own mode.
    assert os.get_blocking(far.fileno())
    transport.close()
    await protocol.lost
    await released(near)
    far.close()


@DIRECTIONS
@pytest.mark.parametrize("end", ["close", "far end", "far end then close"])
async def test_closed_once_by_its_object(direction, end):
    """The file stays open until connection_lost has returned. Then the loop calls the object's close(), once."""
    closed_at_the_end = []

    def noting(self, exc):
        closed_at_the_end.append(self.transport.get_extra_info("pipe").closed)
        base.connection_lost(self, exc)

    base = Recorder if direction == "read" else WriteRecorder
    factory = type("Noting", (base,), {"connection_lost": noting})
    near, far = make_ends("pipe", direction == "read")
    given = Counted(near)
    with FarEnd(far) as far_end:
        transport, protocol = await connect(direction, given, factory)
        if end != "close":
            far_end.close()
        if end != "far end":
            transport.close()
        assert given.closed == 0
        await protocol.lost
        await released(near)
        assert closed_at_the_end == [0]
        del transport, protocol
        gc.collect()
        await settle()
        assert given.closed == 1


@contextlib.contextmanager
def socket_pair_at(number):
    """A socket pair. The first socket has this number."""
    near, far = socket.socketpair()
    if far.fileno() == number:
        near, far = far, near
    elif near.fileno() != number:
        os.dup2(near.fileno(), number, inheritable=False)
        near.close()
        near = socket.socket(fileno=number)
    with near, far:
        near.setblocking(False)
        yield near, far


@DIRECTIONS
async def test_number_is_forgotten(direction):
    """Once the file is closed the loop watches nothing under its number, which can be used again at once."""
    loop = asyncio.get_running_loop()
    for _ in range(3):
        async with connected(direction) as (transport, protocol, file, far):
            number = file.fileno()
            if direction == "write":
                transport.write(bytes(1 << 20))
            far.close()
            await protocol.lost
            await released(file)
        with socket_pair_at(number) as (near, far):
            assert loop.remove_reader(near) is False
            assert loop.remove_writer(near) is False
            far.send(b"x")
            seen = loop.create_future()
            loop.add_reader(near, resolve, seen, None)
            await seen
            assert loop.remove_reader(near) is True


@DIRECTIONS
async def test_cancelled_connect(direction):
    """The call is cancelled. Nobody gets the transport, so that it and its file are closed."""
    near, far = make_ends("pipe", direction == "read")
    with far:
        task = asyncio.create_task(connect(direction, near))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await released(near)


# --- names ---


@DIRECTIONS
async def test_repr(direction):
    async with connected(direction) as (transport, protocol, file, _):
        number = file.fileno()
        text = repr(transport)
        assert re.fullmatch(rf"<\w+ fd={number}\b.*>", text)
        assert "clos" not in text
        if direction == "write":
            assert text.endswith(" bufsize=0>")
            transport.write(bytes(1 << 20))
            assert repr(transport).endswith(f" bufsize={transport.get_write_buffer_size()}>")
            transport.abort()
        transport.close()
        assert re.fullmatch(rf"<\w+ closing fd={number}\b.*>", repr(transport))
        await protocol.lost
        await released(file)
        assert re.fullmatch(rf"<\w+ closed fd={number} closed>", repr(transport))


@DIRECTIONS
async def test_identity(direction):
    """A transport is hashable, compares by identity, and can have attributes of the program."""
    async with connected(direction) as (one, _, _, _), connected(direction) as (two, _, _, _):
        assert len({one, two}) == 2
        assert one == one and one != two
        assert weakref.ref(one)() is one
        one.note = "mine"
        assert one.note == "mine"


# --- nobody closes it ---


@DIRECTIONS
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_unclosed(loop_factory, direction, kind):
    loop = loop_factory()
    near, far = make_ends(kind, direction == "read")
    number = near.fileno()
    with far:
        transport, protocol = loop.run_until_complete(connect(direction, near))
        loop.close()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del transport, protocol, loop
            gc.collect()
        texts = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
        assert len([text for text in texts if re.fullmatch(rf"unclosed transport <.*fd={number}\b.*>", text)]) == 1
        assert is_closed(near)


@DIRECTIONS
def test_closed_transport_does_not_warn(loop_factory, direction):
    async def use():
        async with connected(direction):
            pass

    loop = loop_factory()
    loop.run_until_complete(use())
    loop.close()
    gc.collect()


@DIRECTIONS
def test_transport_of_a_closed_loop(loop_factory, direction):
    """A transport of a closed loop is useless, but using it must not crash."""
    loop = loop_factory()
    near, far = make_ends("pipe", direction == "read")
    with far:
        transport, protocol = loop.run_until_complete(connect(direction, near))
        loop.close()
        assert f"fd={near.fileno()}" in repr(transport)
        assert transport.is_closing() is False
        with pytest.raises(RuntimeError, match="^Event loop is closed$"):
            transport.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del transport, protocol, loop
            gc.collect()
        assert is_closed(near)


async def test_two_transports_of_one_terminal():
    """Standard input and output are often one terminal under two numbers."""
    near, far = make_ends("slave", near_reads=True)
    twin = open(os.dup(near.fileno()), "wb", buffering=0)
    with FarEnd(far) as far_end:
        reading, reader = await connect("read", near)
        writing, writer = await connect("write", twin)
        far_end.send(b"question")
        assert await reader.read(8) == b"question"
        writing.write(b"answer")
        assert await far_end.read(6) == b"answer"
        reading.close()
        await released(near)
        writing.write(b"more")
        assert await far_end.read(4) == b"more"
        writing.close()
        await released(twin)
