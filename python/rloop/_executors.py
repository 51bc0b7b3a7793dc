"""Executors: `run_in_executor`, and the executor that a loop makes for itself.

A job that has ended in an executor's thread completes the loop's future by one `call_soon_threadsafe`. How the result
is copied is decided by asyncio's own `futures._copy_future_state`. asyncio itself chains any two futures by more
general and slower code.
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


# The largest number of threads that look up names for one loop. asyncio's executor has at most as many threads.
_LOOK_UPS = 32

# A job of a look-up, and what it calls. In the queue, None ends the threads.
_LookUp = tuple["concurrent.futures.Future[Any]", "Callable[[], Any]"]


class DefaultExecutor(concurrent.futures.ThreadPoolExecutor):
    """A loop's own executor: asyncio's, except that names are looked up in daemon threads.

    When the interpreter ends, it joins the threads of every executor. A look-up can take half a minute and cannot be
    cancelled, even if nobody wants its result any more. So the interpreter does not wait for look-ups; for all other
    jobs it does, as on asyncio. `shutdown()` waits for look-ups, too.
    """

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="asyncio")
        self._look_ups: queue.SimpleQueue[_LookUp | None] = queue.SimpleQueue()
        self._look_up_threads: list[threading.Thread] = []
        # Counts the look-up threads that are idle.
        self._look_up_idle = threading.Semaphore(0)
        self._look_up_lock = threading.Lock()
        # Ends the look-up threads: called by shutdown(), or when a loop is dropped without being closed.
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
    """True for the functions by which asyncio looks up names, if the program has not replaced them."""
    logged = base_events.BaseEventLoop._getaddrinfo_debug  # type: ignore[attr-defined]
    function = getattr(function, "__func__", function)
    return function is socket.getaddrinfo or function is socket.getnameinfo or function is logged


def _look_up_names(look_ups: queue.SimpleQueue[_LookUp | None], idle: threading.Semaphore) -> None:
    """What a look-up thread does. It does not refer to the executor, so that it does not keep it alive."""
    while (look_up := look_ups.get()) is not None:
        _perform(*look_up)
        del look_up
        idle.release()
    # The None is for the next thread.
    look_ups.put(None)


def _perform(job: concurrent.futures.Future[_T], call: Callable[[], _T]) -> None:
    if not job.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as exc:
        job.set_exception(exc)
        # The exception's traceback refers to this frame, and the frame to the job.
        del job
    else:
        job.set_result(result)


class ExecutorMethods(LoopBase):
    """The part of `Loop` with `run_in_executor`."""

    def run_in_executor(
        self, executor: concurrent.futures.Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Call `func(*args)` in a thread of the executor, or of the loop's own if that is None. Return a future."""
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
    """Completes a loop's future. It is called when the job is done, in the thread that ran or cancelled it."""

    __slots__ = ("_cancel", "_future", "_loop")

    def __init__(self, loop: LoopBase, future: asyncio.Future[Any], job: concurrent.futures.Future[Any]) -> None:
        self._loop, self._future = loop, future
        self._cancel = functools.partial(_cancel, job)
        future.add_done_callback(self._cancel)

    def __call__(self, job: concurrent.futures.Future[Any]) -> None:
        future, cancel = self._future, self._cancel
        # The job keeps this object, and must not keep the future.
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
