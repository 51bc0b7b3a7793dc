"""rloop: an asyncio event loop written in Rust.

    asyncio.run(main(), loop_factory=rloop.new_event_loop)

Only the package's names live here. The loop is `_loop.py` over the extension module `_rloop`; what is deprecated from
the start, because asyncio is giving it up (event loop policies), is `_policy.py` and loaded when asked for.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

from ._loop import Loop, new_event_loop, run
from ._rloop import __version__

if TYPE_CHECKING:
    if sys.version_info < (3, 16):
        from ._policy import EventLoopPolicy as EventLoopPolicy
        from ._policy import install as install

__all__ = ("Loop", "__version__", "new_event_loop", "run")

# Policies are deprecated in Python 3.14 and gone in 3.16: so are these two.
_POLICY_NAMES = frozenset({"EventLoopPolicy", "install"}) if sys.version_info < (3, 16) else frozenset()


# Hidden from type checkers, for which it would make every misspelt name right.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _POLICY_NAMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        warnings.warn(
            f"rloop.{name} is deprecated, as asyncio's event loop policies are: "
            "pass loop_factory=rloop.new_event_loop to asyncio.run() or asyncio.Runner()",
            DeprecationWarning,
            stacklevel=2,
        )
        from . import _policy

        return getattr(_policy, name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_POLICY_NAMES})
