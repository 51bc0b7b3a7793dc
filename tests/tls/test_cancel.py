"""Handshakes that are given up: cancelled, closed, or left by the peer, at every step. Nothing may be left of them.

The fixtures of conftest.py check after each test that no file and no task is left.
"""

import asyncio
import contextlib
import gc
import socket
import ssl
import weakref

import pytest

from support import certificates
from support.certificates import TLS_1_2, TLS_1_3
from support.peers import HOST, Recorder, noting, on_asyncio, settle
from support.tls_peers import TlsPeer, handshaking

SIDES = pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
VERSIONS = pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])


def context(server_side, version):
    make = certificates.server_context if server_side else certificates.client_context
    return make(version=version)


def advance(peer):
    """Makes one step of the peer's handshake, with what has come so far. True when the handshake is done."""
    try:
        peer.tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


@SIDES
@pytest.mark.parametrize("turns", range(1, 7))
async def test_cancelled_at_once(server_side, turns):
    async with handshaking(server_side=server_side) as (task, peer):
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # If asyncio's handshake is cancelled before it has begun, it goes on until the peer closes.
        if turns > 1 or not on_asyncio():
            await peer.read_raw_until_eof()


@SIDES
@VERSIONS
@pytest.mark.parametrize("share", [0, 0.1, 0.9])
async def test_cancelled_in_the_middle(server_side, version, share):
    """A part of the peer's first messages has been received."""
    made = []

    async with handshaking(noting(made), server_side=server_side, context=context(server_side, version)) as (
        task,
        peer,
    ):
        await settle()
        if not server_side:
            await asyncio.to_thread(peer.receive)
        advance(peer)
        flight = peer.pending()
        peer.send_raw(flight[: int(len(flight) * share)])
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await peer.read_raw_until_eof()
    assert made[0].calls == []


@SIDES
async def test_wait_for(server_side):
    """Programs limit the time of connecting by wait_for."""
    async with handshaking(server_side=server_side) as (task, peer):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.05)
        await peer.read_raw_until_eof()


async def test_cancelled_when_done():
    """The handshake is done, but the task that waits for it has not run yet. The connection is closed."""
    made = []

    class Cancelling(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(self)
            task.cancel()

    async with handshaking(Cancelling) as (task, peer):
        shaking = asyncio.create_task(peer.handshake())
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.gather(shaking, return_exceptions=True)
        peer.close()
        await made[0].lost
    assert made[0].calls.count("connection_lost") == 1


@SIDES
@VERSIONS
async def test_trickled_handshake(server_side, version):
    """Every byte comes by itself, and the loop looks after each."""
    async with handshaking(server_side=server_side, context=context(server_side, version)) as (task, peer):

        async def trickle(data):
            for number in range(len(data)):
                peer.send_raw(data[number : number + 1])
                if number % 16 == 0:
                    await asyncio.sleep(0)

        done = False
        while not done:
            done = advance(peer)
            await trickle(peer.pending())
            if not done:
                await asyncio.to_thread(peer.receive)
        transport, protocol = await task
        await trickle(peer.encrypt(b"hello"))
        assert await protocol.read(5) == b"hello"
        assert protocol.calls == ["connection_made", "data_received"]


@SIDES
@pytest.mark.parametrize("end", ["send_eof", "reset"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
async def test_peer_that_leaves(server_side, end, share):
    async with handshaking(server_side=server_side) as (task, peer):
        if not server_side:
            await asyncio.to_thread(peer.receive)
        advance(peer)
        flight = peer.pending()
        peer.send_raw(flight[: int(len(flight) * share)])
        getattr(peer, end)()
        with pytest.raises(ConnectionResetError):
            await task


# --- servers ---


async def test_server_closed_during_handshakes():
    """Handshakes that have begun go on, as on asyncio, until their peers close."""
    loop = asyncio.get_running_loop()
    made = []

    server = await loop.create_server(noting(made), HOST, 0, ssl=certificates.server_context())
    peers = [TlsPeer(socket.create_connection(server.sockets[0].getsockname()), server_side=False) for _ in range(5)]
    with contextlib.ExitStack() as stack:
        for peer in peers:
            stack.enter_context(peer)
        while len(made) < 5:
            await asyncio.sleep(0)
        server.close()
        await peers[0].handshake()
        peers[0].send(b"hello")
        while not any(protocol.data for protocol in made):
            await asyncio.sleep(0)
        (lucky,) = [protocol for protocol in made if protocol.data]
        lucky.transport.abort()
        await lucky.lost
    await settle()
    assert sum(protocol.calls != [] for protocol in made) == 1


def test_loop_closed_during_handshakes(loop_factory):
    """Nothing crashes and no file is left open, though nobody hears of the end."""
    loop = loop_factory()

    async def begin():
        stack = contextlib.AsyncExitStack()
        tasks = []
        for server_side in (False, True):
            task, peer = await stack.enter_async_context(handshaking(server_side=server_side))
            tasks.append(task)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return stack, tasks

    stack, tasks = loop.run_until_complete(begin())
    for task in tasks:
        task.cancel()
    loop.run_until_complete(stack.aclose())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@SIDES
async def test_nothing_is_left_of_a_cancelled_handshake(server_side):
    references = []

    class Noting(Recorder):
        def __init__(self):
            super().__init__()
            references.append(weakref.ref(self))

    own = context(server_side, None)
    references.append(weakref.ref(own))
    async with handshaking(Noting, server_side=server_side, context=own) as (task, _):
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    del task, own
    await settle()
    gc.collect()
    assert [reference() for reference in references] == [None, None]
