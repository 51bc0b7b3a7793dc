"""get_extra_info of a TLS transport, and the SSLObject that it gives. Everything in it is true of the connection."""

import asyncio
import socket
import ssl
from asyncio import trsock
from typing import Any

import pytest

from support import certificates
from support.certificates import TLS_1_2, TLS_1_3
from support.peers import HOST, Recorder, has_ipv6
from support.tls_peers import server_with, tls_connection

SIDES = pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
VERSIONS = pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])


def context(server_side, certificate=None, **kwargs):
    make = certificates.server_context if server_side else certificates.client_context
    return make(certificate, **kwargs)


@SIDES
async def test_names(server_side):
    own = context(server_side)
    async with tls_connection(server_side=server_side, context=own) as (transport, _, peer):
        tls = transport.get_extra_info("ssl_object")
        assert type(tls) is ssl.SSLObject
        assert transport.get_extra_info("sslcontext") is own
        assert tls.context is own
        assert transport.get_extra_info("cipher") == tls.cipher()
        assert transport.get_extra_info("compression") is None
        assert transport.get_extra_info("peercert") == tls.getpeercert()
        assert transport.get_extra_info("peername") == peer.sock.getsockname()
        assert transport.get_extra_info("sockname") == peer.sock.getpeername()
        sock = transport.get_extra_info("socket")
        assert isinstance(sock, trsock.TransportSocket)
        assert sock.getpeername() == peer.sock.getsockname()
        assert transport.get_extra_info("nothing") is None
        assert transport.get_extra_info("nothing", 5) == 5
        assert transport.get_extra_info("ssl_object", 5) is tls


