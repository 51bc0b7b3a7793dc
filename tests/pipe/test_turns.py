"""Pipes and the rest of the loop: contexts, fairness, an idle loop, exits, garbage collections."""

import asyncio
import contextvars
import gc
import os
import weakref

import pytest

from support.idle import sleeps_between_timers
from support.peers import Recorder, raising, settle
from support.pipe_peers import FarEnd, WriteRecorder, make_ends, open_end, read_pipe, released, write_pipe

var = contextvars.ContextVar("var", default="default")

PLENTY = bytes(range(256)) * 4096


class Seeing(Recorder):
    """Notes what `var` was in each of its callbacks, and sets it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def note(self, name):
        self.seen.append((name, var.get()))
        var.set(name)

    def connection_made(self, transport):
        self.note("made")
        super().connection_made(transport)

    def data_received(self, data):
        self.note("received")
        super().data_received(data)

    def eof_received(self):
        self.note("ended")
        super().eof_received()

    def connection_lost(self, exc):
        self.note("lost")
        super().connection_lost(exc)


async def test_contexts():
    """All reads share one copy of the context of connect_read_pipe. Every other callback has a copy of its own."""
    token = var.set("mine")
    near, far = make_ends("pipe", near_reads=True)
    transport, protocol = await asyncio.get_running_loop().connect_read_pipe(Seeing, near)
    var.reset(token)
    with FarEnd(far) as far_end:
        far_end.send(b"1")
        await protocol.read(1)
        far_end.send(b"2")
        await protocol.read(2)
        transport.pause_reading()
        token = var.set("resumer's")
        transport.resume_reading()
        var.reset(token)
        far_end.send(b"3")
        await protocol.read(3)
    await protocol.lost
    await released(near)
    assert protocol.seen == [
        ("made", "mine"),
        ("received", "mine"),
        ("received", "received"),
        ("received", "resumer's"),
        ("ended", "received"),
        ("lost", "received"),
    ]
    assert var.get() == "default"


async def test_order_of_the_first_steps():
    """First comes connection_made, then the task that waits for the pipe goes on, then data is delivered."""
    loop = asyncio.get_running_loop()
    order = []

    class Ordered(Recorder):
        def connection_made(self, transport):
            order.append("connection_made")
            super().connection_made(transport)

        def data_received(self, data):
            order.append("data_received")
            super().data_received(data)

    near, far = make_ends("pipe", near_reads=True)
    with FarEnd(far) as far_end:
        far_end.send(b"x")
        loop.call_soon(order.append, "before")
        _, protocol = await loop.connect_read_pipe(Ordered, near)
        order.append("connected")
        loop.call_soon(order.append, "after")
        await protocol.read(1)
    await protocol.lost
    await released(near)
    assert order == ["before", "connection_made", "connected", "data_received", "after"] or order == [
        "before",
        "connection_made",
        "connected",
        "after",
        "data_received",
    ]


@pytest.mark.parametrize("kind", ["pipe", "socket"])
async def test_a_full_pipe_does_not_keep_the_loop(kind):
    """There is one read a turn. Timers, callbacks and other pipes have their turn in between."""
    loop = asyncio.get_running_loop()
    order = []

    class Endless(Recorder):
        def data_received(self, data):
            order.append("much")
            refill.send(data)

    class Modest(Recorder):
        def data_received(self, data):
            order.append("little")

    near, far = make_ends(kind, near_reads=True)
    other, peer = make_ends("pipe", near_reads=True)
    with FarEnd(far) as refill, FarEnd(peer) as quiet:
        refill.send(b"x" * 4096)
        much, _ = await loop.connect_read_pipe(Endless, near)
        little, _ = await loop.connect_read_pipe(Modest, other)
        for _ in range(10):
            order.clear()
            quiet.send(b"x")
            loop.call_soon(order.append, "callback")
            await asyncio.sleep(0.001)
            while "little" not in order:
                await asyncio.sleep(0)
            first = order[: order.index("little")]
            # It was ready before the loop looked, so that its data comes in the first turn or the next.
            assert first.count("much") <= 2
            assert first.index("callback") <= 1
        much.close()
        little.close()
        await released(near)
        await released(other)


async def test_callback_comes_before_the_next_read():
    """What a turn schedules runs before the loop looks at its files again. So a pipe that it closes is not read."""
    async with read_pipe() as (transport, protocol, far):

        class Closing(Recorder):
            def eof_received(self):
                super().eof_received()
                transport.close()

        async with read_pipe(factory=Closing) as (_, closing, other):
            # The first pipe has something to read, and then its end. In its first turn the loop reads once of each.
            far.send(b"x")
            other.close()
            far.close()
            assert await closing.lost is None
            assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "data_received", "connection_lost"]


@pytest.mark.parametrize("direction", ["read", "write"])
async def test_no_work_while_there_is_none(direction):
    """The loop sleeps while a pipe is paused at its end, and while a reader takes nothing."""
    if direction == "read":
        async with read_pipe() as (transport, _, far):
            transport.pause_reading()
            far.send(b"x")
            far.close()
            await settle()
            assert await sleeps_between_timers()
    else:
        async with write_pipe() as (transport, _, far):
            for data in b"x", PLENTY:
                transport.write(data)
                await settle()
                assert await sleeps_between_timers()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exit_leaves_nothing_unread(loop, error):
    """After the exit, data that the kernel holds is still received, though the poll does not report it again."""
    near, far = make_ends("pipe", near_reads=True)

    async def connect():
        return await loop.connect_read_pipe(raising("data_received", error("now")), near)

    with FarEnd(far) as far_end:
        _, protocol = loop.run_until_complete(connect())
        sending = loop.create_task(far_end.send_all(PLENTY))
        with pytest.raises(error, match="now"):
            loop.run_forever()
        assert 0 < len(protocol.data) < len(PLENTY)
        protocol.data_received = lambda data: Recorder.data_received(protocol, data)
        assert loop.run_until_complete(protocol.read(len(PLENTY))) == PLENTY
        loop.run_until_complete(sending)
    loop.run_until_complete(released(near))


async def test_order_of_writes_and_of_who_takes_the_pipe():
    """A program that takes the file and writes to it does so behind what the transport was given."""
    async with write_pipe() as (transport, _, far):
        transport.write(b"one ")
        transport.write(b"two ")
        os.write(transport.get_extra_info("pipe").fileno(), b"three")
        assert await far.read(13) == b"one two three"


async def test_writes_of_a_turn_and_close():
    async with write_pipe() as (transport, protocol, far):
        for number in range(200):
            transport.write(b"%d," % number)
        transport.close()
        assert await far.read_until_eof() == b"".join(b"%d," % number for number in range(200))
        assert await protocol.lost is None


async def test_writelines_of_what_is_no_bytes():
    async with write_pipe() as (transport, _, far):
        with pytest.raises(TypeError, match="sequence item 1: expected a bytes-like object, str found"):
            transport.writelines([b"x", "y"])
        with pytest.raises(TypeError, match="can only join an iterable"):
            transport.writelines(5)
        with pytest.raises(TypeError, match="argument"):
            transport.write()
        transport.write(data=b"x")
        assert await far.read(1) == b"x"


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_cycle_through_the_protocol(loop_factory):
    """A transport in a cycle with its protocol is collected with its loop, and its file is closed."""

    class Holding(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

    async def connect():
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        return (
            await loop.connect_read_pipe(Holding, open_end(reader, "rb")),
            await loop.connect_write_pipe(Holding, open_end(writer, "wb")),
        )

    loop = loop_factory()
    pair = loop.run_until_complete(connect())
    gone = [weakref.ref(transport) for transport, _ in pair]
    loop.close()
    del pair, loop
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_while_everything_is_collected(loop):
    """Makes transports while the collector runs at nearly every allocation."""

    async def use():
        for _ in range(20):
            async with read_pipe() as (_, protocol, far):
                far.send(b"x")
                await protocol.read(1)
            async with write_pipe(factory=WriteRecorder) as (transport, _, far):
                transport.write(b"x")
                assert await far.read(1) == b"x"

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        loop.run_until_complete(use())
    finally:
        gc.set_threshold(*before)
