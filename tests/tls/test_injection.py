"""Data that must not pass between clear text and TLS, whatever segments an attacker sends it in.

STARTTLS injection: bytes that came in clear are read as if they had come encrypted (CVE-2011-0411 and all since;
CPython gh-142352). And the reverse, which is no attack but a hang: TLS bytes that came too early are forgotten.
"""

import asyncio
import inspect
import socket
import ssl

import pytest

from support import certificates
from support.peers import HOST, on_asyncio, read_exactly, socket_pair
from support.tls_peers import TlsPeer, gone

PROTECTED = "_stream_reader" in inspect.getsource(asyncio.BaseEventLoop.start_tls)

BRIEF = 0.3


class Upgrading:
    """A server of streams that starts TLS on command, as an asynchronous context manager that gives its address.

    `lines` is what it has read after that, `error` is what start_tls has raised.
    """

    def __init__(self):
        self.lines = []
        self.error = None
        self.ended = asyncio.get_running_loop().create_future()

    async def handle(self, reader, writer):
        try:
            await self.serve(reader, writer)
        finally:
            writer.close()
            self.ended.set_result(None)

    async def serve(self, reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go ahead\n")
        try:
            await writer.start_tls(certificates.server_context(), ssl_handshake_timeout=BRIEF)
        except (OSError, RuntimeError) as exc:
            self.error = exc
            return
        try:
            while line := await reader.readline():
                self.lines.append(line)
                writer.write(line.upper())
        except OSError as exc:
            self.error = exc

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.handle, HOST, 0)
        return self

    async def __aexit__(self, *exc_info):
        self.server.close()
        await self.ended

    def dial(self):
        return TlsPeer(socket.create_connection(self.server.sockets[0].getsockname()), server_side=False)


def hello(peer):
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    return peer.pending()


async def go_ahead(peer):
    assert await asyncio.to_thread(read_exactly, peer.sock, 9) == b"go ahead\n"


def needs_protection():
    if on_asyncio() and not PROTECTED:
        pytest.skip("this version of asyncio is open to it")


# --- the server ---


async def test_command_then_hello():
    async with Upgrading() as server:
        with server.dial() as peer:
            peer.send_raw(b"STARTTLS\n")
            await go_ahead(peer)
            await peer.handshake()
            peer.send(b"line\n")
            assert await peer.read(5) == b"LINE\n"
        await server.ended
    assert server.lines == [b"line\n"]


async def test_injected_command():
    """An attacker adds a command in clear before the hello: it is not executed."""
    needs_protection()
    async with Upgrading() as server:
        with server.dial() as peer:
            peer.send_raw(b"STARTTLS\nINJECTED\n")
            await go_ahead(peer)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await peer.handshake()
                peer.send(b"line\n")
                assert await peer.read(5) == b"LINE\n"
                raise ConnectionAbortedError("discarding what came in clear is as good")
        await server.ended
    assert b"INJECTED\n" not in server.lines


async def test_injected_half_a_command():
    """A part of a line in clear must not be joined with what comes encrypted."""
    needs_protection()
    async with Upgrading() as server:
        with server.dial() as peer:
            peer.send_raw(b"STARTTLS\nINJECTED ")
            await go_ahead(peer)
            try:
                await peer.handshake()
                peer.send(b"line\n")
                await peer.read(5)
            except (ssl.SSLError, ConnectionError):
                pass
        await server.ended
    assert not any(line.startswith(b"INJECTED") for line in server.lines)


async def test_command_and_hello_in_one_segment():
    """A client does not wait for the answer. All its bytes have been read when the handshake begins."""
    needs_protection()
    async with Upgrading() as server:
        with server.dial() as peer:
            peer.send_raw(b"STARTTLS\n" + hello(peer))
            await go_ahead(peer)
            await peer.handshake()
            peer.send(b"line\n")
            assert await peer.read(5) == b"LINE\n"
        await server.ended
    assert (server.lines, server.error) == ([b"line\n"], None)


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 100, -1])
async def test_command_and_part_of_the_hello_in_one_segment(cut):
    needs_protection()
    async with Upgrading() as server:
        with server.dial() as peer:
            first = hello(peer)
            peer.send_raw(b"STARTTLS\n" + first[:cut])
            await go_ahead(peer)
            peer.send_raw(first[cut:])
            await peer.handshake()
            peer.send(b"line\n")
            assert await peer.read(5) == b"LINE\n"
        await server.ended
    assert server.lines == [b"line\n"]


async def test_command_and_garbage_in_one_segment():
    needs_protection()
    async with Upgrading() as server:
        with server.dial() as peer:
            peer.send_raw(b"STARTTLS\n" + b"\x16\x03\x01\xff\xff" + bytes(500))
            await go_ahead(peer)
            await server.ended
    assert isinstance(server.error, ssl.SSLError)
    assert server.lines == []


async def test_clear_text_after_the_handshake():
    """Clear text that comes after the handshake is not delivered."""
    async with Upgrading() as server:
        with server.dial() as peer:
            peer.send_raw(b"STARTTLS\n")
            await go_ahead(peer)
            await peer.handshake()
            peer.send(b"line\n")
            assert await peer.read(5) == b"LINE\n"
            peer.send_raw(b"INJECTED\n" * 10)
            await server.ended
    assert server.lines == [b"line\n"]
    assert isinstance(server.error, ssl.SSLError)


# --- the client ---


@pytest.mark.parametrize("segments", [[b"go ahead\ninjected\n"], [b"go ahead\n", b"injected\n"]], ids=["one", "two"])
async def test_injected_answer(segments):
    """The mirror image: an attacker answers the client's first encrypted question in clear, ahead of it."""
    if on_asyncio():
        pytest.skip("asyncio is open to it")
    near, far = socket_pair()
    with TlsPeer(far) as peer:
        reader, writer = await asyncio.open_connection(sock=near)
        for segment in segments:
            peer.send_raw(segment)
        assert await reader.readline() == b"go ahead\n"
        while not reader._buffer:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        shaking = asyncio.create_task(peer.handshake())
        lines = []
        try:
            await writer.start_tls(certificates.client_context(), server_hostname="localhost")
            await shaking
            peer.send(b"genuine\n")
            lines.append(await reader.readline())
        except (OSError, RuntimeError):
            pass  # the loop may end the connection, or drop what came in clear
        assert b"injected\n" not in lines
        writer.transport.abort()
        await gone(near)
        await asyncio.gather(shaking, return_exceptions=True)
