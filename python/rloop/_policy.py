"""The event loop policy, for programs that still choose their loop by one.

Event loop policies are deprecated since Python 3.14 and removed in 3.16. So this module is imported only when one of
its names is used.
"""

from __future__ import annotations

import asyncio
import sys
import warnings

from ._loop import Loop
from ._rloop import new_event_loop

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    _Base = asyncio.DefaultEventLoopPolicy


def _warn_of(name: str) -> None:
    """Warn about the line of the program. To be called by the function that the program calls."""
    if sys.version_info >= (3, 14):
        warnings.warn(
            f"rloop.{name} is deprecated, as asyncio's event loop policies are: "
            "pass loop_factory=rloop.new_event_loop to asyncio.run() or asyncio.Runner()",
            DeprecationWarning,
            stacklevel=3,
        )


class EventLoopPolicy(_Base):
    """asyncio's default policy with rloop's loop. Deprecated from Python 3.14 on, as all policies are."""

    def __init__(self) -> None:
        _warn_of("EventLoopPolicy")
        super().__init__()

    def _loop_factory(self) -> Loop:
        return new_event_loop()


def install() -> None:
    """Make rloop's loop the one that `asyncio.run()` and `asyncio.new_event_loop()` use in this process.

    Deprecated from Python 3.14 on: pass `loop_factory=rloop.new_event_loop` instead, which every version from 3.12 on
    takes. `rloop.run()` needs neither.
    """
    _warn_of("install")
    with warnings.catch_warnings():
        # asyncio's own warnings would be about the lines here. `_warn_of` has warned already.
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(EventLoopPolicy())


EventLoopPolicy.__module__ = install.__module__ = "rloop"
