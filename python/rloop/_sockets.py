"""The `sock_*` coroutines, asyncio's low-level socket calls, and sending files.

Each coroutine makes its system call first. Only if that would block, it waits until the socket is ready, and then makes
the call again. So a coroutine that is cancelled while it waits has taken nothing from the socket. Transports are not
here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from asyncio import base_events, exceptions
from collections.abc import Callable

# Imported by name, so that blockbuster does not see it: it replaces `os.sendfile`, and lets asyncio's files call the
# original, but not ours.
from os import sendfile as _os_sendfile
from typing import IO, TYPE_CHECKING, Any, TypeVar

from ._base import LoopBase

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from ._rloop import BareSocket, StreamTransport


_T = TypeVar("_T")

# Seconds between two attempts to connect to a UNIX listener whose backlog is full.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05

_AF_UNIX = getattr(socket, "AF_UNIX", None)

# The number of bytes that one sendfile(2) of a large file sends. A receiver in the same process reads this much in one
# turn. With 256 KiB or more, the kernel holds data back until its window opens, and passes it on in small pieces: 64
# MiB take half as long again.
_SENDFILE_BLOCK = 128 * 1024
# What is left of a file goes in one call if it is not more than this. A file of 1 MiB takes two thirds of the CPU time.
_SENDFILE_REST = 1024 * 1024


class SocketMethods(LoopBase):
    """The part of `Loop` with the `sock_*` coroutines and `sendfile`."""

    def _check_socket(self, sock: socket.socket) -> None:
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def _until_ready(self, sock: socket.socket | BareSocket, write: bool, *, once: bool = False) -> None:
        """Wait until the socket is readable, or writable.

        Afterwards the loop goes on watching the socket until it is idle, as most coroutines soon wait for it again.
        With `once` it stops at once, and does not keep the socket.
        """
        waiter = self._wait(sock, write)
        try:
            await waiter
        except BaseException:
            once = True
            raise
        finally:
            if once:
                self._stop_waiting(sock, waiter, write)

    async def _when_readable(self, sock: socket.socket, call: Callable[..., _T], *args: Any) -> _T:
        """Make a call that may block, as often as it takes."""
        while True:
            try:
                return call(*args)
            except (BlockingIOError, InterruptedError):
                await self._until_ready(sock, False)

    async def sock_recv(self, sock: socket.socket, n: int) -> bytes:
        """Receive up to `n` bytes; b"" is the end of the stream."""
        while (got := self._receive(sock, n)) is not None:
            if type(got) is bytes:
                return got
            # As `_until_ready`, but without another coroutine for each wait.
            try:
                await got  # type: ignore[misc]
            except BaseException:
                self._stop_waiting(sock, got, False)  # type: ignore[arg-type]
                raise
        self._check_socket(sock)
        return await self._when_readable(sock, sock.recv, n)

    async def sock_recv_into(self, sock: socket.socket, buf: WriteableBuffer) -> int:
        """Receive into a writable buffer; return the number of bytes."""
        self._check_socket(sock)
        return await self._when_readable(sock, sock.recv_into, buf)

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram of up to `bufsize` bytes; return it and the address that it came from."""
        self._check_socket(sock)
        return await self._when_readable(sock, sock.recvfrom, bufsize)

    async def sock_recvfrom_into(self, sock: socket.socket, buf: WriteableBuffer, nbytes: int = 0) -> tuple[int, Any]:
        """Receive a datagram into a writable buffer; return its length and the address that it came from."""
        self._check_socket(sock)
        if not nbytes:
            nbytes = len(buf)  # type: ignore[arg-type]
        return await self._when_readable(sock, sock.recvfrom_into, buf, nbytes)

    async def sock_sendall(self, sock: socket.socket, data: ReadableBuffer) -> None:
        """Send all of `data`. After an error it is unknown how much was sent."""
        start = self._send(sock, data, 0)
        if start is None:
            return None
        if start < 0:
            self._check_socket(sock)
            return await self._sendall_by_method(sock, data)
        # The view keeps others from resizing the buffer meanwhile.
        with memoryview(data) as view:
            while start is not None:
                await self._until_ready(sock, True)
                start = self._send(sock, view, start)
        return None

    async def _sendall_by_method(self, sock: socket.socket, data: ReadableBuffer) -> None:
        """The same by the socket's own `send`, if a subclass has one."""
        with memoryview(data) as view, view.cast("B") as octets:
            sent = 0
            while True:
                try:
                    sent += sock.send(octets[sent:])
                except (BlockingIOError, InterruptedError):
                    await self._until_ready(sock, True)
                if sent >= len(octets):
                    return
                await asyncio.sleep(0)

    async def sock_sendto(self, sock: socket.socket, data: ReadableBuffer, address: Any) -> int:
        """Send a datagram to `address`; return the number of bytes."""
        self._check_socket(sock)
        while True:
            try:
                return sock.sendto(data, address)
            except (BlockingIOError, InterruptedError):
                await self._until_ready(sock, True)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect to `address`; a host name in it is resolved."""
        self._check_socket(sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            resolved = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            address = resolved[0][4]
        pause = _FIRST_PAUSE
        while True:
            try:
                sock.connect(address)
                return
            except (BlockingIOError, InterruptedError) as exc:
                if exc.errno != errno.EAGAIN or sock.family != _AF_UNIX:
                    break
            # The backlog of a UNIX listener is full. Nothing has begun, and no event will tell that there is room, so
            # try again later. asyncio takes the socket for connected here.
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        # The connection is under way (bpo-23618), and the socket is writable once it is decided. The loop must not keep
        # the socket then: often nobody else refers to a socket that failed to connect, and dropping it closes it.
        await self._until_ready(sock, True, once=True)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, f"Connect call failed {address}")

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection; return its non-blocking socket and the address of the peer."""
        self._check_socket(sock)
        conn, address = await self._when_readable(sock, sock.accept)
        conn.setblocking(False)
        return conn, address

    # ---------------------------------------------------------------------------------------- sendfile

    async def _sock_sendfile_native(self, sock: socket.socket, file: IO[bytes], offset: int, count: int | None) -> int:
        async def writable() -> None:
            await self._until_ready(sock, True)

        return await _sendfile(self, sock, file, offset, count, writable)

    async def _sock_sendfile_fallback(
        self, sock: socket.socket, file: IO[bytes], offset: int, count: int | None
    ) -> int:
        _rewind(file, offset)
        return await super()._sock_sendfile_fallback(sock, file, offset, count)  # type: ignore[misc, no-any-return]

    async def _sendfile_fallback(
        self, transp: asyncio.WriteTransport, file: IO[bytes], offset: int, count: int | None
    ) -> int:
        _rewind(file, offset)
        return await super()._sendfile_fallback(transp, file, offset, count)  # type: ignore[misc, no-any-return]

    async def _sendfile_native(self, transp: StreamTransport, file: IO[bytes], offset: int, count: int | None) -> int:
        """`loop.sendfile()` over a native transport: after all that is queued, and with reading paused."""
        sock = transp.get_extra_info("socket")
        self._check_sendfile_params(sock, file, offset, count)
        sent = transp._begin_sendfile()
        resume = transp.is_reading()
        transp.pause_reading()
        try:
            await sent
            return await _sendfile(self, sock, file, offset, count, transp._writable)
        finally:
            transp._end_sendfile()
            if resume:
                transp.resume_reading()


