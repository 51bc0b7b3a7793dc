"""pause_reading of TLS transports is exact: nothing is delivered between it and resume_reading, and nothing is lost."""

import asyncio
from typing import Any

import pytest

from support.peers import Recorder, on_asyncio, settle
from support.tls_peers import BufferedRecorder, tls_connection

KINDS = pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])


def pausing_after(count, base):
    """A protocol that pauses reading once this many bytes have come."""
    method = "buffer_updated" if base is BufferedRecorder else "data_received"

    def receive(self, argument):
        getattr(base, method)(self, argument)
        if len(self.data) >= count and not self.paused:
            self.paused = True
            self.transport.pause_reading()
            self.calls.append("paused")

    return type("Pausing", (base,), {method: receive, "paused": False})


@KINDS
async def test_nothing_while_paused(factory):
    async with tls_connection(factory) as (transport, protocol, peer):
        transport.pause_reading()
        for _ in range(5):
            peer.send(b"hello")
            await settle()
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        assert protocol.calls == ["connection_made"]  # not from inside resume_reading
        assert await protocol.read(25) == b"hello" * 5


async def test_pause_in_data_received_among_records():
    """Several records came together. A pause in data_received holds back those behind the delivered one."""
    async with tls_connection(pausing_after(1, Recorder)) as (transport, protocol, peer):
        records = [peer.encrypt(b"%04d" % number) for number in range(100)]
        peer.send_raw(b"".join(records))
        while not protocol.paused:
            await asyncio.sleep(0)
        await settle()
        assert protocol.calls == ["connection_made", "data_received", "paused"]
        transport.resume_reading()
        assert await protocol.read(400) == b"".join(b"%04d" % number for number in range(100))


async def test_pause_in_buffer_updated_among_records():
    async with tls_connection(pausing_after(1, BufferedRecorder)) as (transport, protocol, peer):
        records = [peer.encrypt(b"%04d" % number) for number in range(100)]
        peer.send_raw(b"".join(records))
        while not protocol.paused:
            await asyncio.sleep(0)
        await settle()
        assert protocol.calls == ["connection_made", "buffer_updated", "paused"]
        transport.resume_reading()
        assert await protocol.read(400) == b"".join(b"%04d" % number for number in range(100))


@KINDS
async def test_pause_in_connection_made(factory: Any):
    """Reading is paused in connection_made. Our last handshake message is sent all the same."""
    if on_asyncio():
        pytest.skip("asyncio keeps its last message back until reading goes on")

    class Paused(factory):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async with tls_connection(Paused) as (transport, protocol, peer):
        assert transport.is_reading() is False
        peer.send(b"hello")
        await settle()
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        assert await protocol.read(5) == b"hello"


async def test_pause_at_every_record():
    """The protocol pauses after each piece, and resumes for the next one."""

    class OneByOne(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    async with tls_connection(OneByOne) as (_, protocol, peer):
        data = bytes(range(256)) * 4096
        sending = asyncio.create_task(peer.send_all(data))
        assert await protocol.read(len(data)) == data
        await sending


async def test_pause_and_resume_in_data_received():
    class Hesitating(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()
            self.transport.resume_reading()

    async with tls_connection(Hesitating) as (_, protocol, peer):
        peer.send_raw(b"".join(peer.encrypt(b"x") for _ in range(50)))
        assert await protocol.read(50) == b"x" * 50
        peer.send(b"more")
        assert await protocol.read(54) == b"x" * 50 + b"more"


async def test_resumed_twice_delivers_once():
    async with tls_connection() as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"hello")
        await settle()
        transport.resume_reading()
        transport.pause_reading()
        transport.resume_reading()
        assert await protocol.read(5) == b"hello"
        await settle()
        assert bytes(protocol.data) == b"hello"


async def test_paused_transport_stops_the_peer():
    """The kernel's buffers fill, and then the peer cannot send."""
    async with tls_connection(buffers=65536) as (transport, protocol, peer):
        transport.pause_reading()
        data = bytes(range(256)) * 16384
        sending = asyncio.create_task(peer.send_all(data))
        for _ in range(100):
            await asyncio.sleep(0.002)
        assert not sending.done()
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        assert await protocol.read(len(data)) == data
        await sending


async def test_writing_goes_on_while_paused():
    async with tls_connection() as (transport, protocol, peer):
        transport.pause_reading()
        transport.write(b"hello")
        assert await peer.read(5) == b"hello"
        peer.send(b"answer")
        transport.write(b"again")
        assert await peer.read(5) == b"again"
        assert protocol.calls == ["connection_made"]


@KINDS
@pytest.mark.parametrize("clean", [True, False])
async def test_end_while_paused(factory, clean):
    """While reading is paused, the peer's end waits behind its data."""
    async with tls_connection(factory) as (transport, protocol, peer):
        transport.pause_reading()
        peer.send_raw(peer.encrypt(b"last ") + peer.encrypt(b"words"))
        if clean:
            peer.send_close_notify()
        peer.send_eof()
        for _ in range(3):
            await settle()
        assert "eof_received" not in protocol.calls
        assert protocol.calls[:1] == ["connection_made"]
        transport.resume_reading()
        assert await protocol.lost is None
        assert bytes(protocol.data) == b"last words"
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


async def test_close_while_paused():
    async with tls_connection(ssl_shutdown_timeout=0.2) as (transport, protocol, peer):
        transport.pause_reading()
        transport.write(b"bye")
        transport.close()
        assert await peer.read_until_end() == b"bye"
        await peer.unwrap()
        await protocol.lost
        assert protocol.calls[-1] == "connection_lost"


async def test_pause_while_closing():
    """The peer's close_notify is received all the same, and ends the connection."""
    async with tls_connection(ssl_shutdown_timeout=60) as (transport, protocol, peer):
        transport.close()
        transport.pause_reading()
        assert await peer.read_until_end() == b""
        await peer.unwrap()
        assert await protocol.lost is None


async def test_close_with_unread_data_while_paused():
    """close() drops the data that was not read."""
    async with tls_connection(ssl_shutdown_timeout=0.2) as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"unread")
        await settle()
        transport.close()
        await protocol.lost
        assert bytes(protocol.data) == b""
        assert protocol.calls.count("connection_lost") == 1


async def test_abort_while_paused():
    async with tls_connection() as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"unread")
        await settle()
        transport.abort()
        assert await protocol.lost is None
        assert bytes(protocol.data) == b""


async def test_resume_after_the_end_is_harmless():
    async with tls_connection() as (transport, protocol, peer):
        transport.pause_reading()
        transport.abort()
        await protocol.lost
        transport.resume_reading()
        transport.pause_reading()
        await settle()
        assert protocol.calls == ["connection_made", "connection_lost"]
