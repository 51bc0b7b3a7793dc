"""Signals on a loop: `add_signal_handler`, and waking a parked loop for any signal.

CPython runs a signal's Python handler in the main thread, between two bytecodes. A loop that is parked in its poll runs
none, and one that looks only at EINTR loses a signal that comes just before it parks. The wake-up fd
(`signal.set_wakeup_fd`) makes it certain: CPython's C handler writes the signal's number to it, and the poll returns.
It is ours while a loop runs in the main thread, and given back afterwards; whoever had it is told all the same.

A handler on the loop is called because its Python handler was, so that no kind of signal is lost, whatever becomes of
the wake-up fd. CPython calls that once for signals that came close together. How many they were, and asyncio calls
once for each, the numbers in the wake-up fd tell.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import os
import signal
import sys
import threading
import warnings
import weakref
from asyncio import coroutines
from collections import Counter
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
    """The signal handlers of one loop, and its wake-up pipe."""

    def __init__(self, loop: Loop) -> None:
        # None once the loop is closed, which nothing but the program keeps alive then.
        self._loop: Loop | None = loop
        self._handlers: dict[int, _Handler] = {}
        # How often the Python handler of a signal has run for which its number has not been read yet. Only of signals
        # that came while the wake-up fd was ours: of others there is no number.
        self._called: Counter[int] = Counter()
        self._is_woken = False
        # (receiver, sender), made when the loop first runs in the main thread, and the process that made it.
        self._pipe: tuple[int, int] | None = None
        self._pid = 0
        # The wake-up fd of whoever had it before; -1: nobody.
        self._previous = -1

    # ---------------------------------------------------------------------------------------- handlers

    def add(self, sig: int, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if coroutines.iscoroutine(callback) or _is_coroutine_function(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        _check_signal(sig)
        if self._loop is None:
            raise RuntimeError("Event loop is closed")
        try:
            signal.signal(sig, _on_signal)
            # SA_RESTART: system calls in other threads go on.
            signal.siginterrupt(sig, False)
        except ValueError:
            raise RuntimeError("set_wakeup_fd only works in main thread of the main interpreter") from None
        except OSError as exc:
            raise _explain(exc, sig) from None
        self._handlers[sig] = (callback, args, contextvars.copy_context())
        _owners[sig] = self

    def remove(self, sig: int) -> bool:
        _check_signal(sig)
        if self._handlers.pop(sig, None) is None:
            return False
        if _owners.get(sig) is self:
            del _owners[sig]
        try:
            signal.signal(sig, signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL)
        except OSError as exc:
            raise _explain(exc, sig) from None
        return True

    def close(self) -> None:
        try:
            if not sys.is_finalizing():
                for sig in list(self._handlers):
                    self.remove(sig)
            elif self._handlers:
                warnings.warn(
                    f"Closing the loop {self._loop!r} on interpreter shutdown stage, skipping signal handlers removal",
                    ResourceWarning,
                    source=self._loop,
                )
                self._handlers.clear()
        finally:
            self._close_pipe()
            self._loop = None

    def _arrived(self, sig: int) -> None:
        if self._is_woken:
            self._called[sig] += 1
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._answer, sig)

    def _answer(self, sig: int) -> None:
        self._deliver(sig)
        if self._is_woken:
            # A loop that is busy does not look at the pipe.
            self._drain()

    def _deliver(self, sig: int) -> None:
        # The handler that is there now: it may have been removed or replaced since.
        if self._loop is not None and (handler := self._handlers.get(sig)) is not None:
            callback, args, context = handler
            self._loop.call_soon(callback, *args, context=context)

    # ---------------------------------------------------------------------------------------- the wake-up fd

    @contextlib.contextmanager
    def wake_up(self) -> Iterator[None]:
        """Have signals wake the loop, if this is the main thread; no other can receive them in Python."""
        if self._is_woken:
            # In a callback that waits by `loop._selector`.
            yield
            return
        own = self._take_wake_up_fd() if threading.current_thread() is threading.main_thread() else -1
        try:
            yield
        finally:
            if own != -1:
                _give_wake_up_fd(own, self._previous)
                self._is_woken = False
                if self._previous != -1:
                    # Its owner is told now; what is left for the loop, the next run finds.
                    self._drain()
                    self._previous = -1

    def _take_wake_up_fd(self) -> int:
        """Have signals written to our pipe. -1: not possible."""
        own = self._open_pipe()
        try:
            # A full pipe is no loss: the loop wakes for what is in it.
            previous = signal.set_wakeup_fd(own, warn_on_full_buffer=False)
        except ValueError:
            # To the interpreter that a program hosts, the main thread may be another one than to `threading`.
            return -1
        # Ours, if somebody saved and restored it while the loop ran, and did so a run too late.
        self._previous = -1 if previous == own else previous
        self._is_woken = True
        return own

    def _open_pipe(self) -> int:
        if self._pid != os.getpid():
            # The pipe of the process that this one was forked from.
            self._close_pipe()
        if self._pipe is None:
            receiver, sender = os.pipe()
            assert self._loop is not None  # It is about to run.
            self._pipe, self._pid = (receiver, sender), os.getpid()
            _senders.add(sender)
            os.set_blocking(receiver, False)
            os.set_blocking(sender, False)
            self._loop._watch_internal(receiver, self._drain)
        return self._pipe[1]

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            receiver, sender = self._pipe
            self._pipe = None
            with contextlib.suppress(ValueError):
                _give_wake_up_fd(sender, -1)
            _senders.discard(sender)
            assert self._loop is not None
            self._loop._unregister(receiver)
            os.close(receiver)
            os.close(sender)

    def _drain(self) -> None:
        """Read the numbers of the signals that have come."""
        if self._pipe is None or self._pid != os.getpid():
            return
        numbers = bytearray()
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._pipe[0], 65536):
                numbers += chunk
        if self._previous != -1:
            with contextlib.suppress(OSError):
                os.write(self._previous, numbers)
        self._call_for_each(numbers)

    def _call_for_each(self, numbers: bytearray) -> None:
        # The Python handlers of all of these have run: CPython marks a signal before it writes the number, and runs
        # what is marked when a function is entered, such as this one.
        for sig, count in Counter(numbers).items():
            if _owners.get(sig) is self:
                called = self._called[sig]
                for _ in range(count - called):
                    self._deliver(sig)
                self._called[sig] = max(0, called - count)


# Which loop is told of a signal: the one that has added a handler last, for as long as it exists.
_owners: weakref.WeakValueDictionary[int, Signals] = weakref.WeakValueDictionary()
# Every wake-up fd of ours.
_senders: set[int] = set()


def _on_signal(sig: int, frame: object) -> None:
    """The Python handler of every signal that loops have handlers for. It keeps no loop alive."""
    if (owner := _owners.get(sig)) is not None:
        owner._arrived(sig)


def _give_wake_up_fd(own: int, to: int) -> None:
    """Set the wake-up fd to `to` if it is `own` still: whoever has set it while the loop ran keeps it."""
    try:
        current = signal.set_wakeup_fd(to, warn_on_full_buffer=False)
    except (ValueError, OSError):
        # It was closed meanwhile.
        current = signal.set_wakeup_fd(-1)
    if current not in (own, to):
        signal.set_wakeup_fd(current, warn_on_full_buffer=False)


def after_fork_in_child() -> None:
    """Signals of this process are not to wake its parent (asyncio sees to it since 3.12)."""
    fd = signal.set_wakeup_fd(-1)
    if fd != -1 and fd not in _senders:
        signal.set_wakeup_fd(fd)


def _check_signal(sig: int) -> None:
    if not isinstance(sig, int):
        raise TypeError(f"sig must be an int, not {sig!r}")
    if sig not in signal.valid_signals():
        raise ValueError(f"invalid signal number {sig}")


def _explain(exc: OSError, sig: int) -> Exception:
    return RuntimeError(f"sig {sig} cannot be caught") if exc.errno == errno.EINVAL else exc
