"""rloop: an asyncio event loop written in Rust.

    asyncio.run(main(), loop_factory=rloop.new_event_loop)

Only the names of the package live here. The loop is in `_loop.py`, on top of the extension module `_rloop`. The event
loop policies, which asyncio is giving up, are in `_policy.py`, the figures of a loop in `_metrics.py`. `python -m
rloop` says what is installed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ._dump import dump
from ._dump_on import dump_on
from ._loop import Loop, run
from ._metrics import Histogram, Metrics, all_metrics
from ._openmetrics import openmetrics
from ._rloop import __version__, new_event_loop
from ._watch import Stall, Watch, watch, watch_by_environment

if TYPE_CHECKING:
    if sys.version_info < (3, 16):
        from ._policy import EventLoopPolicy as EventLoopPolicy
        from ._policy import install as install

__all__ = (
    "Histogram",
    "Loop",
    "Metrics",
    "Stall",
    "Watch",
    "__version__",
    "all_metrics",
    "dump",
    "dump_on",
    "new_event_loop",
    "openmetrics",
    "run",
    "watch",
)

# As asyncio's policies, these two are deprecated in Python 3.14 and gone in 3.16. They warn when they are called, and
# not when they are looked at: `inspect` and `help()` look at every name.
_POLICY_NAMES = frozenset({"EventLoopPolicy", "install"}) if sys.version_info < (3, 16) else frozenset()


# Type checkers do not see this: with it, they would accept every misspelt name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _POLICY_NAMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import _policy

        return getattr(_policy, name)


# Pickle, documentation and error messages name these by the package, and not by the module that they are in.
_PUBLIC = (Histogram, Loop, Metrics, Stall, Watch, all_metrics, dump, dump_on, new_event_loop, openmetrics, run, watch)
for _public in _PUBLIC:
    _public.__module__ = __name__
del _public, _PUBLIC

watch_by_environment()
del watch_by_environment


def __dir__() -> list[str]:
    return sorted(__all__)
