"""What becomes of received bytes in asyncio's `StreamReader`: its buffer, who waits, the limit, the end.

On Python 3.11, and from 3.13 on, rloop does the work of `data_received` and `feed_data` natively where nobody can tell
the difference. Here are the programs that could: they subclass, replace methods, watch calls, or change the reader.
test_streams.py has what most programs do.
"""

import asyncio
import contextvars
import gc
import sys
import threading
import traceback

import pytest

from support.peers import Peer, settle, socket_pair


class Pair:
    """A stream over one end of a connection, with a peer on the other end."""

    def __init__(self, protocol_class=asyncio.StreamReaderProtocol, reader_class=asyncio.StreamReader, limit=2**16):
        self.classes = protocol_class, reader_class
        self.limit = limit

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        protocol_class, reader_class = self.classes
        near, far = socket_pair()
        self.peer = Peer(far)
        self.reader = reader_class(limit=self.limit, loop=loop)
        self.protocol = protocol_class(self.reader, loop=loop)
        self.transport, _ = await loop.create_connection(lambda: self.protocol, sock=near)
        self.writer = asyncio.StreamWriter(self.transport, self.protocol, self.reader, loop)
        return self

    async def __aexit__(self, *exc_info):
        self.writer.close()
        await settle()
        self.peer.close()

    async def receives(self, data):
        """Sends data to the stream, and lets the loop see it."""
        self.peer.send(data)
        await settle()


async def test_bytes_are_added_to_the_buffer():
    async with Pair() as pair:
        buffer = pair.reader._buffer
        data = b"".join(number.to_bytes(4, "big") for number in range(20_000))
        end = 0
        for size in (1, 10, 1000, 5000, 30_000, 30_000, 7, 4000, 2):
            await pair.receives(data[end : end + size])
            end += size
            assert bytes(buffer) == data[:end]
        assert pair.reader._buffer is buffer
        assert await pair.reader.readexactly(end) == data[:end]
        assert not pair.reader._buffer


@pytest.mark.parametrize("method", ["feed_data", "_wakeup_waiter"])
@pytest.mark.parametrize("where", ["subclass", "class", "instance", "code"])
async def test_replaced_method_of_the_reader(monkeypatch, method, where):
    calls = []
    original = getattr(asyncio.StreamReader, method)

    def replacement(self, *args):
        calls.append(args)
        return original(self, *args)

    reader_class: type[asyncio.StreamReader] = asyncio.StreamReader
    if where == "subclass":
        reader_class = type("Reader", (asyncio.StreamReader,), {method: replacement})
    async with Pair(reader_class=reader_class) as pair:
        await pair.receives(b"first")
        before = len(calls)
        assert bool(before) is (where == "subclass")
        if where == "class":
            monkeypatch.setattr(asyncio.StreamReader, method, replacement)
        elif where == "instance":
            setattr(pair.reader, method, lambda *args: replacement(pair.reader, *args))
        elif where == "code":
            watch_code(monkeypatch, original, calls)
        await pair.receives(b"second")
        assert len(calls) == before + 1
        monkeypatch.undo()
        assert await pair.reader.readexactly(11) == b"firstsecond"


def watch_code(monkeypatch, function, calls):
    """Gives a function other code, which adds to `calls` before it does what the function does."""
    copy = type(function)(function.__code__, function.__globals__, function.__name__)
    code = (lambda self, *args: (self._calls.append(args), self._copy(self, *args))[1]).__code__
    # The replacing code has no closure, so that what it needs is on the class.
    monkeypatch.setattr(asyncio.StreamReader, "_calls", calls, raising=False)
    monkeypatch.setattr(asyncio.StreamReader, "_copy", staticmethod(copy), raising=False)
    monkeypatch.setattr(function, "__code__", code)


