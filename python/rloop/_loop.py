"""`Loop`: the loop that users get, put together from its parts, and how to make and run one.

`_base.py` is its foundation; `_executors.py`, `_inside.py`, `_names.py`, `_sockets.py`, `_tls.py`, `_unix.py`,
`_pipes.py` and `_processes.py` are parts by noun. Here are running and closing, reports, and the hooks by which
asyncio's own code makes TCP connections. Nothing here may run per packet.
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

from . import _rloop
from ._executors import ExecutorMethods
from ._inside import InsideMethods
from ._names import NameMethods
from ._processes import ProcessMethods
from ._report import format_callback
from ._signals import Signals, after_fork_in_child
from ._sockets import SocketMethods
from ._tls import TlsMethods
from ._unix import UnixMethods

if TYPE_CHECKING:
    import ssl
    from typing import TypeVarTuple

    _Ts = TypeVarTuple("_Ts")

_T = TypeVar("_T")

_socket_class = socket.socket
# pytest-socket puts a method on the class, and later this one.
_native_connect = _socket.socket.connect


def _closing_on_failure(init: Callable[..., None]) -> Callable[..., None]:
    """The `__init__` of a subclass, which closes the loop if it raises: nobody else has it to close it."""

    @functools.wraps(init)
    def __init__(self: Loop, *args: Any, **keywords: Any) -> None:
        try:
            init(self, *args, **keywords)
        except BaseException:
            # Not if the `__init__` of a further subclass has called this one: it may go on.
            if type(self).__init__ is __init__ and self._is_made and not self.is_running():
                # Not the `close()` of a subclass, which may need what its `__init__` had still to set.
                Loop.close(self)
            raise

    return __init__


class Loop(InsideMethods, ExecutorMethods, NameMethods, SocketMethods, TlsMethods, UnixMethods, ProcessMethods):
    """An asyncio event loop. Make one with `rloop.new_event_loop()`."""

    # True once a loop is complete, so that it is to be closed.
    _is_made = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            cls.__init__ = _closing_on_failure(cls.__init__)  # type: ignore[method-assign]

    def __init__(self) -> None:
        super().__init__()
        self._signals = Signals(self)
        # The inode of the socket file of each listening UNIX socket that is to be removed with it.
        self._socket_files: dict[socket.socket, int] = {}
        self._children = {}
        self._is_made = True

    def __repr__(self) -> str:
        kind = type(self)
        state = f"running={self.is_running()} closed={self.is_closed()} debug={self.get_debug()}"
        return f"<{kind.__module__}.{kind.__qualname__} {state}>"

    def __del__(self) -> None:
        # What never became a loop has nothing to close, and nobody forgot to: making it has raised.
        if self._is_made:
            super().__del__()

    # ---------------------------------------------------------------------------------------- running

    def run_forever(self) -> None:
        """Run until `stop()` is called."""
        # asyncio 3.13.0 looks only after it has begun to set up, and then tears the running loop down.
        self._check_closed()
        self._check_running()
        # Between two turns comes nothing but the next one, unless the program has a `_run_once` of its own.
        own_turns = type(self)._run_once is _rloop.EventLoop._run_once and "_run_once" not in self.__dict__
        self._begin_run(own_turns)
        try:
            with self._signals.wake_up():
                super().run_forever()
        finally:
            self._begin_run(False)
            # The exception of a signal's handler may have come in the place of asyncio's cleanup, or in its middle.
            # Before CPython 3.13, which made it a method, it has no place where one does harm.
            cleanup = getattr(self, "_run_forever_cleanup", None)
            if cleanup and (self.is_running() or getattr(self, "_old_agen_hooks", None)):
                cleanup()

    def close(self) -> None:
        """Close the loop. It must not be running; what it had still to do is dropped."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self._forget_children()
        super().close()
        self._forget_views()
        try:
            # Not possible in another thread than the main one.
            self._signals.close()
        finally:
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
        logger = base_events.logger  # type: ignore[attr-defined]
        logger.warning("Executing %s took %.3f seconds", subject, seconds)

    # ---------------------------------------------------------------------------------------- TCP

    async def _connect_sock(
        self, exceptions: list[list[OSError]], addr_info: tuple[Any, ...], local_addr_infos: Any = None
    ) -> socket.socket | _rloop.BareSocket:
        """`BaseEventLoop._connect_sock`, without a Python socket where nothing is to be done with it but connect."""
        try:
            if local_addr_infos is None and self._connects_itself():
                try:
                    bare = await self._connect_bare(*addr_info)
                except OSError as exc:
                    exceptions.append([exc])
                    raise
                if bare is not None:
                    return bare
            return await super()._connect_sock(exceptions, addr_info, local_addr_infos)  # type: ignore[misc, no-any-return]
        finally:
            # An exception refers to this frame.
            del exceptions

    def _connects_itself(self) -> bool:
        """False in debug mode, and for whoever has put something in the place of what asyncio connects by."""
        return (
            not self._debug
            and socket.socket is _socket_class
            and socket.socket.connect is _native_connect
            and base_events.socket is socket  # type: ignore[attr-defined, comparison-overlap]
            and getattr(self.sock_connect, "__func__", None) is SocketMethods.sock_connect
        )

    async def _connect_bare(self, family: int, kind: int, proto: int, _: str, address: Any) -> _rloop.BareSocket | None:
        bare = self._connect(family, kind, proto, address)
        if bare is None:
            return None
        waiter = self._wait(bare, True)
        try:
            try:
                await waiter
            finally:
                self._stop_waiting(bare, waiter, True)
            bare._check_connected(address)
        except BaseException:
            bare.close()
            raise
        return bare

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


_rloop.add_raw_methods(Loop)


def _before_fork() -> None:
    """What a transport has kept back leaves now: asyncio has sent it, and the child must not send it once more."""
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
