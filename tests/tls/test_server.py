"""create_server and connect_accepted_socket with ssl=: arguments, handshakes that fail, and what goes on beside them.

The client's side is in test_connect.py.
"""

import asyncio
import contextlib
import contextvars
import gc
import logging
import socket
import ssl

import pytest

from support import certificates
from support.certificates import TLS_1_2, TLS_1_3
from support.peers import HOST, Peer, Recorder, on_asyncio, socket_pair, until
from support.tls_peers import BufferedRecorder, TlsPeer, connect, gone, server_with, tls_connection

KINDS = pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])


class Accepting:
    """A TLS server, as an asynchronous context manager that gives itself. `protocols` are those it has made."""

    def __init__(self, base=Recorder, **kwargs):
        self.base = base
        self.kwargs = {"ssl": certificates.server_context(), **kwargs}
        self.protocols = []

    def make(self):
        protocol = self.base()
        self.protocols.append(protocol)
        return protocol

    async def __aenter__(self):
        self.server = await asyncio.get_running_loop().create_server(self.make, HOST, 0, **self.kwargs)
        self.address = self.server.sockets[0].getsockname()
        return self

    async def __aexit__(self, *exc_info):
        self.server.close()
        for protocol in self.protocols:
            if protocol.transport is not None:
                protocol.transport.abort()
                await protocol.lost

    def dial(self, **kwargs):
        """A peer that is connected, and has not begun its handshake."""
        return TlsPeer(socket.create_connection(self.address), server_side=False, **kwargs)


@KINDS
@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
async def test_serve(factory, version):
    async with Accepting(factory, ssl=certificates.server_context(version=version)) as accepting:
        with accepting.dial() as peer:
            await peer.handshake()
            peer.send(b"question")
            (protocol,) = accepting.protocols
            assert await protocol.read(8) == b"question"
            protocol.transport.write(b"answer")
            assert await peer.read(6) == b"answer"
            assert protocol.calls[0] == "connection_made"
            assert peer.tls.getpeercert()["subject"] == ((("commonName", "localhost"),),)


async def test_protocol_is_made_before_the_handshake_and_told_after():
    async with Accepting() as accepting:
        with accepting.dial() as peer:
            await until(lambda: accepting.protocols)
            (protocol,) = accepting.protocols
            assert protocol.calls == []
            await peer.handshake()
            await until(lambda: protocol.calls)
            assert protocol.calls == ["connection_made"]


@KINDS
async def test_data_that_comes_with_the_end_of_the_handshake(factory):
    """The client's Finished and its first data in one segment."""
    async with Accepting(factory) as accepting:
        with accepting.dial() as peer:
            await asyncio.to_thread(peer.blocking_handshake_and_send, b"first ", b"second")
            (protocol,) = accepting.protocols
            assert await protocol.read(12) == b"first second"
            assert protocol.calls[0] == "connection_made"


async def test_more_than_a_record_that_comes_with_the_end_of_the_handshake():
    """One call of `data_received` tells of all that has come."""
    async with Accepting() as accepting:
        with accepting.dial() as peer:
            with pytest.raises(ssl.SSLWantReadError):
                peer.tls.do_handshake()
            peer.flush()
            await asyncio.to_thread(peer.receive)
            peer.tls.do_handshake()
            peer.send_raw(peer.pending() + peer.encrypt(bytes(40_000)))
            (protocol,) = accepting.protocols
            assert await protocol.read(40_000) == bytes(40_000)
            assert protocol.calls == ["connection_made", "data_received"]


async def test_start_serving_later():
    loop = asyncio.get_running_loop()
    echo = server_with(lambda transport, data: transport.write(data))
    server = await loop.create_server(echo, HOST, 0, ssl=certificates.server_context(), start_serving=False)
    address = server.sockets[0].getsockname()
    await server.start_serving()
    with TlsPeer(socket.create_connection(address), server_side=False) as peer:
        await peer.handshake()
        peer.send(b"hello")
        assert await peer.read(5) == b"hello"
        peer.send_close_notify()
        assert await peer.read_until_end() == b""
    server.close()
    await server.wait_closed()


async def test_listening_socket():
    served = asyncio.Event()

    async def hello(reader, writer):
        writer.write(b"hello")
        writer.close()
        await writer.wait_closed()
        served.set()

    sock = socket.create_server((HOST, 0))
    address = sock.getsockname()
    server = await asyncio.start_server(hello, sock=sock, ssl=certificates.server_context())
    reader, writer = await asyncio.open_connection(
        *address, ssl=certificates.client_context(), server_hostname="localhost"
    )
    assert await reader.read() == b"hello"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    await served.wait()


