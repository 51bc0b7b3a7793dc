"""`rloop.dump`: what every loop of the process is doing, and waits for, as text for people.

It reads the state of loops that may be running in other threads, under the GIL, and changes nothing.
"""

from __future__ import annotations

import asyncio
import reprlib
import sys
from typing import TYPE_CHECKING, Any, TextIO

from . import _rloop
from ._stacks import loops, stack_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._loop import Loop

# A long repr is cut in its middle, so that one large argument does not fill the page.
_short = reprlib.Repr()
_short.maxother = _short.maxlong = _short.maxstring = 200


def dump(file: TextIO | None = None) -> None:
    """Write what every loop of the process is doing to `file`, a text file; None means stderr.

    For each loop: the stack of its thread, its tasks with the calls that each is suspended in and what it waits for,
    its timers, its transports with the sizes of their write queues and their ages, its child processes, and the jobs of
    its executor. It can be called in any thread. Raises what `file.write` raises.
    """
    text = "\n".join(line for number, loop in sorted(loops.items()) for line in _loop_lines(number, loop))
    out = sys.stderr if file is None else file
    out.write(f"{text or 'no loops'}\n")
    out.flush()


def _loop_lines(number: int, loop: Any) -> Iterator[str]:
    yield f"loop {number}: {loop!r}"
    if loop.is_closed():
        return
    for title, lines in (
        ("stack, the most recent call last", _stack_lines(loop)),
        ("tasks", _task_lines(loop)),
        ("timers", _timer_lines(loop)),
        ("files", _file_lines(loop)),
        ("children", _child_lines(loop)),
        ("executor", _executor_lines(loop)),
    ):
        rows = list(lines)
        if rows:
            yield f"  {title}:"
            yield from (f"    {row}" for row in rows)


def _child_lines(loop: Loop) -> Iterator[str]:
    for children in (loop._children, loop._children_of_threads):
        yield from map(repr, list(children.values()))


def _stack_lines(loop: Loop) -> Iterator[str]:
    for frame in stack_of(loop._thread_id):
        yield f"{frame.filename}:{frame.lineno} in {frame.name}"


def _task_lines(loop: Loop) -> Iterator[str]:
    current = asyncio.current_task(loop)
    for task in sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name()):
        yield f"{task.get_name()}: {_name(task.get_coro())}{', running' if task is current else ''}"
        yield from (f"  {line}" for line in _await_chain(task.get_coro()))
        # Another class of tasks may not have it.
        waiter = getattr(task, "_fut_waiter", None)
        if waiter is not None:
            yield f"  waits for {_repr(waiter)}"


def _await_chain(awaited: Any) -> Iterator[str]:
    """The calls that a coroutine is suspended in, the outermost first."""
    while awaited is not None:
        for prefix in ("cr", "gi", "ag"):
            frame = getattr(awaited, f"{prefix}_frame", None)
            if frame is not None:
                code = frame.f_code
                yield f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
                break
        else:
            return
        awaited = getattr(awaited, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await")


def _timer_lines(loop: Loop) -> Iterator[str]:
    now = loop.time()
    for timer in _rloop.Timers(loop).all():
        yield f"due in {timer.when() - now:.3f} s: {_repr(timer)}"


def _file_lines(loop: Loop) -> Iterator[str]:
    for fd, reader, writer in sorted(_rloop.Poll(loop).watched(), key=lambda row: row[0]):
        for callee in [reader] if reader is writer else [reader, writer]:
            if callee is not None:
                # A plain handle has neither.
                size, age = getattr(callee, "get_write_buffer_size", None), getattr(callee, "_age", None)
                queued = f", {size()} bytes to send" if size is not None else ""
                exists = f", {age():.3f} s old" if age is not None else ""
                yield f"{fd}: {_repr(callee)}{queued}{exists}"


def _executor_lines(loop: Any) -> Iterator[str]:
    executor = loop._default_executor
    if executor is None:
        return
    # These are private, and another executor may not have them.
    threads, jobs = getattr(executor, "_threads", ()), getattr(executor, "_work_queue", None)
    yield f"{len(threads)} threads, {jobs.qsize() if jobs is not None else '?'} jobs that wait"
    for thread in list(threads):
        yield thread.name
        for frame in stack_of(thread.ident):
            yield f"  {frame.filename}:{frame.lineno} in {frame.name}"


def _name(coroutine: Any) -> str:
    return str(getattr(coroutine, "__qualname__", None) or _repr(coroutine))


def _repr(value: Any) -> str:
    """The repr, cut if it is long. A program's own `__repr__` may raise."""
    return _short.repr(value)


dump.__module__ = "rloop"
