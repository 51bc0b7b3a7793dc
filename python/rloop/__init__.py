"""rloop: an asyncio event loop written in Rust.

    asyncio.run(main(), loop_factory=rloop.new_event_loop)

Only the package's names live here. The loop is `_loop.py` over the extension module `_rloop`; what asyncio is giving up
(event loop policies) is `_policy.py` and loaded when asked for. `python -m rloop` says what is installed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ._loop import Loop, run
from ._rloop import __version__, new_event_loop

if TYPE_CHECKING:
    if sys.version_info < (3, 16):
        from ._policy import EventLoopPolicy as EventLoopPolicy
        from ._policy import install as install

__all__ = ("Loop", "__version__", "new_event_loop", "run")

# Policies are deprecated in Python 3.14 and gone in 3.16: so are these two. They warn when they are called, not when
# they are looked at, which `inspect` and `help()` do with every name.
_POLICY_NAMES = frozenset({"EventLoopPolicy", "install"}) if sys.version_info < (3, 16) else frozenset()


# Hidden from type checkers, for which it would make every misspelt name right.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _POLICY_NAMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import _policy

        return getattr(_policy, name)


# The names by which programs know them, for pickle, documentation and error messages.
for _public in (Loop, new_event_loop, run):
    _public.__module__ = __name__
del _public


def __dir__() -> list[str]:
    return sorted(__all__)
