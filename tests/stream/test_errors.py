"""What goes wrong on a connection: errors of the network, and protocol methods that raise.

How a connection ends in peace, or is aborted, is in test_end.py. The flow-control callbacks that
raise are in test_flow_control.py, get_buffer in test_buffered_protocol.py.
"""

import asyncio
import errno
import logging
import socket
from typing import Any

import pytest

from support.peers import BufferedRecorder, Peer, Recorder, connection, raising, released, socket_pair

PLENTY = bytes(range(256)) * 4096


# --- the network ---


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
async def test_reset(factory, debug, caplog):
    caplog.set_level(logging.INFO)
    asyncio.get_running_loop().set_debug(debug)
    async with connection(factory) as (transport, protocol, peer):
        peer.reset()
        exc = await protocol.lost
        assert type(exc) is ConnectionResetError
        assert exc.errno == errno.ECONNRESET
        assert transport.is_closing()
        assert protocol.calls == ["connection_made", "connection_lost"]
        await released(transport)
    # The exception handler must not be called for errors of the network: `loop_errors` checks that.
    assert [record for record in caplog.records if "reset" in record.getMessage().lower()] == []


async def test_reset_with_data_queued():
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(PLENTY)
        assert transport.get_write_buffer_size() > 0
        peer.reset()
        assert isinstance(await protocol.lost, (ConnectionResetError, BrokenPipeError))
        assert transport.get_write_buffer_size() == 0
        assert protocol.calls == ["connection_made", "pause_writing", "connection_lost"]


async def test_reset_with_data_queued_while_paused():
    """Reading is paused, so that only the write finds out."""
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.pause_reading()
        transport.write(PLENTY)
        assert transport.get_write_buffer_size() > 0
        peer.reset()
        assert isinstance(await protocol.lost, (ConnectionResetError, BrokenPipeError))
        assert protocol.calls[-1] == "connection_lost"


async def test_broken_pipe():
    async with connection() as (transport, protocol, _):
        transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
        transport.write(b"x")
        exc = await protocol.lost
        assert type(exc) is BrokenPipeError
        assert exc.errno == errno.EPIPE
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_broken_pipe_by_writelines():
    async with connection() as (transport, protocol, _):
        transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
        transport.writelines([b"x", b"y"])
        assert type(await protocol.lost) is BrokenPipeError
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_broken_pipe_while_flushing():
    """close() has been called, and then the queued data cannot be sent: connection_lost gets the error."""
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(PLENTY)
        transport.close()
        assert "connection_lost" not in protocol.calls
        peer.reset()
        assert isinstance(await protocol.lost, (ConnectionResetError, BrokenPipeError))
        assert protocol.calls == ["connection_made", "pause_writing", "connection_lost"]


async def test_reset_after_data():
    """Data that was received before the RST stays received."""
    async with connection() as (_, protocol, peer):
        peer.send(b"x")
        await protocol.read(1)
        peer.reset()
        assert type(await protocol.lost) is ConnectionResetError
        assert protocol.calls == ["connection_made", "data_received", "connection_lost"]


async def test_reset_inside_data_received():
    """The peer resets the connection during data_received, which then answers."""

    class Answering(Recorder):
        def data_received(self, data):
            super().data_received(data)
            peer.reset()
            self.transport.write(b"answer")

    async with connection(Answering) as (_, protocol, peer):
        peer.send(b"x")
        assert isinstance(await protocol.lost, (ConnectionResetError, BrokenPipeError))
        assert protocol.calls == ["connection_made", "data_received", "connection_lost"]


async def test_reset_before_connection_made():
    near, far = socket_pair()
    Peer(far).reset()
    transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=near)
    assert type(await protocol.lost) is ConnectionResetError
    assert protocol.calls == ["connection_made", "connection_lost"]
    await released(transport)


async def test_closed_behind_its_back():
    """If somebody shuts the transport's socket down, the protocol hears of it as an EOF."""
    async with connection() as (transport, protocol, _):
        transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        assert await protocol.lost is None
        assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]


# --- protocol methods that raise ---


ERRORS = pytest.mark.parametrize("kind", [ZeroDivisionError, asyncio.CancelledError])


