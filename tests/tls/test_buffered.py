"""BufferedProtocol over TLS: decrypted data goes into the protocol's own buffers, whatever their size and kind."""

import array
import asyncio
import ssl
from typing import Any

import pytest

from support import certificates
from support.peers import on_asyncio
from support.tls_peers import BufferedRecorder, tls_connection

DATA = bytes(range(256)) * 1024


def with_buffer(size, kind=memoryview):
    class Sized(BufferedRecorder):
        def __init__(self):
            super().__init__()
            self.buffer = bytearray(size)

        def get_buffer(self, sizehint):
            return kind(self.buffer)

    return Sized


@pytest.mark.parametrize("server_side", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7, 1000, 16383, 16384, 16385, 65536, 1 << 20])
async def test_sizes(size, server_side):
    """Buffers are smaller than a record, as large, or larger. Everything arrives, in order."""
    data = DATA[: 200 if size < 100 else len(DATA)]
    async with tls_connection(with_buffer(size), server_side=server_side) as (_, protocol, peer):
        sending = asyncio.create_task(peer.send_all(data))
        assert await protocol.read(len(data)) == data
        await sending
        peer.send(b"and more")
        assert await protocol.read(len(data) + 8) == data + b"and more"


async def test_record_into_a_small_buffer_at_once():
    """The rest of a record is decrypted already, so that no event of the kernel will report it."""
    async with tls_connection(with_buffer(10)) as (_, protocol, peer):
        peer.send(b"0123456789" * 10 + b"end")
        assert await protocol.read(103) == b"0123456789" * 10 + b"end"


async def test_many_records_into_a_small_buffer():
    async with tls_connection(with_buffer(3)) as (_, protocol, peer):
        peer.send_raw(b"".join(peer.encrypt(b"%05d" % number) for number in range(200)))
        assert await protocol.read(1000) == b"".join(b"%05d" % number for number in range(200))


async def test_bytearray_is_a_buffer():
    if on_asyncio():
        pytest.skip("asyncio loses what follows the first record: slices of a bytearray are copies")
    async with tls_connection(with_buffer(65536, lambda buffer: buffer)) as (_, protocol, peer):
        peer.send_raw(peer.encrypt(b"first ") + peer.encrypt(b"second ") + peer.encrypt(b"third"))
        assert await protocol.read(18) == b"first second third"


async def test_buffer_of_larger_items():
    """A buffer with larger items is filled by the byte, as in all of Python."""
    if on_asyncio():
        pytest.skip("asyncio counts items")

    class Wide(BufferedRecorder):
        def __init__(self):
            super().__init__()
            self.array = array.array("I", bytes(4000))

        def get_buffer(self, sizehint):
            return self.array

        def buffer_updated(self, nbytes):
            self.calls.append("buffer_updated")
            self.received(self.array.tobytes()[:nbytes])

    async with tls_connection(Wide) as (_, protocol, peer):
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"


async def test_size_hint_is_a_number():
    hints = []

    class Noting(BufferedRecorder):
        def get_buffer(self, sizehint):
            hints.append(sizehint)
            return super().get_buffer(sizehint)

    async with tls_connection(Noting) as (_, protocol, peer):
        peer.send(b"hello")
        await protocol.read(5)
    assert hints
    assert {type(hint) for hint in hints} == {int}


async def test_a_buffer_for_each_call():
    """get_buffer is called before every piece, and no earlier buffer is written to."""

    class Fresh(BufferedRecorder):
        def __init__(self):
            super().__init__()
            self.given = []

        def get_buffer(self, sizehint):
            self.buffer = bytearray(100)
            self.given.append(self.buffer)
            return memoryview(self.buffer)

        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            assert self.given[-1] is self.buffer

    async with tls_connection(Fresh) as (_, protocol, peer):
        for number in range(10):
            peer.send(b"%03d" % number)
            await protocol.read(3 * (number + 1))
        assert bytes(protocol.data) == b"".join(b"%03d" % number for number in range(10))


async def test_buffer_updated_sees_the_data_before_the_next():
    """The protocol uses one buffer again and again. It copies each piece in buffer_updated, before the next one is
    written.
    """

    class Summing(BufferedRecorder):
        total = 0

        def buffer_updated(self, nbytes):
            self.total += sum(self.buffer[:nbytes])
            super().buffer_updated(nbytes)

    async with tls_connection(Summing) as (_, protocol, peer):
        sending = asyncio.create_task(peer.send_all(DATA))
        await protocol.read(len(DATA))
        await sending
        assert protocol.total == sum(DATA)


async def test_end_after_a_buffer_that_was_filled_exactly():
    async with tls_connection(with_buffer(10)) as (_, protocol, peer):
        peer.send_raw(peer.encrypt(b"0123456789") + peer.close_notify())
        assert await protocol.lost is None
        assert bytes(protocol.data) == b"0123456789"
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


async def test_paused_between_the_pieces_of_a_record():
    base: Any = with_buffer(10)

    class Pausing(base):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            self.transport.pause_reading()

    async with tls_connection(Pausing) as (transport, protocol, peer):
        peer.send(b"0123456789" * 3)
        for count in (10, 20, 30):
            assert len(await protocol.read(count)) == count
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(protocol.data) == count
            transport.resume_reading()


@pytest.mark.parametrize("clean", [True, False])
async def test_end_behind_more_than_a_buffer(clean):
    """All data is delivered before the end, with or without close_notify."""
    if on_asyncio():
        pytest.skip("asyncio delivers one buffer more, and loses the rest")
    async with tls_connection(with_buffer(100)) as (_, protocol, peer):
        last = peer.encrypt(DATA[:10_000])
        peer.send_raw(last + peer.close_notify() if clean else last)
        peer.send_eof()
        await protocol.lost
        assert protocol.data == DATA[:10_000]
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


async def test_the_buffer_is_written_to_while_it_is_filled():
    """User code that runs inside the decryption writes to the buffer."""
    made = []

    class Own(ssl.SSLObject):
        def read(self, *args):
            scribble()
            return super().read(*args)

    def scribble():
        # Called once for each buffer, before it has any data.
        while made:
            made.pop().buffer[:] = b"?" * 100

    base: Any = with_buffer(100)

    class Noting(base):
        def get_buffer(self, sizehint):
            made[:] = [self]
            return super().get_buffer(sizehint)

    context = certificates.client_context()
    context.sslobject_class = Own
    async with tls_connection(Noting, context=context) as (_, protocol, peer):
        for number in range(3):
            peer.send(b"%d" % number * 250)
        assert await protocol.read(750) == b"".join(b"%d" % number * 250 for number in range(3))
