"""loop.start_tls: a connection that begins in clear, at both sides, over TCP, UNIX sockets and TLS.

StreamWriter.start_tls, and what must not pass from one layer to the other, are in test_start_streams.py and
test_injection.py.
"""

import asyncio
import contextlib
import socket
import ssl

import pytest

from support import certificates
from support.certificates import TLS_1_2, TLS_1_3
from support.peers import Recorder, arrived, on_asyncio, raising, read_exactly, socket_pair
from support.tls_peers import BufferedRecorder, TlsPeer, gone, in_clear, start_tls

KINDS = pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
SIDES = pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])


@contextlib.asynccontextmanager
async def started(factory=Recorder, *, server_side=False, context=None, peer_context=None, **kwargs):
    """A connection on which TLS has begun, as (old transport, new transport, protocol, peer)."""
    async with in_clear(factory, server_side=server_side, peer_context=peer_context) as (
        transport,
        protocol,
        peer,
    ):
        shaking = asyncio.create_task(peer.handshake())
        new = await start_tls(transport, protocol, server_side=server_side, context=context, **kwargs)
        await shaking
        try:
            yield transport, new, protocol, peer
        finally:
            new.abort()


@SIDES
@FAMILIES
@KINDS
async def test_start(factory, family, server_side):
    async with in_clear(factory, family=family, server_side=server_side) as (transport, protocol, peer):
        peer.send_raw(b"in clear")
        assert await protocol.read(8) == b"in clear"
        transport.write(b"answer")
        assert await asyncio.to_thread(read_exactly, peer.sock, 6) == b"answer"
        shaking = asyncio.create_task(peer.handshake())
        new = await start_tls(transport, protocol, server_side=server_side)
        await shaking
        assert new is not transport
        assert new.get_protocol() is protocol
        peer.send(b" and encrypted")
        assert await protocol.read(22) == b"in clear and encrypted"
        new.write(b"encrypted")
        assert await peer.read(9) == b"encrypted"
        assert protocol.calls.count("connection_made") == 1
        new.close()
        assert await peer.read_until_end() == b""
        assert peer.ended == "close_notify"
        await peer.unwrap()
        assert await protocol.lost is None
        assert protocol.calls.count("connection_lost") == 1


@SIDES
@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
async def test_versions(server_side, version):
    context = certificates.server_context(version=version) if server_side else None
    context = context or certificates.client_context(version=version)
    async with started(server_side=server_side, context=context) as (_, new, _, _):
        assert new.get_extra_info("ssl_object").version() == {TLS_1_2: "TLSv1.2", TLS_1_3: "TLSv1.3"}[version]


@SIDES
async def test_extra_info(server_side):
    async with started(server_side=server_side) as (old, new, _, _):
        assert isinstance(new.get_extra_info("ssl_object"), ssl.SSLObject)
        assert new.get_extra_info("peername") == old.get_extra_info("peername")
        assert new.get_extra_info("socket") is old.get_extra_info("socket")
        assert old.get_extra_info("ssl_object") is None
        assert isinstance(new, asyncio.Transport)


async def test_protocol_is_not_the_transports_own():
    """The protocol that start_tls is given need not be the one that the transport had."""
    async with in_clear() as (transport, clear, peer):
        encrypted = Recorder()
        encrypted.connection_made(transport)
        shaking = asyncio.create_task(peer.handshake())
        new = await start_tls(transport, encrypted)
        await shaking
        peer.send(b"hello")
        assert await encrypted.read(5) == b"hello"
        assert clear.calls == ["connection_made"]
        new.abort()
        assert await encrypted.lost is None
        assert encrypted.calls[-1] == "connection_lost"


async def test_written_in_clear_before_leaves_before(loop_errors):
    """Data that was written before start_tls is sent in clear, before the first record, even if it was still queued."""
    data = bytes(range(256)) * 8192
    near, far = socket_pair(buffers=65536)
    loop = asyncio.get_running_loop()
    with TlsPeer(far) as peer:
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        transport.write(data)
        assert transport.get_write_buffer_size() > 0

        def serve():
            received = bytearray()
            while len(received) < len(data):
                received += peer.sock.recv(min(65536, len(data) - len(received)))
            peer.blocking_handshake()
            return bytes(received)

        serving = asyncio.create_task(asyncio.to_thread(serve))
        new = await start_tls(transport, protocol)
        assert await serving == data
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        new.abort()
        await gone(near)
    if on_asyncio():
        loop_errors.clear()  # its own protocol did not know that the transport had paused the one before


