"""What reports say of a callback: the text that names it, and the stack of the place where its handle was made."""

from __future__ import annotations

import linecache
import os
import traceback
from asyncio import format_helpers
from types import CodeType
from typing import Any

# asyncio's function differs between Python versions: Python 3.13, and some patch releases before it, show the
# arguments in debug mode only. Then it has a keyword for that.
_HAS_DEBUG = "debug" in (format_helpers._format_callback_source.__kwdefaults__ or ())


# `args` is None for a cancelled handle. asyncio's function takes that, although its type does not say so: hence `|
# Any`.
def format_callback(callback: object, args: tuple[Any, ...] | Any, debug: bool) -> str:
    """Name a callback with its source line, as asyncio does in the repr of handles and in error messages."""
    if _HAS_DEBUG:
        return format_helpers._format_callback_source(
            callback,
            args,
            debug=debug,  # type: ignore[call-arg, unused-ignore]
        )
    return format_helpers._format_callback_source(callback, args)


class _Frame:
    """What asyncio's `extract_stack` reads of a frame."""

    __slots__ = ("f_back", "f_code", "f_globals", "f_lineno")

    def __init__(self, code: CodeType, line: int | None, variables: dict[str, Any], back: _Frame | None) -> None:
        self.f_code, self.f_lineno, self.f_globals, self.f_back = code, line, variables, back


def source_traceback(frames: list[tuple[CodeType, int | None, dict[str, Any]]], taken: int) -> traceback.StackSummary:
    """The stack of the place where a handle was made, as asyncio would have made it at once.

    `frames`: code, line and global variables of each frame, the innermost first. `taken`: when they were taken, in
    nanoseconds as `time.time_ns()`.
    """
    frame = None
    for code, line, variables in reversed(frames):
        frame = _Frame(code, line, variables, frame)
    if frame is None:
        return traceback.StackSummary()
    kept = _read_before(taken, {code.co_filename for code, _, _ in frames})
    stack = format_helpers.extract_stack(frame, limit=len(frames))  # type: ignore[arg-type]
    linecache.cache.update(kept)
    return stack


def _read_before(taken: int, files: set[str]) -> dict[str, Any]:
    """The entries of `linecache` for files that have changed since `taken`.

    When it makes a stack, `traceback` throws out the lines of files that have changed. At the time `taken`, these had
    not: asyncio would show the lines that were read before the change.
    """
    kept = {}
    for name in files:
        entry = linecache.cache.get(name)
        # An entry of another length is not read yet. Without a time it did not come from a file.
        if entry is None or len(entry) != 4 or entry[1] is None:
            continue
        try:
            changed = os.stat(entry[3]).st_ctime_ns
        except (OSError, ValueError):
            changed = taken
        if changed >= taken:
            kept[name] = entry
    return kept
