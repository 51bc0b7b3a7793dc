"""Web servers on the running loop: uvicorn and aiohttp, each with the shortest application that answers a request with
its body. Before the answer the application works as work.py says. No loop is chosen here, and nothing is measured.

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
async def aiohttp(address, backlog):
    """Serves in the `with` block, whose target is the port."""
    from aiohttp import web

    async def answer(request):
        body = await request.read()
        work.use()
        return web.Response(body=body)

    application = web.Application()
    application.router.add_post("/", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, *address, backlog=backlog)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


SERVERS = {"uvicorn": uvicorn, "aiohttp": aiohttp}
