"""The end of a transport: close and abort at any moment, connection_lost exactly once, what is left behind.

Connections that end by an error are in test_errors.py.
"""

import asyncio
import socket
from typing import Any

import pytest

from support.datagrams import pair
from support.peers import BufferedRecorder, Recorder, arrived, connection, released, result_or_error, settle, still

PLENTY = bytes(range(256)) * 4096

ENDS = pytest.mark.parametrize("end", ["close", "abort"])
OPENED = pytest.mark.parametrize("opened", [connection, pair], ids=["stream", "datagram"])


# --- connection_lost ---


@OPENED
@ENDS
async def test_connection_lost_is_called_soon(opened, end):
    """connection_lost is not called inside close() or abort(). It has its place among the callbacks of the loop."""
    loop = asyncio.get_running_loop()
    async with opened() as (transport, protocol, _):
        assert transport.is_closing() is False
        loop.call_soon(protocol.calls.append, "before")
        assert getattr(transport, end)() is None
        loop.call_soon(protocol.calls.append, "after")
        assert transport.is_closing() is True
        assert protocol.calls == ["connection_made"]
        assert await protocol.lost is None
        await settle()
        assert protocol.calls == ["connection_made", "before", "connection_lost", "after"]
        assert transport.is_closing() is True


@OPENED
@pytest.mark.parametrize("ends", [("close",) * 3, ("abort",) * 3, ("close", "abort"), ("abort", "close")], ids=str)
async def test_connection_lost_is_called_once(opened, ends):
    async with opened() as (transport, protocol, _):
        for end in ends:
            getattr(transport, end)()
        assert await protocol.lost is None
        await released(transport)
        for end in ends:
            # abort() of a stream transport that is gone fails in asyncio of some versions.
            if end == "close" or opened is pair:
                getattr(transport, end)()
        await still(protocol)
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_abort_when_all_is_over():
    async with connection() as (transport, protocol, _):
        transport.abort()
        assert await protocol.lost is None
        await released(transport)
        transport.abort()
        await still(protocol)
        assert protocol.calls == ["connection_made", "connection_lost"]


@ENDS
@pytest.mark.parametrize("method", ["connection_made", "data_received", "connection_lost"])
async def test_end_inside_a_callback(method, end):
    class Ending(Recorder):
        pass

    def call(self, *args):
        getattr(Recorder, method)(self, *args)
        getattr(self.transport, end)()
        self.calls.append("returned")

    setattr(Ending, method, call)
    async with connection(Ending) as (transport, protocol, peer):
        if method == "data_received":
            peer.send(b"x")
        if method == "connection_lost":
            transport.close()
        assert await protocol.lost is None
        await still(protocol)
        position = protocol.calls.index(method)
        assert protocol.calls[position + 1] == "returned"
        assert protocol.calls.count("connection_lost") == 1


@ENDS
@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
async def test_end_inside_data_received_is_the_end_of_data(factory: Any, end):
    """No data is received after that, though the kernel holds much more."""

    class Ending(factory):
        def received(self, data):
            super().received(data)
            getattr(self.transport, end)()

    async with connection(Ending) as (transport, protocol, peer):
        transport.pause_reading()
        sending = asyncio.create_task(peer.send_all(PLENTY))
        await arrived(transport, 65536)
        transport.resume_reading()
        assert await protocol.lost is None
        await still(protocol)
        assert len(protocol.calls) == 3
        assert len(protocol.data) < len(PLENTY)
        outcome = await result_or_error(sending)
        assert isinstance(outcome, (ConnectionResetError, BrokenPipeError, type(None)))


@ENDS
async def test_end_by_another_callback_of_the_same_turn(end):
    """The data has arrived, but the callback that runs first ends the connection: nothing is received any more."""
    loop = asyncio.get_running_loop()
    async with connection() as (first, one, peer), connection() as (second, two, other):

        def end_other(data, protocol, victim):
            Recorder.data_received(protocol, data)
            getattr(victim, end)()

        one.data_received = lambda data: end_other(data, one, second)
        two.data_received = lambda data: end_other(data, two, first)
        first.pause_reading()
        second.pause_reading()
        peer.send(b"x")
        other.send(b"x")
        await arrived(first, 1)
        await arrived(second, 1)
        loop.call_soon(first.resume_reading)
        loop.call_soon(second.resume_reading)
        await asyncio.wait([one.lost, two.lost], return_when=asyncio.FIRST_COMPLETED)
        await settle()
        survivor, victim = (one, two) if two.lost.done() else (two, one)
        assert victim.calls == ["connection_made", "connection_lost"]
        assert survivor.calls == ["connection_made", "data_received"]


