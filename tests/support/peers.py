"""The two ends of a TCP connection under test: protocols that write down what they are told, and a plain
blocking socket at the other end, which no event loop touches.

No test lives here, and no assertion about a loop.
"""

import asyncio
import contextlib
import fcntl
import os
import select
import socket
import struct
import termios
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Self

HOST = "127.0.0.1"

# No peer waits longer than this: a lost byte fails the test long before its time limit.
PATIENCE = 10

# What a raise statement takes.
Raised = BaseException | type[BaseException]


class Calls(asyncio.BaseProtocol):
    """Writes down every call. `ended` (the peer's EOF) and `lost` are futures of the running loop."""

    keep_open: bool | None = None  # what eof_received answers

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.calls: list[str] = []
        self.data = bytearray()
        self.transport: Any = None
        self.ended: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[Exception | None] = loop.create_future()
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []

    def connection_made(self, transport: Any) -> None:
        self.calls.append("connection_made")
        self.transport = transport

    def eof_received(self) -> bool | None:
        self.calls.append("eof_received")
        resolve(self.ended, None)
        return self.keep_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("connection_lost")
        resolve(self.lost, exc)

    def pause_writing(self) -> None:
        self.calls.append("pause_writing")

    def resume_writing(self) -> None:
        self.calls.append("resume_writing")

    def received(self, data: bytes | bytearray) -> None:
        self.data += data
        for wanted, future in self._awaited:
            if len(self.data) >= wanted:
                resolve(future, None)

    async def read(self, count: int) -> bytes:
        """Waits until `count` bytes have come in all, and returns all that have come."""
        if len(self.data) < count:
            future = asyncio.get_running_loop().create_future()
            self._awaited.append((count, future))
            await future
        return bytes(self.data)


