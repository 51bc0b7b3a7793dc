"""`run_in_executor`: from the future of an executor's thread to one of the loop, in one step.

What becomes of the job decides asyncio's own code (`futures._copy_future_state`). asyncio's general chain of any two
futures costs a fifth more of a round trip.
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
                # Makes it.
                return super().run_in_executor(None, func, *args)
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
