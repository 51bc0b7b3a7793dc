"""Connections over a socket of the program's own class: its `recv`, `recv_into` and `send` are called, whatever they
do, as by asyncio's transports.
"""

import asyncio
import socket

import pytest

from support.peers import BufferedRecorder, Peer, Recorder, connection, on_asyncio, released, socket_pair
from support.tls_peers import TlsPeer, gone
from support.tls_peers import connect as connect_tls

KINDS = pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
PAIRS = pytest.mark.parametrize("pair", [socket_pair, socket.socketpair], ids=["tcp", "unix"])


def translate(data):
    return bytes(data).translate(bytes(range(255, -1, -1)))


class Translating(socket.socket):
    """Inverts every bit on its way."""

    def recv(self, size, *flags):
        return translate(super().recv(size, *flags))

    def recv_into(self, buffer, *args):
        count = super().recv_into(buffer, *args)
        buffer[:count] = translate(buffer[:count])
        return count

    def send(self, data, *flags):
        return super().send(translate(data), *flags)

    def sendmsg(self, buffers):  # type: ignore[override]
        """Since 3.12 asyncio calls this for queued data."""
        return self.send(b"".join(buffers))


class Little(socket.socket):
    """Sends and receives a few bytes at a time, and every second call would block."""

    calls = 0

    def _look(self):
        self.calls += 1
        if self.calls % 2:
            raise BlockingIOError

    def recv(self, size):  # type: ignore[override]
        self._look()
        return super().recv(min(size, 3))

    def recv_into(self, buffer):  # type: ignore[override]
        self._look()
        return super().recv_into(memoryview(buffer)[:3])

    def send(self, data):  # type: ignore[override]
        self._look()
        return super().send(bytes(data[:3]))


class Plain(socket.socket):
    """Has nothing of its own."""


def of_class(sock, made_by):
    return made_by(sock.family, sock.type, sock.proto, fileno=sock.detach())


def served(made_by, factory=Recorder, pair=socket_pair):
    """A connection whose near end is a socket of this class."""
    near, far = pair()
    return connection(factory, ends=(of_class(near, made_by), far))


@KINDS
@PAIRS
async def test_every_byte_passes_through(factory, pair):
    async with served(Translating, factory, pair) as (transport, protocol, peer):
        peer.send(translate(b"hello"))
        assert await protocol.read(5) == b"hello"
        transport.write(b"some")
        transport.write(b"thing")
        transport.writelines([b" and", bytearray(b" more")])
        assert translate(await peer.read(18)) == b"something and more"
        transport.write_eof()
        assert await peer.read(1) == b""
        peer.close()
        assert await protocol.lost is None
        assert protocol.calls.count("eof_received") == 1


@KINDS
@PAIRS
async def test_much(factory, pair):
    data = bytes(range(256)) * 16384
    async with served(Translating, factory, pair) as (transport, protocol, peer):
        sending = asyncio.create_task(peer.send_all(translate(data)))
        assert await protocol.read(len(data)) == data
        await sending
        transport.write(data)
        assert "pause_writing" in protocol.calls
        transport.close()
        assert translate(await peer.read_until_eof()) == data
        assert await protocol.lost is None
        assert protocol.calls.count("connection_lost") == 1


@KINDS
@PAIRS
async def test_little_at_a_time(factory, pair):
    """The rest is received and sent as well, though the poll reports nothing new."""
    data = b"a few bytes and a few more"
    async with served(Little, factory, pair) as (transport, protocol, peer):
        peer.send(data)
        assert await protocol.read(len(data)) == data
        transport.write(data)
        transport.write(data)
        assert await peer.read(2 * len(data)) == 2 * data
        transport.write(data)
        transport.close()
        assert await peer.read_until_eof() == data
        assert await protocol.lost is None


async def test_streams():
    near, far = socket_pair()
    with Peer(far) as peer:
        reader, writer = await asyncio.open_connection(sock=of_class(near, Translating))
        for _ in range(3):
            writer.write(b"hel")
            writer.write(b"lo")
            await writer.drain()
            assert translate(await peer.read(5)) == b"hello"
            peer.send(translate(b"answer\n"))
            assert await reader.readline() == b"answer\n"
        writer.close()
        await writer.wait_closed()


async def test_paused():
    async with served(Translating) as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(translate(b"hello"))
        await asyncio.sleep(0.01)
        assert not protocol.data
        transport.resume_reading()
        assert await protocol.read(5) == b"hello"


@pytest.mark.parametrize("server_side", [False, True])
async def test_tls(server_side):
    near, far = socket_pair()

    class Peculiar(TlsPeer):
        """The peer of a Translating socket."""

        def __init__(self, sock, *args, **kwargs):
            super().__init__(of_class(sock, Translating), *args, **kwargs)

        def flush(self):
            if records := self._outgoing.read():
                self.send_raw(records)

        def send_raw(self, data):
            while data:
                data = data[self.sock.send(data) :]

    with Peculiar(far, server_side=not server_side) as peer:
        shaking = asyncio.create_task(peer.handshake())
        sock = of_class(near, Translating)
        transport, protocol = await connect_tls(Recorder, sock, server_side=server_side)
        await shaking
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        transport.write(b"answer")
        assert await peer.read(6) == b"answer"
        transport.abort()
        await gone(sock)


@pytest.mark.parametrize("method", ["recv", "send"])
@pytest.mark.parametrize("kind", [OSError, ZeroDivisionError])
async def test_errors(method, kind, loop_errors):
    error = kind("mine")

    def fail(self, *args):
        raise error

    made_by = type("Failing", (socket.socket,), {method: fail})
    async with served(made_by) as (transport, protocol, peer):
        peer.send(b"hello")
        transport.write(b"hello")
        assert await protocol.lost is error
    reported = [context["exception"] for context in loop_errors]
    loop_errors.clear()
    assert reported == ([] if isinstance(error, OSError) else [error])


async def test_method_of_one_socket():
    """A method may also be replaced on one socket, as test suites do it."""
    near, far = socket_pair()
    sock = of_class(near, Plain)
    sock.recv = lambda size: translate(Plain.recv(sock, size))
    with Peer(far) as peer:
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=sock)
        peer.send(translate(b"hello"))
        assert await protocol.read(5) == b"hello"
        transport.abort()
        await released(transport)
        del sock.recv


async def test_send_that_writes():
    """A `send` calls the transport's write. Everything is sent, on rloop in the order of the calls."""

    class Talking(socket.socket):
        transport = None

        def send(self, data):  # type: ignore[override]
            if self.transport is not None:
                transport, self.transport = self.transport, None
                transport.write(b" behind it")
            return super().send(data)

    near, far = socket_pair()
    sock = of_class(near, Talking)
    with Peer(far) as peer:
        transport, _ = await asyncio.get_running_loop().create_connection(Recorder, sock=sock)
        sock.transport = transport
        transport.write(b"first")
        received = await peer.read(15)
        # asyncio sends what is written inside of send() first.
        assert received == (b" behind itfirst" if on_asyncio() else b"first behind it")
        transport.abort()
        await released(transport)
