"""Sockets that end before a loop.sock_* call does, and numbers that are used again: a call never touches a file
that it was not given, and keeps nothing alive.

Calls that are cancelled in time are in test_cancel.py.
"""

import asyncio
import contextlib
import gc
import socket
import weakref

import pytest

from support.peers import Peer, Recorder, on_asyncio, result_or_error, settle, socket_pair
from support.sock_peers import cancelled, fill, registered, streams, waiting

PLENTY = b"x" * (1 << 20)
BUFFERS = 65536  # this is less than PLENTY

CALLS = {
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 100),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(100)),
    "sock_recvfrom": lambda loop, sock: loop.sock_recvfrom(sock, 100),
    "sock_recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(100)),
    "sock_sendall": lambda loop, sock: loop.sock_sendall(sock, PLENTY),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(PLENTY * 4)
    with open(path, "rb") as file:
        yield file


class Reused:
    """A socket pair. The first socket has the number that another socket has had."""

    def __init__(self, number):
        self.near, self.far = socket.socketpair()
        if self.far.fileno() == number:
            self.near, self.far = self.far, self.near
        if self.near.fileno() != number:
            raise AssertionError(f"{number} is not the lowest number that is free")
        self.near.setblocking(False)
        self.far.setblocking(False)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.near.close()
        self.far.close()

    def is_untouched(self):
        """Checks that nobody has sent or received anything."""
        self.far.send(b"mine")
        for sock, expected in (self.near, b"mine"), (self.far, None):
            try:
                received = sock.recv(100)
            except BlockingIOError:
                received = None
            if received != expected:
                return False
        return True


def close_and_reuse(sock):
    number = sock.fileno()
    sock.close()
    return Reused(number)


async def ended(task):
    """The result of the task, which is cancelled if it does not end by itself."""
    if not task.done():
        task.cancel()
    outcome = await result_or_error(task)
    return outcome


# --- numbers that are used again ---


@EVERY_CALL
async def test_number_is_used_again(call):
    """The old call gets nothing of the socket that now has the number."""
    loop = asyncio.get_running_loop()
    with streams(buffers=BUFFERS) as (sock, peer):
        fill(sock)
        task = await waiting(CALLS[call](loop, sock))
        with close_and_reuse(sock) as reused:
            reused.far.send(b"hello")
            await settle()
            assert reused.near.recv(100) == b"hello"
            assert reused.is_untouched()
            await ended(task)
            # The loop serves the new socket.
            task = await waiting(loop.sock_recv(reused.near, 100))
            reused.far.send(b"hello")
            assert await task == b"hello"
            assert not registered(reused.near)


@EVERY_CALL
async def test_number_is_used_again_while_the_old_call_waits(call):
    if on_asyncio():
        pytest.skip("asyncio cannot register the number again")
    loop = asyncio.get_running_loop()
    with streams(buffers=BUFFERS) as (sock, peer):
        fill(sock)
        old = await waiting(CALLS[call](loop, sock))
        with close_and_reuse(sock) as reused:
            task = await waiting(loop.sock_recv(reused.near, 100))
            reused.far.send(b"hello")
            assert await task == b"hello"
            task = await waiting(loop.sock_recv(reused.near, 100))
            # The end of the old call does not end the new one.
            await ended(old)
            reused.far.send(b"world")
            assert await task == b"world"


async def test_transport_on_a_number_that_a_call_has_waited_for():
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        task = await waiting(loop.sock_recv(sock, 100))
        assert await cancelled(task)
        with close_and_reuse(sock) as reused:
            transport, protocol = await loop.create_connection(Recorder, sock=reused.near)
            reused.far.send(b"hello")
            assert await protocol.read(5) == b"hello"
            transport.close()
            await protocol.lost


