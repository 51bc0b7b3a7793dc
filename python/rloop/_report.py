"""The text that names a callback in reports. asyncio's function for it differs between Python versions."""

from __future__ import annotations

import inspect
from asyncio import format_helpers
from typing import Any

# Python 3.13, and some patch releases before it, show the arguments in debug mode only.
_HAS_DEBUG = "debug" in inspect.signature(format_helpers._format_callback_source).parameters


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