async def test_extra_info_of_what_is_accepted():
    async with Accepting() as accepting:
        with accepting.dial() as peer:
            await peer.handshake()
            (protocol,) = accepting.protocols
            await until(lambda: protocol.calls)
            transport = protocol.transport
            assert transport.get_extra_info("sockname") == accepting.address
            assert transport.get_extra_info("peername") == peer.sock.getsockname()
            assert transport.get_extra_info("sslcontext") is accepting.kwargs["ssl"]
            assert transport.get_extra_info("ssl_object").server_side is True


async def test_context_of_the_factory_and_connection_made():
    """Both run in the context in which the server was made, in versions of Python where asyncio does so."""
    variable = contextvars.ContextVar("variable", default="outside")
    seen = []

    class Seeing(Recorder):
        def connection_made(self, transport):
            seen.append(variable.get())
            super().connection_made(transport)

    variable.set("server")
    async with Accepting(Seeing) as accepting:
        variable.set("later")
        with accepting.dial() as peer:
            await peer.handshake()
            await until(lambda: seen)
    assert seen == ["server"]


# --- handshakes that fail ---


async def test_other_connections_go_on():
    """A client whose handshake fails does not disturb the server, which reports nothing and serves on."""
    async with Accepting() as accepting:
        with accepting.dial() as good, Peer(socket.create_connection(accepting.address)) as bad:
            await good.handshake()
            bad.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                await bad.read_until_eof()
            good.send(b"hello")
            assert await accepting.protocols[0].read(5) == b"hello"
        with accepting.dial() as another:
            await another.handshake()
            another.send(b"hello")
            await until(lambda: len(accepting.protocols) == 3)
            assert await accepting.protocols[2].read(5) == b"hello"
        assert accepting.protocols[1].calls == []


async def garbage(peer):
    peer.send_raw(b"x" * 100)


async def eof(peer):
    peer.send_eof()


async def reset(peer):
    peer.reset()


async def refusal(peer):
    """The client does not trust the certificate."""
    context = certificates.client_context()
    context.load_verify_locations(cadata=certificates.self_signed().pem)
    with TlsPeer(peer.sock.dup(), context, server_side=False, server_hostname="elsewhere.test") as refusing:
        with pytest.raises(ssl.SSLCertVerificationError):
            await refusing.handshake()


FAILURES = pytest.mark.parametrize(
    ("behave", "kind"),
    [
        (garbage, ssl.SSLError),
        (eof, ConnectionResetError),
        (reset, ConnectionResetError),
        (refusal, ssl.SSLError),
    ],
)


@FAILURES
async def test_failing_handshake_is_silent(behave, kind, caplog):
    """A failing handshake calls no protocol, and is neither reported nor logged, because such clients are common."""
    caplog.set_level(logging.INFO)
    context = certificates.server_context(version=TLS_1_2)
    async with Accepting(ssl=context) as accepting:
        with accepting.dial() as peer:
            await until(lambda: accepting.protocols)
            await behave(peer)
            if peer.sock.fileno() != -1:
                await peer.read_raw_until_eof()
        (protocol,) = accepting.protocols
        assert protocol.calls == []
    assert caplog.records == []


@FAILURES
async def test_failing_handshake_in_debug_mode(behave, kind, loop_errors):
    asyncio.get_running_loop().set_debug(True)
    context = certificates.server_context(version=TLS_1_2)
    async with Accepting(ssl=context) as accepting:
        with accepting.dial() as peer:
            await until(lambda: accepting.protocols)
            await behave(peer)
            await until(lambda: loop_errors)
        (protocol,) = accepting.protocols
    (report,) = loop_errors
    loop_errors.clear()
    assert report["message"] == "Error on transport creation for incoming connection"
    assert type(report["exception"]) is kind
    assert report["protocol"] is protocol
    assert isinstance(report["transport"], asyncio.Transport)
    assert set(report) == {"message", "exception", "protocol", "transport"}


