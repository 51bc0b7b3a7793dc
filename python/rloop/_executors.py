"""Executors: `run_in_executor`, and the executor that a loop makes for itself.

From the future of an executor's thread to one of the loop it is one step. What becomes of the job decides asyncio's own
code (`futures._copy_future_state`). asyncio's general chain of any two futures costs a fifth more of a round trip.
"""

from __future__ import annotations

import concurrent.futures
import functools
import queue
import socket
import threading
import weakref
from asyncio import base_events, futures
from typing import TYPE_CHECKING, Any, TypeVar

from ._base import LoopBase

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import TypeVarTuple

    _Ts = TypeVarTuple("_Ts")

_T = TypeVar("_T")


# How many look-ups a loop has under way at a time; as many threads as asyncio's executor has at most.
_LOOK_UPS = 32

# A job, and what it calls. None: the threads end.
_LookUp = tuple["concurrent.futures.Future[Any]", "Callable[[], Any]"]


class DefaultExecutor(concurrent.futures.ThreadPoolExecutor):
    """The executor of a loop that was given none: asyncio's, but that name look-ups have daemon threads.

    The interpreter joins the threads of an executor when it ends. A look-up of which nobody hears any more can take
    half a minute, and nobody can end it: only that is not waited for. `shutdown()` waits for all the same.
    """

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="asyncio")
        self._look_ups: queue.SimpleQueue[_LookUp | None] = queue.SimpleQueue()
        self._look_up_threads: list[threading.Thread] = []
        # One for each thread that has nothing to do.
        self._look_up_idle = threading.Semaphore(0)
        self._look_up_lock = threading.Lock()
        # Ends the threads: by shutdown(), or if the loop is dropped unclosed.
        self._end_look_ups = weakref.finalize(self, self._look_ups.put, None)
        self._end_look_ups.atexit = False

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[_T]:
        """Have `fn` called in a thread."""
        if not _is_look_up(fn):
            return super().submit(fn, *args, **kwargs)
        job: concurrent.futures.Future[_T] = concurrent.futures.Future()
        with self._look_up_lock:
            if not self._end_look_ups.alive:
                raise RuntimeError("cannot schedule new futures after shutdown")
            number = len(self._look_up_threads)
            if not self._look_up_idle.acquire(blocking=False) and number < _LOOK_UPS:
                thread = threading.Thread(
                    target=_look_up_names,
                    args=(self._look_ups, self._look_up_idle),
                    name=f"asyncio_names_{number}",
                    daemon=True,
                )
                thread.start()
                self._look_up_threads.append(thread)
            self._look_ups.put((job, functools.partial(fn, *args, **kwargs)))
        return job

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more, and wait for what is under way."""
        with self._look_up_lock:
            self._end_look_ups()
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            for thread in self._look_up_threads:
                thread.join()


def _is_look_up(function: object) -> bool:
    """Whether this is how a loop looks up names. Programs put functions of their own in the place of `socket`'s."""
    logged = base_events.BaseEventLoop._getaddrinfo_debug  # type: ignore[attr-defined]
    function = getattr(function, "__func__", function)
    return function is socket.getaddrinfo or function is socket.getnameinfo or function is logged


def _look_up_names(look_ups: queue.SimpleQueue[_LookUp | None], idle: threading.Semaphore) -> None:
    """What a thread for look-ups does. It keeps no executor alive."""
    while (look_up := look_ups.get()) is not None:
        _perform(*look_up)
        del look_up
        idle.release()
    # For the next thread.
    look_ups.put(None)


def _perform(job: concurrent.futures.Future[_T], call: Callable[[], _T]) -> None:
    if not job.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as exc:
        job.set_exception(exc)
        # The traceback refers to this frame.
        del job
    else:
        job.set_result(result)


class ExecutorMethods(LoopBase):
    """A part of `Loop`."""

    def run_in_executor(
        self, executor: concurrent.futures.Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Call `func(*args)` in a thread of the executor; None: of the loop's own. The future gets the result."""
        self._check_closed()
        if self._debug:
            self._check_callback(func, "run_in_executor")
        if executor is None:
            self._check_default_executor()
            executor = self._default_executor
            if executor is None:
                executor = self._default_executor = DefaultExecutor()
        job = executor.submit(func, *args)
        if type(job) is not concurrent.futures.Future or job.done():
            return futures.wrap_future(job, loop=self)
        future: asyncio.Future[_T] = self.create_future()
        job.add_done_callback(_Completion(self, future, job))
        return future


class _Completion:
    """Called in the executor's thread when the job is done, or where it was cancelled."""

    __slots__ = ("_cancel", "_future", "_loop")

    def __init__(self, loop: LoopBase, future: asyncio.Future[Any], job: concurrent.futures.Future[Any]) -> None:
        self._loop, self._future = loop, future
        self._cancel = functools.partial(_cancel, job)
        future.add_done_callback(self._cancel)

    def __call__(self, job: concurrent.futures.Future[Any]) -> None:
        future, cancel = self._future, self._cancel
        # The job keeps this object.
        del self._future, self._cancel
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_complete, future, job, cancel)


def _complete(
    future: asyncio.Future[Any],
    job: concurrent.futures.Future[Any],
    cancel: Callable[[asyncio.Future[Any]], object],
) -> None:
    future.remove_done_callback(cancel)
    futures._copy_future_state(job, future)  # type: ignore[attr-defined]


def _cancel(job: concurrent.futures.Future[Any], future: asyncio.Future[Any]) -> None:
    if future.cancelled():
        job.cancel()
