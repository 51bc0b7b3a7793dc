"""A program takes the file away from an object that a transport uses, and the number is another file's by then. Whoever
has that one must not find a byte of the transport's in it, nor have it closed. And the moment in which it is unclear
who has a file.
"""

import asyncio
import contextlib
import errno
import gc
import os
import socket
import sys

import pytest

from support.datagrams import Datagrams, udp_socket, unix_socket_pair
from support.peers import Recorder, noting, on_asyncio, socket_pair


def put_at(number, sock):
    """Moves the socket's file to this number, which must be free or the socket's own."""
    fd = sock.detach()
    if fd != number:
        os.dup2(fd, number)
        os.close(fd)


@contextlib.contextmanager
def another_file(number):
    """A socket with this number, which must be free. After the block nothing was written to it and nobody has closed
    it.
    """
    near, far = socket.socketpair()
    if far.fileno() == number:
        near, far = far, near
    put_at(number, near)
    with far:
        far.setblocking(False)
        try:
            yield far
            with pytest.raises(BlockingIOError):
                far.recv(100)
            os.write(number, b"still open")
            assert far.recv(100) == b"still open"
        finally:
            os.close(number)


# --- sockets ---


@pytest.mark.parametrize("use", ["write", "write_eof", "close", "abort"])
@pytest.mark.parametrize("pair", [socket_pair, socket.socketpair], ids=["tcp", "unix"])
async def test_stream(pair, use):
    near, far = pair()
    with far:
        near.setblocking(False)
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=near)
        number = near.detach()
        os.close(number)
        with another_file(number):
            # asyncio raises the error of the socket's shutdown().
            with contextlib.suppress(OSError):
                getattr(transport, use)(*([b"secret"] if use == "write" else []))
            transport.abort()
            error = await protocol.lost
        assert error is None if use != "write" else error.errno == errno.EBADF


async def test_stream_that_has_something_queued():
    if on_asyncio():
        pytest.skip("asyncio fails in its own bookkeeping")
    near, far = socket_pair()
    with far:
        near.setblocking(False)
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=near)
        while not transport.get_write_buffer_size():
            transport.write(bytes(1 << 20))
        number = near.detach()
        kept = os.dup(number)
        with another_file(number):
            transport.write(b"secret")
            # The kernel takes more again, and the reactor still watches the old file under this number.
            far.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                while await asyncio.to_thread(far.recv, 1 << 20):
                    pass
            transport.abort()
            await protocol.lost
        os.close(kept)


@pytest.mark.parametrize("kind", ["udp", "unix"])
async def test_datagrams(kind):
    near, far = unix_socket_pair() if kind == "unix" else (udp_socket(), udp_socket())
    with far:
        near.setblocking(False)
        if kind == "udp":
            near.connect(far.getsockname())
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=near)
        number = near.detach()
        os.close(number)
        with another_file(number):
            transport.sendto(b"secret")
            await asyncio.sleep(0)
            transport.abort()
            await protocol.lost
        assert [error.errno for error in protocol.errors] == [errno.EBADF]  # type: ignore[attr-defined]


async def test_listener(loop_errors):
    """The listening socket of a server, taken while a connection waits."""
    if on_asyncio():
        pytest.skip("asyncio cannot close such a server")
    loop = asyncio.get_running_loop()
    sock = socket.create_server(("127.0.0.1", 0))
    server = await loop.create_server(Recorder, sock=sock)
    with socket.create_connection(sock.getsockname()) as client:
        number = sock.detach()
        kept = os.dup(number)
        os.close(number)
        put_at(number, socket.create_server(("127.0.0.1", 0)))
        with socket.socket(fileno=number) as other, socket.create_connection(other.getsockname()):
            for _ in range(5):
                await asyncio.sleep(0.001)
            # The program that has the listener now can still accept the connection.
            other.setblocking(False)
            other.accept()[0].close()
            client.setblocking(False)
            server.close()
            assert other.fileno() == number
            other.getsockname()
        os.close(kept)
    del loop_errors[:]


# --- pipes ---


def pipe_file(buffering):
    reader, writer = os.pipe()
    return open(writer, "wb", buffering), open(reader, "rb", 0)


def socket_file():
    near, far = socket.socketpair()
    return near, open(far.detach(), "rb", 0)


@pytest.mark.parametrize(
    "files", [lambda: pipe_file(0), lambda: pipe_file(-1), socket_file], ids=["raw", "buffered", "socket"]
)
async def test_writing_end_of_a_pipe(files):
    if on_asyncio():
        pytest.skip("asyncio writes to whatever has the number")
    near, far = files()
    with far:
        transport, protocol = await asyncio.get_running_loop().connect_write_pipe(Recorder, near)
        number = near.fileno()
        near.close()
        with another_file(number):
            transport.write(b"secret")
            error = await protocol.lost
        assert error.errno == errno.EBADF


@pytest.mark.parametrize("buffering", [0, -1])
async def test_reading_end_of_a_pipe(buffering, loop_errors):
    if on_asyncio():
        pytest.skip("asyncio reads from whatever has the number")
    reader, writer = os.pipe()
    near = open(reader, "rb", buffering)
    with open(writer, "wb", 0) as far:
        transport, protocol = await asyncio.get_running_loop().connect_read_pipe(Recorder, near)
        transport.pause_reading()
        far.write(b"x")
        await asyncio.sleep(0.001)
        kept = os.dup(reader)
        near.close()
        with another_file(reader) as peer:
            peer.send(b"not for the transport")
            transport.resume_reading()
            error = await protocol.lost
            assert error.errno == errno.EBADF
            assert os.read(reader, 100) == b"not for the transport"
        os.close(kept)
    (report,) = loop_errors
    assert report["message"] == "Fatal read error on pipe transport"
    del loop_errors[:]


# --- the moment in which an fd changes hands ---


def interrupted(function, code):
    """Calls `function`, and raises KeyboardInterrupt at the end of the function with this code, where Ctrl-C could
    come.
    """

    def trace(frame, event, arg):
        if frame.f_code is not code:
            return None
        if event == "return":
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        with pytest.raises(KeyboardInterrupt):
            function()
    finally:
        sys.settrace(None)


async def test_interrupted_while_a_socket_object_is_made():
    """The socket of an accepted connection gets its Python object when somebody asks for it."""
    if on_asyncio():
        pytest.skip("asyncio makes the object first")
    made = []

    loop = asyncio.get_running_loop()
    server = await loop.create_server(noting(made), "127.0.0.1", 0)
    async with server:
        with socket.create_connection(server.sockets[0].getsockname()) as peer:
            while not (made and made[0].transport):
                await asyncio.sleep(0.001)
            transport, lost = made[0].transport, made[0].lost
            for _ in range(3):
                interrupted(lambda: transport.get_extra_info("socket"), socket.socket.__init__.__code__)
            gc.collect()
            # The transport has kept its file, and works.
            peer.setblocking(False)
            transport.write(b"hello")
            assert peer.recv(100) == b"hello"
            sock = transport.get_extra_info("socket")
            assert sock.getpeername() == peer.getsockname()
            transport.abort()
            await lost
            assert sock.fileno() == -1


async def test_interrupted_while_a_pipe_is_looked_at():
    near, far = socket.socketpair()
    with far:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(loop.connect_write_pipe(Recorder, near))
        made = []

        def trace(frame, event, arg):
            if frame.f_code is socket.socket.__init__.__code__:
                made.append(frame)

        sys.settrace(trace)
        try:
            transport, protocol = await task
        finally:
            sys.settrace(None)
        # There is no object yet whose finalizer could close the fd.
        assert made == []
        transport.abort()
        await protocol.lost
