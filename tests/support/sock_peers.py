"""What the tests of loop.sock_* stand on: connected sockets of every kind, one for the loop and one that no
loop touches, and a call that has begun to wait.

No test lives here, and no assertion about a loop.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine, Iterator
from typing import Any

from support.peers import HOST, Peer, has_ipv6, settle, socket_pair

STREAMS = ["tcp", "unix"]
DATAGRAMS = ["udp", "udp6", "unix", "abstract"]


@contextlib.contextmanager
def streams(kind: str = "tcp", *, buffers: int | None = None) -> Iterator[tuple[socket.socket, Peer]]:
    """(non-blocking socket, peer), connected."""
    if kind == "tcp":
        near, far = socket_pair(buffers=buffers)
    else:
        near, far = socket.socketpair()
        if buffers is not None:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
    near.setblocking(False)
    with near, Peer(far) as peer:
        yield near, peer


def datagram_socket(kind: str, folder: str, name: str) -> socket.socket:
    if kind == "udp6":
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.bind(("::1", 0))
    elif kind == "udp":
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((HOST, 0))
    else:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # The kernel chooses a name of its own when it is given none.
        sock.bind("" if kind == "abstract" else os.path.join(folder, name))
    return sock


@contextlib.contextmanager
def datagrams(kind: str, folder: str) -> Iterator[tuple[socket.socket, Any, Peer, Any]]:
    """(non-blocking socket, its address, peer, the peer's address), bound and not connected."""
    near, far = datagram_socket(kind, folder, "near"), datagram_socket(kind, folder, "far")
    near.setblocking(False)
    with near, Peer(far) as peer:
        yield near, near.getsockname(), peer, far.getsockname()


def available(kinds: list[str]) -> list[str]:
    return [kind for kind in kinds if kind != "udp6" or has_ipv6()]


async def receive(method: str, sock: socket.socket, count: int) -> bytes:
    """What `method` of the loop receives, as bytes."""
    call = getattr(asyncio.get_running_loop(), method)
    if not method.endswith("_into"):
        got = await call(sock, count)
        return bytes(got if method == "sock_recv" else got[0])
    buffer = bytearray(count)
    got = await call(sock, buffer)
    return bytes(buffer[: got if method == "sock_recv_into" else got[0]])


async def receive_exactly(sock: socket.socket, count: int) -> bytes:
    """What `sock_recv` gives in as many calls as it takes: `count` bytes, or fewer when the peer ends before."""
    loop, data = asyncio.get_running_loop(), bytearray()
    while len(data) < count and (more := await loop.sock_recv(sock, count - len(data))):
        data += more
    return bytes(data)


async def waiting(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """The task that runs it, after it has begun to wait."""
    task = asyncio.create_task(coroutine)
    await settle()
    if task.done():
        raise AssertionError(f"it did not wait: {task}")
    return task


async def cancelled(task: asyncio.Task[Any]) -> bool:
    """Cancels the task, and tells whether it ended for that reason."""
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


def registered(sock: socket.socket) -> bool:
    """Whether the loop still watches this socket. Afterwards it does not."""
    loop = asyncio.get_running_loop()
    return any([loop.remove_reader(sock), loop.remove_writer(sock)])


def fill(sock: socket.socket, data: bytes = bytes(65536)) -> int:
    """Sends until the kernel takes no more. Returns how many bytes it took."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(data)
    return sent
