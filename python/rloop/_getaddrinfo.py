"""`loop.getaddrinfo`, and what asyncio does before it calls that: an address literal is answered at once, natively.

Names are looked up by asyncio's own code on an executor (`_executors.py`).
"""

from __future__ import annotations

import socket
from asyncio import base_events
from typing import TYPE_CHECKING, Any

from . import _rloop
from ._base import LoopBase

if TYPE_CHECKING:
    from ._rloop import _AddressInfo

# The original functions. Programs and tests put their own in their places, which must be asked then.
_getaddrinfo = socket.getaddrinfo
_inet_pton = socket.inet_pton
_ipaddr_info = base_events._ipaddr_info  # type: ignore[attr-defined]


class GetaddrinfoMethods(LoopBase):
    """The part of `Loop` with `getaddrinfo`."""

    async def _ensure_resolved(
        self,
        address: Any,
        *,
        family: int = 0,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        flags: int = 0,
        loop: LoopBase,
    ) -> list[tuple[Any, ...]]:
        """`BaseEventLoop._ensure_resolved`, which asyncio calls once or more for each connection that it makes."""
        if (
            base_events.socket is socket  # type: ignore[attr-defined, comparison-overlap]
            and socket.inet_pton is _inet_pton
            and base_events._ipaddr_info is _ipaddr_info  # type: ignore[attr-defined]
        ):
            resolved = _rloop.resolved(address, family, type, proto)
            if resolved is not None:
                return resolved
        return await super()._ensure_resolved(address, family=family, type=type, proto=proto, flags=flags, loop=loop)

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[_AddressInfo]:
        """Return what `socket.getaddrinfo` returns: for an address at once, for a name by the default executor."""
        # asyncio uses its executor for literals, too. After `shutdown_default_executor()` both must raise.
        if socket.getaddrinfo is _getaddrinfo and not self._executor_shutdown_called:
            answer = self._literal_addrinfo(host, port, family, type, proto, flags)
            if answer is not None:
                return answer
        return await super().getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)
