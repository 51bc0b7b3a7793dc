"""Names: `getaddrinfo` without a thread for what is an address already."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from ._base import LoopBase

if TYPE_CHECKING:
    from ._rloop import _AddressInfo

# Programs and tests put functions of their own in its place, which are to be asked then.
_getaddrinfo = socket.getaddrinfo


class NameMethods(LoopBase):
    """A part of `Loop`."""

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
        """Ask what `socket.getaddrinfo` answers: for an address at once, for a name on the default executor."""
        # What asyncio would refuse to do on its executor is refused here as well.
        if socket.getaddrinfo is _getaddrinfo and not self._executor_shutdown_called:
            answer = self._literal_addrinfo(host, port, family, type, proto, flags)
            if answer is not None:
                return answer
        return await super().getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)
