"""Pipes: the hooks of `connect_read_pipe` and `connect_write_pipe`. They find out what kind of file it is.

The transports themselves are native. They use the fd of the program's file object, which owns the fd, and which they
close at the end.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from typing import TYPE_CHECKING, Any

from ._base import LoopBase

if TYPE_CHECKING:
    import asyncio

    from ._rloop import ReadPipeTransport, WritePipeTransport

# On these systems the writing end of a named FIFO does not show that its readers have gone (gh-145030).
_SILENT_FIFOS = sys.platform in ("darwin", "ios", "tvos", "watchos", "sunos5")


class PipeMethods(LoopBase):
    """The part of `Loop` with the hooks for pipes."""

    def _make_read_pipe_transport(
        self,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> ReadPipeTransport:
        fd = pipe.fileno()
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
            raise ValueError("Pipe transport is for pipes/sockets only.")
        os.set_blocking(fd, False)
        return self._read_pipe(pipe, fd, protocol, waiter, extra)

    def _make_write_pipe_transport(
        self,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> WritePipeTransport:
        fd = pipe.fileno()
        status = os.fstat(fd)
        is_fifo, is_socket = stat.S_ISFIFO(status.st_mode), stat.S_ISSOCK(status.st_mode)
        if not (is_fifo or is_socket or stat.S_ISCHR(status.st_mode)):
            raise ValueError("Pipe transport is only for pipes, sockets and character devices")
        tells_end = is_socket or (is_fifo and not (_SILENT_FIFOS and status.st_nlink > 0))
        if is_fifo:
            by_record = bool(fcntl.fcntl(fd, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0))
        else:
            by_record = not (is_socket and self._is_stream(fd))
        os.set_blocking(fd, False)
        return self._write_pipe(pipe, fd, protocol, waiter, extra, tells_end, by_record)
