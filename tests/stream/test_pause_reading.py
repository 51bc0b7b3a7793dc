"""pause_reading and resume_reading are exact, whatever the kernel holds and wherever they are called.

Only reading is paused here; pausing the writer is in test_flow_control.py.
"""

import asyncio
from typing import Any

import pytest

from support.peers import BufferedRecorder, Recorder, arrived, connection, reads_in_the_next_turn, settle

KINDS = pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])


@KINDS
async def test_pause_and_resume(factory):
    async with connection(factory) as (transport, protocol, peer):
        assert transport.is_reading() is True
        assert transport.pause_reading() is None
        assert transport.is_reading() is False
        peer.send(b"held")
        await arrived(transport, 4)
        await settle()
        assert protocol.calls == ["connection_made"]
        assert transport.resume_reading() is None
        assert transport.is_reading() is True
        assert protocol.calls == ["connection_made"]  # not inside the call
        assert await protocol.read(4) == b"held"


@KINDS
async def test_resumed_transport_reads_in_the_next_turn(factory):
    async with connection(factory) as (transport, protocol, peer):
        await reads_in_the_next_turn(transport, protocol, peer)


@KINDS
async def test_twice_is_as_good_as_once(factory):
    async with connection(factory) as (transport, protocol, peer):
        transport.resume_reading()
        transport.pause_reading()
        transport.pause_reading()
        assert transport.is_reading() is False
        peer.send(b"one")
        await arrived(transport, 3)
        await settle()
        assert bytes(protocol.data) == b""
        transport.resume_reading()
        transport.resume_reading()
        assert transport.is_reading() is True
        assert await protocol.read(3) == b"one"
        peer.send(b"two")
        assert await protocol.read(6) == b"onetwo"


@KINDS
async def test_pause_when_data_is_already_due(factory):
    """The loop may already know of the data, or have scheduled the callback. pause_reading still prevents the call."""
    loop = asyncio.get_running_loop()
    async with connection(factory) as (transport, protocol, peer):
        for round_ in range(20):
            before = len(protocol.data)
            peer.send(b"x" * 10)
            await arrived(transport, 10 - (len(protocol.data) - before))
            transport.pause_reading()
            seen = len(protocol.data)
            await settle()
            assert len(protocol.data) == seen
            loop.call_soon(transport.resume_reading)
            await protocol.read(10 * (round_ + 1))
        assert bytes(protocol.data) == b"x" * 200


@KINDS
async def test_pause_inside_the_callback(factory: Any):
    """There is one call between two pauses, though the kernel holds more than one read takes."""
    size = 2 * 1024 * 1024
    sent = bytes(range(256)) * (size // 256)

    class Sipping(factory):
        def received(self, data):
            self.transport.pause_reading()
            self.sips += 1
            super().received(data)

        sips = 0

    async with connection(Sipping) as (transport, protocol, peer):
        sending = asyncio.create_task(peer.send_all(sent))
        while len(protocol.data) < size:
            sips = protocol.sips
            await protocol.read(len(protocol.data) + 1)
            assert protocol.sips == sips + 1
            assert transport.is_reading() is False
            if sips < 20:  # often enough for every read there could be
                if size - len(protocol.data):
                    await arrived(transport, 1)
                await settle()
                assert protocol.sips == sips + 1
            transport.resume_reading()
        assert bytes(protocol.data) == sent
        await sending


@KINDS
async def test_pause_and_resume_inside_the_callback(factory: Any):
    class Blinking(factory):
        def received(self, data):
            self.transport.pause_reading()
            super().received(data)
            self.transport.resume_reading()

    sent = bytes(range(256)) * 4096
    async with connection(Blinking) as (_, protocol, peer):
        sending = asyncio.create_task(peer.send_all(sent))
        assert await protocol.read(len(sent)) == sent
        await sending


@KINDS
async def test_pause_in_connection_made(factory: Any):
    class Shy(factory):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async with connection(Shy) as (transport, protocol, peer):
        peer.send(b"hello")
        await arrived(transport, 5)
        await settle()
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        assert await protocol.read(5) == b"hello"


@KINDS
async def test_eof_waits_for_resume(factory):
    async with connection(factory) as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"last words")
        peer.send_eof()
        await arrived(transport, 10, ended=True)
        await settle()
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        assert await protocol.lost is None
        assert bytes(protocol.data) == b"last words"
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


async def test_pause_before_eof():
    """The callback that receives the last bytes pauses reading: the EOF behind them waits, too."""

    class Pausing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    async with connection(Pausing) as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"x")
        peer.send_eof()
        await arrived(transport, 1, ended=True)
        transport.resume_reading()
        await protocol.read(1)
        await settle()
        assert protocol.calls == ["connection_made", "data_received"]
        transport.resume_reading()
        assert await protocol.lost is None
        assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]


async def test_reset_waits_for_resume():
    """A paused transport reports the loss of its peer once it reads again. The loop sleeps until then."""
    async with connection() as (transport, protocol, peer):
        transport.pause_reading()
        peer.reset()
        await arrived(transport, 0, ended=True)
        await settle()
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        assert isinstance(await protocol.lost, ConnectionResetError)
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_writing_goes_on_while_paused():
    async with connection() as (transport, protocol, peer):
        transport.pause_reading()
        transport.write(b"hello")
        assert await peer.read(5) == b"hello"
        data = bytes(range(256)) * 16384
        transport.write(data)
        assert await peer.read(len(data)) == data
        transport.resume_reading()
        peer.send(b"x")
        assert await protocol.read(1) == b"x"


@pytest.mark.parametrize("paused", [False, True])
async def test_after_close_nothing_is_read(paused):
    async with connection() as (transport, protocol, peer):
        if paused:
            transport.pause_reading()
        peer.send(b"unread")
        await arrived(transport, 6)
        transport.close()
        assert transport.is_reading() is False
        assert transport.pause_reading() is None
        assert transport.resume_reading() is None
        assert transport.is_reading() is False
        assert await protocol.lost is None
        assert transport.pause_reading() is None
        assert transport.resume_reading() is None
        await settle()
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_set_protocol_while_paused():
    async with connection() as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"for the other")
        await arrived(transport, 13)
        successor = BufferedRecorder()
        transport.set_protocol(successor)
        await settle()
        assert successor.calls == []
        transport.resume_reading()
        assert await successor.read(13) == b"for the other"
        assert protocol.calls == ["connection_made"]
