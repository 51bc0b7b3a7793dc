"""Pipes of every kind, for connect_read_pipe and connect_write_pipe: the end that a loop gets, and the far
end, which no event loop touches.

No test lives here, and no assertion about a loop. Protocols that write down what they are told are in
peers.py.
"""

import asyncio
import contextlib
import errno
import os
import select
import socket
import tempfile
import tty
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from support.peers import PATIENCE, Calls, Recorder

# What the loop may get: one end of os.pipe(), of a FIFO, of a socket pair, or either side of a terminal.
KINDS = ["pipe", "fifo", "socket", "master", "slave"]


def pipe_files() -> tuple[Any, Any]:
    return tuple(map(open_end, os.pipe(), ("rb", "wb")))


def fifo_files() -> tuple[Any, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "fifo")
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(reader, True)
        writer = os.open(path, os.O_WRONLY)
        return open_end(reader, "rb"), open_end(writer, "wb")


def terminal_files() -> tuple[Any, Any]:
    """(master, slave) of a terminal that neither changes nor echoes a byte."""
    master, slave = os.openpty()
    tty.setraw(slave)
    return open_end(master, "r+b"), open_end(slave, "r+b")


def open_end(fileno: int, mode: str) -> Any:
    return open(fileno, mode, buffering=0)


def make_ends(kind: str, near_reads: bool) -> tuple[Any, Any]:
    """(near, far) file objects. They are blocking, as the system makes them."""
    if kind == "socket":
        return socket.socketpair()
    if kind in ("master", "slave"):
        master, slave = terminal_files()
        return (master, slave) if kind == "master" else (slave, master)
    reader, writer = pipe_files() if kind == "pipe" else fifo_files()
    return (reader, writer) if near_reads else (writer, reader)


class FarEnd:
    """The other end. Every method that may have to wait is a coroutine, which waits in a thread, up to PATIENCE."""

    def __init__(self, file: Any) -> None:
        os.set_blocking(file.fileno(), False)
        self.file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()

    def send(self, data: bytes) -> None:
        """Sends data that surely fits the kernel's buffers."""
        assert os.write(self.file.fileno(), data) == len(data)

    async def send_all(self, data: bytes) -> None:
        await asyncio.to_thread(write_all, self.file.fileno(), data)

    async def read(self, count: int) -> bytes:
        """Exactly `count` bytes, or fewer when the other end is closed before."""
        return await asyncio.to_thread(read_exactly, self.file.fileno(), count)

    async def read_until_eof(self) -> bytes:
        return await asyncio.to_thread(read_exactly, self.file.fileno(), None)


def wait_for(fileno: int, events: int) -> None:
    poll = select.poll()
    poll.register(fileno, events)
    if not poll.poll(PATIENCE * 1000):
        raise TimeoutError(f"nothing happens on {fileno}")


def read_exactly(fileno: int, count: int | None) -> bytes:
    data = bytearray()
    while count is None or len(data) < count:
        try:
            chunk = os.read(fileno, 65536 if count is None else min(count - len(data), 65536))
        except BlockingIOError:
            wait_for(fileno, select.POLLIN)
            continue
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            chunk = b""  # how the master of a terminal ends
        if not chunk:
            break
        data += chunk
    return bytes(data)


def write_all(fileno: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fileno, view) :]
        except BlockingIOError:
            wait_for(fileno, select.POLLOUT)


class Counted:
    """A file that counts how often it is closed. It has only the methods that a pipe must have."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.closed = 0

    def fileno(self) -> int:
        return int(self.file.fileno())

    def close(self) -> None:
        self.closed += 1
        self.file.close()


class WriteRecorder(Calls):
    """The protocol of a pipe that is only written to."""


def is_closed(file: Any) -> bool:
    return file.fileno() == -1 if isinstance(file, socket.socket) else bool(file.closed)


async def released(file: Any) -> None:
    """Waits until the loop has closed the file, which it does after connection_lost."""
    while not is_closed(file):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def read_pipe(
    kind: str = "pipe", factory: Callable[[], Any] = Recorder
) -> AsyncIterator[tuple[Any, Any, FarEnd]]:
    """A pipe that the running loop reads, as (transport, protocol, far end). Gone after the block."""
    near, far = make_ends(kind, near_reads=True)
    with FarEnd(far) as far_end:
        transport, protocol = await asyncio.get_running_loop().connect_read_pipe(factory, near)
        try:
            yield transport, protocol, far_end
        finally:
            transport.close()
            await released(near)


@contextlib.asynccontextmanager
async def write_pipe(
    kind: str = "pipe", factory: Callable[[], Any] = WriteRecorder
) -> AsyncIterator[tuple[Any, Any, FarEnd]]:
    """A pipe that the running loop writes, as (transport, protocol, far end). Gone after the block."""
    near, far = make_ends(kind, near_reads=False)
    with FarEnd(far) as far_end:
        transport, protocol = await asyncio.get_running_loop().connect_write_pipe(factory, near)
        try:
            yield transport, protocol, far_end
        finally:
            # abort() of a transport that is closing makes asyncio call connection_lost twice.
            if not transport.is_closing():
                transport.abort()
            far_end.close()  # in case somebody waits for it to read
            await released(near)
