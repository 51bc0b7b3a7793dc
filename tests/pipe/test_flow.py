"""Water marks of a pipe that is written: when pause_writing and resume_writing are called, and the size.

That they are called in turn is in stream/test_flow_control.py.
"""

import pytest

from support.peers import on_asyncio, settle
from support.pipe_peers import WriteRecorder, released, write_pipe

KINDS = pytest.mark.parametrize("kind", ["pipe", "fifo", "socket"])

PLENTY = bytes(range(256)) * 4096  # more than any pipe or socket pair holds


async def test_limits():
    async with write_pipe() as (transport, _, _):
        assert transport.get_write_buffer_limits() == (16384, 65536)
        assert transport.set_write_buffer_limits(high=100) is None
        assert transport.get_write_buffer_limits() == (25, 100)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)
        with pytest.raises(ValueError) as info:
            transport.set_write_buffer_limits(high=10, low=11)
        assert str(info.value) == "high (10) must be >= low (11) must be >= 0"
        transport.set_write_buffer_limits()
        assert transport.get_write_buffer_limits() == (16384, 65536)


@KINDS
async def test_pause_and_resume(kind):
    async with write_pipe(kind) as (transport, protocol, far):
        assert transport.get_write_buffer_size() == 0
        transport.write(PLENTY)
        # pause_writing is called by the write that passes the mark, before that returns.
        assert protocol.calls == ["connection_made", "pause_writing"]
        size = transport.get_write_buffer_size()
        assert 65536 < size <= len(PLENTY)
        transport.write(b"more")
        assert transport.get_write_buffer_size() == size + 4
        assert await far.read(len(PLENTY) + 4) == PLENTY + b"more"
        await settle()
        assert transport.get_write_buffer_size() == 0
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]


@KINDS
async def test_resume_when_nothing_is_left(kind):
    """A pipe resumes when its queue is empty, a stream transport already at the low mark."""
    sizes = []

    class Watching(WriteRecorder):
        def resume_writing(self):
            super().resume_writing()
            sizes.append(self.transport.get_write_buffer_size())

    async with write_pipe(kind, Watching) as (transport, protocol, far):
        transport.set_write_buffer_limits(high=200_000, low=100_000)
        transport.write(PLENTY)
        received = 0
        while not sizes:
            received += len(await far.read(4096))
            await settle()
        assert sizes == [0]
        assert received < len(PLENTY)
        assert len(await far.read(len(PLENTY) - received)) == len(PLENTY) - received
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]


async def test_no_pause_below_the_high_mark():
    async with write_pipe() as (transport, protocol, far):
        transport.set_write_buffer_limits(high=2 * len(PLENTY))
        transport.write(PLENTY)
        assert protocol.calls == ["connection_made"]
        assert await far.read(len(PLENTY)) == PLENTY
        await settle()
        assert protocol.calls == ["connection_made"]


async def test_zero_limits():
    """Anything that the kernel does not take pauses the protocol, and it is resumed when nothing is left."""
    async with write_pipe() as (transport, protocol, far):
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x")
        await settle()
        assert protocol.calls == ["connection_made"]
        transport.write(PLENTY)
        assert protocol.calls == ["connection_made", "pause_writing"]
        assert await far.read(1 + len(PLENTY)) == b"x" + PLENTY
        await settle()
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]


@pytest.mark.parametrize("end", ["close", "write_eof", "abort"])
async def test_end_in_resume_writing(end):
    if on_asyncio():
        pytest.skip("asyncio calls connection_lost twice")

    class Ending(WriteRecorder):
        def resume_writing(self):
            super().resume_writing()
            getattr(self.transport, end)()

    async with write_pipe(factory=Ending) as (transport, protocol, far):
        transport.set_write_buffer_limits(high=0)
        transport.write(PLENTY)
        assert await far.read_until_eof() == PLENTY
        assert await protocol.lost is None
        await released(transport.get_extra_info("pipe"))
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing", "connection_lost"]


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
async def test_callback_that_raises(method, loop_errors):
    """The exception is reported, and the pipe goes on as if nothing had happened."""
    error = ZeroDivisionError(method)

    def call(self):
        getattr(WriteRecorder, method)(self)
        raise error

    factory = type("Raising", (WriteRecorder,), {method: call})
    async with write_pipe(factory=factory) as (transport, protocol, far):
        transport.write(PLENTY)
        assert await far.read(len(PLENTY)) == PLENTY
        await settle()
        assert loop_errors == [
            {
                "message": f"protocol.{method}() failed",
                "exception": error,
                "transport": transport,
                "protocol": protocol,
            }
        ]
        loop_errors.clear()
        transport.write(b"goes on")
        assert await far.read(7) == b"goes on"
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]


async def test_size_counts_bytes():
    """The size counts bytes, not items: a memoryview may have larger items."""
    async with write_pipe() as (transport, _, _):
        transport.write(PLENTY)
        size = transport.get_write_buffer_size()
        transport.write(memoryview(bytes(4000)).cast("I"))
        assert transport.get_write_buffer_size() == size + 4000


async def test_limits_after_the_end():
    async with write_pipe() as (transport, protocol, _):
        transport.close()
        await protocol.lost
        await released(transport.get_extra_info("pipe"))
        transport.set_write_buffer_limits(high=10)
        assert transport.get_write_buffer_limits() == (2, 10)
        assert transport.get_write_buffer_size() == 0
