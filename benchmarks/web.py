"""Web servers on the running loop: uvicorn and aiohttp, each with the shortest application that answers a request with
its body, and WebSockets of aiohttp and of the library `websockets`, which send back each message. Before the answer the
applications of HTTP work as work.py says. No loop is chosen here, and nothing is measured.

The packages are imported when a server starts, because the other kinds of echo_server.py run without them.
"""

import asyncio
import contextlib
import socket

import work


@contextlib.asynccontextmanager
async def uvicorn(address, backlog):
    """Serves in the `with` block, whose target is the port."""
    import uvicorn

    async def application(scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        work.use()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(application, http="httptools", lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(address, backlog=backlog) as listener:
        serving = asyncio.ensure_future(server.serve([listener]))
        port = listener.getsockname()[1]
        while not server.started:
            if serving.done():
                await serving
                raise RuntimeError("uvicorn has ended instead of serving")
            await asyncio.sleep(0.01)
        try:
            yield port
        finally:
            server.should_exit = server.force_exit = True
            await serving


@contextlib.asynccontextmanager
async def _aiohttp(address, backlog, method, handler):
    from aiohttp import web

    application = web.Application()
    application.router.add_route(method, "/", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, *address, backlog=backlog)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def aiohttp(address, backlog):
    """Serves in the `with` block, whose target is the port."""
    from aiohttp import web

    async def answer(request):
        body = await request.read()
        work.use()
        return web.Response(body=body)

    return _aiohttp(address, backlog, "POST", answer)


def aiohttp_websockets(address, backlog):
    """Serves in the `with` block, whose target is the port."""
    from aiohttp import web

    async def echo(request):
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        async for message in websocket:
            await websocket.send_bytes(message.data)
        return websocket

    return _aiohttp(address, backlog, "GET", echo)


@contextlib.asynccontextmanager
async def websockets(address, backlog):
    """Serves in the `with` block, whose target is the port."""
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosed

    async def echo(connection):
        # The clients of the benchmark leave without a word.
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)

    # Without pings, which the load generator does not expect.
    async with serve(echo, *address, backlog=backlog, ping_interval=None, close_timeout=1) as server:
        yield server.sockets[0].getsockname()[1]


SERVERS = {
    "uvicorn": uvicorn,
    "aiohttp": aiohttp,
    "websockets": websockets,
    "aiohttp websockets": aiohttp_websockets,
}
# The option of the load generator for each of them.
LOAD = {name: "--websocket" if "websockets" in name else "--http" for name in SERVERS}
