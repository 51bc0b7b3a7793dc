"""One direction closed before the other: write_eof, eof_received, and data that comes together with the FIN.

EOF while reading is paused is in test_pause_reading.py.
"""

import asyncio
import sys
from typing import Any

import pytest

from support.peers import BufferedRecorder, Recorder, arrived, connection, released, settle

KINDS = pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])


class Listening(Recorder):
    keep_open = True


class BufferedListening(BufferedRecorder):
    keep_open = True


# --- our EOF ---


async def test_write_eof():
    async with connection() as (transport, protocol, peer):
        assert transport.can_write_eof() is True
        transport.write(b"question")
        assert transport.write_eof() is None
        assert await peer.read_until_eof() == b"question"
        assert transport.is_closing() is False
        peer.send(b"answer")
        assert await protocol.read(6) == b"answer"
        peer.send_eof()
        assert await protocol.lost is None


async def test_write_eof_twice():
    async with connection() as (transport, _, peer):
        transport.write_eof()
        transport.write_eof()
        assert await peer.read_until_eof() == b""
        transport.write_eof()
        assert transport.is_closing() is False


async def test_write_after_write_eof():
    async with connection() as (transport, protocol, peer):
        transport.write(b"all")
        transport.write_eof()
        for data in (b"more", b""):
            with pytest.raises(RuntimeError) as info:
                transport.write(data)
            assert str(info.value) == "Cannot call write() after write_eof()"
        for lines in ([b"more"], []):
            with pytest.raises(RuntimeError) as info:
                transport.writelines(lines)
            # Until 3.11 writelines joined its data and called write.
            method = "writelines" if sys.version_info >= (3, 12) else "write"
            assert str(info.value) == f"Cannot call {method}() after write_eof()"
        with pytest.raises(TypeError):
            transport.write("no data")
        assert await peer.read_until_eof() == b"all"
        transport.close()
        with pytest.raises(RuntimeError):
            transport.write(b"more")
        assert await protocol.lost is None


async def test_write_eof_after_close():
    async with connection() as (transport, protocol, peer):
        transport.close()
        transport.write_eof()
        assert await protocol.lost is None
        transport.write_eof()
        assert transport.can_write_eof() is True
        assert await peer.read_until_eof() == b""


async def test_write_eof_with_data_queued():
    data = bytes(range(256)) * 4096
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(data)
        transport.write_eof()
        assert transport.get_write_buffer_size() > 0
        with pytest.raises(RuntimeError):
            transport.write(b"more")
        # The other direction is received meanwhile.
        peer.send(b"meanwhile")
        assert await protocol.read(9) == b"meanwhile"
        assert await peer.read_until_eof() == data
        assert transport.is_closing() is False
        peer.send(b"still there")
        assert await protocol.read(20) == b"meanwhilestill there"


async def test_write_eof_and_close_with_data_queued():
    data = bytes(range(256)) * 4096
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(data)
        transport.write_eof()
        transport.close()
        assert await peer.read_until_eof() == data
        assert await protocol.lost is None


async def test_write_eof_in_connection_made():
    class Brief(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"hello")
            transport.write_eof()

    async with connection(Brief) as (_, protocol, peer):
        assert await peer.read_until_eof() == b"hello"
        peer.send(b"bye")
        assert await protocol.read(3) == b"bye"


async def test_write_eof_in_data_received():
    class OneAnswer(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if len(self.data) == 3:
                self.transport.write(self.data.upper())
                self.transport.write_eof()

    async with connection(OneAnswer) as (_, protocol, peer):
        peer.send(b"one")
        assert await peer.read_until_eof() == b"ONE"
        peer.send(b"two")
        assert await protocol.read(6) == b"onetwo"
        peer.send_eof()
        assert await protocol.lost is None


def test_write_eof_while_the_loop_does_not_run(loop):
    async def connect():
        stack = connection()
        return stack, await stack.__aenter__()

    stack, (transport, _, peer) = loop.run_until_complete(connect())
    transport.write(b"x")
    transport.write_eof()
    assert peer.sock.recv(10) == b"x"
    assert peer.sock.recv(10) == b""
    loop.run_until_complete(stack.__aexit__(None, None, None))


# --- the peer's EOF ---


@pytest.mark.parametrize("answer", [None, False, 0, ""])
@KINDS
async def test_eof_closes(factory: Any, answer):
    class Answering(factory):
        keep_open = answer

    async with connection(Answering) as (transport, protocol, peer):
        peer.send_eof()
        assert await protocol.lost is None
        assert transport.is_closing()
        assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]
        assert await peer.read_until_eof() == b""


