"""The foundation of `Loop`: the native loop completed by `asyncio.BaseEventLoop`.

Native is what runs per callback, per packet or per timer (`_rloop.EventLoop`, first in the order of resolution). What
runs per connection or per loop is asyncio's own code for the running version, where it is exact: happy eyeballs,
servers, executors, exception handlers, async generators. No behaviour of ours lives here.
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
    """What every part of `Loop` builds on."""

    if TYPE_CHECKING:
        # What is used here of `BaseEventLoop` and is not public, so that a type checker does not know it.
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
