"""Streams of bytes that are no good TLS, and a way to give many of them to a TLS layer without a socket.

A stream is made from a number, so that a failure comes again. No test lives here.
"""

import asyncio
import contextlib
import random
import ssl
import struct
from typing import Any

from support import certificates

# A hostile peer must not have us send much more than a handshake.
MOST_ANSWERED = 64 * 1024


def flights(version: ssl.TLSVersion | None = None) -> tuple[bytes, bytes]:
    """What a client and a server send in a good handshake, each as one string, with some data behind it."""
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    context = certificates.limited(certificates.blind_context(), version, None)
    client = context.wrap_bio(client_in, client_out, server_hostname="localhost")
    server = certificates.server_context().wrap_bio(server_in, server_out, server_side=True)
    said = {client: bytearray(), server: bytearray()}
    for _ in range(4):
        for end, out, other in ((client, client_out, server_in), (server, server_out, client_in)):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
            data = out.read()
            said[end] += data
            other.write(data)
    for end, out in ((client, client_out), (server, server_out)):
        end.write(b"hello")
        said[end] += out.read()
    return bytes(said[client]), bytes(said[server])


def record(randomness: random.Random, length: int) -> bytes:
    kind = randomness.choice([20, 21, 22, 22, 22, 23, 24, randomness.randrange(256)])
    version = randomness.choice([0x0301, 0x0303, 0x0304, randomness.randrange(65536)])
    declared = length if randomness.random() < 0.7 else randomness.randrange(65536)
    return struct.pack(">BHH", kind, version, declared) + randomness.randbytes(length)


def stream(randomness: random.Random, good: bytes) -> list[bytes]:
    """One hostile stream, as a list of segments."""
    choice = randomness.randrange(6)
    if choice == 0:
        data = randomness.randbytes(randomness.randrange(1, 600))
    elif choice == 1:
        data = b"".join(record(randomness, randomness.randrange(300)) for _ in range(randomness.randrange(1, 8)))
    elif choice == 2:  # the good bytes, cut off
        data = good[: randomness.randrange(len(good))]
    elif choice == 3:  # the good bytes with some of them changed
        changed = bytearray(good)
        for _ in range(randomness.randrange(1, 9)):
            changed[randomness.randrange(len(changed))] = randomness.randrange(256)
        data = bytes(changed)
    elif choice == 4:  # with a piece removed, doubled, or put in
        start, end = sorted(randomness.randrange(len(good)) for _ in range(2))
        middle = randomness.choice([b"", good[start:end] * 2, randomness.randbytes(40)])
        data = good[:start] + middle + good[end:]
    else:  # a good start, and then random bytes
        data = good[: randomness.randrange(len(good))] + randomness.randbytes(randomness.randrange(1, 500))
    segments = []
    while data:
        cut = randomness.choice([len(data), len(data), randomness.randrange(1, len(data) + 1)])
        segments.append(data[:cut])
        data = data[cut:]
    return segments


# --- without a socket ---


class Hostile:
    """What hostile peers of one version of TLS need: recorded flights, and the contexts of both ends."""

    def __init__(self, version: ssl.TLSVersion) -> None:
        self.flights = flights(version)
        self.blind = certificates.limited(certificates.blind_context(), version, None)
        self.serving = certificates.server_context(version=version)


async def feed(numbers: range, versions: list[Hostile], batch: int = 50) -> dict[str, int]:
    """Feeds a layer for each number; returns what became of how many. Fails with the number, if that is wrong."""
    seen: dict[str, int] = {}
    for start in range(numbers.start, numbers.stop, batch):
        played = []
        for number in range(start, min(start + batch, numbers.stop)):
            fed = Fed(number, versions[number % len(versions)])
            try:
                fed.play()
            except Exception as exc:
                raise AssertionError(f"stream {number}: {exc!r}") from exc
            played.append(fed)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for fed in played:
            try:
                kind = fed.check()
            except AssertionError as exc:
                raise AssertionError(f"stream {fed.number}: {exc}") from exc
            seen[kind] = seen.get(kind, 0) + 1
    return seen


