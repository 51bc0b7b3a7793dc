"""Servers of asyncio's streams, over TCP. Those over UNIX sockets and TLS are made of this one. No test lives here."""

import asyncio

from support.peers import HOST


class Streams:
    """A server whose connections `handler` serves. After the block the server is closed, and every handler is done.

    The block gets what a client needs to connect.
    """

    def __init__(self, handler, **kwargs):
        self.handler = handler
        self.kwargs = kwargs
        self.handled = []

    async def handle(self, reader, writer):
        self.handled.append(asyncio.current_task())
        await self.handler(reader, writer)

    async def start(self):
        return await asyncio.start_server(self.handle, HOST, 0, **self.kwargs)

    def target(self):
        """The address of the server."""
        return self.server.sockets[0].getsockname()

    async def __aenter__(self):
        self.server = await self.start()
        return self.target()

    async def __aexit__(self, *exc_info):
        self.server.close()
        await asyncio.gather(*self.handled)
        await self.server.wait_closed()
