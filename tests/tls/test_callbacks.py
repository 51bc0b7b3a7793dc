"""What a user's SSLContext brings along: SNI callbacks, key logs, pre-shared keys, messages, later authentication.

All of this is the user's code or the user's file, and is called in the middle of the handshake.
"""

import asyncio
import gc
import ssl
import sys
import weakref

import pytest

from support import certificates
from support.certificates import TLS_1_2, TLS_1_3
from support.peers import Recorder, socket_pair
from support.tls_peers import TlsPeer, connect, gone, tls_connection

VERSIONS = pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])


# --- SNI ---


@VERSIONS
async def test_sni_callback_swaps_the_context(version):
    """One listener has a certificate for each name. The first context must live while its callback may be called."""
    first = certificates.server_context(certificates.other_host(), version=version)
    second = certificates.server_context(alpn=["h2"])
    reference = weakref.ref(first)
    called = []

    def choose(tls, name, context):
        called.append((type(tls), name, context is reference()))
        tls.context = second

    first.sni_callback = choose
    async with tls_connection(
        server_side=True, context=first, peer_context=certificates.client_context(alpn=["h2"])
    ) as (transport, protocol, peer):
        assert called == [(ssl.SSLObject, "localhost", True)]
        tls = transport.get_extra_info("ssl_object")
        assert tls.context is second
        assert transport.get_extra_info("sslcontext") is first
        assert peer.tls.getpeercert()["subject"] == ((("commonName", "localhost"),),)
        del first, choose
        gc.collect()
        assert reference() is not None
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        transport.write(b"hello")
        assert await peer.read(5) == b"hello"


async def test_sni_callback_without_a_name():
    names = []
    context = certificates.server_context()
    context.sni_callback = lambda tls, name, context: names.append(name)
    near, far = socket_pair()
    with TlsPeer(far, certificates.blind_context(), server_side=False, server_hostname="127.0.0.1") as peer:
        shaking = asyncio.create_task(peer.handshake())
        transport, _ = await connect(Recorder, near, server_side=True, context=context)
        await shaking
        assert names == [None]  # an address is not a name
        transport.abort()
        await gone(near)


async def test_sni_callback_that_refuses():
    context = certificates.server_context()
    context.sni_callback = lambda tls, name, context: ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    near, far = socket_pair()
    with TlsPeer(far, server_side=False) as peer:
        shaking = asyncio.create_task(peer.handshake())
        with pytest.raises(ssl.SSLError) as info:
            await connect(Recorder, near, server_side=True, context=context)
        assert info.value.reason == "CALLBACK_FAILED"
        await asyncio.gather(shaking, return_exceptions=True)
        await gone(near)


async def test_sni_callback_that_raises(monkeypatch):
    """The ssl module passes the exception to sys.unraisablehook, and the handshake fails."""
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda info: unraisable.append(info.exc_type))

    def fail(tls, name, context):
        raise ZeroDivisionError("why")

    context = certificates.server_context()
    context.sni_callback = fail
    near, far = socket_pair()
    with TlsPeer(far, server_side=False) as peer:
        shaking = asyncio.create_task(peer.handshake())
        with pytest.raises(ssl.SSLError) as info:
            await connect(Recorder, near, server_side=True, context=context)
        assert info.value.reason == "CALLBACK_FAILED"
        await asyncio.gather(shaking, return_exceptions=True)
        await gone(near)
    assert unraisable == [ZeroDivisionError]


async def test_sni_callback_uses_the_loop():
    """The callback runs in the middle of the handshake, and may do anything with the loop except close it."""
    loop = asyncio.get_running_loop()
    called = loop.create_future()
    context = certificates.server_context()
    context.sni_callback = lambda tls, name, context: loop.call_soon(called.set_result, name) and None  # type: ignore[assignment, return-value]
    async with tls_connection(server_side=True, context=context):
        assert await called == "localhost"


# --- key log ---


@VERSIONS
async def test_key_log_file(version, tmp_path):
    path = tmp_path / "keys"
    context = certificates.client_context(version=version)
    context.keylog_filename = str(path)
    async with tls_connection(context=context) as (_, protocol, peer):
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
    context.keylog_filename = None  # type: ignore[assignment]
    labels = {line.split()[0] for line in path.read_text().splitlines() if not line.startswith("#")}
    if version is TLS_1_2:
        assert labels == {"CLIENT_RANDOM"}
    else:
        assert {"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0"} <= labels


async def test_messages():
    """Debugging tools set this callback. It sees every message of the handshake."""
    seen = []
    context = certificates.client_context()
    context._msg_callback = lambda tls, direction, *rest: seen.append((type(tls), direction))  # type: ignore[attr-defined]
    async with tls_connection(context=context):
        pass
    context._msg_callback = None  # type: ignore[attr-defined]
    assert {direction for _, direction in seen} == {"read", "write"}
    assert {kind for kind, _ in seen} == {ssl.SSLObject}


# --- pre-shared keys ---


@pytest.mark.skipif(not getattr(ssl, "HAS_PSK", False), reason="came with Python 3.13")
@pytest.mark.parametrize("server_side", [False, True])
async def test_pre_shared_key(server_side):
    key = bytes(range(32))
    asked = []

    def client_key(hint):
        asked.append(("client", hint))
        return "identity", key

    def server_key(identity):
        asked.append(("server", identity))
        return key

    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.maximum_version = TLS_1_2
    client.set_ciphers("PSK")
    client.set_psk_client_callback(client_key)  # type: ignore[attr-defined]
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.maximum_version = TLS_1_2
    server.set_ciphers("PSK")
    server.set_psk_server_callback(server_key, "hint")  # type: ignore[attr-defined]
    own, other = (server, client) if server_side else (client, server)
    async with tls_connection(server_side=server_side, context=own, peer_context=other) as (
        transport,
        protocol,
        peer,
    ):
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        assert "PSK" in transport.get_extra_info("cipher")[0]
    assert sorted(asked) == [("client", "hint"), ("server", "identity")]