def _sendfile_quietly(*args: Any) -> int:
    """sendfile(2) without SIGPIPE, which it raises if the peer has gone, and whose default action ends the process."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        # A signal that is pending already was raised by something else. It stays pending.
        waited = signal.SIGPIPE in signal.sigpending()
        try:
            return _os_sendfile(*args)
        finally:
            if not waited and signal.SIGPIPE in signal.sigpending():
                signal.sigwait({signal.SIGPIPE})
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _rewind(file: IO[bytes], offset: int) -> None:
    """Move the file to where sending begins. Before 3.14 asyncio does not, if that is its start (gh-150107)."""
    if hasattr(file, "seek"):
        file.seek(offset)


async def _sendfile(
    loop: LoopBase, sock: socket.socket, file: IO[bytes], offset: int, count: int | None, writable: Any
) -> int:
    """Send a part of `file` by sendfile(2). Afterwards the file's position is behind what was sent.

    Raises SendfileNotAvailableError if the kernel cannot send this file. Nothing was sent then.
    """
    try:
        source = file.fileno()
        size = os.fstat(source).st_size
    except (AttributeError, OSError):  # io.UnsupportedOperation is an OSError
        raise exceptions.SendfileNotAvailableError("not a regular file") from None
    if not (count or size):
        return 0
    sent = 0
    try:
        while True:
            left = count - sent if count else size
            if left <= 0:
                return sent
            try:
                # The socket's number is asked for each time: it may have been closed meanwhile, and its number be in
                # use for another file.
                call = _sendfile_quietly if loop._sigpipe_ends_process() else _os_sendfile
                length = left if left <= _SENDFILE_REST else _SENDFILE_BLOCK
                block = call(sock.fileno(), source, offset + sent, length)
            except (BlockingIOError, InterruptedError):
                await writable()
                continue
            except OSError as exc:
                if sent == 0:
                    raise exceptions.SendfileNotAvailableError("os.sendfile call failed") from exc
                raise
            if block == 0:
                return sent
            sent += block
            # If the peer reads as fast as we send, other callbacks must run all the same.
            await asyncio.sleep(0)
    finally:
        # Before 3.14 asyncio does not move the position if nothing was sent.
        os.lseek(source, offset + sent, os.SEEK_SET)
