"""`loop.getaddrinfo`: an address literal is answered at once, without a thread.

Names are looked up by asyncio's own code on an executor (`_executors.py`).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from ._base import LoopBase

if TYPE_CHECKING:
    from ._rloop import _AddressInfo

# The original function. Programs and tests put their own in its place, which must be asked then.
_getaddrinfo = socket.getaddrinfo


class GetaddrinfoMethods(LoopBase):
    """The part of `Loop` with `getaddrinfo`."""

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
