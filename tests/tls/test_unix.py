"""TLS over UNIX sockets: create_unix_connection, create_unix_server and connect_accepted_socket with ssl=."""

import asyncio
import socket
import ssl
from typing import Any

import pytest

from support import certificates
from support.peers import Recorder, echo
from support.tls_peers import TlsPeer, gone


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "socket")


async def test_both_sides(path):
    handled = []

    async def handle(reader, writer):
        handled.append(asyncio.current_task())
        assert writer.get_extra_info("ssl_object").server_side is True
        await echo(reader, writer)

    server = await asyncio.start_unix_server(handle, path, ssl=certificates.server_context())
    reader, writer = await asyncio.open_unix_connection(
        path, ssl=certificates.client_context(), server_hostname="localhost"
    )
    data = bytes(range(256)) * 4096
    writer.write(data)
    received, _ = await asyncio.gather(reader.readexactly(len(data)), writer.drain())
    assert received == data
    assert writer.get_extra_info("peername") == path
    assert writer.get_extra_info("socket").family == socket.AF_UNIX
    writer.close()
    await writer.wait_closed()
    await asyncio.gather(*handled)  # type: ignore[arg-type]
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("server_side", [False, True])
async def test_socket(server_side):
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with TlsPeer(far, server_side=not server_side) as peer:
        shaking = asyncio.create_task(peer.handshake())
        if server_side:
            transport, protocol = await loop.connect_accepted_socket(Recorder, near, ssl=certificates.server_context())
        else:
            transport, protocol = await loop.create_unix_connection(
                Recorder, sock=near, ssl=certificates.client_context(), server_hostname="localhost"
            )
        await shaking
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        transport.close()
        assert await peer.read_until_end() == b""
        assert peer.ended == "close_notify"
        await peer.unwrap()
        assert await protocol.lost is None
        await gone(near)


async def test_refused_certificate(path):
    context = certificates.server_context(certificates.other_host())
    server = await asyncio.start_unix_server(echo, path, ssl=context)
    with pytest.raises(ssl.SSLCertVerificationError) as info:
        await asyncio.open_unix_connection(path, ssl=certificates.client_context(), server_hostname="localhost")
    assert info.value.verify_code == 62
    server.close()


async def refused(error, message, awaitable):
    with pytest.raises(error) as info:
        await awaitable
    assert type(info.value) is error
    assert str(info.value) == message


@pytest.mark.parametrize("context", [True, "context"])
async def test_no_name(path, context):
    context = certificates.client_context() if context == "context" else context
    loop = asyncio.get_running_loop()
    message = "you have to pass server_hostname when using ssl"
    await refused(ValueError, message, loop.create_unix_connection(Recorder, path, ssl=context))


async def test_arguments_without_ssl(path):
    loop = asyncio.get_running_loop()
    message = "server_hostname is only meaningful with ssl"
    await refused(ValueError, message, loop.create_unix_connection(Recorder, path, server_hostname="localhost"))
    for argument in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
        message = f"{argument} is only meaningful with ssl"
        options: dict[str, Any] = {argument: 1}
        await refused(ValueError, message, loop.create_unix_connection(Recorder, path, **options))
        await refused(ValueError, message, loop.create_unix_server(Recorder, path, **options))


@pytest.mark.parametrize("value", [True, False])
async def test_no_default_context_for_servers(path, value):
    loop = asyncio.get_running_loop()
    message = "ssl argument must be an SSLContext or None"
    await refused(TypeError, message, loop.create_unix_server(Recorder, path, ssl=value))


async def test_default_context(path, monkeypatch, tmp_path):
    trusted = tmp_path / "authority.pem"
    trusted.write_text(certificates.authority().pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    handled = []

    async def handle(reader, writer):
        handled.append(asyncio.current_task())
        await echo(reader, writer)

    server = await asyncio.start_unix_server(handle, path, ssl=certificates.server_context())
    reader, writer = await asyncio.open_unix_connection(path, ssl=True, server_hostname="localhost")
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()
    await writer.wait_closed()
    await asyncio.gather(*handled)  # type: ignore[arg-type]
    server.close()