@pytest.mark.skipif(not getattr(ssl, "HAS_PSK", False), reason="came with Python 3.13")
async def test_pre_shared_key_that_is_wrong():
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.maximum_version = TLS_1_2
    client.set_ciphers("PSK")
    client.set_psk_client_callback(lambda hint: ("identity", b"one"))  # type: ignore[attr-defined]
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.maximum_version = TLS_1_2
    server.set_ciphers("PSK")
    server.set_psk_server_callback(lambda identity: b"another")  # type: ignore[attr-defined]
    near, far = socket_pair()
    with TlsPeer(far, client, server_side=False) as peer:
        shaking = asyncio.create_task(peer.handshake())
        with pytest.raises(ssl.SSLError):
            await connect(Recorder, near, server_side=True, context=server)
        await asyncio.gather(shaking, return_exceptions=True)
        await gone(near)


# --- authentication after the handshake ---


async def test_server_asks_for_a_certificate_later():
    """TLS 1.3: the request is sent with the server's next data, and the answer comes with the client's."""
    context = certificates.server_context()
    context.load_verify_locations(cadata=certificates.authority().pem)
    context.verify_mode = ssl.CERT_REQUIRED
    context.post_handshake_auth = True
    peer_context = certificates.client_context(certificates.client())
    peer_context.post_handshake_auth = True
    async with tls_connection(server_side=True, context=context, peer_context=peer_context) as (
        transport,
        protocol,
        peer,
    ):
        tls = transport.get_extra_info("ssl_object")
        assert tls.getpeercert() is None
        tls.verify_client_post_handshake()
        transport.write(b"who are you?")
        assert await peer.read(12) == b"who are you?"
        peer.send(b"me")
        assert await protocol.read(2) == b"me"
        assert tls.getpeercert()["subject"] == ((("commonName", "rloop test client"),),)
        transport.write(b"welcome")
        assert await peer.read(7) == b"welcome"


async def test_client_is_asked_later():
    """The client at the loop answers, although the program sends no data."""
    peer_context = certificates.server_context()
    peer_context.load_verify_locations(cadata=certificates.authority().pem)
    peer_context.verify_mode = ssl.CERT_REQUIRED
    peer_context.post_handshake_auth = True
    context = certificates.client_context(certificates.client())
    context.post_handshake_auth = True
    async with tls_connection(context=context, peer_context=peer_context) as (transport, protocol, peer):
        transport.write(b"hello")
        assert await peer.read(5) == b"hello"
        peer.tls.verify_client_post_handshake()
        peer.send(b"who are you?")
        assert await protocol.read(12) == b"who are you?"
        transport.write(b"me")
        assert await peer.read(2) == b"me"
        assert peer.tls.getpeercert()["subject"] == ((("commonName", "rloop test client"),),)


async def test_context_that_is_no_sslcontext():
    """Test suites and wrappers have contexts of a class of their own. The loop calls only wrap_bio."""

    class Wrapping:
        def __init__(self, context):
            self.context = context
            self.wrapped = []

        def wrap_bio(self, *args, **kwargs):
            tls = self.context.wrap_bio(*args, **kwargs)
            self.wrapped.append(tls)
            return tls

    context = Wrapping(certificates.client_context())
    async with tls_connection(context=context) as (transport, protocol, peer):
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        assert transport.get_extra_info("ssl_object") in context.wrapped
        assert transport.get_extra_info("sslcontext") is context


async def test_subclass_of_sslobject():
    """context.sslobject_class may be a class of the user."""

    class Own(ssl.SSLObject):
        pass

    context = certificates.client_context()
    context.sslobject_class = Own
    async with tls_connection(context=context) as (transport, protocol, peer):
        assert type(transport.get_extra_info("ssl_object")) is Own
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"


@pytest.mark.parametrize("how", ["ssl_object._sslobj = None", "del ssl_object._sslobj", "vars(ssl_object).clear()"])
def test_the_inner_object_of_an_sslobject_is_taken_away(child, how):
    """The inner object owns OpenSSL's SSL, whose memory is used for something else here."""
    result = child(
        f"""
        import gc, logging
        from support import certificates
        logging.disable(logging.CRITICAL)

        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                self.transport.write(data)

        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=certificates.server_context())
            address = server.sockets[0].getsockname()
            context = certificates.client_context()
            reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname="localhost")
            writer.write(b"hello")
            print(await reader.readexactly(5))
            ssl_object = writer.get_extra_info("ssl_object")
            {how}
            gc.collect()
            filling = [bytearray(b"B") * size for size in range(7000, 8000, 8) for _ in range(40)]
            # It works, as the object is not freed, or fails, as there is no object to call: either is fine.
            try:
                writer.write(b"x" * 100_000)
                async with asyncio.timeout(2):
                    await reader.read(100)
                writer.close()
            except (AttributeError, ConnectionError, TimeoutError) as error:
                pass
            writer.transport.abort()
            await asyncio.sleep(0)
            server.close()
            print("end")

        loop = new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)
        loop.run_until_complete(main())
        """
    )
    assert (result.stdout, result.returncode) == ("b'hello'\nend\n", 0), result.stderr
