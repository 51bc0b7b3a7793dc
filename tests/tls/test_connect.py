"""create_connection with ssl=: contexts, host names, and what a server's certificate must be.

What else can fail in a handshake is in test_outcomes_handshake.py, timeouts are in test_timeouts.py.
"""

import asyncio
import socket
import ssl
import sys

import pytest

from support import certificates
from support.certificates import TLS_1_2, TLS_1_3
from support.peers import Recorder, has_ipv6, noting, read_exactly, socket_pair
from support.tls_peers import BufferedRecorder, TlsPeer, connect, gone, handshaking, server_with, tls_connection

KINDS = pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])


class Serving:
    """A TLS server of the running loop that echoes, as an asynchronous context manager that gives its port."""

    def __init__(self, certificate=None, host=None, **kwargs):
        self.context = certificates.server_context(certificate, **kwargs)
        self.host = host or "127.0.0.1"

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        echo = server_with(lambda transport, data: transport.write(data))
        self.server = await loop.create_server(echo, self.host, 0, ssl=self.context)
        return self.server.sockets[0].getsockname()[1]

    async def __aexit__(self, *exc_info):
        self.server.close()


async def echoed(transport, protocol, data=b"hello"):
    """Checks that the connection works, and closes it."""
    transport.write(data)
    assert await protocol.read(len(data)) == data
    transport.close()
    assert await protocol.lost is None


# --- success ---


@KINDS
@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
async def test_connect(factory, version):
    async with tls_connection(factory, context=certificates.client_context(version=version)) as (
        transport,
        protocol,
        peer,
    ):
        assert protocol.calls == ["connection_made"]
        assert protocol.transport is transport
        transport.write(b"question")
        assert await peer.read(8) == b"question"
        peer.send(b"answer")
        assert await protocol.read(6) == b"answer"
        assert peer.tls.version() == {TLS_1_2: "TLSv1.2", TLS_1_3: "TLSv1.3"}[version]


async def test_rsa_key():
    peer_context = certificates.server_context(certificates.rsa_server())
    async with tls_connection(peer_context=peer_context) as (transport, protocol, peer):
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_host_is_the_server_hostname(host):
    async with Serving() as port:
        loop = asyncio.get_running_loop()
        context = certificates.client_context()
        transport, protocol = await loop.create_connection(Recorder, host, port, ssl=context)
        assert transport.get_extra_info("ssl_object").server_hostname == host
        await echoed(transport, protocol)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6")
async def test_ipv6_address_is_the_server_hostname():
    async with Serving(host="::1") as port:
        loop = asyncio.get_running_loop()
        context = certificates.client_context()
        transport, protocol = await loop.create_connection(Recorder, "::1", port, ssl=context)
        await echoed(transport, protocol)


async def test_server_hostname_wins_over_host():
    async with Serving(certificates.other_host()) as port:
        loop = asyncio.get_running_loop()
        context = certificates.client_context()
        transport, protocol = await loop.create_connection(
            Recorder, "127.0.0.1", port, ssl=context, server_hostname="elsewhere.test"
        )
        assert transport.get_extra_info("peercert")["subject"] == ((("commonName", "elsewhere.test"),),)
        await echoed(transport, protocol)


async def test_international_host_name():
    certificate = certificates.issue("bücher", certificates.authority(), names=("xn--bcher-kva.test",))
    peer_context = certificates.server_context(certificate)
    async with tls_connection(peer_context=peer_context, server_hostname="bücher.test") as (
        transport,
        protocol,
        peer,
    ):
        assert transport.get_extra_info("ssl_object").server_hostname == "xn--bcher-kva.test"
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"


async def test_empty_server_hostname_without_check():
    """An empty name is how a program connects to a server whose name does not matter."""
    peer_context = certificates.server_context(certificates.self_signed())
    context = certificates.blind_context()
    async with tls_connection(context=context, peer_context=peer_context, server_hostname="") as (
        _,
        protocol,
        peer,
    ):
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"


