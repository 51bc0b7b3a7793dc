"""Water marks: when pause_writing and resume_writing are called, and what the write buffer's size says.

pause_reading is in test_pause_reading.py, the data itself in test_write.py.
"""

import asyncio
import select
import sys

import pytest

from support.peers import Recorder, connection, on_asyncio, released, settle
from support.pipe_peers import write_pipe

# More than the kernel takes of a connection made with these buffers.
BUFFERS = 65536
PLENTY = bytes(range(256)) * 4096


async def fill(transport):
    """Writes until the kernel takes no more and the transport's own queue has data."""
    transport.write(PLENTY)
    await settle()
    # A kernel that takes little at a time is full only later.
    poll = select.poll()
    poll.register(transport.get_extra_info("socket"), select.POLLOUT)
    while poll.poll(0):
        await settle()
    assert transport.get_write_buffer_size() > 0


# --- the limits ---


async def test_default_limits():
    async with connection() as (transport, _, _):
        assert transport.get_write_buffer_limits() == (16384, 65536)
        assert transport.get_write_buffer_size() == 0


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        ({}, (16384, 65536)),
        ({"high": 100}, (25, 100)),
        ({"low": 100}, (100, 400)),
        ({"high": 100, "low": 100}, (100, 100)),
        ({"high": 100, "low": 0}, (0, 100)),
        ({"high": 0}, (0, 0)),
        ({"low": 0}, (0, 0)),
        ({"high": 2**40}, (2**38, 2**40)),
        ({"high": None, "low": None}, (16384, 65536)),
    ],
    ids=str,
)
async def test_set_write_buffer_limits(arguments, limits):
    async with connection() as (transport, _, _):
        assert transport.set_write_buffer_limits(**arguments) is None
        assert transport.get_write_buffer_limits() == limits
        transport.set_write_buffer_limits()
        assert transport.get_write_buffer_limits() == (16384, 65536)
        transport.set_write_buffer_limits(*[arguments.get("high"), arguments.get("low")])
        assert transport.get_write_buffer_limits() == limits


@pytest.mark.parametrize(("high", "low"), [(10, 11), (-1, 0), (10, -1), (-5, None), (None, -5), (0, 1)])
async def test_limits_out_of_order(high, low):
    async with connection() as (transport, _, _):
        transport.set_write_buffer_limits(high=1000, low=500)
        with pytest.raises(ValueError) as info:
            transport.set_write_buffer_limits(high=high, low=low)
        if high is None:
            high = 4 * low
        if low is None:
            low = high // 4
        assert str(info.value) == f"high ({high!r}) must be >= low ({low!r}) must be >= 0"
        assert transport.get_write_buffer_limits() == (500, 1000)


async def test_limits_of_a_wrong_type():
    async with connection() as (transport, _, _):
        for arguments in ({"high": "100"}, {"low": "100"}, {"high": b"", "low": 1}):
            with pytest.raises(TypeError):
                transport.set_write_buffer_limits(**arguments)
        assert transport.get_write_buffer_limits() == (16384, 65536)


# --- pause_writing ---


async def test_pause_when_above_the_high_mark():
    async with connection(buffers=BUFFERS) as (transport, protocol, _):
        while True:
            transport.write(b"x" * 1024)
            if transport.get_write_buffer_size() > 65536:
                break
            assert "pause_writing" not in protocol.calls
        # pause_writing is called by the write that passes the mark, before that returns.
        assert protocol.calls == ["connection_made", "pause_writing"]
        for _ in range(10):
            transport.write(b"x" * 1024)
        await settle()
        assert protocol.calls == ["connection_made", "pause_writing"]


async def test_pause_by_writelines():
    async with connection(buffers=BUFFERS) as (transport, protocol, _):
        if on_asyncio() and (3, 12) <= sys.version_info < (3, 14):
            pytest.skip("asyncio's writelines forgets the high mark in 3.12 and the first 3.13")
        transport.writelines([PLENTY, b"x"])
        assert protocol.calls == ["connection_made", "pause_writing"]


async def test_no_pause_at_the_high_mark():
    async with connection(buffers=BUFFERS) as (transport, protocol, peer):
        await fill(transport)
        assert protocol.calls == ["connection_made", "pause_writing"]
        assert await peer.read(len(PLENTY)) == PLENTY
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]
        transport.set_write_buffer_limits(high=2 * len(PLENTY))
        await fill(transport)
        transport.set_write_buffer_limits(high=transport.get_write_buffer_size())
        assert len(protocol.calls) == 3
        transport.write(b"x")
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing", "pause_writing"]


