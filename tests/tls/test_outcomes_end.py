"""How a TLS connection ends, at both sides and in all versions: rloop tells a program what asyncio tells it.

What is told is in support/tls_outcomes.py. Ends in a handshake are in test_outcomes_handshake.py, exceptions of the
protocol in test_outcomes_protocol.py. Expectations that do not come from asyncio are in test_end.py.
"""

from typing import Any

import pytest

from support.tls_outcomes import BRIEF, SETTINGS, same_as_asyncio, scenarios_of

PLENTY = bytes(range(256)) * 8192


# --- the peer ends ---


async def clean_end(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        peer.send(b"bye")
        peer.send_close_notify()
        told["read"] = await peer.read_until_end(), peer.ended
        told["closing"] = transport.is_closing()


async def clean_end_in_one_segment(setting: Any, told):
    async with setting.connection(told) as (_, protocol, peer):
        peer.send_raw(peer.encrypt(b"by") + peer.encrypt(b"e") + peer.close_notify())
        told["read"] = await peer.read_until_end(), peer.ended


async def clean_end_and_half_a_record(setting: Any, told):
    async with setting.connection(told) as (_, protocol, peer):
        peer.send_raw(peer.encrypt(b"bye") + peer.close_notify() + b"\x17\x03\x03\x01\x00half")
        await protocol.lost


async def clean_end_and_fin(setting: Any, told):
    async with setting.connection(told) as (_, protocol, peer):
        peer.send_raw(peer.encrypt(b"bye") + peer.close_notify())
        peer.send_eof()
        await protocol.lost


async def fin(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        peer.send_eof()
        await protocol.lost
        told["closing"] = transport.is_closing()


async def data_and_fin(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        peer.send(b"bye")
        peer.send_eof()
        await protocol.lost


async def half_a_record_and_fin(setting: Any, told):
    async with setting.connection(told) as (_, protocol, peer):
        record = peer.encrypt(b"never")
        peer.send_raw(record[: len(record) // 2])
        peer.send_eof()
        await protocol.lost


async def reset(setting: Any, told):
    async with setting.connection(told) as (_, protocol, peer):
        peer.send(b"x")
        await protocol.read(1)
        peer.reset()
        await protocol.lost


async def reset_while_paused(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        transport.pause_reading()
        peer.reset()
        transport.resume_reading()
        await protocol.lost


async def answer_to_the_end(setting: Any, told):
    """eof_received may still write: the peer gets it before our close_notify."""

    class Answering(setting.base):
        def eof_received(self):
            self.transport.write(b"last words")
            return super().eof_received()

    async with setting.connection(told, Answering) as (_, protocol, peer):
        peer.send_close_notify()
        told["read"] = await peer.read_until_end(), peer.ended


async def keeping_open(setting: Any, told):
    class Keeping(setting.base):
        keep_open = True

    async with setting.connection(told, Keeping) as (_, protocol, peer):
        peer.send_close_notify()
        await protocol.lost


async def keeping_open_after_fin(setting: Any, told):
    class Keeping(setting.base):
        keep_open = True

    async with setting.connection(told, Keeping) as (_, protocol, peer):
        peer.send_eof()
        await protocol.lost


# --- the loop's side ends ---


async def close(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        transport.write(b"bye")
        transport.close()
        told["closing"] = transport.is_closing()
        told["read"] = await peer.read_until_end(), peer.ended
        await peer.unwrap()


async def close_twice(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        transport.close()
        transport.close()
        await peer.read_until_end()
        await peer.unwrap()


async def close_and_peers_fin(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        transport.close()
        await peer.read_until_end()
        peer.send_eof()
        await protocol.lost


async def close_and_reset(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        transport.close()
        await peer.read_until_end()
        peer.reset()
        await protocol.lost


async def close_at_a_silent_peer(setting: Any, told):
    async with setting.connection(told, ssl_shutdown_timeout=BRIEF) as (transport, protocol, peer):
        transport.close()
        await protocol.lost


async def close_with_data_queued_at_a_silent_peer(setting: Any, told):
    async with setting.connection(told, ssl_shutdown_timeout=BRIEF, buffers=4096) as (
        transport,
        protocol,
        peer,
    ):
        transport.write(PLENTY)
        transport.close()
        await protocol.lost


async def close_with_data_queued(setting: Any, told):
    async with setting.connection(told, buffers=65536) as (transport, protocol, peer):
        transport.write(PLENTY)
        transport.close()
        told["whole"] = await peer.read_until_end() == PLENTY, peer.ended
        await peer.unwrap()


async def close_in_data_received(setting: Any, told):
    base = setting.base
    method = "data_received" if hasattr(base, "data_received") else "buffer_updated"

    def closing(self, argument):
        getattr(base, method)(self, argument)
        self.transport.close()

    kind = type("Closing", (base,), {method: closing})
    async with setting.connection(told, kind) as (_, protocol, peer):
        peer.send(b"x")
        await peer.read_until_end()
        await peer.unwrap()


async def data_after_close(setting: Any, told):
    """The peer sends data before it knows of the close(). That data is not delivered."""
    async with setting.connection(told) as (transport, protocol, peer):
        transport.close()
        peer.send(b"too late")
        await protocol.lost


async def abort(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        transport.abort()
        told["closing"] = transport.is_closing()
        await protocol.lost


async def abort_twice(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        transport.abort()
        transport.abort()
        await protocol.lost


async def abort_after_close(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        transport.close()
        transport.abort()
        await protocol.lost


async def close_after_abort(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        transport.abort()
        transport.close()
        await protocol.lost


async def abort_with_data_queued(setting: Any, told):
    async with setting.connection(told, buffers=65536) as (transport, protocol, peer):
        transport.write(PLENTY)
        transport.abort()
        await protocol.lost


async def abort_in_connection_made(setting: Any, told):
    class Aborting(setting.base):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.abort()

    async with setting.connection(told, Aborting, peer_may_fail=True) as (_, protocol, peer):
        await protocol.lost


async def abort_in_eof_received(setting: Any, told):
    class Aborting(setting.base):
        def eof_received(self):
            self.transport.abort()
            return super().eof_received()

    async with setting.connection(told, Aborting) as (_, protocol, peer):
        peer.send_close_notify()
        await protocol.lost


async def close_in_eof_received(setting: Any, told):
    class Closing(setting.base):
        def eof_received(self):
            self.transport.close()
            return super().eof_received()

    async with setting.connection(told, Closing) as (_, protocol, peer):
        peer.send_close_notify()
        await protocol.lost


async def close_in_connection_lost(setting: Any, told):
    class Closing(setting.base):
        def connection_lost(self, exc):
            self.transport.close()
            self.transport.abort()
            super().connection_lost(exc)

    async with setting.connection(told, Closing) as (_, protocol, peer):
        peer.send_close_notify()
        await protocol.lost


# --- writes that come too late ---


async def write_after_close(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        transport.close()
        for _ in range(7):
            transport.write(b"too late")
        told["read"] = await peer.read_until_end(), peer.ended
        await peer.unwrap()


async def write_after_abort(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        transport.abort()
        for _ in range(7):
            transport.writelines([b"too", b"late"])
        await protocol.lost


async def write_after_the_loss(setting: Any, told):
    async with setting.connection(told) as (transport, protocol, peer):
        peer.send_eof()
        await protocol.lost
        for _ in range(7):
            transport.write(b"too late")
        transport.write(b"")


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("scenario", scenarios_of(__name__))
def test_end(loop_name, scenario, setting):
    seen = same_as_asyncio(loop_name, scenario, setting)
    assert seen["calls"].count("connection_lost") == 1
    assert seen["calls"][-1] == "connection_lost"
