"""The private attributes `_ready`, `_scheduled` and `_selector` of asyncio's loops, for programs that use them.

They are views: what a program reads comes from the native queues, and what it changes is changed there. `nest_asyncio`
runs turns of its own by them, Home Assistant reads the timers, `looptime` replaces how a loop waits. rloop's own turns
use nothing of this file.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, SupportsIndex

from . import _rloop
from ._signals import SignalMethods

if TYPE_CHECKING:
    from ._base import LoopBase
    from ._signals import Signals


def outside_tasks() -> None:
    """Called before and after a wait while a profiler is set, so that it does not count the wait as a task's time."""


class InsideMethods(SignalMethods):
    """The part of `Loop` with asyncio's private attributes."""

    def __init__(self) -> None:
        super().__init__()
        self._look_at_time()

    @property
    def _ready(self) -> _rloop.ReadyHandles:
        """The handles that run in the next turn, as a deque."""
        return _rloop.ReadyHandles(self)

    @_ready.setter
    def _ready(self, handles: Iterable[asyncio.Handle]) -> None:
        # Copied first: `handles` may be the very view that is cleared here.
        handles = list(handles)
        self._ready.clear()
        self._ready.extend(handles)

    @property
    def _scheduled(self) -> Scheduled:
        """The timers that wait, earliest first."""
        # The list must remember what it stored last, so that there is one for each loop.
        scheduled = self.__dict__.get("_scheduled")
        if scheduled is None:
            scheduled = self.__dict__["_scheduled"] = Scheduled(self)
        scheduled._first()
        return scheduled

    @_scheduled.setter
    def _scheduled(self, timers: Iterable[asyncio.TimerHandle]) -> None:
        if timers := list(timers):
            self._scheduled.clear()
            self._scheduled.extend(timers)
        else:
            _rloop.Timers(self).clear()

    @functools.cached_property
    def _selector(self) -> Selector:
        return Selector(self, self._signals)

    def _forget_views(self) -> None:
        """Drop the views, which refer to the loop: a closed loop is to be freed without a garbage collection."""
        self.__dict__.pop("_scheduled", None)
        self.__dict__.pop("_selector", None)

    def _process_events(self, events: object) -> None:
        """The hook of `BaseEventLoop` for what `_selector.select()` has returned. What was found is with the loop."""
        _rloop.Poll(self).queue()


