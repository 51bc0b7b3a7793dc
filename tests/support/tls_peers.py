"""The two ends of a TLS connection under test: a transport of the loop, and a peer that no event loop touches.

The peer is an SSLObject beside a plain blocking socket, so that a test decides which bytes leave together, in which
order, and when. No test lives here, and no assertion about a loop.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

from support import certificates, peers
from support.peers import PATIENCE, Peer, Recorder, result_or_error, socket_pair

RECEIVE = 65536


class BufferedRecorder(peers.BufferedRecorder):
    """Gives a memoryview: asyncio fills what is behind a record into a slice, and that of a bytearray is a copy."""

    def get_buffer(self, sizehint: int) -> Any:
        return memoryview(self.buffer)


class TlsPeer(Peer):
    """A TLS end on a blocking socket. `encrypt` gives records to be sent later; `send` sends them at once."""

    def __init__(
        self,
        sock: socket.socket,
        context: Any = None,
        *,
        server_side: bool = True,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        super().__init__(sock)
        context = context or (certificates.server_context() if server_side else certificates.client_context())
        if not server_side:
            server_hostname = server_hostname or certificates.HOSTNAME
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
            session=session,
        )
        # How the other end finished: by "close_notify", or by "eof" without one. None until then.
        self.ended: str | None = None

    # --- by the step ---

    def pending(self) -> bytes:
        """The records that are still to be sent."""
        return self._outgoing.read()

    def flush(self) -> None:
        if records := self._outgoing.read():
            self.sock.sendall(records)

    def receive(self) -> bool:
        """Receives what comes next. False if nothing more will come."""
        data = self.sock.recv(RECEIVE)
        if data:
            self._incoming.write(data)
            return True
        self._incoming.write_eof()
        self.ended = self.ended or "eof"
        return False

    def encrypt(self, data: bytes) -> bytes:
        """The records for `data`, which are not sent."""
        self.tls.write(data)
        return self._outgoing.read()

    def close_notify(self) -> bytes:
        """The record of our close_notify, which is not sent."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._outgoing.read()

    # --- blocking: to be called in a thread ---

    def blocking_handshake(self) -> None:
        self._until_done(self.tls.do_handshake)

    def blocking_handshake_and_send(self, *data: bytes) -> None:
        """Sends each of `data` as a record, all in one segment with the last message of the handshake."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self.receive()
            else:
                self.send_raw(b"".join([self.pending(), *map(self.encrypt, data)]))
                return

    def blocking_read(self, count: int) -> bytes:
        """Exactly `count` bytes, or fewer when the other end finishes before."""
        data = bytearray()
        while len(data) < count and self.ended is None:
            data += self._read_some(count - len(data))
        return bytes(data)

    def blocking_read_until_end(self) -> bytes:
        data = bytearray()
        while self.ended is None:
            data += self._read_some(RECEIVE)
        return bytes(data)

    def blocking_unwrap(self) -> None:
        """Sends our close_notify and waits for theirs."""
        self._until_done(self.tls.unwrap)

    def _read_some(self, count: int) -> bytes:
        try:
            data = self._until_done(self.tls.read, count)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            data = b""
        if not data:
            self.ended = self.ended or "close_notify"
        return bytes(data)

    def _until_done(self, call: Callable[..., Any], *args: Any) -> Any:
        while True:
            try:
                result = call(*args)
            except ssl.SSLWantReadError:
                self.flush()
                self.receive()
            except ssl.SSLError:
                self.flush()  # the alert
                raise
            else:
                self.flush()
                return result

    # --- for tests ---

    async def handshake(self) -> None:
        await asyncio.to_thread(self.blocking_handshake)

    async def unwrap(self) -> None:
        await asyncio.to_thread(self.blocking_unwrap)

    def send(self, data: bytes) -> None:
        """Sends data that surely fits the kernel's buffers."""
        self.send_raw(self.encrypt(data))

    async def send_all(self, data: bytes) -> None:
        await asyncio.to_thread(self.send, data)

    def send_raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    async def read(self, count: int) -> bytes:
        return await asyncio.to_thread(self.blocking_read, count)

    async def read_until_end(self) -> bytes:
        """All data until the other end finishes. Afterwards `ended` tells how it did."""
        return await asyncio.to_thread(self.blocking_read_until_end)

    async def read_raw_until_eof(self) -> bytes | None:
        """All bytes that come, not decrypted, until EOF or a RST."""
        with contextlib.suppress(ConnectionResetError):
            return await super().read_until_eof()
        return None

    def send_close_notify(self) -> None:
        self.send_raw(self.close_notify())