@pytest.mark.parametrize("where", ["subclass", "class", "instance", "__class__"])
async def test_replaced_method_of_the_protocol(monkeypatch, where):
    calls = []
    original = asyncio.StreamReaderProtocol.data_received

    def replacement(self, data):
        calls.append(data)
        return original(self, data)

    subclass = type("Protocol", (asyncio.StreamReaderProtocol,), {"data_received": replacement})
    async with Pair(protocol_class=subclass if where == "subclass" else asyncio.StreamReaderProtocol) as pair:
        await pair.receives(b"first")
        assert calls == ([b"first"] if where == "subclass" else [])
        calls.clear()
        if where == "class":
            monkeypatch.setattr(asyncio.StreamReaderProtocol, "data_received", replacement)
        elif where == "instance":
            # A transport of asyncio looks the method up for each read.
            pair.protocol.data_received = lambda data: replacement(pair.protocol, data)
        elif where == "__class__":
            pair.protocol.__class__ = subclass
        await pair.receives(b"second")
        assert calls == [b"second"]
        monkeypatch.undo()
        assert await pair.reader.readexactly(11) == b"firstsecond"


async def test_replaced_property_of_the_protocol(monkeypatch):
    async with Pair() as pair, Pair() as other:
        await pair.receives(b"mine")
        monkeypatch.setattr(asyncio.StreamReaderProtocol, "_stream_reader", property(lambda self: other.reader))
        await pair.receives(b"yours")
        monkeypatch.undo()
        await pair.receives(b"again")
        assert bytes(other.reader._buffer) == b"yours"
        assert bytes(pair.reader._buffer) == b"mineagain"


async def test_attribute_access_of_a_class(monkeypatch):
    """A class that gets a `__getattribute__` of its own sees every attribute that is looked up."""
    names = []

    def looked_up(self, name):
        names.append(name)
        return object.__getattribute__(self, name)

    async with Pair() as pair:
        await pair.receives(b"first")
        monkeypatch.setattr(asyncio.StreamReader, "__getattribute__", looked_up, raising=False)
        await pair.receives(b"second")
        monkeypatch.undo()
        assert "feed_data" in names
        assert bytes(pair.reader._buffer) == b"firstsecond"


@pytest.mark.parametrize(
    ("get", "set_"), [(sys.gettrace, sys.settrace), (sys.getprofile, sys.setprofile)], ids=["trace", "profile"]
)
async def test_function_that_watches_sees_the_calls(get, set_):
    calls = []

    def watch(frame, event, arg):
        if event == "call":
            calls.append(frame.f_code.co_name)

    async with Pair() as pair:
        await pair.receives(b"first")
        before = get()
        set_(watch)
        try:
            await pair.receives(b"second")
        finally:
            set_(before)
        assert [name for name in calls if name in ("data_received", "feed_data")] == ["data_received", "feed_data"]
        assert bytes(pair.reader._buffer) == b"firstsecond"


FED = {
    "data_received": asyncio.StreamReaderProtocol.data_received,
    "_stream_reader": vars(asyncio.StreamReaderProtocol)["_stream_reader"].fget,
    "feed_data": asyncio.StreamReader.feed_data,
    "_wakeup_waiter": vars(asyncio.StreamReader)["_wakeup_waiter"],
}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is new in Python 3.12")
@pytest.mark.parametrize("scope", ["everywhere", "another thread", *FED])
@pytest.mark.parametrize("event_name", ["PY_START", "PY_RETURN", "LINE"])
async def test_monitoring_tool_sees_the_calls(scope, event_name):
    """A tool watches all functions, or one of those that take in received bytes."""
    monitoring = sys.monitoring  # type: ignore[attr-defined]
    tool = next(tool for tool in range(6) if monitoring.get_tool(tool) is None)
    event = getattr(monitoring.events, event_name)
    seen = []

    def set_events(wanted):
        if scope in FED:
            monitoring.set_local_events(tool, FED[scope].__code__, wanted)
        else:
            monitoring.set_events(tool, wanted)

    async with Pair() as pair:
        await pair.receives(b"first")
        monitoring.use_tool_id(tool, "test")
        try:
            await pair.receives(b"second")
            monitoring.register_callback(tool, event, lambda code, *where: seen.append(code.co_name))
            if scope == "another thread":
                thread = threading.Thread(target=set_events, args=(event,))
                thread.start()
                thread.join()
            else:
                set_events(event)
            await pair.receives(b"third")
            set_events(0)
            monitoring.register_callback(tool, event, None)
        finally:
            monitoring.free_tool_id(tool)
        counts = {name: seen.count(name) for name in FED if name in seen}
        assert counts.keys() == ({scope} if scope in FED else FED.keys())
        if event_name != "LINE":
            assert set(counts.values()) == {1}
        await pair.receives(b"fourth")
        assert bytes(pair.reader._buffer) == b"firstsecondthirdfourth"


