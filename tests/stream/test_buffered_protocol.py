"""BufferedProtocol: buffers of every kind, and get_buffer or buffer_updated that misbehave.

What Protocol and BufferedProtocol have in common is tested for both in the other files.
"""

import asyncio
from typing import Any

import pytest

from support.peers import BufferedRecorder, arrived, connection, settle


class Into(BufferedRecorder):
    """Receives into the buffers that `make` returns, and keeps all of them."""

    make: Any = None

    def get_buffer(self, sizehint):
        self.hint = sizehint
        self.buffer = type(self).make()
        return self.buffer


@pytest.mark.parametrize(
    "make",
    [
        lambda: bytearray(1),
        lambda: bytearray(7),
        lambda: bytearray(4096),
        lambda: bytearray(1 << 20),
        lambda: memoryview(bytearray(100)),
        lambda: memoryview(bytearray(100))[50:60],
    ],
    ids=["1 byte", "7 bytes", "4 KiB", "1 MiB", "memoryview", "slice"],
)
async def test_buffers(make):
    kind = type("Kind", (Into,), {"make": staticmethod(make)})
    size = min(memoryview(make()).nbytes * 200, 2 << 20)
    sent = bytes(number % 251 for number in range(size))
    async with connection(kind) as (_, protocol, peer):
        sending = asyncio.create_task(peer.send_all(sent))
        assert await protocol.read(size) == sent
        await sending
        assert isinstance(protocol.hint, int)
        peer.send_eof()
        assert await protocol.lost is None
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


async def test_count_is_never_more_than_the_buffer_holds():
    counts = []

    class Counting(BufferedRecorder):
        size = 10

        def buffer_updated(self, nbytes):
            counts.append(nbytes)
            super().buffer_updated(nbytes)

    async with connection(Counting) as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"x" * 95)
        await arrived(transport, 95)
        transport.resume_reading()
        await protocol.read(95)
    assert counts == [10] * 9 + [5]


async def test_only_what_was_received_is_written():
    async with connection(BufferedRecorder) as (_, protocol, peer):
        protocol.buffer[:] = b"#" * len(protocol.buffer)
        peer.send(b"hello")
        await protocol.read(5)
        assert protocol.buffer[:10] == b"hello#####"
        assert set(protocol.buffer[5:]) == {ord("#")}


async def test_the_buffer_is_let_go_after_each_call():
    """The loop keeps no view of the buffer: a bytearray that somebody views cannot be resized."""

    class Growing(BufferedRecorder):
        size = 4

        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.buffer.extend(bytes(len(self.buffer)))

    async with connection(Growing) as (_, protocol, peer):
        sent = bytes(range(256)) * 8
        peer.send(sent)
        assert await protocol.read(len(sent)) == sent
        peer.send_eof()
        assert await protocol.lost is None
        assert len(protocol.buffer) >= 8
        protocol.buffer.clear()


async def test_pause_in_get_buffer():
    """A pause in get_buffer is too late for this read, and in time for the next one."""

    class Pausing(BufferedRecorder):
        size = 4

        def get_buffer(self, sizehint):
            self.transport.pause_reading()
            return super().get_buffer(sizehint)

    async with connection(Pausing) as (transport, protocol, peer):
        peer.send(b"12345678")
        assert await protocol.read(4) == b"1234"
        await settle()
        assert bytes(protocol.data) == b"1234"
        transport.resume_reading()
        assert await protocol.read(8) == b"12345678"


# --- get_buffer that misbehaves ---


async def fails(loop_errors, kind):
    """The peer sends, and a protocol of `kind` fails. Returns the reported message and connection_lost's error."""
    async with connection(kind) as (transport, protocol, peer):
        peer.send(b"hello")
        exc = await protocol.lost
        assert transport.is_closing()
        assert protocol.calls == ["connection_made", "connection_lost"]
        (context,) = loop_errors
        loop_errors.clear()
        assert context["transport"] is transport
        assert context["protocol"] is protocol
        assert context["exception"] is exc
        assert set(context) == {"message", "exception", "transport", "protocol"}
        return context["message"], exc