@pytest.mark.parametrize("debug", [False, True])
async def test_factory_that_raises(debug, loop_errors):
    """The connection is dropped. Only debug mode reports why."""
    if on_asyncio():
        pytest.skip("asyncio leaves the socket to whoever keeps the exception")

    def refuse():
        raise ZeroDivisionError("why")

    loop = asyncio.get_running_loop()
    loop.set_debug(debug)
    server = await loop.create_server(refuse, HOST, 0, ssl=certificates.server_context())
    with Peer(socket.create_connection(server.sockets[0].getsockname())) as peer:
        assert await peer.read_until_eof() == b""
    server.close()
    reports = list(loop_errors)
    loop_errors.clear()
    assert len(reports) == debug
    for report in reports:
        assert report["message"] == "Error on transport creation for incoming connection"
        assert type(report["exception"]) is ZeroDivisionError
        assert set(report) == {"message", "exception"}


async def test_server_that_is_closed_just_after_an_accept():
    """The connection that it has accepted is closed. Nobody was given its transport, so no warning tells of it."""
    if on_asyncio():
        pytest.skip("asyncio warns of a transport and a socket that the program never had")

    def factory():
        server.close()
        return Recorder()

    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, HOST, 0, ssl=certificates.server_context())
    with Peer(socket.create_connection(server.sockets[0].getsockname())) as peer:
        assert await peer.read_until_eof() == b""
    # A warning fails the test, and so does one of an object that is collected at its end.
    gc.collect()


async def test_clear_text_server_is_not_spoken_to():
    """A TLS client connects to a server that speaks first, and in clear."""
    near, far = socket_pair()
    with Peer(far) as peer:
        peer.send(b"220 mail.example.test ESMTP\r\n")
        with pytest.raises(ssl.SSLError) as info:
            await connect(Recorder, near)
        assert info.value.reason in ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG")
        await gone(near)


# --- connect_accepted_socket ---


@KINDS
async def test_connect_accepted_socket(factory):
    async with tls_connection(factory, server_side=True) as (transport, protocol, peer):
        assert protocol.calls == ["connection_made"]
        peer.send(b"question")
        assert await protocol.read(8) == b"question"
        transport.write(b"answer")
        assert await peer.read(6) == b"answer"


async def test_connect_accepted_socket_that_fails():
    near, far = socket_pair()
    with Peer(far) as peer:
        peer.send(b"x" * 100)
        with pytest.raises(ssl.SSLError):
            await connect(Recorder, near, server_side=True)
        await gone(near)


# --- arguments ---


@pytest.mark.parametrize("value", [True, False])
async def test_no_default_context_for_servers(value):
    loop = asyncio.get_running_loop()
    with pytest.raises(TypeError) as info:
        await loop.create_server(Recorder, HOST, 0, ssl=value)
    assert str(info.value) == "ssl argument must be an SSLContext or None"


async def test_connect_accepted_socket_has_no_default_context():
    near, far = socket_pair()
    with near, far:
        with pytest.raises(ValueError) as info:
            await asyncio.get_running_loop().connect_accepted_socket(Recorder, near, ssl=True)
        assert str(info.value) == "Server side SSL needs a valid SSLContext"


@pytest.mark.parametrize("argument", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
async def test_timeouts_without_ssl(argument):
    loop = asyncio.get_running_loop()
    message = f"{argument} is only meaningful with ssl"
    with pytest.raises(ValueError) as info:
        await loop.create_server(Recorder, HOST, 0, **{argument: 1})  # type: ignore[call-overload]
    assert str(info.value) == message
    near, far = socket_pair()
    with near, far:
        with pytest.raises(ValueError) as info:
            await loop.connect_accepted_socket(Recorder, near, **{argument: 1})  # type: ignore[arg-type]
        assert str(info.value) == message


async def test_tls_socket():
    near, far = socket_pair()
    context = certificates.server_context()
    with far, context.wrap_socket(near, server_side=True, do_handshake_on_connect=False) as wrapped:
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError, match="^Socket cannot be of type SSLSocket$"):
            await loop.connect_accepted_socket(Recorder, wrapped, ssl=context)
        with pytest.raises(TypeError, match="^Socket cannot be of type SSLSocket$"):
            await loop.create_server(Recorder, sock=wrapped, ssl=context)


async def test_client_context_at_the_server():
    near, far = socket_pair()
    with near, far:
        with pytest.raises(ssl.SSLError) as info:
            await connect(Recorder, near, server_side=True, context=certificates.blind_context())
        assert "Cannot create a server socket with a PROTOCOL_TLS_CLIENT context" in str(info.value)