async def connect(
    factory: Callable[[], Any],
    sock: socket.socket,
    *,
    server_side: bool = False,
    context: Any = None,
    **kwargs: Any,
) -> tuple[Any, Any]:
    """The loop's end over a connected socket. It makes the handshake, and the peer must do so at the same time."""
    loop = asyncio.get_running_loop()
    if server_side:
        context = context or certificates.server_context()
        return await loop.connect_accepted_socket(factory, sock, ssl=context, **kwargs)
    context = context or certificates.client_context()
    kwargs.setdefault("server_hostname", certificates.HOSTNAME)
    return await loop.create_connection(factory, sock=sock, ssl=context, **kwargs)


@contextlib.asynccontextmanager
async def tls_connection(
    factory: Callable[[], Any] = Recorder,
    *,
    server_side: bool = False,
    context: Any = None,
    peer_context: Any = None,
    buffers: int | None = None,
    session: ssl.SSLSession | None = None,
    peer_may_fail: bool = False,
    **kwargs: Any,
) -> AsyncIterator[tuple[Any, Any, TlsPeer]]:
    """A TLS connection that the running loop owns, as (transport, protocol, peer). Gone after the block.

    With `peer_may_fail`, the peer's handshake need not succeed: for a loop's end that hangs up at once.
    """
    near, far = socket_pair(buffers=buffers)
    with TlsPeer(far, peer_context, server_side=not server_side, session=session) as peer:
        shaking = asyncio.create_task(peer.handshake())
        try:
            transport, protocol = await connect(factory, near, server_side=server_side, context=context, **kwargs)
        except BaseException:
            await asyncio.gather(shaking, return_exceptions=True)
            raise
        failed = await result_or_error(shaking)
        try:
            if failed is not None and not peer_may_fail:
                raise failed
            yield transport, protocol, peer
        finally:
            transport.abort()
            await gone(near)


async def gone(sock: socket.socket) -> None:
    """Waits until the loop has closed the socket that a transport was given, after connection_lost."""
    async with asyncio.timeout(PATIENCE):
        while sock.fileno() != -1:
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def handshaking(
    factory: Callable[[], Any] = Recorder, *, server_side: bool = False, **kwargs: Any
) -> AsyncIterator[tuple[asyncio.Task[tuple[Any, Any]], TlsPeer]]:
    """A handshake of the loop's end that nobody answers yet, as (task, peer): the task gives what `connect` does.

    After the block, the task is done.
    """
    near, far = socket_pair()
    with TlsPeer(far, server_side=not server_side) as peer:
        task = asyncio.create_task(connect(factory, near, server_side=server_side, **kwargs))
        try:
            yield task, peer
        finally:
            peer.close()
            result = await result_or_error(task)
            if isinstance(result, tuple):
                result[0].abort()
            await gone(near)


def server_with(answer: Callable[[Any, bytes], object]) -> Any:
    """A protocol class for servers whose `answer(transport, data)` is called with what comes."""

    class Server(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            answer(self.transport, data)

    return Server


# --- connections that begin in clear ---


def _pair(family: int) -> tuple[socket.socket, socket.socket]:
    return socket_pair() if family == socket.AF_INET else socket.socketpair()


@contextlib.asynccontextmanager
async def in_clear(
    factory: Callable[[], Any] = Recorder,
    *,
    family: int = socket.AF_INET,
    server_side: bool = False,
    peer_context: Any = None,
) -> AsyncIterator[tuple[Any, Any, TlsPeer]]:
    """A connection on which TLS has not begun, as (transport, protocol, peer)."""
    loop = asyncio.get_running_loop()
    near, far = _pair(family)
    with TlsPeer(far, peer_context, server_side=not server_side) as peer:
        create = loop.create_unix_connection if family == socket.AF_UNIX else loop.create_connection
        transport, protocol = await create(factory, sock=near)
        try:
            yield transport, protocol, peer
        finally:
            transport.abort()
            await gone(near)


async def start_tls(
    transport: Any, protocol: Any, *, server_side: bool = False, context: Any = None, **kwargs: Any
) -> Any:
    context = context or (certificates.server_context() if server_side else certificates.client_context())
    if not server_side:
        kwargs.setdefault("server_hostname", certificates.HOSTNAME)
    loop = asyncio.get_running_loop()
    return await loop.start_tls(transport, protocol, context, server_side=server_side, **kwargs)
