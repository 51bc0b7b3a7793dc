"""TLS protocols whose methods raise: rloop reports, and ends the connection, as asyncio does.

What is compared is in support/tls_outcomes.py.
"""

import asyncio
import contextlib
from typing import Any

import pytest

from support.peers import PATIENCE, raising
from support.tls_outcomes import SETTINGS, outcome, same_as_asyncio, scenarios_of
from support.tls_peers import BufferedRecorder

PLENTY = bytes(1 << 19)

KINDS = (ZeroDivisionError, ConnectionResetError, asyncio.CancelledError)


def receiving(setting):
    return "buffer_updated" if issubclass(setting.base, asyncio.BufferedProtocol) else "data_received"


async def each_kind(setting: Any, told, method, play, **kwargs):
    """`play` with a protocol whose method raises, for each kind of exception."""
    for kind in KINDS:
        step = told[kind.__name__] = {}
        base = raising(method, kind("why"), setting.base)
        async with setting.connection(step, base, peer_may_fail=True, **kwargs) as (
            transport,
            protocol,
            peer,
        ):
            await play(transport, protocol, peer)
        step.pop("data")  # what came before the exception


async def receive(setting: Any, told):
    async def play(transport, protocol, peer):
        peer.send(b"x")
        await protocol.lost

    await each_kind(setting, told, receiving(setting), play)


async def receive_with_data_queued(setting: Any, told):
    async def play(transport, protocol, peer):
        # Nobody is to be paused, however little the kernel takes.
        transport.set_write_buffer_limits(high=2 * len(PLENTY))
        transport.write(PLENTY)
        peer.send(b"x")
        await protocol.lost

    await each_kind(setting, told, receiving(setting), play, buffers=65536)


async def receive_with_more_to_come(setting: Any, told):
    """Several records: nothing is delivered after the exception."""

    async def play(transport, protocol, peer):
        peer.send_raw(b"".join(peer.encrypt(b"x") for _ in range(10)))
        await protocol.lost

    await each_kind(setting, told, receiving(setting), play)


async def eof_received(setting: Any, told):
    async def play(transport, protocol, peer):
        peer.send_close_notify()
        await protocol.lost

    await each_kind(setting, told, "eof_received", play)


async def eof_received_after_fin(setting: Any, told):
    async def play(transport, protocol, peer):
        peer.send_eof()
        await protocol.lost

    await each_kind(setting, told, "eof_received", play)


async def connection_lost(setting: Any, told):
    async def play(transport, protocol, peer):
        transport.abort()

    await each_kind(setting, told, "connection_lost", play)


async def connection_lost_after_a_clean_end(setting: Any, told):
    async def play(transport, protocol, peer):
        peer.send_close_notify()

    await each_kind(setting, told, "connection_lost", play)


async def write_until_paused(transport, peer):
    """Writes so much that pause_writing and resume_writing are called once each. asyncio does not count the first
    write, because the transport below has taken all of it.
    """
    transport.write(PLENTY)
    transport.write(PLENTY)
    assert len(await peer.read(2 * len(PLENTY))) == 2 * len(PLENTY)


async def pause_writing(setting: Any, told):
    """The exception is reported, and nothing else happens."""

    async def play(transport, protocol, peer):
        await write_until_paused(transport, peer)
        transport.abort()

    await each_kind(setting, told, "pause_writing", play, buffers=65536)


async def resume_writing(setting: Any, told):
    async def play(transport, protocol, peer):
        await write_until_paused(transport, peer)
        transport.abort()

    await each_kind(setting, told, "resume_writing", play, buffers=65536)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("scenario", scenarios_of(__name__))
def test_exception(loop_name, scenario, setting):
    seen = same_as_asyncio(loop_name, scenario, setting)
    for kind in KINDS:
        assert seen[kind.__name__]["calls"].count("connection_lost") == 1


BUFFERED = [param for param in SETTINGS if param.values[0].base is BufferedRecorder]


async def get_buffer_that_raises(setting: Any, told):
    """asyncio calls get_buffer as soon as the handshake is done, before there is data."""

    async def play(transport, protocol, peer):
        with contextlib.suppress(OSError):
            peer.send(b"x")
        await protocol.lost

    await each_kind(setting, told, "get_buffer", play)


@pytest.mark.parametrize("setting", BUFFERED)
def test_get_buffer_that_raises(loop_name, setting: Any):
    same_as_asyncio(loop_name, get_buffer_that_raises, setting)


@pytest.mark.parametrize("setting", BUFFERED)
@pytest.mark.parametrize("answer", [None, "text", 5, b"readonly", memoryview(b"readonly")])
def test_get_buffer_that_gives_no_buffer(loop_name, setting, answer):
    """On asyncio the errors are the ssl module's. rloop's have the same type, and there is one report at most."""

    async def scenario(setting: Any, told):
        class Giving(setting.base):
            def get_buffer(self, sizehint):
                return answer

        async with setting.connection(told, Giving, peer_may_fail=True) as (_, protocol, peer):
            with contextlib.suppress(OSError):
                peer.send(b"x")
            await protocol.lost

    seen, expected = outcome(loop_name, scenario, setting), outcome("asyncio", scenario, setting)
    assert seen["lost"]["type"] is expected["lost"]["type"]
    assert [report["message"] for report in seen["reports"]] == [report["message"] for report in expected["reports"]]
    assert seen["calls"] == expected["calls"]


async def connection_made(setting: Any, told):
    """connection_made raises: connecting raises, or the connection goes on, as on asyncio."""
    for kind in KINDS:
        step = told[kind.__name__] = {}
        base = raising("connection_made", kind("why"), setting.base)
        try:
            async with setting.connection(step, base, peer_may_fail=True, ssl_handshake_timeout=PATIENCE) as (
                _,
                _,
                peer,
            ):
                peer.send_close_notify()
        except (Exception, asyncio.CancelledError) as exc:
            step["error"] = type(exc)


@pytest.mark.parametrize("setting", SETTINGS)
def test_connection_made_that_raises(loop_name, setting: Any):
    same_as_asyncio(loop_name, connection_made, setting)
