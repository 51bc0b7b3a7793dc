"""UNIX listeners whose backlog is full: connecting waits until there is room, as a blocking connect does.

rloop only: asyncio takes the kernel's "try again" for a connection, which then fails at its first use.
"""

import asyncio
import contextlib
import socket

import pytest

from support.idle import sleeps
from support.peers import Peer, Recorder, on_asyncio, released, until


class CountingSocket(socket.socket):
    attempts = 0

    def connect(self, address):
        self.attempts += 1
        return super().connect(address)


@contextlib.contextmanager
def full(path, kind=socket.SOCK_STREAM):
    """A listener with a full backlog."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
        listener.bind(path)
        listener.listen(0)
        with pytest.raises(BlockingIOError):
            while True:
                client = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
                client.setblocking(False)
                client.connect(path)
        listener.settimeout(10)
        yield listener


@pytest.fixture(autouse=True)
async def not_asyncio():
    if on_asyncio():
        pytest.skip("asyncio takes this for a connection")


async def test_create_unix_connection(path):
    loop = asyncio.get_running_loop()
    with full(path) as listener:
        connecting = asyncio.create_task(loop.create_unix_connection(Recorder, path))
        done, _ = await asyncio.wait([connecting], timeout=0.05)
        assert not done
        listener.accept()[0].close()  # one of those that fill it
        transport, protocol = await connecting
        with Peer(listener.accept()[0]) as peer:
            transport.write(b"hello")
            assert await peer.read(5) == b"hello"
            transport.abort()
            await released(transport)
        assert protocol.calls == ["connection_made", "connection_lost"]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
async def test_sock_connect(path, kind):
    loop = asyncio.get_running_loop()
    with full(path, kind) as listener, CountingSocket(socket.AF_UNIX, kind) as sock:
        sock.setblocking(False)
        slept = sleeps()
        connecting = asyncio.create_task(loop.sock_connect(sock, path))
        await until(lambda: sock.attempts >= 5)
        assert not connecting.done()
        # The loop waits between two attempts.
        assert sleeps() - slept >= 4
        listener.accept()[0].close()
        await connecting
        assert sock.getpeername() == path


async def test_cancelled(path):
    loop = asyncio.get_running_loop()
    with full(path):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.create_unix_connection(Recorder, path), 0.02)


@pytest.mark.parametrize("how", ["listener", "socket"])
async def test_closed_meanwhile(path, how):
    loop = asyncio.get_running_loop()
    with full(path) as listener, socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        connecting = asyncio.create_task(loop.sock_connect(sock, path))
        await asyncio.sleep(0.01)
        {"listener": listener, "socket": sock}[how].close()
        with pytest.raises(ConnectionRefusedError if how == "listener" else OSError):
            await connecting