@pytest.mark.parametrize("answer", [True, 1, "yes"])
@KINDS
async def test_eof_that_keeps_open(factory: Any, answer):
    class Answering(factory):
        keep_open = answer

    async with connection(Answering) as (transport, protocol, peer):
        peer.send(b"question")
        peer.send_eof()
        await protocol.ended
        await settle()
        assert transport.is_closing() is False
        assert protocol.calls[-1] == "eof_received"
        assert protocol.calls.count("eof_received") == 1
        for _ in range(3):
            transport.write(b"answer")
            assert await peer.read(6) == b"answer"
        data = bytes(range(256)) * 16384
        transport.write(data)
        transport.close()
        assert await peer.read_until_eof() == data
        assert await protocol.lost is None
        assert protocol.calls.count("eof_received") == 1


async def test_write_in_eof_received():
    class LastWords(Recorder):
        def eof_received(self):
            self.transport.write(b"last words")
            return super().eof_received()

    async with connection(LastWords) as (_, protocol, peer):
        peer.send_eof()
        assert await peer.read_until_eof() == b"last words"
        assert await protocol.lost is None


async def test_eof_with_data_queued():
    """If eof_received returns None, the transport is closed, but only after all data was sent."""
    data = bytes(range(256)) * 4096
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(data)
        peer.send_eof()
        await protocol.ended
        assert transport.is_closing()
        assert transport.get_write_buffer_size() > 0
        assert await peer.read_until_eof() == data
        assert await protocol.lost is None


async def test_close_in_eof_received():
    class Closing(Recorder):
        keep_open = True

        def eof_received(self):
            self.transport.close()
            return super().eof_received()

    async with connection(Closing) as (_, protocol, peer):
        peer.send_eof()
        assert await protocol.lost is None
        assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]


async def test_abort_in_eof_received():
    class Aborting(Recorder):
        def eof_received(self):
            self.transport.abort()
            return super().eof_received()

    async with connection(Aborting) as (_, protocol, peer):
        peer.send_eof()
        assert await protocol.lost is None
        assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]


async def test_set_protocol_in_eof_received():
    successor = Recorder()

    class Leaving(Recorder):
        def eof_received(self):
            self.transport.set_protocol(successor)
            return super().eof_received()

    async with connection(Leaving) as (_, protocol, peer):
        peer.send_eof()
        assert await successor.lost is None
        assert protocol.calls == ["connection_made", "eof_received"]
        assert successor.calls == ["connection_lost"]


@pytest.mark.parametrize("size", [1, 1000, 65536, 100_000, 262_144])
@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder, Listening, BufferedListening])
async def test_data_and_fin_together(factory, size):
    """One event reports both data and FIN. A loop that stops at a short read would never see the end."""
    sent = bytes(range(256)) * (size // 256 + 1)
    async with connection(factory) as (transport, protocol, peer):
        transport.pause_reading()
        sending = asyncio.create_task(peer.send_all(sent[:size]))
        sending.add_done_callback(lambda _: peer.send_eof())
        if size <= 65536:
            await arrived(transport, size, ended=True)
        transport.resume_reading()
        await protocol.ended
        assert bytes(protocol.data) == sent[:size]
        if protocol.keep_open:
            transport.close()
        assert await protocol.lost is None
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
        await sending


async def test_both_ends_write_eof():
    async with connection(Listening) as (transport, protocol, peer):
        transport.write(b"x")
        transport.write_eof()
        peer.send(b"y")
        peer.send_eof()
        await protocol.ended
        assert bytes(protocol.data) == b"y"
        await settle()
        # Both directions have ended, but the protocol has to close the transport.
        assert transport.is_closing() is False
        assert await peer.read_until_eof() == b"x"
        transport.close()
        assert await protocol.lost is None
        assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]


async def test_peer_gone_while_half_open():
    """After the peer's EOF only a write can tell that the peer is gone."""
    async with connection(Listening) as (transport, protocol, peer):
        peer.send_eof()
        await protocol.ended
        peer.close()
        await settle()
        assert protocol.calls == ["connection_made", "eof_received"]
        while not protocol.lost.done():
            transport.write(b"anybody there?")
            await settle()
        assert isinstance(protocol.lost.result(), (BrokenPipeError, ConnectionResetError))
        assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]
        await released(transport)