async def test_known_in_connection_made():
    seen = {}

    class Looking(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            for name in ("peercert", "cipher", "ssl_object", "sslcontext", "socket", "peername"):
                seen[name] = transport.get_extra_info(name)

    async with tls_connection(Looking) as (transport, _, _):
        assert None not in seen.values()
        for name, value in seen.items():
            assert transport.get_extra_info(name) == value


async def test_known_in_connection_lost():
    """connection_lost can still ask for everything, as programs do to log it."""
    seen = {}

    class Looking(Recorder):
        def connection_lost(self, exc):
            for name in ("peercert", "cipher", "ssl_object", "sslcontext"):
                seen[name] = self.transport.get_extra_info(name)
            super().connection_lost(exc)

    async with tls_connection(Looking) as (transport, protocol, _):
        transport.abort()
        await protocol.lost
    assert None not in seen.values()


@SIDES
@VERSIONS
async def test_ssl_object(server_side, version):
    """The methods of the SSLObject agree with those of the peer's."""
    async with tls_connection(server_side=server_side, context=context(server_side, version=version)) as (
        transport,
        _,
        peer,
    ):
        tls = transport.get_extra_info("ssl_object")
        assert tls.version() == peer.tls.version() == {TLS_1_2: "TLSv1.2", TLS_1_3: "TLSv1.3"}[version]
        assert tls.cipher() == peer.tls.cipher()
        assert tls.server_side is server_side
        assert tls.server_hostname == (None if server_side else "localhost")
        assert tls.compression() is None
        assert tls.selected_alpn_protocol() is None
        assert tls.pending() == 0
        if server_side:
            assert tls.cipher() in tls.shared_ciphers()
            assert tls.getpeercert() is None
        else:
            assert tls.getpeercert()["subject"] == ((("commonName", "localhost"),),)
            assert tls.getpeercert(binary_form=True) == certificates.server().der


@SIDES
async def test_channel_binding(server_side):
    own = context(server_side, version=TLS_1_2)
    async with tls_connection(server_side=server_side, context=own) as (transport, _, peer):
        binding = transport.get_extra_info("ssl_object").get_channel_binding("tls-unique")
        assert binding == peer.tls.get_channel_binding("tls-unique")
        assert len(binding) == 12
        with pytest.raises(ValueError):
            transport.get_extra_info("ssl_object").get_channel_binding("nothing")


@SIDES
@VERSIONS
async def test_client_certificate(server_side, version):
    client, server = certificates.client(), certificates.server()
    own = context(server_side, server if server_side else client, version=version)
    other = context(not server_side, client if server_side else server)
    serving = own if server_side else other
    serving.load_verify_locations(cadata=certificates.authority().pem)
    serving.verify_mode = ssl.CERT_REQUIRED
    async with tls_connection(server_side=server_side, context=own, peer_context=other) as (
        transport,
        protocol,
        peer,
    ):
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        end = transport.get_extra_info("ssl_object") if server_side else peer.tls
        assert end.getpeercert()["subject"] == ((("commonName", "rloop test client"),),)
        assert end.getpeercert(binary_form=True) == client.der
        if server_side:
            assert transport.get_extra_info("peercert") == end.getpeercert()


async def test_optional_client_certificate():
    own = certificates.server_context()
    own.load_verify_locations(cadata=certificates.authority().pem)
    own.verify_mode = ssl.CERT_OPTIONAL
    async with tls_connection(server_side=True, context=own) as (transport, protocol, peer):
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        assert transport.get_extra_info("peercert") is None


async def test_certificate_that_is_not_verified():
    """A certificate that is not verified has no details, but its bytes are there."""
    own = certificates.blind_context()
    async with tls_connection(context=own) as (transport, _, _):
        assert transport.get_extra_info("peercert") == {}
        tls = transport.get_extra_info("ssl_object")
        assert tls.getpeercert(True) == certificates.server().der


# --- ALPN ---


@SIDES
@pytest.mark.parametrize(
    ("offered", "served", "selected"),
    [
        (["h2", "http/1.1"], ["h2", "http/1.1"], "h2"),
        (["http/1.1"], ["h2", "http/1.1"], "http/1.1"),
        (["http/1.1", "h2"], ["h2", "http/1.1"], "h2"),
        (["h2"], ["other"], None),
        (["h2"], None, None),
        (None, ["h2"], None),
    ],
)
async def test_alpn(server_side, offered, served, selected):
    own = context(server_side, alpn=served if server_side else offered)
    other = context(not server_side, alpn=offered if server_side else served)
    async with tls_connection(server_side=server_side, context=own, peer_context=other) as (
        transport,
        _,
        peer,
    ):
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == selected
        assert peer.tls.selected_alpn_protocol() == selected


async def test_alpn_is_known_in_connection_made():
    """In connection_made an HTTP server decides which protocol to speak."""
    seen = []

    class Looking(Recorder):
        def connection_made(self, transport):
            seen.append(transport.get_extra_info("ssl_object").selected_alpn_protocol())
            super().connection_made(transport)

    async with tls_connection(
        Looking,
        server_side=True,
        context=certificates.server_context(alpn=["h2", "http/1.1"]),
        peer_context=certificates.client_context(alpn=["http/1.1", "h2"]),
    ):
        assert seen == ["h2"]


# --- sessions ---


@VERSIONS
async def test_session_of_a_server_is_used_again(version):
    """The peer's second connection has a short handshake, by the session of the first one."""
    own, other = certificates.server_context(version=version), certificates.client_context(version=version)
    async with tls_connection(server_side=True, context=own, peer_context=other) as (transport, _, peer):
        assert transport.get_extra_info("ssl_object").session_reused is False
        transport.write(b"hello")
        await peer.read(5)  # in TLS 1.3 the peer gets its tickets with the first data
        session = peer.tls.session
        assert session.has_ticket
    async with tls_connection(server_side=True, context=own, peer_context=other, session=session) as (
        transport,
        protocol,
        peer,
    ):
        assert transport.get_extra_info("ssl_object").session_reused is True
        assert peer.tls.session_reused is True
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"


@VERSIONS
async def test_session_of_a_client(version):
    async with tls_connection(context=certificates.client_context(version=version)) as (
        transport,
        protocol,
        peer,
    ):
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        tls = transport.get_extra_info("ssl_object")
        assert isinstance(tls.session, ssl.SSLSession)
        assert tls.session.has_ticket
        assert tls.session_reused is False


async def test_statistics_of_the_context():
    own = certificates.server_context()
    async with tls_connection(server_side=True, context=own):
        stats = own.session_stats()
        assert (stats["accept"], stats["accept_good"]) == (1, 1)


# --- servers ---


@pytest.mark.parametrize(
    "host", [HOST, pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6"))]
)
async def test_addresses_at_a_server(host):
    seen = []

    base: Any = server_with(lambda transport, data: transport.write(data))

    class Looking(base):
        def connection_made(self, transport):
            super().connection_made(transport)
            seen.append((transport.get_extra_info("sockname"), transport.get_extra_info("peername")))

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Looking, host, 0, ssl=certificates.server_context())
    address = server.sockets[0].getsockname()
    transport, protocol = await loop.create_connection(Recorder, *address[:2], ssl=certificates.client_context())
    transport.write(b"hello")
    assert await protocol.read(5) == b"hello"
    assert seen == [(address, transport.get_extra_info("sockname"))]
    assert transport.get_extra_info("peername") == address
    assert transport.get_extra_info("socket").family == (socket.AF_INET6 if ":" in host else socket.AF_INET)
    transport.close()
    assert await protocol.lost is None
    server.close()
