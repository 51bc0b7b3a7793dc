"""Counts how many transports have ended, how many are left, and how much memory is used. No test lives here."""

import asyncio
import gc
import os
import weakref
from typing import Any


class Counting:
    """Counts transports that have ended, and knows which of all its transports are still alive."""

    def __init__(self) -> None:
        self.over = 0
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()
        self.changed = asyncio.Event()

    def made(self, transport: Any) -> None:
        self.alive.add(transport)

    def lost(self) -> None:
        self.over += 1
        self.changed.set()

    async def wait_for(self, count: int) -> None:
        while self.over < count:
            self.changed.clear()
            await self.changed.wait()


class CountedEcho(asyncio.Protocol):
    def __init__(self, counting: Counting) -> None:
        self.counting = counting

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.counting.made(transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.counting.lost()


class CountedClient(CountedEcho):
    """Sends one message, closes when it comes back."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.write(b"hello")

    def data_received(self, data: bytes) -> None:
        self.transport.close()


def resident() -> int:
    """Bytes of memory that the process occupies."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def transports_alive() -> int:
    # By the type's name: isinstance asks objects for their __class__, which some weak proxy may not survive.
    return sum(type(thing).__name__.endswith("Transport") for thing in gc.get_objects())