async def test_limit_pauses_and_reading_resumes():
    async with Pair(limit=100) as pair:
        await pair.receives(b"x" * 200)
        assert (pair.reader._paused, pair.transport.is_reading()) == (False, True)
        await pair.receives(b"x")
        assert (pair.reader._paused, pair.transport.is_reading()) == (True, False)
        await pair.receives(b"y" * 10)
        assert len(pair.reader._buffer) == 201
        assert await pair.reader.readexactly(201) == b"x" * 201
        assert (pair.reader._paused, pair.transport.is_reading()) == (False, True)
        assert await pair.reader.readexactly(10) == b"y" * 10


@pytest.mark.parametrize(("limit", "pauses"), [(2.4, True), (2.5, False), (2**70, False), (True, True)])
async def test_limit_that_is_no_usual_int(limit, pauses):
    async with Pair(limit=limit) as pair:
        await pair.receives(b"12345")
        assert pair.reader._paused is pauses
        assert await pair.reader.readexactly(5) == b"12345"


async def test_transport_that_cannot_pause():
    class Transport:
        def pause_reading(self):
            raise NotImplementedError

    async with Pair(limit=1) as pair:
        pair.reader._transport = Transport()
        await pair.receives(b"12345")
        assert pair.reader._transport is None
        assert (pair.reader._paused, pair.transport.is_reading()) == (False, True)


async def test_pause_that_fails(loop_errors):
    error = ZeroDivisionError("why")

    class Transport:
        def pause_reading(self):
            raise error

    async with Pair(limit=1) as pair:
        pair.reader._transport = Transport()
        await pair.receives(b"12345")
        assert pair.transport.is_closing()
        assert pair.reader.exception() is error
        with pytest.raises(ZeroDivisionError):
            await pair.writer.wait_closed()
    [report] = loop_errors
    assert report["exception"] is error
    assert report["message"] == "Fatal error: protocol.data_received() call failed."
    loop_errors.clear()


async def test_waiter_is_woken_once():
    async with Pair() as pair:
        waiter = pair.reader._waiter = asyncio.get_running_loop().create_future()
        await pair.receives(b"one")
        assert (waiter.result(), pair.reader._waiter) == (None, None)
        await pair.receives(b"two")
        assert bytes(pair.reader._buffer) == b"onetwo"


async def test_cancelled_waiter():
    async with Pair() as pair:
        waiter = pair.reader._waiter = asyncio.get_running_loop().create_future()
        waiter.cancel()
        await pair.receives(b"one")
        assert pair.reader._waiter is None
        assert bytes(pair.reader._buffer) == b"one"


async def test_waiter_that_is_done(loop_errors):
    async with Pair() as pair:
        waiter = pair.reader._waiter = asyncio.get_running_loop().create_future()
        waiter.set_result(1)
        await pair.receives(b"one")
        assert (pair.reader._waiter, bytes(pair.reader._buffer)) == (None, b"one")
        with pytest.raises(asyncio.InvalidStateError):
            await pair.writer.wait_closed()
    assert isinstance(loop_errors[0]["exception"], asyncio.InvalidStateError)
    loop_errors.clear()