async def test_pause_by_lower_limits():
    async with connection(buffers=BUFFERS) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=2 * len(PLENTY))
        await fill(transport)
        assert protocol.calls == ["connection_made"]
        transport.set_write_buffer_limits(high=10)
        assert protocol.calls == ["connection_made", "pause_writing"]
        transport.set_write_buffer_limits(high=5)
        assert protocol.calls == ["connection_made", "pause_writing"]
        # Raising the limits does not resume the protocol: that happens when data is sent.
        transport.set_write_buffer_limits(high=2 * len(PLENTY))
        assert protocol.calls == ["connection_made", "pause_writing"]
        assert await peer.read(len(PLENTY)) == PLENTY
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]


async def test_zero_limits():
    """Anything that the kernel does not take pauses the protocol, and it is resumed when nothing is left."""
    async with connection(buffers=BUFFERS) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x")
        await settle()
        assert transport.get_write_buffer_size() == 0
        assert protocol.calls == ["connection_made"]
        assert await peer.read(1) == b"x"
        transport.write(PLENTY)
        assert protocol.calls == ["connection_made", "pause_writing"]
        assert await peer.read(len(PLENTY)) == PLENTY
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]
        assert transport.get_write_buffer_size() == 0


# --- resume_writing ---


async def test_resume_when_down_to_the_low_mark():
    sizes = []

    class Watching(Recorder):
        def resume_writing(self):
            super().resume_writing()
            sizes.append(self.transport.get_write_buffer_size())

    async with connection(Watching, buffers=BUFFERS) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=200_000, low=100_000)
        transport.write(PLENTY)
        assert protocol.calls == ["connection_made", "pause_writing"]
        received = 0
        while "resume_writing" not in protocol.calls:
            received += len(await peer.read(4096))
            await settle()
        (size,) = sizes
        assert size <= 100_000
        assert received < len(PLENTY)
        assert len(await peer.read(len(PLENTY) - received)) == len(PLENTY) - received
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]


def stream(factory):
    return connection(factory, buffers=BUFFERS)


def pipe(factory):
    return write_pipe(factory=factory)


OPENED = pytest.mark.parametrize("opened", [stream, pipe])


