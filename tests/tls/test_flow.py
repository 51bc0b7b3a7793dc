"""Write flow control of TLS transports: pause_writing and resume_writing with a peer that does not read.

The limits themselves are set in test_transport.py; protocols that raise here are in
test_outcomes_protocol.py. Where asyncio counts only what its TLS layer holds, a loop may count what the socket's
transport holds as well: when exactly writing pauses is not asked here, but that it does, and in bounds.
"""

import asyncio

import pytest

from support.peers import Recorder, on_asyncio, settle
from support.tls_peers import BufferedRecorder, tls_connection

SIDES = pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
BLOCK = bytes(range(256)) * 256

# asyncio's TLS pauses at 512 KiB, and passes each write to its socket's transport as a whole.
BOUND = 4 << 20


def fill(transport, protocol):
    """Writes until writing is paused; returns how many bytes."""
    written = 0
    while protocol.calls[-1] != "pause_writing":
        transport.write(BLOCK)
        written += len(BLOCK)
        assert written < BOUND
    return written


async def resumed(protocol):
    while protocol.calls[-1] != "resume_writing":
        await asyncio.sleep(0)


@SIDES
@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
async def test_pause_and_resume(factory, server_side):
    async with tls_connection(factory, server_side=server_side, buffers=65536) as (transport, protocol, peer):
        for _ in range(3):
            written = fill(transport, protocol)
            assert await peer.read(written) == BLOCK * (written // len(BLOCK))
            await resumed(protocol)
        assert protocol.calls == ["connection_made", *["pause_writing", "resume_writing"] * 3]


async def test_pause_is_told_inside_write():
    async with tls_connection(buffers=65536) as (transport, protocol, _):
        before = 0
        while True:
            transport.write(BLOCK)
            if protocol.calls[-1] == "pause_writing":
                break
            before += len(BLOCK)
            assert before < BOUND


async def test_paused_once():
    """However much more is written, writing is paused only once."""
    async with tls_connection(buffers=65536) as (transport, protocol, _):
        fill(transport, protocol)
        for _ in range(10):
            transport.write(BLOCK)
        await settle()
        assert protocol.calls.count("pause_writing") == 1


async def test_not_resumed_before_the_low_limit():
    """The peer reads a little of what is queued. Writing is not resumed for that."""
    if on_asyncio():
        pytest.skip("asyncio forgets what it has handed to its socket's transport")
    async with tls_connection(buffers=65536) as (transport, protocol, peer):
        written = fill(transport, protocol)
        transport.write(bytes(4 << 20))
        assert await peer.read(1000) == BLOCK[:1000]
        await settle()
        assert protocol.calls.count("resume_writing") == 0
        assert len(await peer.read(written + (4 << 20) - 1000)) == written + (4 << 20) - 1000
        await resumed(protocol)


async def test_buffer_size_counts_what_is_queued():
    async with tls_connection(buffers=65536) as (transport, protocol, peer):
        written = fill(transport, protocol)
        size = transport.get_write_buffer_size()
        transport.write(BLOCK)
        assert transport.get_write_buffer_size() >= size + len(BLOCK)
        await peer.read(written + len(BLOCK))
        while transport.get_write_buffer_size():
            await asyncio.sleep(0)


async def test_nothing_queued_when_the_peer_reads():
    async with tls_connection() as (transport, protocol, peer):
        for _ in range(20):
            transport.write(b"x" * 1000)
            await peer.read(1000)
            await settle()
            assert transport.get_write_buffer_size() == 0
        assert protocol.calls == ["connection_made"]


async def test_high_limit_of_zero():
    """Every write that leaves something in the queue pauses the protocol, and each pause is followed by a resume."""
    async with tls_connection(buffers=4096) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        await settle()
        while protocol.calls[-1] == "pause_writing":  # asyncio takes a limit of zero as reached by an empty queue
            protocol.calls.pop()
        protocol.calls[1:] = []
        transport.write(bytes(1 << 20))
        transport.write(bytes(1 << 20))
        assert len(await peer.read(2 << 20)) == 2 << 20
        await settle()
        assert transport.get_write_buffer_size() == 0


async def test_lowered_limit_pauses_at_once():
    """set_write_buffer_limits compares the new limits with what is queued."""
    async with tls_connection(buffers=4096) as (transport, protocol, _):
        transport.set_write_buffer_limits(high=64 << 20)
        for _ in range(32):
            transport.write(BLOCK)
        assert protocol.calls == ["connection_made"]
        transport.set_write_buffer_limits(high=1024)
        assert protocol.calls == ["connection_made", "pause_writing"]


async def test_raised_limit_resumes_at_once():
    async with tls_connection(buffers=65536) as (transport, protocol, _):
        fill(transport, protocol)
        transport.set_write_buffer_limits(high=64 << 20, low=32 << 20)
        assert protocol.calls[-1] == "resume_writing"


async def test_writing_in_resume_writing():
    """The protocol goes on writing in resume_writing."""

    class Sender(Recorder):
        rest = 64
        stopped = False

        def go_on(self):
            while self.rest and not self.stopped:
                self.rest -= 1
                self.transport.write(BLOCK)

        def pause_writing(self):
            super().pause_writing()
            self.stopped = True

        def resume_writing(self):
            super().resume_writing()
            self.stopped = False
            self.go_on()

    async with tls_connection(Sender, buffers=65536) as (transport, protocol, peer):
        protocol.go_on()
        assert protocol.rest > 0
        assert await peer.read(64 * len(BLOCK)) == BLOCK * 64
        assert protocol.rest == 0


async def test_reading_goes_on_while_writing_is_paused():
    async with tls_connection(buffers=65536) as (transport, protocol, peer):
        fill(transport, protocol)
        peer.send(b"still heard")
        assert await protocol.read(11) == b"still heard"


async def test_closed_while_paused():
    """What is queued is sent after close(), without a resume_writing."""
    async with tls_connection(buffers=65536) as (transport, protocol, peer):
        written = fill(transport, protocol)
        transport.close()
        data = await peer.read_until_end()
        assert len(data) == written
        assert peer.ended == "close_notify"
        await peer.unwrap()
        assert await protocol.lost is None
        assert protocol.calls[-1] == "connection_lost"


async def test_aborted_while_paused():
    async with tls_connection(buffers=65536) as (transport, protocol, _):
        fill(transport, protocol)
        transport.abort()
        assert await protocol.lost is None
        assert protocol.calls[-1] == "connection_lost"


async def test_memory_is_bounded_by_the_program():
    """Data that the peer does not read is kept in memory once."""
    async with tls_connection(buffers=65536) as (transport, protocol, peer):
        written = 0
        for _ in range(160):
            transport.write(BLOCK)
            written += len(BLOCK)
        assert transport.get_write_buffer_size() <= written * 1.1
        assert await peer.read(written) == BLOCK * 160
