"""`Loop`: the loop that users get, put together from its parts, and how to make and run one.

`_base.py` is its foundation, `_names.py`, `_sockets.py` and `_unix.py` are parts by noun. Here are running and closing,
reports, and the hooks by which asyncio's own code makes TCP and TLS connections. Nothing here may run per packet.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
from asyncio import base_events, constants, sslproto
from asyncio.log import logger
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from ._names import NameMethods
from ._report import format_callback
from ._signals import Signals
from ._sockets import SocketMethods
from ._unix import UnixMethods

if TYPE_CHECKING:
    import ssl
    from typing import TypeVarTuple

    from . import _rloop

    _Ts = TypeVarTuple("_Ts")

_T = TypeVar("_T")


class Loop(NameMethods, SocketMethods, UnixMethods):
    """An asyncio event loop. Make one with `rloop.new_event_loop()`."""

    def __init__(self) -> None:
        super().__init__()
        self._signals = Signals(self)
        # The inode of the socket file of each listening UNIX socket that is to be removed with it.
        self._socket_files: dict[socket.socket, int] = {}

    # ---------------------------------------------------------------------------------------- running

    def run_forever(self) -> None:
        """Run until `stop()` is called."""
        # asyncio 3.13.0 looks only after it has begun to set up, and then tears the running loop down.
        self._check_closed()
        self._check_running()
        with self._signals.wake_up():
            super().run_forever()

    def close(self) -> None:
        """Close the loop. It must not be running; what it had still to do is dropped."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self._signals.close()
        super().close()
        self._release()

    def add_signal_handler(self, sig: int, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Have `callback(*args)` called on the loop when the signal `sig` arrives.

        Raises ValueError for an invalid signal number, RuntimeError outside the main thread or for a signal that
        cannot be caught.
        """
        self._signals.add(sig, callback, args)

    def remove_signal_handler(self, sig: int) -> bool:
        """Give the signal its default handling back. False if there was no handler."""
        return self._signals.remove(sig)

    # ---------------------------------------------------------------------------------------- reports

    def _callback_failed(self, handle: _rloop.Handle, exc: BaseException) -> None:
        """Called by a handle whose callback has raised (`asyncio.Handle._run`)."""
        callback = format_callback(handle._callback, handle._args, self.get_debug())
        context: dict[str, Any] = {
            "message": f"Exception in callback {callback}",
            "exception": exc,
            "handle": handle,
        }
        if handle._source_traceback:
            context["source_traceback"] = handle._source_traceback
        self.call_exception_handler(context)

    def _slow_callback(self, subject: Any, seconds: float) -> None:
        """Called in debug mode for what ran longer than `slow_callback_duration`."""
        if isinstance(subject, asyncio.Handle):
            subject = base_events._format_handle(subject)  # type: ignore[attr-defined]
        logger.warning("Executing %s took %.3f seconds", subject, seconds)

    # ---------------------------------------------------------------------------------------- TCP

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: ssl.SSLContext | None = None,
        server: asyncio.Server | None = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        context: contextvars.Context | None = None,
    ) -> None:
        tls = (sslcontext, ssl_handshake_timeout, ssl_shutdown_timeout) if sslcontext else None
        self._listen(protocol_factory, sock, tls, server, backlog, context)

    def _stop_serving(self, sock: socket.socket) -> None:
        self._unregister(sock.fileno())
        self._remove_socket_file(sock)
        sock.close()

    # ---------------------------------------------------------------------------------------- TLS

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: asyncio.Server | None = None,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        context: contextvars.Context | None = None,
    ) -> asyncio.Transport:
        """TLS by asyncio's own protocol on the native transport, until there is a native layer for it."""
        ssl_protocol = sslproto.SSLProtocol(
            self,
            protocol,
            sslcontext,
            waiter,  # type: ignore[arg-type]
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,  # type: ignore[arg-type]
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        self._make_socket_transport(rawsock, ssl_protocol, extra=extra, server=server, context=context)
        return ssl_protocol._app_transport

    def _accept_tls(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        conn: socket.socket,
        peername: Any,
        server: asyncio.Server | None,
        tls: tuple[ssl.SSLContext, float | None, float | None],
        context: contextvars.Context | None,
    ) -> None:
        """Called by a listener for a connection of a TLS server."""
        handshake = self._handshake(protocol_factory, conn, peername, server, tls, context)
        self.create_task(handshake, context=context)

    async def _handshake(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        conn: socket.socket,
        peername: Any,
        server: asyncio.Server | None,
        tls: tuple[ssl.SSLContext, float | None, float | None],
        context: contextvars.Context | None,
    ) -> None:
        sslcontext, handshake_timeout, shutdown_timeout = tls
        details: dict[str, Any] = {"message": "Error on transport creation for incoming connection"}
        transport: asyncio.Transport | None = None
        try:
            details["protocol"] = protocol = protocol_factory()
            waiter = self.create_future()
            details["transport"] = transport = self._make_ssl_transport(
                conn,
                protocol,
                sslcontext,
                waiter,
                server_side=True,
                extra={"peername": peername},
                server=server,
                ssl_handshake_timeout=handshake_timeout,
                ssl_shutdown_timeout=shutdown_timeout,
                context=context,
            )
            await waiter
        except BaseException as exc:
            if transport is None:
                conn.close()
            else:
                transport.close()
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                raise
            if self.get_debug():
                self.call_exception_handler({**details, "exception": exc})


def new_event_loop() -> Loop:
    """Make a new loop: the `loop_factory` for `asyncio.run()`, `asyncio.Runner` and every server that takes one."""
    return Loop()


def run(
    main: Coroutine[Any, Any, _T],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    debug: bool | None = None,
) -> _T:
    """Run a coroutine on a new loop and return its result: `asyncio.run()` with rloop as the default.

    Raises RuntimeError when called from a running loop, and whatever the coroutine raises.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("rloop.run() cannot be called from a running event loop")
    with asyncio.Runner(debug=debug, loop_factory=loop_factory or new_event_loop) as runner:
        return runner.run(main)
