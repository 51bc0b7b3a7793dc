"""rloop: an asyncio event loop written in Rust.

    asyncio.run(main(), loop_factory=rloop.new_event_loop)

Only the names of the package live here. The loop is in `_loop.py`, on top of the extension module `_rloop`. The event
loop policies, which asyncio is giving up, are in `_policy.py`, the figures of a loop in `_metrics.py`. `python -m
rloop` says what is installed.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from ._loop import Loop, run
from ._rloop import __version__, new_event_loop

if TYPE_CHECKING:
    from ._dump import dump as dump
    from ._dump_on import dump_on as dump_on
    from ._metrics import Histogram as Histogram
    from ._metrics import Metrics as Metrics
    from ._metrics import all_metrics as all_metrics
    from ._openmetrics import openmetrics as openmetrics
    from ._publish import Publication as Publication
    from ._publish import publish as publish
    from ._published import Published as Published
    from ._published import PublishedLoop as PublishedLoop
    from ._published import all_published as all_published
    from ._published import read_published as read_published
    from ._watch import Stall as Stall
    from ._watch import Watch as Watch
    from ._watch import watch as watch

    if sys.version_info < (3, 16):
        from ._policy import EventLoopPolicy as EventLoopPolicy
        from ._policy import install as install

__all__ = (
    "Histogram",
    "Loop",
    "Metrics",
    "Publication",
    "Published",
    "PublishedLoop",
    "Stall",
    "Watch",
    "__version__",
    "all_metrics",
    "all_published",
    "dump",
    "dump_on",
    "new_event_loop",
    "openmetrics",
    "publish",
    "read_published",
    "run",
    "watch",
)

# The module of each name that most programs never use. It is imported when somebody asks for the name.
_MODULES = {
    "Histogram": "_metrics",
    "Metrics": "_metrics",
    "Publication": "_publish",
    "Published": "_published",
    "PublishedLoop": "_published",
    "Stall": "_watch",
    "Watch": "_watch",
    "all_metrics": "_metrics",
    "all_published": "_published",
    "dump": "_dump",
    "dump_on": "_dump_on",
    "openmetrics": "_openmetrics",
    "publish": "_publish",
    "read_published": "_published",
    "watch": "_watch",
}
# As asyncio's policies, these two are deprecated in Python 3.14 and gone in 3.16. They warn when they are called, and
# not when they are looked at: `inspect` and `help()` look at every name.
if sys.version_info < (3, 16):
    _MODULES |= {"EventLoopPolicy": "_policy", "install": "_policy"}


# Type checkers do not see this: with it, they would accept every misspelt name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


# Pickle, documentation and error messages name these by the package, and not by the module that they are in. The
# modules of the other names do the same.
for _public in (Loop, new_event_loop, run):
    _public.__module__ = __name__
del _public

if os.environ.get("RLOOP_WATCH"):
    from ._watch import watch_by_environment

    watch_by_environment()
    del watch_by_environment

if os.environ.get("RLOOP_PUBLISH"):
    from ._publish import publish_by_environment

    publish_by_environment()
    del publish_by_environment


def __dir__() -> list[str]:
    return sorted(__all__)
