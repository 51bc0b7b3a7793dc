"""`Loop`, the loop that users get, put together from its parts; and `run`.

Each part is a class with the methods for one subject, in a file of its own: `_signals.py`, `_inside.py`,
`_executors.py`, `_getaddrinfo.py`, `_sockets.py`, `_tls.py`, `_unix.py`, `_pipes.py`, `_processes.py`. Their base class
is in `_base.py`. Here are running and closing, reports, and the hooks by which asyncio's own code makes TCP
connections. Nothing here may run once for each packet.
"""

from __future__ import annotations

import _socket
import asyncio
import contextvars
import functools
import os
import socket
from asyncio import base_events, constants
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from . import _rloop, _transports
from ._executors import ExecutorMethods
from ._getaddrinfo import GetaddrinfoMethods
from ._inside import InsideMethods, outside_tasks
from ._processes import ProcessMethods
from ._report import format_callback, source_traceback
from ._signals import after_fork_in_child
from ._sockets import SocketMethods
from ._stacks import add_loop
from ._tls import TlsMethods
from ._unix import UnixMethods

if TYPE_CHECKING:
    import ssl

    from ._metrics import Metrics

_T = TypeVar("_T")

_socket_class = socket.socket
# pytest-socket replaces the method of `socket.socket`, and later puts this one back.
_native_connect = _socket.socket.connect


def _closing_on_failure(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap the `__init__` of a subclass: if it raises, the loop is closed, because nobody else has it to close it."""

    @functools.wraps(init)
    def __init__(self: Loop, *args: Any, **keywords: Any) -> None:
        try:
            init(self, *args, **keywords)
        except BaseException:
            # If the `__init__` of a further subclass has called this one, that may catch the exception and go on.
            if type(self).__init__ is __init__ and self._is_made and not self.is_running():
                # The `close()` of the subclass may need attributes that its `__init__` has not set.
                Loop.close(self)
            raise

    return __init__


class Loop(InsideMethods, ExecutorMethods, GetaddrinfoMethods, SocketMethods, TlsMethods, UnixMethods, ProcessMethods):
    """An asyncio event loop. Make one with `rloop.new_event_loop()`."""

    # True once `__init__` has succeeded, so that the loop has to be closed.
    _is_made = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            cls.__init__ = _closing_on_failure(cls.__init__)  # type: ignore[method-assign]

    def __init__(self) -> None:
        super().__init__()
        add_loop(self)
        self._is_made = True

    def __repr__(self) -> str:
        kind = type(self)
        state = f"running={self.is_running()} closed={self.is_closed()} debug={self.get_debug()}"
        return f"<{kind.__module__}.{kind.__qualname__} {state}>"

    def __del__(self) -> None:
        # If `__init__` has raised, there is nothing to close, and no warning to give.
        if self._is_made:
            super().__del__()

    # ---------------------------------------------------------------------------------------- running

    def run_forever(self) -> None:
        """Run until `stop()` is called."""
        # asyncio 3.13.0 checks this only after it has begun to set up, and then tears the running loop down.
        self._check_closed()
        self._check_running()
        # If the program has no `_run_once` of its own, one call of it can run turns until `stop()` was called.
        own_turns = type(self)._run_once is _rloop.EventLoop._run_once and "_run_once" not in self.__dict__
        self._begin_run(own_turns)
        try:
            with self._signals.wake_up():
                super().run_forever()
        finally:
            self._begin_run(False)
            # A signal handler may have raised just before asyncio's cleanup, or in the middle of it: then finish it.
            # Before CPython 3.13 the cleanup is no method, and no such exception does harm.
            cleanup = getattr(self, "_run_forever_cleanup", None)
            if cleanup and (self.is_running() or getattr(self, "_old_agen_hooks", None)):
                cleanup()

    def close(self) -> None:
        """Close the loop, which must not be running. Callbacks that have not run are dropped."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self._forget_children()
        super().close()
        self._forget_views()
        try:
            # Raises in another thread than the main one, if there are handlers.
            self._signals.close()
        finally:
            self._release()

    # ---------------------------------------------------------------------------------------- reports

    def metrics(self) -> Metrics:
        """Return the figures of this loop, from its making until now. Callable from any thread, and once it is closed.

        `later - earlier` has the figures of the span between two readings. docs/metrics.md explains each of them.
        """
        from . import _metrics

        return _metrics.metrics(self)

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
        """Called in debug mode when something ran longer than `slow_callback_duration`."""
        if isinstance(subject, asyncio.Handle):
            subject = base_events._format_handle(subject)  # type: ignore[attr-defined]
        logger = base_events.logger  # type: ignore[attr-defined]
        logger.warning("Executing %s took %.3f seconds", subject, seconds)

    # ---------------------------------------------------------------------------------------- TCP

    async def _connect_sock(
        self, exceptions: list[list[OSError]], addr_info: tuple[Any, ...], local_addr_infos: Any = None
    ) -> socket.socket | _rloop.BareSocket:
        """`BaseEventLoop._connect_sock`, without a Python socket if nothing but connecting is to be done with it."""
        bare = None
        try:
            if local_addr_infos is None and self._connects_itself():
                family, kind, proto, _, address = addr_info
                bare = self._connect(family, kind, proto, address)
                if bare is not None:
                    if not bare._is_decided():
                        await self._until_ready(bare, True, once=True)
                    bare._check_connected(address)
                    return bare
        except BaseException as exc:
            if bare is not None:
                bare.close()
            if isinstance(exc, OSError):
                exceptions.append([exc])
            # The exceptions refer to this frame. Without this, that would be a reference cycle.
            del exceptions
            raise
        try:
            return await super()._connect_sock(exceptions, addr_info, local_addr_infos)  # type: ignore[misc, no-any-return]
        finally:
            del exceptions

    def _connects_itself(self) -> bool:
        """False in debug mode, and if the program has replaced a function by which asyncio connects."""
        return (
            not self._debug
            and socket.socket is _socket_class
            and socket.socket.connect is _native_connect
            and base_events.socket is socket  # type: ignore[attr-defined, comparison-overlap]
            and getattr(self.sock_connect, "__func__", None) is SocketMethods.sock_connect
        )

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


_rloop.complete(
    loop_class=Loop,
    stream_transport=_transports.StreamTransport,
    tls_transport=_transports.SSLTransport,
    datagram_transport=_transports.DatagramTransport,
    read_pipe_transport=_transports.ReadPipeTransport,
    write_pipe_transport=_transports.WritePipeTransport,
    format_callback=format_callback,
    source_traceback=source_traceback,
    outside_tasks=outside_tasks,
)


def _before_fork() -> None:
    """Send what transports have kept back. asyncio would have sent it already, and the child must not send it again."""
    loop = asyncio._get_running_loop()
    if isinstance(loop, Loop):
        loop._send_gathered()


os.register_at_fork(before=_before_fork, after_in_child=after_fork_in_child)


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
    with asyncio.Runner(debug=debug, loop_factory=loop_factory or _rloop.new_event_loop) as runner:
        return runner.run(main)