@OPENED
async def test_pairs(opened):
    """Pauses and resumes alternate, however many there are."""

    class Paired(Recorder):
        def pause_writing(self):
            super().pause_writing()
            assert may_write.is_set()
            may_write.clear()

        def resume_writing(self):
            super().resume_writing()
            assert not may_write.is_set()
            may_write.set()

    may_write = asyncio.Event()
    may_write.set()
    total = 8 * 1024 * 1024
    async with opened(Paired) as (transport, protocol, peer):
        reading = asyncio.create_task(peer.read(total))
        for _ in range(total // 4096):
            await may_write.wait()
            transport.write(b"x" * 4096)
            assert transport.get_write_buffer_size() <= 65536 + 4096
        assert await reading == b"x" * total
        await settle()
        flow = protocol.calls[1:]
        assert flow == ["pause_writing", "resume_writing"] * (len(flow) // 2)
        assert flow


@OPENED
async def test_pause_and_resume_without_a_loop_turn_between(opened):
    """write() in resume_writing may pause again at once."""

    class Eager(Recorder):
        rounds = 5

        def resume_writing(self):
            super().resume_writing()
            self.rounds -= 1
            if self.rounds:
                self.transport.write(PLENTY)

    async with opened(Eager) as (transport, protocol, peer):
        transport.write(PLENTY)
        assert await peer.read(5 * len(PLENTY)) == PLENTY * 5
        await settle()
        assert protocol.calls == ["connection_made"] + ["pause_writing", "resume_writing"] * 5


async def test_close_in_resume_writing():
    if on_asyncio() and sys.version_info < (3, 14):
        pytest.skip("asyncio calls connection_lost twice")

    class Ending(Recorder):
        def resume_writing(self):
            super().resume_writing()
            self.transport.close()

    async with connection(Ending, buffers=BUFFERS) as (transport, protocol, peer):
        transport.write(PLENTY)
        assert await peer.read_until_eof() == PLENTY
        assert await protocol.lost is None
        await released(transport)
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing", "connection_lost"]


async def test_peer_that_never_reads():
    async with connection(buffers=BUFFERS) as (transport, protocol, peer):
        await fill(transport)
        size = transport.get_write_buffer_size()
        for number in range(1, 11):
            transport.write(b"x" * 1000)
            assert transport.get_write_buffer_size() == size + 1000 * number
        await settle()
        assert transport.get_write_buffer_size() == size + 10_000
        assert protocol.calls == ["connection_made", "pause_writing"]
        peer.reset()
        assert isinstance(await protocol.lost, (ConnectionResetError, BrokenPipeError))
        # resume_writing is not called once the connection is lost.
        assert protocol.calls == ["connection_made", "pause_writing", "connection_lost"]


async def test_new_protocol_is_resumed():
    """The protocol that is set when writing may go on is resumed, although another one was paused."""
    async with connection(buffers=BUFFERS) as (transport, protocol, peer):
        await fill(transport)
        successor = Recorder()
        transport.set_protocol(successor)
        assert await peer.read(len(PLENTY)) == PLENTY
        assert protocol.calls == ["connection_made", "pause_writing"]
        assert successor.calls == ["resume_writing"]


# --- callbacks that raise ---


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
async def test_callback_that_raises(method, loop_errors):
    """The exception is reported, and the connection goes on as if nothing had happened."""
    error = ZeroDivisionError(method)

    class Raising(Recorder):
        def pause_writing(self):
            super().pause_writing()
            if method == "pause_writing":
                raise error

        def resume_writing(self):
            super().resume_writing()
            if method == "resume_writing":
                raise error

    async with connection(Raising, buffers=BUFFERS) as (transport, protocol, peer):
        transport.write(PLENTY)
        assert await peer.read(len(PLENTY)) == PLENTY
        (context,) = loop_errors
        assert context == {
            "message": f"protocol.{method}() failed",
            "exception": error,
            "transport": transport,
            "protocol": protocol,
        }
        loop_errors.clear()
        assert not transport.is_closing()
        transport.write(b"goes on")
        assert await peer.read(7) == b"goes on"
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_exit_out_of_pause_writing(error):
    """The exception comes out of the call of write()."""

    class Leaving(Recorder):
        def pause_writing(self):
            super().pause_writing()
            raise error

    async with connection(Leaving, buffers=BUFFERS) as (transport, protocol, peer):
        with pytest.raises(error):
            transport.write(PLENTY)
        assert await peer.read(len(PLENTY)) == PLENTY
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]


# --- the size ---


async def test_size_right_after_close():
    async with connection(buffers=BUFFERS) as (transport, protocol, peer):
        await fill(transport)
        size = transport.get_write_buffer_size()
        transport.close()
        assert transport.get_write_buffer_size() == size
        assert await peer.read_until_eof() == PLENTY
        assert await protocol.lost is None
        await released(transport)
        assert transport.get_write_buffer_size() == 0
        assert transport.get_write_buffer_limits() == (16384, 65536)


async def test_size_right_after_close_with_nothing_to_send():
    async with connection() as (transport, protocol, _):
        transport.write(b"x")
        transport.close()
        assert transport.get_write_buffer_size() == 0
        await protocol.lost
        assert transport.get_write_buffer_size() == 0


async def test_size_after_abort():
    async with connection(buffers=BUFFERS) as (transport, protocol, _):
        await fill(transport)
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        assert await protocol.lost is None


async def test_size_counts_bytes():
    """The size counts bytes, not items: a memoryview may have larger items."""
    if on_asyncio() and sys.version_info >= (3, 12):
        pytest.skip("asyncio counts the items of a view since 3.12")
    async with connection(buffers=BUFFERS) as (transport, _, _):
        await fill(transport)
        size = transport.get_write_buffer_size()
        transport.write(memoryview(bytes(4000)).cast("I"))
        assert transport.get_write_buffer_size() == size + 4000


async def test_limits_after_the_end():
    async with connection() as (transport, protocol, _):
        transport.close()
        await protocol.lost
        await released(transport)
        transport.set_write_buffer_limits(high=10)
        assert transport.get_write_buffer_limits() == (2, 10)
        assert transport.get_write_buffer_size() == 0
