"""The event loop policy, for programs that still choose their loop by one. Imported only when asked for.

Event loop policies are deprecated since Python 3.14 and removed in 3.16.
"""

from __future__ import annotations

import asyncio
import warnings

from ._loop import Loop, new_event_loop

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    _Base = asyncio.DefaultEventLoopPolicy


class EventLoopPolicy(_Base):
    """asyncio's default policy with rloop's loop."""

    def _loop_factory(self) -> Loop:
        return new_event_loop()


def install() -> None:
    """Make rloop's loop the one that `asyncio.run()` and `asyncio.new_event_loop()` use in this process."""
    with warnings.catch_warnings():
        # `rloop.install` itself has warned.
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(EventLoopPolicy())
