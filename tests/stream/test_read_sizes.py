"""Data of every size arrives as it was sent and in order, whatever sizes the reads have.

Where the data ends with a FIN is also looked at in test_half_close.py.
"""

import asyncio
import random

import pytest

from support.peers import BufferedRecorder, Recorder, arrived, connection
from support.pipe_peers import read_pipe

KINDS = pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])


def sample(size):
    """Bytes of which every part differs from every other."""
    return random.Random(size).randbytes(size)


@KINDS
async def test_one_byte_at_a_time(factory):
    sent = sample(300)
    async with connection(factory) as (_, protocol, peer):
        for count in range(1, len(sent) + 1):
            peer.send(sent[count - 1 : count])
            assert await protocol.read(count) == sent[:count]
        assert len(protocol.calls) == 1 + len(sent)


@KINDS
@pytest.mark.parametrize("size", [65536, 1 << 20, 16 << 20])
async def test_large(factory, size):
    sent = sample(size)
    async with connection(factory) as (_, protocol, peer):
        sending = asyncio.create_task(peer.send_all(sent))
        assert await protocol.read(size) == sent
        await sending


@KINDS
async def test_sizes_up_and_down(factory):
    """A loop may adapt the size of its reads. That must neither cut nor pad the data."""
    sizes = [1, 10, 100_000, 1, 1_000_000, 3, 3, 3, 65536, 65537, 65535, 4096, 4095, 4097, 1, 300_000, 2]
    async with connection(factory) as (_, protocol, peer):
        total = 0
        for size in sizes:
            sent = sample(size)
            sending = asyncio.create_task(peer.send_all(sent))
            total += size
            assert (await protocol.read(total))[-size:] == sent
            assert len(protocol.data) == total
            await sending


@KINDS
@pytest.mark.parametrize("size", [2**power + around for power in range(9, 19) for around in (-1, 0, 1)])
async def test_sizes_around_powers_of_two(factory, size):
    sent = sample(size)
    async with connection(factory) as (_, protocol, peer):
        for count in range(1, 4):
            sending = asyncio.create_task(peer.send_all(sent))
            assert (await protocol.read(count * size))[-size:] == sent
            assert len(protocol.data) == count * size
            await sending


@KINDS
@pytest.mark.parametrize("size", [0, 1, 1000, 65536, 65537, 262_144, 1 << 20])
async def test_peer_that_closes_after_sending(factory, size):
    """All the data comes, then the EOF, then the end, and each once."""
    sent = sample(size)
    async with connection(factory) as (_, protocol, peer):
        await asyncio.gather(peer.send_all(sent), protocol.read(min(size, 1)))
        peer.close()
        assert await protocol.lost is None
        assert bytes(protocol.data) == sent
        assert protocol.calls[0] == "connection_made"
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
        assert len(set(protocol.calls[1:-2])) == (1 if size else 0)


@KINDS
@pytest.mark.parametrize("size", [1, 1000, 65535, 65536])
async def test_peer_that_has_closed_before_the_first_read(factory, size):
    sent = sample(size)
    async with connection(factory) as (transport, protocol, peer):
        transport.pause_reading()
        await peer.send_all(sent)
        peer.close()
        await arrived(transport, size, ended=True)
        transport.resume_reading()
        assert await protocol.lost is None
        assert bytes(protocol.data) == sent
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


async def test_many_connections_do_not_mix():
    """Connections may share a buffer, but they must not receive each other's data."""
    count = 20
    sent = [sample(50_000 + number) for number in range(count)]

    async def one(number):
        kind = (Recorder, BufferedRecorder)[number % 2]
        async with connection(kind) as (_, protocol, peer):
            sending = asyncio.create_task(peer.send_all(sent[number]))
            assert await protocol.read(len(sent[number])) == sent[number]
            await sending

    await asyncio.gather(*(one(number) for number in range(count)))


async def test_large_object_is_not_kept_for_a_small_read():
    """A small piece of data after a large read is a small object, not the start of a large one."""
    pieces = []

    class Pieces(Recorder):
        def data_received(self, data):
            pieces.append(data)
            super().data_received(data)

    async with connection(Pieces) as (_, protocol, peer):
        await asyncio.gather(peer.send_all(bytes(1 << 20)), protocol.read(1 << 20))
        pieces.clear()
        for count in range(10):
            peer.send(b"x")
            await protocol.read((1 << 20) + count + 1)
        assert pieces == [b"x"] * 10
        assert {piece.__sizeof__() for piece in pieces} == {b"x".__sizeof__()}


# --- max_size ---


class Sizes(Recorder):
    def __init__(self):
        super().__init__()
        self.sizes = []

    def data_received(self, data):
        self.sizes.append(len(data))
        super().data_received(data)


@pytest.mark.parametrize("kind", [connection, read_pipe])
@pytest.mark.parametrize("size", [1, 100, 4095, 4096, 4097, 20_000, 65_536])
async def test_max_size(kind, size):
    """max_size is how much one read takes at most. asyncio does not document it, but its transports have it."""
    sent = sample(min(5 * size + 1, 100_000))
    async with kind(factory=Sizes) as (transport, protocol, peer):
        assert transport.max_size == 256 * 1024
        transport.max_size = size
        assert transport.max_size == size
        sending = asyncio.create_task(peer.send_all(sent))
        assert await protocol.read(len(sent)) == sent
        await sending
        assert max(protocol.sizes) <= size
        transport.max_size = 256 * 1024
        protocol.sizes.clear()
        peer.send(sample(2000))
        await protocol.read(len(sent) + 2000)
        assert protocol.sizes == [2000]
