"""`run_in_executor`. The executor that a loop makes for itself is in `_default_executor.py`.

A job that has ended in an executor's thread completes the loop's future by one `call_soon_threadsafe`. How the result
is copied is decided by asyncio's own `futures._copy_future_state`. asyncio itself chains any two futures by more
general and slower code.
"""

from __future__ import annotations

import concurrent.futures
import functools
from asyncio import futures
from typing import TYPE_CHECKING, Any, TypeVar

from ._base import LoopBase

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import TypeVarTuple

    _Ts = TypeVarTuple("_Ts")

_T = TypeVar("_T")


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
                from ._default_executor import DefaultExecutor

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
