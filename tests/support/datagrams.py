"""The two ends of a datagram endpoint under test: a protocol that writes down what it is told, and plain
sockets at the other end, which no event loop touches.

No test lives here, and no assertion about a loop.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

from support.peers import HOST, PATIENCE, Raised, raising, released, resolve

# More than any datagram has. asyncio reads no more than this at once.
LARGEST = 256 * 1024


class Datagrams(asyncio.DatagramProtocol):
    """Writes down every call; `lost` is a future of the running loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.calls: list[str] = []
        self.received: list[tuple[bytes, Any]] = []  # (data, address)
        self.errors: list[Exception] = []
        self.transport: Any = None
        self.lost: asyncio.Future[Exception | None] = loop.create_future()
        self._told = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self._tell("connection_made")
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append((data, addr))
        self._tell("datagram_received")

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self._tell("error_received")

    def pause_writing(self) -> None:
        self._tell("pause_writing")

    def resume_writing(self) -> None:
        self._tell("resume_writing")

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell("connection_lost")
        resolve(self.lost, exc)

    def _tell(self, name: str) -> None:
        self.calls.append(name)
        self._told.set()

    @property
    def data(self) -> list[bytes]:
        return [data for data, _ in self.received]

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._told.clear()
            await self._told.wait()

    async def read(self, count: int) -> list[bytes]:
        """Waits for `count` datagrams in all, and returns the data of all that have come."""
        await self.until(lambda: len(self.received) >= count)
        return self.data

    async def fail(self, count: int = 1) -> list[Exception]:
        """Waits for `count` errors in all, and returns all that have come."""
        await self.until(lambda: len(self.errors) >= count)
        return self.errors


class Echo(Datagrams):
    """Sends back what it receives."""

    def datagram_received(self, data: bytes, addr: Any) -> None:
        super().datagram_received(data, addr)
        self.transport.sendto(data, addr)


def raising_in(method: str, error: Raised) -> Any:
    """A protocol whose `method` raises after it has been written down."""
    return raising(method, error, Datagrams)


@contextlib.asynccontextmanager
async def endpoint(factory: Any = Datagrams, **kwargs: Any) -> AsyncIterator[tuple[Any, Any]]:
    """An endpoint of the running loop, as (transport, protocol). Gone after the block."""
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(factory, **kwargs)
    try:
        yield transport, protocol
    finally:
        # Before 3.14, abort() of an asyncio transport whose last bytes left after close() fails.
        if transport.get_extra_info("socket").fileno() != -1:
            transport.abort()
        await released(transport)


def bound(
    factory: Callable[[], Any] = Datagrams, host: str = HOST
) -> contextlib.AbstractAsyncContextManager[tuple[Any, Any]]:
    """An endpoint that is not connected, on a port of its own."""
    return endpoint(factory, local_addr=(host, 0))


@contextlib.asynccontextmanager
async def pair(
    factory: Callable[[], Any] = Datagrams, *, buffer: int | None = None
) -> AsyncIterator[tuple[Any, Any, socket.socket]]:
    """One end of a pair of UNIX sockets, as (transport, protocol, far). No datagram is lost between them.

    `buffer` limits what the kernel keeps of what the transport has sent.
    """
    near, far = unix_socket_pair()
    if buffer is not None:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    with far:
        async with endpoint(factory, sock=near) as (transport, protocol):
            yield transport, protocol, far


def udp_socket(host: str = HOST) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE)
    sock.bind((host, 0))
    return sock


def refusing_socket(host: str = HOST) -> socket.socket:
    """A socket that is connected to itself: the kernel refuses what anybody else sends to its port.

    Until it is connected to that other.
    """
    sock = udp_socket(host)
    sock.connect(sock.getsockname())
    return sock


def unix_socket(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE)
    sock.bind(path)
    return sock


def unix_socket_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair. Both have names, because for asyncio a peer without a name is no peer."""
    near, far = unix_socket(""), unix_socket("")
    near.connect(far.getsockname())
    far.connect(near.getsockname())
    return near, far


async def receive(sock: socket.socket, count: int = 1) -> list[tuple[bytes, Any]]:
    """The next `count` datagrams, as (data, address)."""
    return await asyncio.to_thread(lambda: [sock.recvfrom(LARGEST) for _ in range(count)])


def receive_waiting(sock: socket.socket) -> list[bytes]:
    """The data of all datagrams that have arrived by now."""
    received = []
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            received.append(sock.recv(LARGEST))
    sock.settimeout(PATIENCE)
    return received
