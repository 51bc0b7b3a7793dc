"""What a scenario of the faults has around it: its loop, its peers, and the errors that it was told of.

A scenario ends in one of three ways. It is done, and then nothing was lost. Or a call has raised an OSError. Or an
error was told to a protocol or to the exception handler, and nothing more comes (`Ended`). Anything else is a problem.
No scenario lives here; those are in `faults_scenarios.py`.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

# Seconds until a scenario that was told of no error counts as hanging.
LIMIT = 20.0
# Seconds to go on after an error was told. What comes by itself comes much earlier.
GRACE = 0.03
# The same after an accept that is tried again after a second.
RETRY = 1.5
RETRIED = ("socket.accept() out of system resource", "Error: socket.accept() failed")


class Ended(Exception):
    """An error was told, and nothing more comes."""


class Problem(Exception):
    """Something that must not happen."""


class World:
    """The loop of one case, and all that happened on it."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop
        self.peers: list[Peer | Datagrams] = []
        # Errors that were told.
        self.troubles: list[BaseException] = []
        self.problems: list[str] = []
        self.grace = GRACE
        # When the first of them was told.
        self.since = 0.0
        # Functions that close what the scenario has opened, last first.
        self.closing: list[Callable[[], object]] = []
        # Transports that are to be gone at the end.
        self.transports: list[weakref.ref[Any]] = []
        self._happened: asyncio.Future[None] | None = None

    # --- what happens ---

    def poke(self) -> None:
        if self._happened is not None and not self._happened.done():
            self._happened.set_result(None)

    def told(self, error: BaseException | None, where: str) -> None:
        """An error came by a protocol's method or the exception handler."""
        if error is None:
            return
        if not isinstance(error, OSError):
            self.problems.append(f"{where}: {error!r}")
        if not self.troubles:
            self.since = self.loop.time()
        self.troubles.append(error)
        self.poke()

    def report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The loop's exception handler."""
        if context["message"] in RETRIED:
            self.grace = RETRY
        error = context.get("exception")
        if error is None:
            self.problems.append(f"reported without an exception: {context}")
        self.told(error, context["message"])

    # --- what a scenario calls ---

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition that a protocol's method makes true."""
        started = self.loop.time()
        while not condition():
            self._happened = self.loop.create_future()
            limit = self.grace if self.troubles else LIMIT
            left = max(started, self.since) + limit - self.loop.time()
            if left > 0:
                await asyncio.wait([self._happened], timeout=left)
            elif self.troubles:
                raise Ended
            else:
                raise Problem("hangs")

    async def limited(self, waiting: Coroutine[Any, Any, Result]) -> Result:
        """Wait for something that protocols do not tell of."""
        task = self.loop.create_task(waiting)
        task.add_done_callback(lambda task: self.poke())
        try:
            await self.until(task.done)
        except BaseException:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()
            raise
        return task.result()

    def peer(self) -> Peer:
        return Peer(self)

    def keep(self, transport: Any) -> None:
        self.transports.append(weakref.ref(transport))

    # --- the end ---

    async def teardown(self) -> None:
        """End everything. No fault happens here any more."""
        while self.closing:
            try:
                self.closing.pop()()
            except OSError as error:
                self.problems.append(f"closing raises {error!r}")
        for peer in self.peers:
            if peer.transport is not None and not peer.lost and not peer.handed_over:
                # A pipe for reading has no abort().
                getattr(peer.transport, "abort", peer.transport.close)()
        self.troubles.append(OSError("the scenario has ended"))
        self.grace = LIMIT
        try:
            left = [peer for peer in self.peers if peer.transport is not None and not peer.handed_over]
            await self.until(lambda: all(peer.lost for peer in left))
        except Ended:
            self.problems.append("connection_lost is missing")
        if any(peer.transport is None for peer in self.peers):
            # A connection that was accepted just now may still be in its handshake, which ends with its client.
            await asyncio.sleep(GRACE)

    def verify(self) -> None:
        """Check what every peer has got."""
        for peer in self.peers:
            peer.verify()
            self.problems += peer.problems
            peer.transport = None


class Peer(asyncio.Protocol):
    """One end of a stream. `other` is the other end, if that is one of ours."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.transport: Any = None
        self.other: Peer | None = None
        self.sent = bytearray()
        self.received = bytearray()
        self.ended = False
        self.lost = 0
        self.writable = True
        # What to do with received data.
        self.on_data: Callable[[bytes], object] = lambda data: None
        self.problems: list[str] = []
        # True once start_tls has taken the transport, or was to take it: who hears of its end then is not looked at.
        self.handed_over = False
        world.peers.append(self)

    def connection_made(self, transport: Any) -> None:
        if self.transport is not None:
            self.problems.append("connection_made twice")
        self.transport = transport
        self.world.keep(transport)
        self.world.poke()

    def data_received(self, data: bytes) -> None:
        if self.ended or self.lost:
            self.problems.append("data after the end")
        self.received += data
        self.on_data(data)
        self.world.poke()

    def eof_received(self) -> bool:
        if self.ended or self.lost:
            self.problems.append("a second end")
        self.ended = True
        self.world.poke()
        return False

    def pause_writing(self) -> None:
        if not self.writable:
            self.problems.append("pause_writing twice")
        self.writable = False
        self.world.poke()

    def resume_writing(self) -> None:
        if self.writable:
            self.problems.append("resume_writing without a pause")
        self.writable = True
        self.world.poke()

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost += 1
        self.world.told(error, "connection_lost")
        self.world.poke()

    def write(self, *pieces: bytes) -> None:
        """Write, in one call. What a transport takes while it is not closing has to arrive."""
        if not self.transport.is_closing():
            self.sent += b"".join(pieces)
        if len(pieces) == 1:
            self.transport.write(pieces[0])
        else:
            self.transport.writelines(pieces)

    def verify(self) -> None:
        if self.transport is not None and self.lost != 1 and not self.handed_over:
            self.problems.append(f"connection_lost was called {self.lost} times")
        if self.other is not None and not self.other.sent.startswith(self.received):
            self.problems.append("received what was not sent")


class Datagrams(asyncio.DatagramProtocol):
    """One datagram endpoint."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.transport: Any = None
        self.received: list[bytes] = []
        self.echoes = False
        self.lost = 0
        self.problems: list[str] = []
        self.handed_over = False
        world.peers.append(self)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.world.keep(transport)
        self.world.poke()

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.received.append(data)
        if self.echoes:
            self.transport.sendto(data, address)
        self.world.poke()

    def error_received(self, error: Exception) -> None:
        self.world.told(error, "error_received")

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost += 1
        self.world.told(error, "connection_lost")
        self.world.poke()

    def verify(self) -> None:
        if self.transport is not None and self.lost != 1:
            self.problems.append(f"connection_lost was called {self.lost} times")
        if any(not data or set(data) != {data[0]} for data in self.received):
            self.problems.append("a datagram was changed")
