"""Signals on a loop: `add_signal_handler`, and waking a loop that waits in its poll.

CPython runs the Python handler of a signal in the main thread, between two bytecodes. A loop that waits in its poll
runs no bytecode, and a loop that relied on EINTR would miss a signal that comes just before it waits. The wake-up fd
(`signal.set_wakeup_fd`) closes that gap: CPython's handler in C writes the number of the signal to it, so that the poll
returns. It is ours while a loop runs in the main thread, and is given back afterwards. If it was somebody else's
before, the numbers are passed on to them.

A handler on the loop is called because the Python handler of its signal was called. So no kind of signal is lost,
whatever happens to the wake-up fd. But CPython calls the Python handler once for signals that come close together, and
asyncio calls the loop's handler once for each. How many there were is told by the numbers in the wake-up fd.
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

from ._base import LoopBase

if TYPE_CHECKING:
    from typing import TypeVarTuple

    _Ts = TypeVarTuple("_Ts")
    _Handler = tuple[Callable[..., Any], tuple[Any, ...], contextvars.Context]

# `asyncio.iscoroutinefunction` is deprecated since 3.14, where asyncio itself uses this one.
_is_coroutine_function: Callable[[object], bool] = (
    getattr(coroutines, "_iscoroutinefunction", None) or coroutines.iscoroutinefunction
)


class Signals:
    """The signal handlers of one loop, and its wake-up pipe."""

    def __init__(self, loop: LoopBase) -> None:
        # None once the loop is closed, so that this does not keep it alive.
        self._loop: LoopBase | None = loop
        self._handlers: dict[int, _Handler] = {}
        # By signal: how often its Python handler has run while the signal's number was not read yet. Only signals that
        # came while the wake-up fd was ours are counted, as there are no numbers of others.
        self._called: Counter[int] = Counter()
        # True while the wake-up fd is ours.
        self._is_woken = False
        # The wake-up pipe, (receiver, sender). It is made when the loop first runs in the main thread.
        self._pipe: tuple[int, int] | None = None
        # The process that has made it.
        self._pid = 0
        # The wake-up fd that was set before ours; -1 if there was none.
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
            # This sets SA_RESTART, so that system calls in other threads are not interrupted.
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
        """Called by the Python handler of the signal."""
        if self._is_woken:
            self._called[sig] += 1
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._answer, sig)

    def _answer(self, sig: int) -> None:
        """Called on the loop after `_arrived`."""
        self._schedule(sig)
        if self._is_woken:
            # A busy loop may not have looked at the pipe yet.
            self._drain()

    def _schedule(self, sig: int) -> None:
        """Schedule the handler that the signal has now: it may have been removed or replaced since."""
        if self._loop is not None and (handler := self._handlers.get(sig)) is not None:
            callback, args, context = handler
            self._loop.call_soon(callback, *args, context=context)

    # ---------------------------------------------------------------------------------------- the wake-up fd

    @contextlib.contextmanager
    def wake_up(self) -> Iterator[None]:
        """Have signals wake the loop. Does nothing outside the main thread: no other thread runs Python's handlers."""
        if self._is_woken and self._loop is not None and self._loop.is_running():
            # A callback of the running loop waits by `loop._selector`. If the loop is not running, a signal's handler
            # has raised an exception in the middle of the end of the last run, and the fd must be taken again.
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
                    # The numbers are passed on now. What they mean for this loop would also be found by its next run.
                    self._drain()
                    self._previous = -1

    def _take_wake_up_fd(self) -> int:
        """Have the numbers of signals written to our pipe, and return that fd; -1 if it is not possible."""
        own = self._open_pipe()
        try:
            # No warning if the pipe is full: what is in it has woken the loop.
            previous = signal.set_wakeup_fd(own, warn_on_full_buffer=False)
        except ValueError:
            # Where a program hosts Python, the interpreter's main thread can be another one than that of `threading`.
            return -1
        # It is ours if other code saved it while the loop ran, and restored it after the end of that run.
        self._previous = -1 if previous == own else previous
        self._is_woken = True
        return own

    def _open_pipe(self) -> int:
        pid = os.getpid()
        if self._pid != pid:
            # The pipe belongs to the process that this one was forked from.
            self._close_pipe()
        if self._pipe is None:
            assert self._loop is not None  # The loop is about to run, and so not closed.
            self._pipe, self._pid = os.pipe(), pid
            receiver, sender = self._pipe
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
        """Read the numbers of the signals that have come, and pass them on to whoever had the wake-up fd before."""
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
        """Schedule handlers for the signals of which the Python handler was called less often than they came."""
        # The Python handlers of all these signals have run: CPython marks a signal before it writes the number, and
        # runs the handlers of marked signals when a function is entered, as this one.
        for sig, count in Counter(numbers).items():
            if _owners.get(sig) is self:
                called = self._called[sig]
                for _ in range(count - called):
                    self._schedule(sig)
                self._called[sig] = max(0, called - count)


class SignalMethods(LoopBase):
    """The part of `Loop` with `add_signal_handler` and `remove_signal_handler`."""

    def __init__(self) -> None:
        super().__init__()
        self._signals = Signals(self)

    def add_signal_handler(self, sig: int, callback: Callable[[*_Ts], object], *args: *_Ts) -> None:
        """Have `callback(*args)` called on the loop when the signal `sig` arrives.

        Raises ValueError for an invalid signal number, RuntimeError outside the main thread or for a signal that
        cannot be caught.
        """
        self._signals.add(sig, callback, args)

    def remove_signal_handler(self, sig: int) -> bool:
        """Give the signal its default handling back. False if there was no handler."""
        return self._signals.remove(sig)


# The loop that is told of a signal: the one that has added a handler last, for as long as it exists.
_owners: weakref.WeakValueDictionary[int, Signals] = weakref.WeakValueDictionary()
# The wake-up fds of all loops.
_senders: set[int] = set()


def _on_signal(sig: int, frame: object) -> None:
    """The Python handler of every signal that loops have handlers for. It does not keep a loop alive."""
    if (owner := _owners.get(sig)) is not None:
        owner._arrived(sig)


def _give_wake_up_fd(own: int, to: int) -> None:
    """Set the wake-up fd to `to`, if it still is `own`. If other code has set it while the loop ran, it stays."""
    try:
        current = signal.set_wakeup_fd(to, warn_on_full_buffer=False)
    except (ValueError, OSError):
        # The fd `to` was closed meanwhile.
        current = signal.set_wakeup_fd(-1)
    if current not in (own, to):
        signal.set_wakeup_fd(current, warn_on_full_buffer=False)


def after_fork_in_child() -> None:
    """In the child of a fork, give up a wake-up fd of ours, which would wake the parent (asyncio does since 3.12)."""
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
