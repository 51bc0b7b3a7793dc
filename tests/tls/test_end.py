"""The end of TLS connections, where rloop promises more than to be like asyncio.

All the ways to end, compared with asyncio, are in test_outcomes_end.py; handshakes that are given up in
test_cancel.py.
"""

import asyncio
import contextlib
import logging

import pytest

from support.peers import Recorder, on_asyncio, settle
from support.tls_peers import BufferedRecorder, tls_connection

KINDS = pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
SIDES = pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])


@SIDES
@KINDS
async def test_close_says_goodbye(factory, server_side):
    """close() sends close_notify, and waits for the peer's. Then connection_lost is called, and then the file is
    closed.
    """
    async with tls_connection(factory, server_side=server_side) as (transport, protocol, peer):
        transport.close()
        assert await peer.read_until_end() == b""
        assert peer.ended == "close_notify"
        assert "connection_lost" not in protocol.calls
        await peer.unwrap()
        assert await protocol.lost is None
        assert await peer.read_raw_until_eof() == b""


@SIDES
async def test_peers_close_is_answered(server_side):
    """The peer's close_notify is answered. Otherwise its socket.unwrap() would fail."""
    async with tls_connection(server_side=server_side) as (_, protocol, peer):
        peer.send_close_notify()
        await peer.unwrap()
        assert await protocol.lost is None
        assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]


async def test_connection_lost_comes_later():
    """connection_lost is not called inside close() or abort()."""
    for method in ("close", "abort"):
        async with tls_connection(ssl_shutdown_timeout=0.1) as (transport, protocol, _):
            getattr(transport, method)()
            assert protocol.calls == ["connection_made"]
            await protocol.lost


async def test_abort_says_nothing():
    """abort() sends no close_notify, so that the peer does not take this for a complete end."""
    async with tls_connection() as (transport, protocol, peer):
        transport.write(b"data")
        assert await peer.read(4) == b"data"
        transport.abort()
        assert await protocol.lost is None
        assert await peer.read_raw_until_eof() in (b"", None)


@pytest.mark.parametrize("keep_open", [True, "yes"])
async def test_eof_received_cannot_keep_it_open(keep_open, caplog):
    class Keeping(Recorder):
        pass

    Keeping.keep_open = keep_open
    async with tls_connection(Keeping) as (transport, protocol, peer):
        peer.send_close_notify()
        assert await protocol.lost is None
        assert transport.is_closing()
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("asyncio", "WARNING", "returning true from eof_received() has no effect when using ssl")
    ]


async def test_writes_after_close_are_warned_about(caplog):
    caplog.set_level(logging.WARNING)
    async with tls_connection() as (transport, protocol, peer):
        transport.close()
        for _ in range(10):
            transport.write(b"too late")
        assert await peer.read_until_end() == b""
        await peer.unwrap()
        await protocol.lost
    messages = [record.getMessage() for record in caplog.records]
    assert messages
    assert set(messages) == {"SSL connection is closed"}


async def test_close_does_not_download():
    """close() does not wait until a peer that goes on sending after our close_notify has finished."""
    async with tls_connection(ssl_shutdown_timeout=0.2) as (transport, protocol, peer):
        transport.close()
        await peer.read_until_end()
        sent = 0
        block = bytes(16384)
        try:
            for _ in range(2000):
                await asyncio.to_thread(peer.send_raw, peer.encrypt(block) if sent == 0 else bytes(16384))
                sent += 1
        except OSError:
            pass
        await protocol.lost
        assert sent < 2000
        assert bytes(protocol.data) == b""


async def test_nothing_is_delivered_after_close():
    if on_asyncio():
        pytest.skip("asyncio's close may deliver what it has read already")

    class Closing(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.close()
            self.calls.append("closed")

    async with tls_connection(Closing, ssl_shutdown_timeout=0.1) as (_, protocol, peer):
        peer.send_raw(b"".join(peer.encrypt(b"x") for _ in range(10)))
        await protocol.lost
        assert protocol.calls.count("data_received") == 1


@SIDES
async def test_half_a_record_before_the_end_is_not_delivered(server_side):
    async with tls_connection(server_side=server_side) as (_, protocol, peer):
        record = peer.encrypt(b"x" * 1000)
        peer.send_raw(record[:-1])
        peer.send_eof()
        assert await protocol.lost is None
        assert bytes(protocol.data) == b""


async def test_trickled_data():
    """A record comes in single bytes. It is delivered whole, when its last byte has come."""
    async with tls_connection() as (_, protocol, peer):
        record = peer.encrypt(b"hello, slowly")
        for number in range(len(record) - 1):
            peer.send_raw(record[number : number + 1])
            if number % 4 == 0:
                await settle()
        assert protocol.calls == ["connection_made"]
        peer.send_raw(record[-1:])
        assert await protocol.read(13) == b"hello, slowly"


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 6, 20])
async def test_records_cut_anywhere(cut):
    """First come two and a half records, and then the rest."""
    async with tls_connection() as (_, protocol, peer):
        first, second, third = (peer.encrypt(data) for data in (b"one ", b"two ", b"three"))
        peer.send_raw(first + second + third[:cut])
        assert await protocol.read(8) == b"one two "
        await settle()
        assert bytes(protocol.data) == b"one two "
        peer.send_raw(third[cut:])
        assert await protocol.read(13) == b"one two three"


async def test_hundred_connections_closed_at_once():
    async with contextlib.AsyncExitStack() as stack:
        ends = [await stack.enter_async_context(tls_connection()) for _ in range(100)]
        for transport, _, _ in ends:
            transport.write(b"bye")
            transport.close()
        for _, _, peer in ends:
            assert await peer.read_until_end() == b"bye"
            await peer.unwrap()
        for _, protocol, _ in ends:
            assert await protocol.lost is None
