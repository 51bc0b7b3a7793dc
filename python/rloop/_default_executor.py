"""`DefaultExecutor`, the executor that a loop makes for itself.

How a loop uses an executor is in `_executors.py`. This module is imported when a loop makes its first executor, and not
with the package, because the modules that it imports would add a tenth to the time of `import rloop`.
"""

from __future__ import annotations

import concurrent.futures
import functools
import queue
import socket
import threading
import weakref
from asyncio import base_events
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

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