async def test_data_after_feed_eof(loop_errors):
    async with Pair() as pair:
        pair.reader.feed_eof()
        await pair.receives(b"more")
        assert not pair.reader._buffer
        with pytest.raises(AssertionError):
            await pair.writer.wait_closed()
    [report] = loop_errors
    assert str(report["exception"]) == "feed_data after feed_eof"
    assert report["exception"].__traceback__ is not None
    loop_errors.clear()


@pytest.mark.parametrize("size", [1, 20_000])
async def test_buffer_that_is_exported(loop_errors, size):
    async with Pair() as pair:
        await pair.receives(b"x" * size)
        with memoryview(pair.reader._buffer):
            await pair.receives(b"y" * size)
        assert bytes(pair.reader._buffer) == b"x" * size
        with pytest.raises(BufferError):
            await pair.writer.wait_closed()
    assert isinstance(loop_errors[0]["exception"], BufferError)
    loop_errors.clear()


def test_python_frames_of_a_read(loop, loop_name):
    """rloop wakes who waits without a frame of asyncio's streams; only a waiter that looks at the stack sees that."""
    frames = []

    class Waiter:
        def cancelled(self):
            return False

        def set_result(self, result):
            frames.extend(frame.name for frame in traceback.extract_stack())

    async def main():
        async with Pair() as pair:
            pair.reader._waiter = Waiter()
            await pair.receives(b"data")
            assert bytes(pair.reader._buffer) == b"data"

    before = sys.gettrace(), sys.getprofile()
    loop.run_until_complete(main())
    assert "set_result" in frames
    watched = before != (None, None)
    assert ("feed_data" in frames) is (loop_name == "asyncio" or watched or sys.version_info[:2] == (3, 12))


async def test_buffer_of_another_type():
    class Buffer(bytearray):
        def extend(self, data):
            super().extend(data.upper())

    async with Pair() as pair:
        pair.reader._buffer = Buffer(b"1")
        await pair.receives(b"abc")
        assert await pair.reader.readexactly(4) == b"1ABC"


async def test_reader_with_an_exception_still_gets_data():
    async with Pair() as pair:
        pair.reader.set_exception(ZeroDivisionError("why"))
        await pair.receives(b"data")
        assert bytes(pair.reader._buffer) == b"data"
        with pytest.raises(ZeroDivisionError):
            await pair.reader.read(1)


async def test_reader_that_is_gone():
    async with Pair() as pair:
        reference = pair.protocol._stream_reader_wr
        pair.reader = pair.writer._reader = None
        gc.collect()
        assert reference() is None
        await pair.receives(b"nobody")
        assert not pair.transport.is_closing()


async def test_reader_of_the_protocol_is_replaced():
    async with Pair() as pair, Pair() as other:
        pair.protocol._stream_reader_wr = other.protocol._stream_reader_wr
        await pair.receives(b"data")
        pair.protocol._stream_reader_wr = None
        await pair.receives(b"lost")
        assert not pair.reader._buffer
        assert bytes(other.reader._buffer) == b"data"


async def test_protocol_is_replaced():
    class Other(asyncio.Protocol):
        received = b""

        def data_received(self, data):
            self.received += data

    async with Pair() as pair:
        other = Other()
        await pair.receives(b"a")
        pair.transport.set_protocol(other)
        await pair.receives(b"b")
        pair.transport.set_protocol(pair.protocol)
        await pair.receives(b"c")
        assert other.received == b"b"
        assert await pair.reader.readexactly(2) == b"ac"


async def test_context_of_who_is_woken():
    variable = contextvars.ContextVar("variable", default=0)
    seen = []

    async with Pair() as pair:
        variable.set(1)
        waiter = pair.reader._waiter = asyncio.get_running_loop().create_future()
        waiter.add_done_callback(lambda _: seen.append(variable.get()))
        variable.set(2)
        await pair.receives(b"data")
        assert seen == [1]
