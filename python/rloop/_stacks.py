"""The stack of a thread, seen from another one, as text; and the loops that a program has open.

How a stack is taken without the GIL is in `src/py/stack_dump.rs`. Nothing is reported here.
"""

from __future__ import annotations

import sys
import traceback
import weakref
from typing import TYPE_CHECKING

from . import _rloop

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._base import LoopBase

# Every loop of the process, by its number, for as long as it exists.
loops: weakref.WeakValueDictionary[int, LoopBase] = weakref.WeakValueDictionary()


# What is called when a loop was made, for those who have to begin with the first one.
on_new_loop: list[Callable[[], None]] = []


def add_loop(loop: LoopBase) -> None:
    """Have the loop found in `loops`."""
    loops[_rloop.Watcher.see(loop)[0]] = loop
    for call in list(on_new_loop):
        call()


def open_loops() -> list[tuple[int, LoopBase]]:
    """Every open loop of this process, oldest first, each with its number. The first loop of a process has number 1."""
    return sorted((item for item in list(loops.items()) if not item[1].is_closed()), key=lambda item: item[0])


def stack_of(thread_id: int | None) -> traceback.StackSummary:
    """The stack of a thread, the most recent call last. Empty if there is no such thread.

    No frame is kept, because whoever drops the last reference to one runs the finalizers of its variables. And no
    source line is read yet: the thread goes on as soon as this one lets go of the GIL.
    """
    frame = None if thread_id is None else sys._current_frames().get(thread_id)
    stack = []
    while frame is not None:
        code = frame.f_code
        stack.append(traceback.FrameSummary(code.co_filename, frame.f_lineno, code.co_name, lookup_line=False))
        frame = frame.f_back
    stack.reverse()
    return traceback.StackSummary.from_list(stack)


def stack_text(stack: traceback.StackSummary) -> str:
    """The stack as text, with its source lines.

    They are left out if reading them fails. `linecache` does not catch everything, such as the UnicodeEncodeError for a
    file whose name has letters that the locale lacks.
    """
    try:
        return "".join(stack.format())
    except Exception:
        return "".join(f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}\n' for frame in stack)
