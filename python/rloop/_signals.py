"""Signals on a loop: `add_signal_handler`, and waking a parked loop for any signal.

CPython runs a signal's Python handler in the main thread, between two bytecodes. A loop that is parked in its poll runs
none, and one that looks only at EINTR loses a signal that comes just before it parks. The wake-up fd
(`signal.set_wakeup_fd`) makes it certain: CPython's C handler writes to it, and the poll returns. It is set while a
loop runs in the main thread, and put back afterwards.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import signal
import socket
import sys
import threading
import warnings
from asyncio import coroutines
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._loop import Loop

# `asyncio.iscoroutinefunction` is deprecated since 3.14, where asyncio itself uses this one.
_is_coroutine_function: Callable[[object], bool] = (
    getattr(coroutines, "_iscoroutinefunction", None) or coroutines.iscoroutinefunction
)

_Handler = tuple[Callable[..., Any], tuple[Any, ...], contextvars.Context]


class Signals:
    """The signal handlers of one loop, and its end of the wake-up fd."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._handlers: dict[int, _Handler] = {}
        # (receiver, sender), made when the loop first runs in the main thread.
        self._pair: tuple[socket.socket, socket.socket] | None = None

    def add(self, sig: int, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if coroutines.iscoroutine(callback) or _is_coroutine_function(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        _check_signal(sig)
        self._loop._check_closed()
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("set_wakeup_fd only works in main thread of the main interpreter")
        previous = self._handlers.get(sig)
        self._handlers[sig] = (callback, args, contextvars.copy_context())
        try:
            signal.signal(sig, self._on_signal)
            # SA_RESTART: system calls in other threads go on.
            signal.siginterrupt(sig, False)
        except OSError as exc:
            if previous is None:
                del self._handlers[sig]
            else:
                self._handlers[sig] = previous
            raise _explain(exc, sig) from None

    def remove(self, sig: int) -> bool:
        _check_signal(sig)
        if self._handlers.pop(sig, None) is None:
            return False
        try:
            signal.signal(sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL)
        except OSError as exc:
            raise _explain(exc, sig) from None
        return True

    def close(self) -> None:
        if sys.is_finalizing():
            if self._handlers:
                warnings.warn(
                    f"Closing the loop {self._loop!r} on interpreter shutdown stage, skipping signal handlers removal",
                    ResourceWarning,
                    source=self._loop,
                )
                self._handlers.clear()
        else:
            for sig in list(self._handlers):
                self.remove(sig)
        if self._pair is not None:
            receiver, sender = self._pair
            self._pair = None
            self._loop._unregister(receiver.fileno())
            receiver.close()
            sender.close()

    @contextlib.contextmanager
    def wake_up(self) -> Iterator[None]:
        """Have signals wake the loop, if this is the main thread; no other can receive them in Python."""
        if threading.current_thread() is not threading.main_thread() or self._loop.is_closed():
            yield
            return
        if self._pair is None:
            receiver, sender = socket.socketpair()
            receiver.setblocking(False)
            sender.setblocking(False)
            self._loop._watch_internal(receiver.fileno(), self._drain)
            self._pair = receiver, sender
        # A full buffer is no loss: the loop wakes for what is in it, and the handlers do not depend on the bytes.
        previous = signal.set_wakeup_fd(self._pair[1].fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            # The fd of whoever had it before may have been closed meanwhile.
            with contextlib.suppress(ValueError, OSError):
                signal.set_wakeup_fd(previous)

    def _drain(self) -> None:
        """Empty the wake-up fd. By the time this runs, the handlers have run."""
        if self._pair is not None:
            with contextlib.suppress(BlockingIOError):
                while self._pair[0].recv(4096):
                    pass

    def _on_signal(self, sig: int, frame: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, sig)

    def _deliver(self, sig: int) -> None:
        # The handler that is there now: it may have been removed or replaced since.
        if (handler := self._handlers.get(sig)) is not None:
            callback, args, context = handler
            self._loop.call_soon(callback, *args, context=context)


def _check_signal(sig: int) -> None:
    if not isinstance(sig, int):
        raise TypeError(f"sig must be an int, not {sig!r}")
    if sig not in signal.valid_signals():
        raise ValueError(f"invalid signal number {sig}")


def _explain(exc: OSError, sig: int) -> Exception:
    return RuntimeError(f"sig {sig} cannot be caught") if exc.errno == errno.EINVAL else exc
