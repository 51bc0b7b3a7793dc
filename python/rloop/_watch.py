"""`rloop.watch`: reports of turns that last too long, with what blocks the loop.

`_rloop.Watcher` finds the stalls, in a thread without the GIL. A thread of this file waits for what it has found. It
takes the stack of the loop's thread, writes to the log, and has `on_stall` called in the loop's thread. Nothing of
this file is used while nobody watches.
"""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable
from typing import Any

from . import _rloop
from ._stacks import loops, stack_of, stack_text

logger = logging.getLogger("rloop")


@dataclasses.dataclass(frozen=True)
class Stall:
    """A turn of a loop that has lasted too long: what `on_stall` is called with.

    `loop`: the loop. `task`: the task that ran when the stack was taken, or None if it was a plain callback. `handle`:
    the handle whose callback ran, or the transport that was called; None if that was not found out. `stack`: the stack
    of the loop's thread at that moment, as text; empty if it could not be taken. `duration`: how long the turn lasted,
    in seconds.
    """

    loop: asyncio.AbstractEventLoop
    task: asyncio.Task[Any] | None
    handle: asyncio.Handle | asyncio.BaseTransport | None
    stack: str
    duration: float


_OnStall = Callable[[Stall], object]

# The watches that were not stopped.
_watches: list[Watch] = []
_hooks_are_set = False


class Watch:
    """What `watch()` returns."""

    def __init__(self, threshold: float, on_stall: _OnStall | None) -> None:
        self._threshold = threshold
        self._on_stall = on_stall
        # Stalls whose end was not reported: what is known of each but for its duration, and the end of the text.
        self._open: dict[int, tuple[Stall, str]] = {}
        # What the watcher has measured of stalls whose loop was not there yet to tell.
        self._measured: dict[int, float] = {}
        self._start()

    def _start(self) -> None:
        self._watcher = _rloop.Watcher(self._threshold)
        self._thread = threading.Thread(
            target=_listen, args=(self._watcher, self._tell), name="rloop-watch", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the watch. A stall that is not over is not reported any more. More calls do nothing."""
        if self in _watches:
            _watches.remove(self)
        self._watcher.stop()
        self._open.clear()

    def _start_in_child(self) -> None:
        """In the child of a fork, where the threads of the parent are not there."""
        self._watcher.forget()
        self._open, self._measured = {}, {}
        self._start()

    # ---------------------------------------------------------------------------------------- in the watch's thread

    def _tell(self, number: int, loop_number: int, turn: int, stack: str | None, duration: float | None) -> None:
        loop = loops.get(loop_number)
        if loop is None:
            self._open.pop(number, None)
        elif duration is None:
            self._begin(number, loop, turn, stack)
        elif not loop.is_running():
            # It was stopped in the turn that was blocked, and may never run again.
            self._end(number, duration)
        elif number in self._open:
            self._measured[number] = duration

    def _begin(self, number: int, loop: Any, turn: int, stack: str | None) -> None:
        # All of this is taken before anything is read from a file: see `stack_of`.
        frames = stack_of(loop._thread_id)
        task = asyncio.current_task(loop)
        _, still, handle = _rloop.Watcher.see(loop)
        if handle is None:
            # In debug mode.
            handle = getattr(loop, "_current_handle", None)
        if still == turn:
            stall = Stall(loop, task, handle, stack_text(frames), 0.0)
            text = _by(stall)
            logger.warning("%r is blocked%s\n%s", loop, text, stall.stack.rstrip())
        else:
            # The callback has kept the GIL until it was over. What runs now is something else.
            stall = Stall(loop, None, None, stack or "", 0.0)
            text = "\n" + (stall.stack.rstrip() or "(its stack could not be taken)")
        self._open[number] = stall, text
        try:
            loop.call_soon_threadsafe(self._end_on_loop, number)
        except RuntimeError:
            # It was closed meanwhile.
            self._end(number, self._watcher.duration(number))

    # ---------------------------------------------------------------------------------------- in the loop's thread

    def _end_on_loop(self, number: int) -> None:
        self._end(number, self._watcher.duration(number))

    # ---------------------------------------------------------------------------------------- in either

    def _end(self, number: int, duration: float | None) -> None:
        known, measured = self._open.pop(number, None), self._measured.pop(number, 0.0)
        if known is None:
            return
        stall, text = known
        stall = dataclasses.replace(stall, duration=measured if duration is None else duration)
        logger.warning("%r was blocked for %.3f seconds%s", stall.loop, stall.duration, text)
        if self._on_stall is not None:
            self._on_stall(stall)


def _by(stall: Stall) -> str:
    """What blocks the loop, as the part of a sentence."""
    if stall.task is not None:
        return f" by {stall.task!r}, {stall.handle!r}"
    return "" if stall.handle is None else f" by {stall.handle!r}"


def _listen(watcher: _rloop.Watcher, tell: Callable[[int, int, int, str | None, float | None], None]) -> None:
    """What the watch's thread does."""
    # The signals of the program are for its own threads.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while (event := watcher.next()) is not None:
        try:
            tell(*event)
        except Exception:
            logger.exception("rloop.watch() has failed to report a stall")


def watch(threshold: float = 0.1, on_stall: _OnStall | None = None) -> Watch:
    """Report each turn of a loop that lasts longer than `threshold` seconds, until `stop()` of the result is called.

    This is for every loop of rloop in the process, those that are made later included. While the turn lasts, the logger
    "rloop" gets a warning with the task, the handle, and the stack of the loop's thread; when it is over, another one
    with how long it was. Then `on_stall` is called with a `Stall`, in the thread of the loop. If the loop does not run
    any more, it is called in a thread of the watch.

    Raises ValueError if the threshold is not positive.
    """
    global _hooks_are_set
    watch = Watch(threshold, on_stall)
    _watches.append(watch)
    if not _hooks_are_set:
        _hooks_are_set = True
        atexit.register(_stop_all)
        os.register_at_fork(after_in_child=_start_in_child)
    return watch


def watch_by_environment() -> None:
    """Watch if the environment variable RLOOP_WATCH says so: a number of seconds. Nothing and 0 say no."""
    text = os.environ.get("RLOOP_WATCH", "")
    try:
        if threshold := float(text or 0):
            watch(threshold)
    except ValueError:
        warnings.warn(f"RLOOP_WATCH must be a number of seconds, not {text!r}", RuntimeWarning, stacklevel=2)


def _stop_all() -> None:
    # Before the interpreter ends, since the watchers look at its threads.
    for watch in list(_watches):
        watch.stop()


def _start_in_child() -> None:
    for watch in _watches:
        watch._start_in_child()


Stall.__module__ = Watch.__module__ = watch.__module__ = "rloop"
