"""Puts rloop's loop in place of asyncio's, for asyncio's own tests, before any of their modules is imported.

The tests make their loops by asyncio's names: `asyncio.SelectorEventLoop(...)` in the `create_event_loop()` of the
mixins' subclasses; `asyncio.new_event_loop()`, `asyncio.run()` and `Runner()`, for which the default policy makes
them; `asyncio.BaseEventLoop()`, and classes derived from it. So these names get `Loop`: `rloop.Loop` with asyncio's
parameter, a selector, which is ignored, and with a count of the loops made, so that a run can tell that its tests
have used it. Nothing else of asyncio, of rloop or of the tests is changed, and processes that a test starts
have asyncio as it is.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

import rloop

made = 0


class Loop(rloop.Loop):
    """`rloop.Loop` with the parameters of asyncio's selector loop."""

    def __init__(self, selector: object = None) -> None:
        global made
        super().__init__()
        made += 1


class TurnLoop(Loop):
    """A loop whose `_run_once()` is one turn that does not wait.

    rloop's runs turns until the loop is to stop, so the loop is told to stop before each. The tests of tasks, futures
    and the like derive their loop (`utils.TestLoop`) from `BaseEventLoop`: it has a clock of its own, which it sets
    after each turn.
    """

    def stop(self) -> None:
        self._is_to_stop = True
        super().stop()

    def _run_once(self) -> None:
        self._is_to_stop = self._stopping
        self._stopping = True
        try:
            super()._run_once()
        finally:
            self._stopping = self._is_to_stop


def put_in_place(module: str) -> None:
    """Make asyncio's names of loops mean rloop's, for one module of the tests."""
    rloop.new_event_loop().close()  # rloop looks up what it uses of asyncio once, when it makes its first loop
    package, unix, selector, base = namespaces()
    policy = getattr(unix, "_UnixDefaultEventLoopPolicy", None) or unix.DefaultEventLoopPolicy
    policy._loop_factory = Loop
    package.SelectorEventLoop = unix.SelectorEventLoop = unix._UnixSelectorEventLoop = Loop
    if sys.version_info >= (3, 13):
        package.EventLoop = unix.EventLoop = Loop
    original = base.BaseEventLoop
    package.BaseEventLoop = base.BaseEventLoop = TurnLoop
    importlib.import_module("test.test_asyncio.utils")  # this module derives TestLoop from BaseEventLoop
    if module in ("test_base_events", "test_selector_events"):
        selector.BaseSelectorEventLoop = Loop
    else:
        # Others call methods of the base class for a loop without them (`BaseEventLoop._sendfile_native(loop, ...)`).
        base.BaseEventLoop = original


def namespaces() -> list[Any]:
    return [asyncio, asyncio.unix_events, asyncio.selector_events, asyncio.base_events]
