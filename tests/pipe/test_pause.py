"""pause_reading and resume_reading of a pipe are exact, whatever the kernel holds and wherever they are called."""

import asyncio

import pytest

from support.peers import Recorder, once_each, reads_in_the_next_turn, settle
from support.pipe_peers import read_pipe

HOLDING_KINDS = pytest.mark.parametrize("kind", ["pipe", "fifo", "socket"])


@HOLDING_KINDS
async def test_pause_and_resume(kind):
    async with read_pipe(kind) as (transport, protocol, far):
        assert transport.is_reading() is True
        assert transport.pause_reading() is None
        transport.pause_reading()
        assert transport.is_reading() is False
        far.send(b"held")
        await settle()
        assert protocol.calls == ["connection_made"]
        assert transport.resume_reading() is None
        transport.resume_reading()
        assert transport.is_reading() is True
        assert protocol.calls == ["connection_made"]  # not inside the call
        assert await protocol.read(4) == b"held"
        far.send(b", freed")
        assert await protocol.read(11) == b"held, freed"


@HOLDING_KINDS
async def test_resumed_transport_reads_in_the_next_turn(kind):
    async with read_pipe(kind) as (transport, protocol, far):
        await reads_in_the_next_turn(transport, protocol, far)


@HOLDING_KINDS
async def test_end_waits_for_resume(kind):
    async with read_pipe(kind) as (transport, protocol, far):
        transport.pause_reading()
        far.send(b"last words")
        far.close()
        await settle()
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        assert await protocol.lost is None
        assert once_each(protocol.calls) == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert bytes(protocol.data) == b"last words"


@HOLDING_KINDS
async def test_pause_inside_data_received(kind):
    class Sipping(Recorder):
        def data_received(self, data):
            self.transport.pause_reading()
            super().data_received(data)

    data = bytes(range(256)) * 4096
    async with read_pipe(kind, Sipping) as (transport, protocol, far):
        sending = asyncio.create_task(far.send_all(data))
        while len(protocol.data) < len(data):
            received = await protocol.read(len(protocol.data) + 1)
            await settle()
            assert len(protocol.data) == len(received)
            transport.resume_reading()
        assert bytes(protocol.data) == data
        await sending


async def test_pause_between_data_and_end():
    class Pausing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    async with read_pipe(factory=Pausing) as (transport, protocol, far):
        transport.pause_reading()
        far.send(b"x")
        far.close()
        transport.resume_reading()
        await protocol.read(1)
        await settle()
        assert protocol.calls == ["connection_made", "data_received"]
        transport.resume_reading()
        assert await protocol.lost is None
        assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]


async def test_pause_in_connection_made():
    class Shy(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async with read_pipe(factory=Shy) as (transport, protocol, far):
        far.send(b"hello")
        await settle()
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        assert await protocol.read(5) == b"hello"


async def test_close_while_paused():
    async with read_pipe() as (transport, protocol, far):
        transport.pause_reading()
        far.send(b"unread")
        transport.close()
        transport.resume_reading()
        assert transport.is_reading() is False
        assert await protocol.lost is None
        assert protocol.calls == ["connection_made", "connection_lost"]
