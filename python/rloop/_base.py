"""The base class of `Loop` and of its parts: the native loop, completed by `asyncio.BaseEventLoop`.

`_rloop.EventLoop` comes first in the order of method resolution. It has what runs once for each callback, packet or
timer. What runs once for each connection or loop is asyncio's own code, which is exact for the running Python version:
happy eyeballs, servers, executors, exception handlers, asynchronous generators. Nothing is implemented here.
"""

from __future__ import annotations

import socket
from asyncio import base_events
from typing import TYPE_CHECKING, Any, TypeVar

from . import _rloop

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures
    from collections.abc import Callable
    from ssl import SSLContext

    _Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)


class LoopBase(_rloop.EventLoop, base_events.BaseEventLoop):
    """The base class of every part of `Loop`."""

    if TYPE_CHECKING:
        # Private names of `BaseEventLoop` that the parts use, and that a type checker does not know.
        _executor_shutdown_called: bool

        def _check_closed(self) -> None: ...
        def _check_running(self) -> None: ...
        def _check_callback(self, callback: object, method: str) -> None: ...
        def _check_default_executor(self) -> None: ...

        _default_executor: concurrent.futures.Executor | None

        def _check_sendfile_params(self, sock: socket.socket, file: Any, offset: int, count: int | None) -> None: ...
        async def _ensure_resolved(
            self,
            address: Any,
            *,
            family: int = 0,
            type: int = socket.SOCK_STREAM,
            proto: int = 0,
            flags: int = 0,
            loop: LoopBase,
        ) -> list[tuple[Any, ...]]: ...
        async def _create_connection_transport(
            self,
            sock: socket.socket,
            protocol_factory: Callable[[], _Protocol],
            ssl: SSLContext | bool | None,
            server_hostname: str | None,
            server_side: bool = False,
            ssl_handshake_timeout: float | None = None,
            ssl_shutdown_timeout: float | None = None,
        ) -> tuple[asyncio.Transport, _Protocol]: ...