class Recorder(Calls, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.calls.append("data_received")
        self.received(data)


class Echo(Recorder):
    """Sends back what it receives."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)


class BufferedRecorder(Calls, asyncio.BufferedProtocol):
    """Receives into one buffer of `size` bytes."""

    size = 65536

    def __init__(self) -> None:
        super().__init__()
        self.buffer = bytearray(self.size)

    def get_buffer(self, sizehint: int) -> Any:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.calls.append("buffer_updated")
        self.received(self.buffer[:nbytes])


def once_each(calls: list[str]) -> list[str]:
    """The calls, with equal ones in a row as one: a loop may deliver data in as many calls as it likes."""
    return [call for number, call in enumerate(calls) if number == 0 or call != calls[number - 1]]


def raising(method: str, error: Raised, base: Any = Recorder) -> Any:
    """A protocol whose `method` raises after it has been written down."""

    def call(self: Any, *args: Any) -> None:
        getattr(base, method)(self, *args)
        raise error

    call.__name__ = call.__qualname__ = method
    return type("Raising", (base,), {method: call})


def noting(made: list[Any], base: Any = Recorder) -> Any:
    """A protocol class that puts each of its objects into the list `made`."""

    class Noting(base):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    return Noting


def resolve(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


class Peer:
    """A blocking socket. Every method that may have to wait is a coroutine, which waits in a thread."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        self.sock = sock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Sends data that surely fits the kernel's buffers."""
        self.sock.sendall(data)

    async def send_all(self, data: bytes) -> None:
        await asyncio.to_thread(self.sock.sendall, data)

    async def read(self, count: int) -> bytes:
        """Exactly `count` bytes, or fewer when the connection ends before."""
        return await asyncio.to_thread(read_exactly, self.sock, count)

    async def read_until_eof(self) -> bytes:
        return await asyncio.to_thread(read_until_eof, self.sock)

    def send_eof(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close by RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def read_exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = sock.recv(min(count - len(data), 65536))
        if not chunk:
            break
        data += chunk
    return bytes(data)


def read_until_eof(sock: socket.socket) -> bytes:
    data = bytearray()
    while chunk := sock.recv(65536):
        data += chunk
    return bytes(data)


def socket_pair(*, buffers: int | None = None) -> tuple[socket.socket, socket.socket]:
    """A connected pair of TCP sockets. `buffers` limits what the kernel keeps, at both ends."""

    def limit(sock: socket.socket) -> None:
        if buffers is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)

    with socket.socket() as listener:
        limit(listener)  # inherited by what it accepts
        listener.bind((HOST, 0))
        listener.listen()
        near = socket.create_connection(listener.getsockname())
        limit(near)
        far, _ = listener.accept()
    return near, far


@contextlib.asynccontextmanager
async def connection(
    factory: Callable[[], Any] = Recorder,
    *,
    buffers: int | None = None,
    ends: tuple[socket.socket, socket.socket] | None = None,
) -> AsyncIterator[tuple[Any, Any, Peer]]:
    """A connection that the running loop owns, as (transport, protocol, peer). Gone after the block.

    `ends`: the two connected sockets, if they are not to be of TCP.
    """
    near, far = ends or socket_pair(buffers=buffers)
    with Peer(far) as peer:
        transport, protocol = await asyncio.get_running_loop().create_connection(factory, sock=near)
        try:
            yield transport, protocol, peer
        finally:
            # Before 3.14, abort() of an asyncio transport whose last bytes left after close() fails.
            if transport.get_extra_info("socket").fileno() != -1:
                transport.abort()
            await released(transport)


@contextlib.asynccontextmanager
async def serving(factory: Callable[[], Any], **kwargs: Any) -> AsyncIterator[tuple[asyncio.Server, Any]]:
    """A server of the running loop on a port of its own, as (server, address). Closed after the block."""
    server = await asyncio.get_running_loop().create_server(factory, HOST, 0, **kwargs)
    try:
        yield server, server.sockets[0].getsockname()
    finally:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A handler for asyncio's streams."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


@contextlib.contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """The texts of the ResourceWarnings. asyncio's socket may give one before the transport does."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    texts += [str(warning.message) for warning in caught if warning.category is ResourceWarning]


async def released(transport: Any) -> None:
    """Waits until the loop has closed the transport's socket, which it does after connection_lost."""
    sock = transport.get_extra_info("socket")
    while sock.fileno() != -1:
        await asyncio.sleep(0)


async def result_or_error(awaitable: Awaitable[Any]) -> Any:
    """What awaiting it gives, or the exception that this raises."""
    results: list[Any] = list(await asyncio.gather(awaitable, return_exceptions=True))
    return results[0]


async def until(condition: Callable[[], object]) -> None:
    """Waits for something that the loop is not told of, by asking again and again."""
    while not condition():
        await asyncio.sleep(0.001)


def on_asyncio() -> bool:
    """Whether asyncio's own loop runs the test. Tests leave out what some version of asyncio gets wrong."""
    return type(asyncio.get_running_loop()).__module__.startswith("asyncio.")


async def arrived(transport: Any, count: int, *, ended: bool = False) -> None:
    """Waits until the kernel holds `count` bytes for the transport, and, if it `ended`, the peer's end."""
    fileno = transport.get_extra_info("socket").fileno()
    poll = select.poll()
    poll.register(fileno, select.POLLRDHUP)
    while True:
        (held,) = struct.unpack("i", fcntl.ioctl(fileno, termios.FIONREAD, bytes(4)))
        if held >= count and (poll.poll(0) or not ended):
            return
        await asyncio.sleep(0)


async def reads_in_the_next_turn(transport: Any, protocol: Any, peer: Any) -> None:
    """A transport that has received nothing yet is resumed in the turn in which the loop hears of data. It reads in the
    turn after that.
    """
    transport.pause_reading()
    peer.send(b"held")
    await asyncio.sleep(0)
    transport.resume_reading()
    await asyncio.sleep(0)
    assert protocol.calls == ["connection_made"]
    assert await protocol.read(4) == b"held"


async def settle() -> None:
    """Returns when the loop has looked at all its files, and has called everybody who was to hear of them."""
    loop = asyncio.get_running_loop()
    for _ in range(2):
        read_end, write_end = os.pipe()
        os.write(write_end, b".")
        ready = loop.create_future()
        loop.add_reader(read_end, resolve, ready, None)
        await ready
        loop.remove_reader(read_end)
        os.close(read_end)
        os.close(write_end)
        await asyncio.sleep(0)


async def still(protocol: Any) -> None:
    """Nothing more is told to the protocol, whatever the loop finds."""
    before = list(protocol.calls)
    await settle()
    assert protocol.calls == before


@contextlib.contextmanager
def refusing_port(host: str = HOST, family: int = socket.AF_INET) -> Iterator[int]:
    """A port that refuses connections. A socket is bound to it, so that nobody else takes it, but does not listen."""
    with socket.socket(family) as sock:
        sock.bind((host, 0))
        yield sock.getsockname()[1]


@contextlib.contextmanager
def silent_address() -> Iterator[Any]:
    """An address that never answers a connection, because the queue of its listener is full and nobody accepts."""
    with socket.create_server((HOST, 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        address = listener.getsockname()
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(address)
        yield address


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False
