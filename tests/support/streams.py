"""Servers of asyncio's streams, over TCP. Those over UNIX sockets and TLS are made of this one. No test lives here."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from support.peers import HOST

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Streams:
    """A server whose connections `handler` serves. After the block the server is closed, and every handler is done.

    The block gets what a client needs to connect.
    """

    def __init__(self, handler: Handler, **kwargs: Any) -> None:
        self.handler = handler
        self.kwargs = kwargs
        self.handled: list[Any] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.handled.append(asyncio.current_task())
        await self.handler(reader, writer)

    async def start(self) -> asyncio.Server:
        return await asyncio.start_server(self.handle, HOST, 0, **self.kwargs)

    def target(self) -> Any:
        """The address of the server."""
        return self.server.sockets[0].getsockname()

    async def __aenter__(self) -> Any:
        self.server = await self.start()
        return self.target()

    async def __aexit__(self, *exc_info: object) -> None:
        self.server.close()
        await asyncio.gather(*self.handled)
        await self.server.wait_closed()