@ERRORS
@pytest.mark.parametrize(
    ("method", "base"),
    [("data_received", Recorder), ("buffer_updated", BufferedRecorder), ("eof_received", Recorder)],
)
async def test_fatal_methods(method, base, kind, loop_errors):
    """The exception is reported, and connection_lost gets it."""
    error = kind("why")
    async with connection(raising(method, error, base)) as (transport, protocol, peer):
        if method == "eof_received":
            peer.send_eof()
        else:
            peer.send(b"x")
        assert await protocol.lost is error
        assert loop_errors == [
            {
                "message": f"Fatal error: protocol.{method}() call failed.",
                "exception": error,
                "transport": transport,
                "protocol": protocol,
            }
        ]
        loop_errors.clear()
        assert transport.is_closing()
        assert protocol.calls == ["connection_made", method, "connection_lost"]
        # If there are unread bytes, the kernel may send a RST.
        assert await peer.read_until_eof() == b""


@pytest.mark.parametrize("kind", [ConnectionAbortedError, OSError, TimeoutError])
@pytest.mark.parametrize("debug", [False, True])
async def test_os_error_is_not_reported(kind, debug):
    """asyncio treats an OSError as an error of the network, even if the protocol raised it."""
    error = kind("why")
    asyncio.get_running_loop().set_debug(debug)
    async with connection(raising("data_received", error)) as (_, protocol, peer):
        peer.send(b"x")
        assert await protocol.lost is error
        assert protocol.calls == ["connection_made", "data_received", "connection_lost"]


@ERRORS
async def test_connection_made_that_raises(kind, loop_errors):
    """The exception is reported, as for any callback. The connection exists, and goes on."""
    error = kind("why")
    async with connection(raising("connection_made", error)) as (transport, protocol, peer):
        (context,) = loop_errors
        loop_errors.clear()
        assert context["message"].startswith("Exception in callback ")
        assert "connection_made" in context["message"]
        assert context["exception"] is error
        assert not transport.is_closing()
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        transport.write(b"bye")
        assert await peer.read(3) == b"bye"


@ERRORS
async def test_connection_lost_that_raises(kind, loop_errors):
    """The exception is reported, as for any callback. The file is closed all the same."""
    error = kind("why")
    async with connection(raising("connection_lost", error)) as (transport, protocol, peer):
        transport.close()
        await protocol.lost
        await released(transport)
        (context,) = loop_errors
        loop_errors.clear()
        assert context["message"].startswith("Exception in callback ")
        assert context["exception"] is error
        assert protocol.calls == ["connection_made", "connection_lost"]
        assert await peer.read_until_eof() == b""


async def test_connection_lost_that_raises_after_a_reset(loop_errors):
    error = ZeroDivisionError("why")
    async with connection(raising("connection_lost", error)) as (transport, protocol, peer):
        peer.reset()
        assert type(await protocol.lost) is ConnectionResetError
        await released(transport)
        (context,) = loop_errors
        loop_errors.clear()
        assert context["exception"] is error


async def test_both_raise(loop_errors):
    first, second = ZeroDivisionError("first"), ValueError("second")

    base: Any = raising("data_received", first)

    class Raising(base):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise second

    async with connection(Raising) as (transport, protocol, peer):
        peer.send(b"x")
        assert await protocol.lost is first
        await released(transport)
        assert [context["exception"] for context in loop_errors] == [first, second]
        loop_errors.clear()


async def test_data_received_that_writes_and_raises(loop_errors):
    """What data_received wrote before it raised has been sent, if the kernel takes it."""
    error = ZeroDivisionError("why")

    class Raising(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.write(b"500 sorry")
            raise error

    async with connection(Raising) as (_, protocol, peer):
        peer.send(b"x")
        assert await protocol.lost is error
        loop_errors.clear()
        assert await peer.read_until_eof() == b"500 sorry"


async def test_other_connections_go_on(loop_errors):
    error = ZeroDivisionError("why")
    failing = raising("data_received", error)
    async with connection() as (_, good, peer), connection(failing) as (_, bad, other):
        other.send(b"x")
        peer.send(b"hello")
        assert await bad.lost is error
        assert await good.read(5) == b"hello"
        assert good.calls == ["connection_made", "data_received"]
        assert len(loop_errors) == 1
        loop_errors.clear()


async def test_protocol_without_the_method(loop_errors):
    class Deaf:
        def __init__(self):
            self.lost = asyncio.get_running_loop().create_future()

        def connection_made(self, transport):
            pass

        def connection_lost(self, exc):
            self.lost.set_result(exc)

    async with connection(Deaf) as (transport, protocol, peer):
        peer.send(b"x")
        exc = await protocol.lost
        assert type(exc) is AttributeError
        (context,) = loop_errors
        loop_errors.clear()
        assert context["exception"] is exc
        assert context["message"] == "Fatal error: protocol.data_received() call failed."
        assert transport.is_closing()