@pytest.mark.parametrize("empty", [b"", bytearray(), memoryview(b"")], ids=lambda empty: type(empty).__name__)
async def test_empty_buffer(loop_errors, empty):
    class Empty(BufferedRecorder):
        def get_buffer(self, sizehint):
            return empty

    message, exc = await fails(loop_errors, Empty)
    assert message == "Fatal error: protocol.get_buffer() call failed."
    assert type(exc) is RuntimeError
    assert str(exc) == "get_buffer() returned an empty buffer"


@pytest.mark.parametrize("wrong", [None, 5])
async def test_no_buffer(loop_errors, wrong):
    class Wrong(BufferedRecorder):
        def get_buffer(self, sizehint):
            return wrong

    message, exc = await fails(loop_errors, Wrong)
    assert message == "Fatal error: protocol.get_buffer() call failed."
    assert type(exc) is TypeError


@pytest.mark.parametrize("wrong", [b"read-only", memoryview(b"read-only"), "text", [1]], ids=repr)
async def test_buffer_that_cannot_be_written(loop_errors, wrong):
    class Wrong(BufferedRecorder):
        def get_buffer(self, sizehint):
            return wrong

    message, exc = await fails(loop_errors, Wrong)
    assert message == "Fatal read error on socket transport"
    assert type(exc) is TypeError


async def test_get_buffer_that_raises(loop_errors):
    class Raising(BufferedRecorder):
        def get_buffer(self, sizehint):
            raise ZeroDivisionError("no buffer")

    message, exc = await fails(loop_errors, Raising)
    assert message == "Fatal error: protocol.get_buffer() call failed."
    assert repr(exc) == "ZeroDivisionError('no buffer')"


async def test_buffer_updated_that_raises(loop_errors):
    class Raising(BufferedRecorder):
        def buffer_updated(self, nbytes):
            raise ZeroDivisionError("no update")

    message, exc = await fails(loop_errors, Raising)
    assert message == "Fatal error: protocol.buffer_updated() call failed."
    assert repr(exc) == "ZeroDivisionError('no update')"


async def test_close_in_buffer_updated():
    class Closing(BufferedRecorder):
        size = 4

        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.transport.close()

    async with connection(Closing) as (_, protocol, peer):
        peer.send(b"12345678")
        assert await protocol.lost is None
        assert protocol.calls == ["connection_made", "buffer_updated", "connection_lost"]
        assert bytes(protocol.data) == b"1234"


@pytest.mark.parametrize("method", ["close", "abort"])
async def test_end_in_get_buffer(method):
    """The read for which get_buffer was called is the last one."""

    class Ending(BufferedRecorder):
        size = 4

        def get_buffer(self, sizehint):
            getattr(self.transport, method)()
            return super().get_buffer(sizehint)

    async with connection(Ending) as (_, protocol, peer):
        peer.send(b"12345678")
        assert await protocol.lost is None
        assert bytes(protocol.data) in (b"", b"1234")
        assert protocol.calls[-1] == "connection_lost"
        assert protocol.calls.count("connection_lost") == 1


async def test_get_buffer_is_not_called_without_data():
    class Counting(BufferedRecorder):
        asked = 0

        def get_buffer(self, sizehint):
            self.asked += 1
            return super().get_buffer(sizehint)

    async with connection(Counting) as (_, protocol, peer):
        await settle()
        assert protocol.asked == 0
        for number in range(3):
            peer.send(b"x")
            await protocol.read(number + 1)
        await settle()
        # Each buffer is filled, or the read for which it was asked found the socket empty.
        assert protocol.calls.count("buffer_updated") == 3
        assert 3 <= protocol.asked <= 6