# --- what becomes of the data ---


async def test_close_sends_what_is_queued():
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(PLENTY)
        transport.close()
        assert transport.is_closing()
        await settle()
        assert "connection_lost" not in protocol.calls
        assert await peer.read_until_eof() == PLENTY
        assert await protocol.lost is None


async def test_abort_drops_what_is_queued():
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(PLENTY)
        assert transport.get_write_buffer_size() > 0
        transport.abort()
        assert transport.is_closing()
        assert await protocol.lost is None
        assert len(await peer.read_until_eof()) < len(PLENTY)
        assert protocol.calls == ["connection_made", "pause_writing", "connection_lost"]


async def test_abort_while_flushing():
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(PLENTY)
        transport.close()
        assert transport.get_write_buffer_size() > 0
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        assert await protocol.lost is None
        assert len(await peer.read_until_eof()) < len(PLENTY)
        await still(protocol)


async def test_end_is_told_before_an_error_of_sending():
    """A peer that has closed refuses what is written then. What it sent, and its end, come first."""
    async with connection() as (transport, protocol, peer):
        # The loop finds the data before it calls this, and can send no more after it.
        asyncio.get_running_loop().call_soon(transport.write, bytes(1 << 20))
        peer.send(b"x")
        peer.close()
        assert isinstance(await protocol.lost, BrokenPipeError)
        received = [call for call in protocol.calls if call != "pause_writing"]
        assert received == ["connection_made", "data_received", "eof_received", "connection_lost"]


async def test_abort_sends_what_the_kernel_takes():
    """Data that the kernel takes has been sent before abort(), as on asyncio."""
    async with connection() as (transport, protocol, peer):
        transport.write(b"small")
        transport.abort()
        assert await protocol.lost is None
        assert await peer.read_until_eof() == b"small"


async def test_nothing_is_read_while_flushing():
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(PLENTY)
        transport.close()
        peer.send(b"too late")
        await arrived(transport, 8)
        await settle()
        assert "data_received" not in protocol.calls
        transport.abort()
        assert await protocol.lost is None


async def test_eof_while_flushing():
    """The peer sends its FIN, and still reads all that was written."""
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(PLENTY)
        transport.close()
        peer.send_eof()
        await settle()
        assert await peer.read_until_eof() == PLENTY
        assert await protocol.lost is None
        assert "eof_received" not in protocol.calls


@ENDS
async def test_file_is_closed_by_the_loop(end):
    """The file is closed right after connection_lost, not in some later garbage collection."""
    async with connection() as (transport, protocol, peer):
        sock = transport.get_extra_info("socket")
        number = sock.fileno()
        getattr(transport, end)()
        assert sock.fileno() == number
        await protocol.lost
        await released(transport)
        assert await peer.read_until_eof() == b""
        # Its number can be used again at once, and the loop is not confused.
        again = socket.socket()
        with again, socket.create_server(("127.0.0.1", 0)) as listener:
            again.connect(listener.getsockname())
            far, _ = listener.accept()
            far.sendall(b"hello")
            far.close()
            fresh, other = await asyncio.get_running_loop().create_connection(Recorder, sock=again)
            assert await other.read(5) == b"hello"
            assert await other.lost is None
            await released(fresh)
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_methods_after_the_end():
    """After the end no method raises, and none does anything."""
    async with connection() as (transport, protocol, _):
        transport.close()
        await protocol.lost
        await released(transport)
        transport.pause_reading()
        transport.resume_reading()
        transport.write(b"x")
        transport.write_eof()
        transport.close()
        assert transport.can_write_eof() is True
        assert transport.is_reading() is False
        assert transport.is_closing() is True
        assert transport.get_write_buffer_size() == 0
        assert transport.get_write_buffer_limits() == (16384, 65536)
        assert "closed" in repr(transport)
        await still(protocol)