class Scheduled(list[asyncio.TimerHandle]):
    """The timers that wait, without those that were cancelled, as a list, because `heapq` takes nothing else.

    The functions of `heapq` work on the items that a list stores, and call no method of a subclass. So the earliest
    timer is stored in this list. At the next use of the list, a timer that such a function has taken out is removed
    from the loop, and one that it has put in is added.
    """

    def __init__(self, loop: LoopBase) -> None:
        self._timers = _rloop.Timers(loop)
        # The items that were stored last.
        self._stored: list[asyncio.TimerHandle] = []

    def _store(self, timers: list[asyncio.TimerHandle]) -> None:
        self._stored = timers
        super().__setitem__(slice(None), timers)

    def _follow(self) -> None:
        """Do to the loop what was done to the list since its items were stored."""
        now = super().copy()
        if now == self._stored:
            return
        before = self._stored
        self._store([])
        for timer in before:
            if not any(timer is other for other in now):
                self._timers.remove(timer)
        for timer in now:
            if not getattr(timer, "_scheduled", False) and not any(timer is other for other in before):
                self._timers.add(timer)

    def _first(self) -> asyncio.TimerHandle | None:
        self._follow()
        first = self._timers.first()
        self._store([] if first is None else [first])
        return first

    def _all(self) -> list[asyncio.TimerHandle]:
        self._first()
        return [*self._timers.all()]

    def __len__(self) -> int:
        self._follow()
        return self._timers.count()

    def __bool__(self) -> bool:
        return self._first() is not None

    def __getitem__(self, index: Any) -> Any:
        if index == 0 and (first := self._first()) is not None:
            return first
        return self._all()[index]

    def __iter__(self) -> Iterator[asyncio.TimerHandle]:
        return iter(self._all())

    def __reversed__(self) -> Iterator[asyncio.TimerHandle]:
        return reversed(self._all())

    def __contains__(self, timer: object) -> bool:
        return timer in self._all()

    def __eq__(self, other: object) -> bool:
        return self._all() == (other._all() if isinstance(other, Scheduled) else other)

    __hash__ = None

    def __add__(self, other: Any) -> Any:
        return self._all() + other

    def __repr__(self) -> str:
        return repr(self._all())

    def copy(self) -> list[asyncio.TimerHandle]:
        return self._all()

    def count(self, timer: Any) -> int:
        return self._all().count(timer)

    def index(self, timer: Any, *limits: SupportsIndex) -> int:
        return self._all().index(timer, *limits)

    # The methods from here on change the list.

    def _change(self, change: Callable[[list[asyncio.TimerHandle]], Any]) -> Any:
        """Have `change` work on a list of all timers, and do the same to the loop."""
        timers = self._all()
        self._store(timers.copy())
        try:
            result = change(timers)
            super().__setitem__(slice(None), timers)
            return result
        finally:
            self._first()

    def append(self, timer: asyncio.TimerHandle) -> None:
        self._change(lambda timers: timers.append(timer))

    def extend(self, more: Iterable[asyncio.TimerHandle]) -> None:
        self._change(lambda timers: timers.extend(more))

    def insert(self, index: SupportsIndex, timer: asyncio.TimerHandle) -> None:
        self._change(lambda timers: timers.insert(index, timer))

    def pop(self, index: SupportsIndex = -1) -> asyncio.TimerHandle:
        return self._change(lambda timers: timers.pop(index))  # type: ignore[no-any-return]

    def remove(self, timer: asyncio.TimerHandle) -> None:
        self._change(lambda timers: timers.remove(timer))

    def clear(self) -> None:
        self._timers.clear()
        self._store([])

    def __delitem__(self, index: Any) -> None:
        self._change(lambda timers: timers.__delitem__(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        self._change(lambda timers: timers.__setitem__(index, value))


class Selector(selectors.BaseSelector):
    """The loop's poll as a selector, as far as a program can use it.

    If a program replaces `select` by a function of its own, every turn of the loop waits by calling that.
    """

    def __init__(self, loop: LoopBase, signals: Signals) -> None:
        self._poll = _rloop.Poll(loop)
        self._loop = loop
        self._signals = signals

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait until something is ready. What was found is kept for `loop._process_events()`."""
        if timeout is not None and timeout <= 0:
            found = self._poll.wait(0)
        else:
            # The program's own `run_forever` may run the loop, which does not set the wake-up fd.
            with self._signals.wake_up():
                found = self._poll.wait(timeout)
        return [
            (selectors.SelectorKey(fd, fd, events, None), events)
            for fd, readable, writable in found
            if (events := _events(readable, writable))
        ]

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """What is watched, by fd. As on asyncio, the data are who is called: (reader, writer)."""
        return {
            fd: selectors.SelectorKey(fd, fd, _events(reader is not None, writer is not None), (reader, writer))
            for fd, reader, writer in self._poll.watched()
        }

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        try:
            return self.get_map()[fd]
        except KeyError:
            raise KeyError(f"{fileobj!r} is not registered") from None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Watch a file. As on asyncio, the data are two handles (reader, writer), either of which may be None."""
        reader, writer = data
        if events & selectors.EVENT_READ:
            self._loop.add_reader(fileobj, reader._run)
        if events & selectors.EVENT_WRITE:
            self._loop.add_writer(fileobj, writer._run)
        return self.get_key(fileobj)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = self.get_key(fileobj)
        self._loop.remove_reader(fileobj)
        self._loop.remove_writer(fileobj)
        return key

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "select":
            own = getattr(value, "__func__", None) is Selector.select and value.__self__ is self
            self._poll.replace(not own)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name == "select":
            self._poll.replace(False)


def _events(readable: bool, writable: bool) -> int:
    return selectors.EVENT_READ * readable | selectors.EVENT_WRITE * writable
