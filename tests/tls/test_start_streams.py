"""StreamWriter.start_tls, and asyncio's streams over TLS: open_connection and start_server with ssl=.

loop.start_tls itself is in test_start.py, its traps are in test_injection.py.
"""

import asyncio
import ssl

import pytest

from support import certificates
from support.peers import HOST, echo, socket_pair
from support.streams import Streams
from support.tls_peers import TlsPeer, gone


class TlsStreams(Streams):
    """The block gets the keywords to connect to it."""

    def __init__(self, handler, ssl="server", **kwargs):
        super().__init__(handler, ssl=certificates.server_context() if ssl == "server" else ssl, **kwargs)

    def target(self):
        host, port = super().target()
        secure = {"ssl": certificates.client_context(), "server_hostname": "localhost"}
        return {"host": host, "port": port, **(secure if self.kwargs["ssl"] else {})}


@pytest.mark.parametrize("size", [1, 100, 1024, 16384, 16385, 65536, 262_144, 1_048_577])
async def test_echo(size):
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    async with TlsStreams(echo) as target:
        reader, writer = await asyncio.open_connection(**target)
        for _ in range(3):
            writer.write(data)
            received, _ = await asyncio.gather(reader.readexactly(size), writer.drain())
            assert received == data
        writer.close()
        await writer.wait_closed()


async def test_fifty_clients():
    async def client(number):
        reader, writer = await asyncio.open_connection(**target)
        for round_ in range(10):
            line = b"client %d round %d\n" % (number, round_)
            writer.write(line)
            assert await reader.readline() == line
        writer.close()
        await writer.wait_closed()

    async with TlsStreams(echo) as target:
        await asyncio.gather(*(client(number) for number in range(50)))


async def test_reading_by_line_and_to_the_end():
    async def serve(reader, writer):
        writer.writelines([b"first\n", b"second\n", b"rest"])
        writer.close()
        await writer.wait_closed()

    async with TlsStreams(serve) as target:
        reader, writer = await asyncio.open_connection(**target)
        assert await reader.readline() == b"first\n"
        assert await reader.read() == b"second\nrest"
        assert reader.at_eof()
        writer.close()
        await writer.wait_closed()


async def test_no_half_close():
    async with TlsStreams(echo) as target:
        _, writer = await asyncio.open_connection(**target)
        assert writer.can_write_eof() is False
        with pytest.raises(NotImplementedError):
            writer.write_eof()
        writer.close()
        await writer.wait_closed()


async def test_reader_that_does_not_read_stops_the_sender():
    near, far = socket_pair(buffers=65536)
    with TlsPeer(far) as peer:
        shaking = asyncio.create_task(peer.handshake())
        reader, writer = await asyncio.open_connection(
            sock=near, limit=1000, ssl=certificates.client_context(), server_hostname="localhost"
        )
        await shaking
        data = bytes(range(256)) * 16384
        sending = asyncio.create_task(peer.send_all(data))
        assert await reader.readexactly(10) == data[:10]
        while writer.transport.is_reading():  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        for _ in range(200):
            await asyncio.sleep(0.001)
        assert not sending.done()
        assert await reader.readexactly(len(data) - 10) == data[10:]
        await sending
        writer.transport.abort()
        await gone(near)


async def test_drain_waits_for_a_peer_that_does_not_read():
    near, far = socket_pair(buffers=65536)
    with TlsPeer(far) as peer:
        shaking = asyncio.create_task(peer.handshake())
        _, writer = await asyncio.open_connection(
            sock=near, ssl=certificates.client_context(), server_hostname="localhost"
        )
        await shaking
        block = bytes(1 << 20)
        sent = 0
        while True:
            writer.write(block)
            sent += len(block)
            draining = asyncio.create_task(writer.drain())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if not draining.done():
                break
        assert len(await peer.read(sent)) == sent
        await draining
        writer.transport.abort()
        await gone(near)


async def test_refused_certificate():
    other = certificates.server_context(certificates.other_host())
    server = await asyncio.start_server(echo, HOST, 0, ssl=other)
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=certificates.client_context(), server_hostname="localhost"
        )
    server.close()


async def test_error_reaches_the_reader():
    near, far = socket_pair()
    with TlsPeer(far) as peer:
        shaking = asyncio.create_task(peer.handshake())
        reader, writer = await asyncio.open_connection(
            sock=near, ssl=certificates.client_context(), server_hostname="localhost"
        )
        await shaking
        peer.send_raw(b"x" * 100)
        with pytest.raises(ssl.SSLError) as info:
            await reader.read()
        with pytest.raises(ssl.SSLError) as again:
            await writer.wait_closed()
        assert again.value is info.value
        await gone(near)


# --- StreamWriter.start_tls ---


async def test_start_tls_of_both():
    """Both sides call StreamWriter.start_tls, as the documentation shows."""

    async def serve(reader, writer):
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"ready\n")
        assert writer.get_extra_info("ssl_object") is None
        await writer.start_tls(certificates.server_context())
        assert writer.get_extra_info("ssl_object").server_side is True
        assert await reader.readline() == b"secret\n"
        writer.write(b"answer\n")
        writer.close()
        await writer.wait_closed()

    async with TlsStreams(serve, ssl=None) as target:
        reader, writer = await asyncio.open_connection(**target)
        clear = writer.transport
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"ready\n"
        await writer.start_tls(certificates.client_context(), server_hostname="localhost")
        assert writer.transport is not clear
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        writer.write(b"secret\n")
        await writer.drain()
        assert await reader.readline() == b"answer\n"
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_start_tls_with_much_data():
    data = bytes(range(256)) * 8192

    async def serve(reader, writer):
        writer.write(await reader.readexactly(1))
        await writer.start_tls(certificates.server_context())
        await echo(reader, writer)

    async with TlsStreams(serve, ssl=None) as target:
        reader, writer = await asyncio.open_connection(**target)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        await writer.start_tls(certificates.client_context(), server_hostname="localhost")
        writer.write(data)
        received, _ = await asyncio.gather(reader.readexactly(len(data)), writer.drain())
        assert received == data
        writer.close()
        await writer.wait_closed()


async def test_start_tls_that_fails():
    near, far = socket_pair()
    with TlsPeer(far, certificates.server_context(certificates.other_host())) as peer:
        shaking = asyncio.create_task(peer.handshake())
        reader, writer = await asyncio.open_connection(sock=near)
        with pytest.raises(ssl.SSLCertVerificationError) as info:
            await writer.start_tls(certificates.client_context(), server_hostname="localhost")
        with pytest.raises(ssl.SSLCertVerificationError) as again:
            await reader.read()
        assert again.value is info.value
        await asyncio.gather(shaking, return_exceptions=True)
        await gone(near)
        with pytest.raises(ssl.SSLCertVerificationError):
            await writer.wait_closed()


async def test_start_tls_in_tls():
    async def serve(reader, writer):
        assert await reader.readexactly(5) == b"outer"
        writer.write(b"ok")
        await writer.start_tls(certificates.server_context())
        writer.write(await reader.readexactly(5))
        assert await reader.read() == b""
        writer.close()

    async with TlsStreams(serve) as target:
        reader, writer = await asyncio.open_connection(**target)
        writer.write(b"outer")
        assert await reader.readexactly(2) == b"ok"
        await writer.start_tls(certificates.client_context(), server_hostname="localhost")
        writer.write(b"inner")
        assert await reader.readexactly(5) == b"inner"
        writer.close()
        await writer.wait_closed()