@pytest.mark.parametrize("drained", [False, True])
@pytest.mark.parametrize("turns", range(5))
async def test_file_is_not_sent_to_somebody_else(turns, drained, file):
    """sock_sendfile has sent a part when its socket is closed and the number goes to another."""
    loop = asyncio.get_running_loop()
    with streams("unix", buffers=BUFFERS) as (sock, peer):
        task = asyncio.create_task(loop.sock_sendfile(sock, file))
        if drained:
            await settle()
            peer.sock.recv(1 << 20)
        for _ in range(turns):
            await asyncio.sleep(0)
        with close_and_reuse(sock) as reused:
            await settle()
            untouched = reused.is_untouched()
            outcome = await ended(task)
            assert untouched
            assert isinstance(outcome, (OSError, asyncio.CancelledError))


@pytest.mark.parametrize("drained", [False, True])
@pytest.mark.parametrize("turns", range(5))
async def test_file_is_not_sent_to_the_next_connection(turns, drained, file):
    """sendfile has sent a part when its transport is aborted and the number goes to another."""
    if on_asyncio():
        pytest.skip("asyncio closes the file under the call, which waits for ever")
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFERS)
    number = near.fileno()
    with Peer(far) as peer, contextlib.ExitStack() as stack:
        transport, protocol = await loop.create_unix_connection(Recorder, sock=near)
        task = asyncio.create_task(loop.sendfile(transport, file))
        if drained:
            await settle()
            peer.sock.recv(1 << 20)
        for _ in range(turns):
            await asyncio.sleep(0)
        transport.abort()
        # This is called right after connection_lost, when the file has just been closed.
        reused = loop.create_future()
        loop.call_soon(lambda: reused.set_result(stack.enter_context(Reused(number))))
        untouched = (await reused).is_untouched()
        await settle()
        outcome = await ended(task)
        assert untouched and reused.result().is_untouched()
        assert isinstance(outcome, (OSError, RuntimeError))


@EVERY_CALL
async def test_closed_between_two_calls(call):
    """The socket is closed and replaced by another with its number. Each call uses the socket that it is given."""
    loop = asyncio.get_running_loop()
    for _ in range(5):
        with streams(buffers=BUFFERS) as (sock, peer):
            if call == "sock_sendall":
                reading = asyncio.create_task(peer.read(len(PLENTY)))
                await CALLS[call](loop, sock)
                assert await reading == PLENTY
            else:
                task = await waiting(CALLS[call](loop, sock))
                peer.send(b"hello")
                await task


# --- sockets that nobody closes ---


@EVERY_CALL
@pytest.mark.parametrize("end", ["result", "cancel"])
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_socket_is_not_kept(call, end):
    """The loop does not keep a socket alive, so that one that a program forgot to close is freed."""
    loop = asyncio.get_running_loop()
    near, far = socket_pair(buffers=BUFFERS)
    near.setblocking(False)
    with Peer(far) as peer:
        filled = fill(near) if call == "sock_sendall" else 0
        task = await waiting(CALLS[call](loop, near))
        if end == "cancel":
            assert await cancelled(task)
            assert len(await peer.read(filled)) == filled
        elif call == "sock_sendall":
            assert len(await peer.read(filled + len(PLENTY))) == filled + len(PLENTY)
            await task
        else:
            peer.send(b"hello")
            await task
        seen = weakref.ref(near)
        del near, task
        await settle()
        gc.collect()
        assert seen() is None
        assert await peer.read_until_eof() == b""


@EVERY_CALL
async def test_buffer_and_result_are_not_kept(call):
    loop = asyncio.get_running_loop()

    class Buffer(bytearray):
        pass

    with streams(buffers=BUFFERS) as (sock, peer):
        buffer = Buffer(PLENTY if call == "sock_sendall" else 100)
        seen = weakref.ref(buffer)
        method = getattr(loop, call)
        if call.endswith("_into") or call == "sock_sendall":
            task = await waiting(method(sock, buffer))
        else:
            task = await waiting(method(sock, 100))
        assert await cancelled(task)
        del buffer, task
        await settle()
        gc.collect()
        assert seen() is None