async def test_hello_that_has_arrived_before():
    """The client sends its hello before the server calls start_tls."""
    async with in_clear(server_side=True) as (transport, protocol, peer):
        transport.pause_reading()
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        hello = peer.pending()
        peer.send_raw(hello)
        await arrived(transport, len(hello))
        shaking = asyncio.create_task(peer.handshake())
        new = await start_tls(transport, protocol, server_side=True)
        await shaking
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        assert protocol.calls.count("connection_made") == 1
        assert new.is_reading()


async def test_paused_transport_reads_again():
    """start_tls resumes reading, because the handshake needs it."""
    async with in_clear() as (transport, protocol, peer):
        transport.pause_reading()
        shaking = asyncio.create_task(peer.handshake())
        new = await start_tls(transport, protocol)
        await shaking
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        assert new.is_reading() is True


@SIDES
async def test_handshake_that_fails(server_side):
    """start_tls raises, and the protocol, which has a connection, gets connection_lost."""
    async with in_clear(server_side=server_side) as (transport, protocol, peer):
        peer.send_raw(b"no TLS at all, but some more bytes in clear")
        if not server_side:
            await protocol.read(43)
            peer.send_raw(b"no TLS at all, but some more bytes in clear")
        transport.pause_reading()
        with pytest.raises(ssl.SSLError) as info:
            await start_tls(transport, protocol, server_side=server_side)
        assert info.value.reason == "WRONG_VERSION_NUMBER"
        assert await protocol.lost is info.value
        assert protocol.calls[-1] == "connection_lost"
        assert transport.is_closing()


async def test_certificate_that_is_refused():
    peer_context = certificates.server_context(certificates.other_host())
    async with in_clear(peer_context=peer_context) as (transport, protocol, peer):
        shaking = asyncio.create_task(peer.handshake())
        with pytest.raises(ssl.SSLCertVerificationError) as info:
            await start_tls(transport, protocol)
        assert await protocol.lost is info.value
        await asyncio.gather(shaking, return_exceptions=True)


@SIDES
async def test_eof_in_the_handshake(server_side):
    async with in_clear(server_side=server_side) as (transport, protocol, peer):
        task = asyncio.create_task(start_tls(transport, protocol, server_side=server_side))
        await asyncio.sleep(0)
        peer.send_eof()
        with pytest.raises(ConnectionResetError):
            await task
        assert type(await protocol.lost) is ConnectionResetError


@SIDES
async def test_handshake_timeout(server_side):
    async with in_clear(server_side=server_side) as (transport, protocol, peer):
        with pytest.raises(ConnectionAbortedError) as info:
            await start_tls(transport, protocol, server_side=server_side, ssl_handshake_timeout=0.05)
        assert str(info.value) == "SSL handshake is taking longer than 0.05 seconds: aborting the connection"
        assert transport.is_closing()


@SIDES
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 10])
async def test_cancelled(server_side, turns):
    """A cancelled start_tls closes the connection, because the peer may have seen a part of the handshake."""
    async with in_clear(server_side=server_side) as (transport, protocol, peer):
        task = asyncio.create_task(start_tls(transport, protocol, server_side=server_side))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if turns:
            assert transport.is_closing()
            await peer.read_raw_until_eof()


async def test_shutdown_timeout():
    async with started(ssl_shutdown_timeout=0.05) as (_, new, protocol, peer):
        new.close()
        exc = await protocol.lost
        assert (type(exc), str(exc)) == (TimeoutError, "SSL shutdown timed out")


async def test_data_received_that_raises(loop_errors):
    error = ZeroDivisionError("why")
    async with started(raising("data_received", error)) as (_, _, protocol, peer):
        peer.send(b"x")
        assert await protocol.lost is error
        (report,) = loop_errors
        loop_errors.clear()
        assert report["exception"] is error