async def test_default_context(monkeypatch, tmp_path):
    """ssl=True means ssl.create_default_context(). The test makes its defaults trust the test's authority."""
    trusted = tmp_path / "authority.pem"
    trusted.write_text(certificates.authority().pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    async with Serving() as port:
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, "localhost", port, ssl=True)
        assert transport.get_extra_info("sslcontext").verify_mode is ssl.CERT_REQUIRED
        assert transport.get_extra_info("sslcontext").check_hostname is True
        await echoed(transport, protocol)


async def test_default_context_trusts_nobody_else(monkeypatch, tmp_path):
    trusted = tmp_path / "authority.pem"
    trusted.write_text(certificates.self_signed().pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    async with Serving() as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.get_running_loop().create_connection(Recorder, "localhost", port, ssl=True)


async def test_default_context_with_no_name_checks_no_name(monkeypatch, tmp_path):
    trusted = tmp_path / "authority.pem"
    trusted.write_text(certificates.authority().pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    async with Serving(certificates.other_host()) as port:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(Recorder, "127.0.0.1", port, ssl=True, server_hostname="")
        assert transport.get_extra_info("sslcontext").check_hostname is False
        await echoed(transport, protocol)


@KINDS
async def test_data_that_comes_with_the_end_of_the_handshake(factory):
    """TLS 1.2: the server's Finished is the last message. Data follows it in the same segment."""
    context = certificates.client_context(version=TLS_1_2)
    near, far = socket_pair()
    with TlsPeer(far) as peer:
        task = asyncio.create_task(connect(factory, near, context=context))

        await asyncio.to_thread(peer.blocking_handshake_and_send, b"first ", b"second")
        transport, protocol = await task
        assert await protocol.read(12) == b"first second"
        assert protocol.calls[0] == "connection_made"
        transport.abort()
        await gone(near)


async def test_written_in_connection_made():
    class Greeting(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"hello ")
            transport.writelines([b"from ", b"here"])

    async with tls_connection(Greeting) as (_, _, peer):
        assert await peer.read(15) == b"hello from here"


async def test_many_at_once():
    async def client(number):
        transport, protocol = await loop.create_connection(
            Recorder, "127.0.0.1", port, ssl=context, server_hostname="localhost"
        )
        await echoed(transport, protocol, b"%d" % number * 10_000)

    loop = asyncio.get_running_loop()
    context = certificates.client_context()
    async with Serving() as port:
        await asyncio.gather(*(client(number) for number in range(50)))


# --- arguments ---


async def refused(error, message, *args, **kwargs):
    """create_connection refuses its arguments, and makes no connection and no protocol."""

    def factory():
        raise AssertionError("a protocol was made")

    with pytest.raises(error) as info:
        await asyncio.get_running_loop().create_connection(factory, *args, **kwargs)
    assert type(info.value) is error
    assert str(info.value) == message


async def test_server_hostname_without_ssl():
    await refused(
        ValueError, "server_hostname is only meaningful with ssl", "127.0.0.1", 1, server_hostname="localhost"
    )


@pytest.mark.parametrize("context", [True, "context"])
async def test_no_name_at_all(context):
    context = certificates.client_context() if context == "context" else context
    message = "You must set server_hostname when using ssl without a host"
    near, far = socket_pair()
    with near, far:
        await refused(ValueError, message, sock=near, ssl=context)
        await refused(ValueError, message, "", 1, ssl=context)


@pytest.mark.parametrize("argument", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
async def test_timeouts_without_ssl(argument):
    await refused(ValueError, f"{argument} is only meaningful with ssl", "127.0.0.1", 1, **{argument: 1})


async def test_tls_socket():
    """A loop refuses a socket that the ssl module has wrapped."""
    near, far = socket_pair()
    context = certificates.client_context()
    with (
        far,
        context.wrap_socket(near, do_handshake_on_connect=False, server_hostname="localhost") as wrapped,
    ):
        await refused(TypeError, "Socket cannot be of type SSLSocket", sock=wrapped)
        await refused(
            TypeError,
            "Socket cannot be of type SSLSocket",
            sock=wrapped,
            ssl=context,
            server_hostname="localhost",
        )


def failing_wrap(context, name):
    """The error that the ssl module itself raises for these arguments."""
    with pytest.raises(Exception) as info:
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)
    return info.value


NO_NAME = pytest.param("", marks=pytest.mark.skipif(sys.version_info < (3, 14), reason="ssl lets it pass"))


@pytest.mark.parametrize("name", [NO_NAME, ".localhost", "local\0host", b"localhost\xff", "x" * 300])
async def test_names_that_cannot_be(name):
    """The program gets the ssl module's own error, and no transport is left."""
    context = certificates.client_context()
    expected = failing_wrap(context, name or None)
    near, far = socket_pair()
    with near, far:
        with pytest.raises(type(expected)) as info:
            await asyncio.get_running_loop().create_connection(Recorder, sock=near, ssl=context, server_hostname=name)
        assert str(info.value) == str(expected)


async def test_not_a_context():
    near, far = socket_pair()
    with near, far:
        with pytest.raises(AttributeError, match="wrap_bio"):
            await asyncio.get_running_loop().create_connection(Recorder, sock=near, ssl="tls", server_hostname="x")  # type: ignore[call-overload]


async def test_server_context_at_the_client():
    context = certificates.server_context()
    near, far = socket_pair()
    with near, far:
        with pytest.raises(ssl.SSLError) as info:
            await connect(Recorder, near, context=context)
        assert "Cannot create a client socket with a PROTOCOL_TLS_SERVER context" in str(info.value)


async def test_factory_that_raises():
    error = ZeroDivisionError("why")

    def factory():
        raise error

    near, far = socket_pair()
    with near, far:
        with pytest.raises(ZeroDivisionError) as info:
            await connect(factory, near)
        assert info.value is error


# --- the server's certificate ---


@pytest.mark.parametrize(
    ("certificate", "name", "code", "message"),
    [
        ("other_host", "localhost", 62, "Hostname mismatch, certificate is not valid for 'localhost'."),
        ("other_host", "127.0.0.1", 64, "IP address mismatch, certificate is not valid for '127.0.0.1'."),
        ("server", "127.0.0.2", 64, "IP address mismatch, certificate is not valid for '127.0.0.2'."),
        ("server", "::2", 64, "IP address mismatch, certificate is not valid for '::2'."),
        ("server", "localhost.test", 62, "Hostname mismatch, certificate is not valid for 'localhost.test'."),
        ("expired", "localhost", 10, "certificate has expired"),
        ("self_signed", "localhost", 18, "self-signed certificate"),
    ],
)
async def test_certificate_that_is_refused(certificate, name, code, message):
    peer_context = certificates.server_context(getattr(certificates, certificate)())
    made = []

    with pytest.raises(ssl.SSLCertVerificationError) as info:
        async with tls_connection(noting(made), peer_context=peer_context, server_hostname=name):
            pass
    error = info.value
    assert type(error) is ssl.SSLCertVerificationError
    assert (error.verify_code, error.verify_message) == (code, message)
    assert (error.library, error.reason) == ("SSL", "CERTIFICATE_VERIFY_FAILED")
    assert error.errno == ssl.SSL_ERROR_SSL
    assert f"certificate verify failed: {message}" in str(error)
    (protocol,) = made
    assert protocol.calls == []


async def test_refused_certificate_ends_the_connection():
    near, far = socket_pair()
    with TlsPeer(far, certificates.server_context(certificates.expired())) as peer:
        task = asyncio.create_task(connect(Recorder, near))
        # In TLS 1.3 the server has finished its handshake before it hears of the refusal.
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await peer.handshake()
        with pytest.raises(ssl.SSLCertVerificationError):
            await task
        await gone(near)
        await peer.read_raw_until_eof()


async def test_no_fallback_to_other_addresses():
    """A handshake that fails is final. Other addresses are tried only if connecting fails."""
    async with Serving(certificates.other_host()) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.get_running_loop().create_connection(
                Recorder, "localhost", port, ssl=certificates.client_context(), family=socket.AF_INET
            )


async def test_nothing_is_sent_in_clear():
    """The first byte on the wire belongs to a TLS record: before connection_made no program has a transport to write
    to.
    """
    async with handshaking() as (_, peer):
        assert await asyncio.to_thread(read_exactly, peer.sock, 2) == b"\x16\x03"
