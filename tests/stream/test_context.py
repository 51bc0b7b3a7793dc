"""Context variables in the callbacks of protocols: what callbacks see, and that they do not change the context of
others.

Contexts of call_soon and of tasks are in loop/test_context.py.
"""

import asyncio
import contextvars
import sys
from typing import Any

import pytest

from support.peers import HOST, BufferedRecorder, Recorder, connection, released

var = contextvars.ContextVar("var", default="default")

KINDS = pytest.mark.parametrize("base", [Recorder, BufferedRecorder])


def seeing(base: Any):
    """A protocol that writes down what `var` was in each of its callbacks."""

    class Seeing(base):
        def __init__(self):
            super().__init__()
            self.seen = {"factory": var.get()}

        def connection_made(self, transport):
            self.seen["connection_made"] = var.get()
            super().connection_made(transport)

        def received(self, data):
            self.seen["received"] = var.get()
            super().received(data)

        def eof_received(self):
            self.seen["eof_received"] = var.get()
            return super().eof_received()

        def connection_lost(self, exc):
            self.seen["connection_lost"] = var.get()
            super().connection_lost(exc)

    return Seeing


async def live(protocol, peer):
    peer.send(b"x")
    await protocol.read(1)
    peer.send_eof()
    await protocol.lost


@KINDS
async def test_callbacks_see_the_context_of_create_connection(base):
    token = var.set("mine")
    async with connection(seeing(base)) as (_, protocol, peer):
        var.reset(token)
        await live(protocol, peer)
    assert protocol.seen == dict.fromkeys(
        ["factory", "connection_made", "received", "eof_received", "connection_lost"], "mine"
    )


@KINDS
async def test_callbacks_see_the_context_of_create_server(base):
    loop = asyncio.get_running_loop()
    made = asyncio.Queue()

    def factory():
        protocol = seeing(base)()
        made.put_nowait(protocol)
        return protocol

    token = var.set("server's")
    server = await loop.create_server(factory, HOST, 0)
    var.reset(token)
    async with server:
        for _ in range(2):
            token = var.set("client's")
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            var.reset(token)
            protocol = await made.get()
            writer.write(b"x")
            await protocol.read(1)
            writer.close()
            await writer.wait_closed()
            await protocol.lost
            assert protocol.seen == dict.fromkeys(
                ["factory", "connection_made", "received", "eof_received", "connection_lost"], "server's"
            )


@KINDS
async def test_what_a_callback_sets_is_its_connection_s(base: Any):
    """A variable that a callback sets is still set in the next read of this connection, and nowhere else."""

    class Remembering(base):
        def received(self, data):
            self.seen = (*getattr(self, "seen", ()), var.get())
            var.set(bytes(data))  # type: ignore[arg-type]
            super().received(data)

    async with connection(Remembering) as (_, one, peer), connection(Remembering) as (_, two, other):
        for count, data in enumerate([b"a", b"b", b"c"], 1):
            peer.send(data)
            await one.read(count)
            other.send(data.upper())
            await two.read(count)
        assert one.seen == ("default", b"a", b"b")
        assert two.seen == ("default", b"A", b"B")
        assert var.get() == "default"


@pytest.mark.skipif(sys.version_info < (3, 15), reason="new in 3.15")
@KINDS
async def test_all_callbacks_share_one_context(base: Any):
    class Sharing(base):
        def connection_made(self, transport):
            self.seen = []
            var.set("made")
            super().connection_made(transport)

        def received(self, data):
            self.seen.append(var.get())
            var.set("received")
            super().received(data)

        def connection_lost(self, exc):
            self.seen.append(var.get())
            super().connection_lost(exc)

    async with connection(Sharing) as (_, protocol, peer):
        await live(protocol, peer)
        assert protocol.seen == ["made", "received"]
        assert var.get() == "default"


async def test_server_s_connections_do_not_see_each_other():
    loop = asyncio.get_running_loop()
    seen = []

    class Setting(Recorder):
        def connection_made(self, transport):
            seen.append(var.get())
            var.set(f"connection {len(seen)}")
            super().connection_made(transport)

        def data_received(self, data):
            var.set("received")
            super().data_received(data)
            self.transport.write(data)

    server = await loop.create_server(Setting, HOST, 0)
    async with server:
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            writer.close()
            await writer.wait_closed()
    assert seen == ["default"] * 3
    assert var.get() == "default"


async def test_callbacks_of_the_writer_s_task():
    """write() calls pause_writing, so that this runs in the context of the task that writes."""
    seen = []

    class Pausing(Recorder):
        def pause_writing(self):
            seen.append(var.get())
            super().pause_writing()

    async with connection(Pausing, buffers=65536) as (transport, _, _):
        var.set("writer's")
        transport.write(bytes(4 << 20))
        assert seen == ["writer's"]
        transport.abort()
        await released(transport)


async def test_a_task_made_in_a_callback_inherits():
    class Spawning(Recorder):
        def data_received(self, data):
            var.set("connection's")
            self.task = asyncio.get_running_loop().create_task(self.work(data))

        async def work(self, data):
            await asyncio.sleep(0)
            super().data_received(data)
            return var.get()

    async with connection(Spawning) as (_, protocol, peer):
        peer.send(b"x")
        await protocol.read(1)
        assert await protocol.task == "connection's"
        assert var.get() == "default"
