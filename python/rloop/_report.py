"""Texts of reports, where asyncio's helper for them differs by Python version."""

from __future__ import annotations

import inspect
from asyncio import format_helpers
from typing import Any

# 3.13 (and some patch releases before it) show arguments in debug mode only.
_HAS_DEBUG = "debug" in inspect.signature(format_helpers._format_callback_source).parameters


# `| Any`: a cancelled handle has None, which asyncio's function takes although its type does not say so.
def format_callback(callback: object, args: tuple[Any, ...] | Any, debug: bool) -> str:
    """Name a callback with its source line, as asyncio does in the repr of handles and in error messages."""
    if _HAS_DEBUG:
        return format_helpers._format_callback_source(
            callback,
            args,
            debug=debug,  # type: ignore[call-arg, unused-ignore]
        )
    return format_helpers._format_callback_source(callback, args)
