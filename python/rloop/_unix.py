"""UNIX stream sockets: connecting to them and serving on them. The transport is the same as for TCP.

Datagram endpoints on UNIX sockets are made by asyncio's own code.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import stat
import sys
from asyncio import base_events
from asyncio.log import logger
from collections.abc import Callable

# Imported by name, so that blockbuster does not see them: it replaces `os.stat` and others, and lets asyncio's files
# call the originals, but not ours.
from os import fspath
from os import stat as _stat
from os import unlink as _unlink
from typing import TYPE_CHECKING, TypeVar

from ._base import LoopBase

if TYPE_CHECKING:
    import os
    import ssl as _ssl


_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)


class UnixMethods(LoopBase):
    """The part of `Loop` with the methods for UNIX stream sockets."""

    def __init__(self) -> None:
        super().__init__()
        # Each listening socket whose file is to be removed with it, with the inode of that file.
        self._socket_files: dict[socket.socket, int] = {}

    async def create_unix_connection(
        self,
        protocol_factory: Callable[[], _Protocol],
        path: str | bytes | os.PathLike[str] | None = None,
        *,
        ssl: _ssl.SSLContext | bool | None = None,
        sock: socket.socket | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, _Protocol]:
        """Connect to a UNIX stream socket, or take over a connected one (`sock`)."""
        assert server_hostname is None or isinstance(server_hostname, str)
        if ssl:
            if server_hostname is None:
                raise ValueError("you have to pass server_hostname when using ssl")
        elif server_hostname is not None:
            raise ValueError("server_hostname is only meaningful with ssl")
        else:
            _refuse_timeouts_without_tls(ssl_handshake_timeout, ssl_shutdown_timeout)
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            path = fspath(path)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                await self.sock_connect(sock, path)
            except BaseException:
                sock.close()
                raise
        elif sock is None:
            raise ValueError("no path and sock were specified")
        else:
            _check_unix_stream(sock)
            sock.setblocking(False)
        return await self._create_connection_transport(
            sock,
            protocol_factory,
            ssl,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )

    if sys.version_info >= (3, 13):

        async def create_unix_server(
            self,
            protocol_factory: Callable[[], asyncio.BaseProtocol],
            path: str | bytes | os.PathLike[str] | None = None,
            *,
            sock: socket.socket | None = None,
            backlog: int = 100,
            ssl: _ssl.SSLContext | bool | None = None,
            ssl_handshake_timeout: float | None = None,
            ssl_shutdown_timeout: float | None = None,
            start_serving: bool = True,
            cleanup_socket: bool = True,
        ) -> asyncio.Server:
            """Serve on a UNIX stream socket: a path, an abstract name (NUL first), or a bound socket (`sock`).

            A socket file that is there already is replaced. The file is removed when the server is closed, unless
            `cleanup_socket` is false or another file has taken its place.
            """
            listener = _listener(path, sock, ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
            if cleanup_socket:
                self._remember_socket_file(listener)
            server = base_events.Server(
                self, [listener], protocol_factory, ssl, backlog, ssl_handshake_timeout, ssl_shutdown_timeout
            )
            return await _started(server, start_serving)

    else:

        async def create_unix_server(
            self,
            protocol_factory: Callable[[], asyncio.BaseProtocol],
            path: str | bytes | os.PathLike[str] | None = None,
            *,
            sock: socket.socket | None = None,
            backlog: int = 100,
            ssl: _ssl.SSLContext | bool | None = None,
            ssl_handshake_timeout: float | None = None,
            ssl_shutdown_timeout: float | None = None,
            start_serving: bool = True,
        ) -> asyncio.Server:
            """Serve on a UNIX stream socket: a path, an abstract name (NUL first), or a bound socket (`sock`).

            A socket file that is there already is replaced. The file stays when the server is closed.
            """
            listener = _listener(path, sock, ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
            server = base_events.Server(
                self, [listener], protocol_factory, ssl, backlog, ssl_handshake_timeout, ssl_shutdown_timeout
            )
            return await _started(server, start_serving)

    def _remember_socket_file(self, sock: socket.socket) -> None:
        path = sock.getsockname()
        if path and not _is_abstract(path):
            try:
                self._socket_files[sock] = _stat(path).st_ino
            except FileNotFoundError:
                pass

    def _remove_socket_file(self, sock: socket.socket) -> None:
        """Called when a server closes its socket: remove the socket's file, if it still is the same file."""
        inode = self._socket_files.pop(sock, None)
        if inode is None:
            return
        path = sock.getsockname()
        try:
            if _stat(path).st_ino == inode:
                _unlink(path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            logger.error("Unable to clean up listening UNIX socket %r: %r", path, exc)


def _is_abstract(path: str | bytes) -> bool:
    return path[0] in (0, "\0")


def _listener(
    path: str | bytes | os.PathLike[str] | None,
    sock: socket.socket | None,
    ssl: _ssl.SSLContext | bool | None,
    handshake_timeout: float | None,
    shutdown_timeout: float | None,
) -> socket.socket:
    """The bound, non-blocking socket of a server, made of the arguments of `create_unix_server`."""
    if isinstance(ssl, bool):
        raise TypeError("ssl argument must be an SSLContext or None")
    if not ssl:
        _refuse_timeouts_without_tls(handshake_timeout, shutdown_timeout)
    if path is not None:
        if sock is not None:
            raise ValueError("path and sock can not be specified at the same time")
        sock = _bind(fspath(path))
    elif sock is None:
        raise ValueError("path was not specified, and no sock specified")
    else:
        _check_unix_stream(sock)
    sock.setblocking(False)
    return sock


async def _started(server: asyncio.Server, start_serving: bool) -> asyncio.Server:
    if start_serving:
        server._start_serving()  # type: ignore[attr-defined]
        # As in asyncio: when `create_unix_server` returns, the loop accepts connections.
        await asyncio.sleep(0)
    return server


def _check_unix_stream(sock: socket.socket) -> None:
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")


def _refuse_timeouts_without_tls(handshake: float | None, shutdown: float | None) -> None:
    if handshake is not None:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    if shutdown is not None:
        raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")


def _bind(path: str | bytes) -> socket.socket:
    """A socket that is bound to `path`. A socket file that is there already is removed first."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not _is_abstract(path):
            try:
                if stat.S_ISSOCK(_stat(path).st_mode):
                    _unlink(path)
            except FileNotFoundError:
                pass
            except OSError as exc:
                # The folder may allow creating files, but not removing them. Then `bind` fails, or does not.
                logger.error("Unable to check or remove stale UNIX socket %r: %r", path, exc)
        sock.bind(path)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, f"Address {path!r} is already in use") from None
        raise
    except BaseException:
        sock.close()
        raise
    return sock