async def test_flow_control_goes_on():
    near, far = socket_pair(buffers=65536)
    loop = asyncio.get_running_loop()
    with TlsPeer(far) as peer:
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        shaking = asyncio.create_task(peer.handshake())
        new = await start_tls(transport, protocol)
        await shaking
        data, count = bytes(range(256)) * 1024, 0
        while protocol.calls[-1] != "pause_writing":
            new.write(data)
            count += 1
        assert await peer.read(len(data) * count) == data * count
        while protocol.calls[-1] != "resume_writing":
            await asyncio.sleep(0)
        new.abort()
        await gone(near)


# --- TLS in TLS ---


@SIDES
@KINDS
async def test_tls_in_tls(factory, server_side):
    """A proxy that speaks TLS makes TLS in TLS. Each layer ends by itself, and no data is lost between them."""
    async with started(factory, server_side=server_side) as (_, outer, protocol, peer):
        inner = TlsInside(peer, server_side=not server_side)
        shaking = asyncio.create_task(asyncio.to_thread(inner.handshake))
        new = await start_tls(outer, protocol, server_side=server_side)
        await shaking
        data = bytes(range(256)) * 1024
        inner.send(b"through both")
        assert await protocol.read(12) == b"through both"
        new.write(data)
        assert await asyncio.to_thread(inner.read, len(data)) == data
        assert new.get_extra_info("ssl_object") is not outer.get_extra_info("ssl_object")
        assert new.get_extra_info("sockname") == outer.get_extra_info("sockname")
        assert protocol.calls.count("connection_made") == 1
        new.abort()
        assert await protocol.lost is None
        assert protocol.calls.count("connection_lost") == 1


async def test_tls_in_tls_closes_both():
    async with started() as (_, outer, protocol, peer):
        inner = TlsInside(peer, server_side=True)
        shaking = asyncio.create_task(asyncio.to_thread(inner.handshake))
        new = await start_tls(outer, protocol)
        await shaking
        new.write(b"bye")
        new.close()
        assert await asyncio.to_thread(inner.read_until_end) == b"bye"
        await asyncio.to_thread(inner.close)
        assert await peer.read_until_end() == b""
        assert peer.ended == "close_notify"
        await peer.unwrap()
        assert await protocol.lost is None


class TlsInside:
    """The peer's inner TLS. Its records are data of the outer one."""

    def __init__(self, outer, *, server_side):
        context = certificates.server_context() if server_side else certificates.client_context()
        self.outer = outer
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side, server_hostname=name)

    def until_done(self, call, *args):
        while True:
            try:
                result = call(*args)
            except ssl.SSLWantReadError:
                self.flush()
                data = self.outer._read_some(65536)
                self.incoming.write(data) if data else self.incoming.write_eof()
            else:
                self.flush()
                return result

    def flush(self):
        if records := self.outgoing.read():
            self.outer.send(records)

    def handshake(self):
        self.until_done(self.tls.do_handshake)

    def send(self, data):
        self.tls.write(data)
        self.flush()

    def read(self, count):
        data = bytearray()
        while len(data) < count:
            data += self.until_done(self.tls.read, count - len(data))
        return bytes(data)

    def read_until_end(self):
        data = bytearray()
        while chunk := self.until_done(self.tls.read, 65536):
            data += chunk
        return bytes(data)

    def close(self):
        self.until_done(self.tls.unwrap)


# --- arguments ---


@pytest.mark.parametrize("context", [None, True, "context", object()])
async def test_not_a_context(context):
    async with in_clear() as (transport, protocol, peer):
        with pytest.raises(TypeError) as info:
            await asyncio.get_running_loop().start_tls(transport, protocol, context)
        assert str(info.value) == (f"sslcontext is expected to be an instance of ssl.SSLContext, got {context!r}")
        peer.send_raw(b"still in clear")
        assert await protocol.read(14) == b"still in clear"


@pytest.mark.parametrize("transport", [None, object()])
async def test_not_a_transport(transport):
    with pytest.raises(TypeError) as info:
        await asyncio.get_running_loop().start_tls(transport, Recorder(), certificates.client_context())
    assert str(info.value) == f"transport {transport!r} is not supported by start_tls()"