class Lower(asyncio.Transport):
    """What a TLS layer takes for the transport below it. It keeps what is sent, and nothing else."""

    _start_tls_compatible = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.layer: Any = None
        self.sent = bytearray()
        self.closing = False

    def write(self, data: Any) -> None:
        self.sent += data

    def writelines(self, data: Any) -> None:
        for piece in data:
            self.write(piece)

    def _force_close(self, exc: BaseException | None) -> None:
        if not self.closing:
            self.closing = True
            self.loop.call_soon(self.layer.connection_lost, exc)

    def abort(self) -> None:
        self._force_close(None)

    def close(self) -> None:
        self._force_close(None)

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class Listening(asyncio.Protocol):
    """Writes down what it is told, and may pause, write or close meanwhile."""

    def __init__(self, randomness: random.Random) -> None:
        self.random = randomness
        self.data = bytearray()
        self.calls: list[str] = []
        self.exc: BaseException | None = None
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.calls.append("connection_made")
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        what = self.random.randrange(8)
        if what == 0:
            self.transport.pause_reading()
        elif what == 1:
            self.transport.write(b"an answer")
        elif what == 2:
            self.transport.close()

    def eof_received(self) -> None:
        self.calls.append("eof_received")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.calls.append("connection_lost")
        self.exc = exc


class Fed:
    """One layer that is fed by a hostile peer, before the handshake or after it."""

    def __init__(self, number: int, hostile: Hostile) -> None:
        from rloop import _tls

        self.number = number
        self.random = random.Random(number)
        self.server_side = self.random.random() < 0.5
        self.blind, self.serving = hostile.blind, hostile.serving
        self.good = hostile.flights[0 if self.server_side else 1]
        loop = asyncio.get_running_loop()
        self.protocol = Listening(self.random)
        self.lower = Lower(loop)
        context = self.serving if self.server_side else self.blind
        hostname = None if self.server_side else "localhost"
        self.layer = _tls.TlsProtocol(
            loop, self.protocol, context, None, server_side=self.server_side, server_hostname=hostname
        )
        self.lower.layer = self.layer
        self.layer.connection_made(self.lower)
        # What a peer may have said, in the order in which it did so.
        self.said = b""

    def play(self) -> None:
        segments = self.shaken() if self.random.random() < 0.2 else stream(self.random, self.good)
        for segment in segments:
            if self.lower.closing:
                break
            self.layer.data_received(segment)
        if not self.lower.closing and self.protocol.transport is not None and self.random.random() < 0.5:
            self.protocol.transport.resume_reading()
        if not self.lower.closing and self.random.random() < 0.7:
            self.layer.eof_received()
        self.lower._force_close(self.random.choice([None, ConnectionResetError(104, "reset")]))

    def shaken(self) -> list[bytes]:
        """Makes a good handshake; returns what the peer sends after it."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = self.blind if self.server_side else self.serving
        peer = context.wrap_bio(incoming, outgoing, server_side=not self.server_side)
        for _ in range(6):
            incoming.write(bytes(self.lower.sent))
            self.lower.sent.clear()
            with contextlib.suppress(ssl.SSLWantReadError):
                peer.do_handshake()
            if data := outgoing.read():
                self.layer.data_received(data)
        assert self.protocol.calls == ["connection_made"], self.protocol.calls
        pieces = []
        for letter in b"abc"[: 1 + self.random.randrange(3)]:
            data = bytes([letter]) * self.random.choice([1, 100, 5000])
            self.said += data
            peer.write(data)
            pieces.append(outgoing.read())
        return [*pieces[:-1], *stream(self.random, pieces[-1])]

    def check(self) -> str:
        """What became of it; AssertionError if that is wrong. To be called two turns after `play`."""
        assert self.said.startswith(bytes(self.protocol.data)), "delivers what the peer has not said"
        assert len(self.lower.sent) < MOST_ANSWERED, f"answers with {len(self.lower.sent)} bytes"
        calls = self.protocol.calls
        ended = calls.count("connection_lost"), calls.count("connection_made")
        assert ended in [(0, 0), (1, 1)], calls
        exc = self.protocol.exc
        assert exc is None or isinstance(exc, (ssl.SSLError, ConnectionError)), repr(exc)
        return "connected" if calls else "refused"
