"""The `sock_*` coroutines: asyncio's low-level socket calls.

The system call comes first; only if it would block is the socket watched. A waiting coroutine is told of readiness and
makes the call itself when it runs again: cancelled at any point before, it has taken nothing from the socket.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
from asyncio import base_events, exceptions
from collections.abc import Callable

# By this name: blockbuster, which puts a guard in the place of `os.sendfile`, knows asyncio's files, not ours.
from os import sendfile as _os_sendfile
from typing import IO, TYPE_CHECKING, Any, TypeVar

from ._base import LoopBase

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from ._rloop import StreamTransport


_T = TypeVar("_T")

# Seconds between two looks at whether a UNIX listener has room.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05

_AF_UNIX = getattr(socket, "AF_UNIX", None)

# Bytes sent by one sendfile(2): a receiver in the same process reads this much in a turn. With more, what the kernel
# holds back until its window opens comes in small reads: 64 MiB take half as long again (with 256 KiB, or all).
_SENDFILE_BLOCK = 128 * 1024


class SocketMethods(LoopBase):
    """A part of `Loop`."""

    def _check_socket(self, sock: socket.socket) -> None:
        base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def _readable(self, sock: socket.socket) -> None:
        waiter = self._wait(sock, False)
        try:
            await waiter
        except BaseException:
            self._stop_waiting(sock, waiter, False)
            raise

    async def _when_readable(self, sock: socket.socket, call: Callable[..., _T], *args: Any) -> _T:
        while True:
            try:
                return call(*args)
            except (BlockingIOError, InterruptedError):
                await self._readable(sock)

    async def _writable(self, sock: socket.socket) -> None:
        waiter = self._wait(sock, True)
        try:
            await waiter
        except BaseException:
            self._stop_waiting(sock, waiter, True)
            raise

    async def sock_recv(self, sock: socket.socket, n: int) -> bytes:
        """Receive up to `n` bytes; b"" is the end of the stream."""
        while (got := self._receive(sock, n)) is not None:
            if type(got) is bytes:
                return got
            # `_readable`, without a coroutine more for each wait.
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
        """Send all of `data`. After an error nobody knows how much of it was."""
        start = self._send(sock, data, 0)
        if start is None:
            return None
        if start < 0:
            self._check_socket(sock)
            return await self._sendall_by_method(sock, data)
        # Nobody may resize it meanwhile.
        with memoryview(data) as view:
            while start is not None:
                await self._writable(sock)
                start = self._send(sock, view, start)
        return None

    async def _sendall_by_method(self, sock: socket.socket, data: ReadableBuffer) -> None:
        """For a subclass, which may have a `send` of its own, and for debug mode."""
        with memoryview(data) as view, view.cast("B") as octets:
            sent = 0
            while True:
                try:
                    sent += sock.send(octets[sent:])
                except (BlockingIOError, InterruptedError):
                    await self._writable(sock)
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
                await self._writable(sock)

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
            # A UNIX listener whose backlog is full: nothing has begun, and no event tells of room. asyncio takes this
            # for a connection.
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        # Under way (bpo-23618): the socket is writable once it is decided. It must not be held on to after that: often
        # nobody else refers to a socket that failed to connect, and that is what closes it.
        waiter = self._wait(sock, True)
        try:
            await waiter
        finally:
            self._stop_waiting(sock, waiter, True)
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
            await self._writable(sock)

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
        """`loop.sendfile()` over a native transport: behind what is queued, with reading paused meanwhile."""
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
    """sendfile(2) without the SIGPIPE of a peer that has gone: its default action would end the process."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        # One that waits already is somebody else's.
        waited = signal.SIGPIPE in signal.sigpending()
        try:
            return _os_sendfile(*args)
        finally:
            if not waited and signal.SIGPIPE in signal.sigpending():
                signal.sigwait({signal.SIGPIPE})
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _rewind(file: IO[bytes], offset: int) -> None:
    """Go to where sending begins. Before 3.14 asyncio does so unless it is the start (gh-150107)."""
    if hasattr(file, "seek"):
        file.seek(offset)


async def _sendfile(
    loop: LoopBase, sock: socket.socket, file: IO[bytes], offset: int, count: int | None, writable: Any
) -> int:
    """Send a part of `file` by sendfile(2); the file's position ends behind what was sent.

    Raises SendfileNotAvailableError if the kernel cannot send this file, before anything of it was sent.
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
                # By its present number: the socket may have been closed meanwhile, and the old one be another's.
                call = _sendfile_quietly if loop._sigpipe_ends_process() else _os_sendfile
                block = call(sock.fileno(), source, offset + sent, min(left, _SENDFILE_BLOCK))
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
            # A peer that is as fast as we are must not keep the loop.
            await asyncio.sleep(0)
    finally:
        # Before 3.14 asyncio leaves the position alone if nothing was sent.
        os.lseek(source, offset + sent, os.SEEK_SET)
