"""The ASGI application that the demo serves. It is plain Starlette, as a user would write it.

Nothing here chooses an event loop. The application only reports on which loop it runs.
"""

import asyncio
import hashlib
import itertools
import signal
import sys

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

# After its graceful stop uvicorn sends itself SIGTERM again, for the handler that was installed before its own. With
# this handler the process ends with status 0. Without it, the signal would kill the process.
signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))

jobs: dict[int, asyncio.Future[str]] = {}
job_numbers = itertools.count(1)
produced = {"chunks": 0}


def piece(number, size):
    """The chunk with this number. The client makes the same one, to compare."""
    return (b"%08d" % number) * (size // 8)


async def square(request):
    number = int(request.query_params["number"])
    loop = type(asyncio.get_running_loop())
    return JSONResponse(
        {
            "number": number,
            "square": number * number,
            "loop": f"{loop.__module__}.{loop.__qualname__}",
            "client_port": request.client.port,
        }
    )


async def digest(request):
    """Reads the body as it comes in."""
    sha, size = hashlib.sha256(), 0
    async for chunk in request.stream():
        sha.update(chunk)
        size += len(chunk)
    return JSONResponse({"sha256": sha.hexdigest(), "size": size})


async def stream(request):
    """A body of many chunks, of unknown length to the client."""
    chunks, size = int(request.query_params["chunks"]), int(request.query_params["size"])

    async def body():
        for number in range(chunks):
            produced["chunks"] = number + 1
            yield piece(number, size)

    return StreamingResponse(body(), media_type="application/octet-stream")


async def stream_progress(request):
    return JSONResponse(produced)


async def slow(request):
    """An answer that takes about a second. A graceful shutdown has to wait for it."""

    async def body():
        for number in range(10):
            yield piece(number, 1024)
            await asyncio.sleep(0.1)

    return StreamingResponse(body())


async def start_job(request):
    """Answers at once. The work is done after the answer has been sent."""
    job, body = next(job_numbers), await request.body()
    result = jobs[job] = asyncio.get_running_loop().create_future()

    async def work():
        result.set_result(await run_in_threadpool(lambda: hashlib.sha256(body).hexdigest()))

    return JSONResponse({"job": job}, status_code=202, background=BackgroundTask(work))


async def finish_job(request):
    """Answers when the background task has left its result."""
    result = jobs.pop(request.path_params["job"])
    return JSONResponse({"sha256": await asyncio.wait_for(result, timeout=5)})


async def plain(scope, receive, send):
    """The shortest possible ASGI application, so that the server and the loop are what is measured."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"13")]})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


async def echo(websocket):
    await websocket.accept()
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        if message.get("text") == "please close":
            await websocket.close(code=4001, reason="as you wish")
            return
        if message.get("text") is not None:
            await websocket.send_text(message["text"])
        else:
            await websocket.send_bytes(message["bytes"])


app = Starlette(
    routes=[
        Route("/square", square),
        Route("/digest", digest, methods=["POST"]),
        Route("/stream", stream),
        Route("/stream/progress", stream_progress),
        Route("/slow", slow),
        Route("/jobs", start_job, methods=["POST"]),
        Route("/jobs/{job:int}", finish_job),
        Mount("/plain", plain),
        WebSocketRoute("/echo", echo),
    ]
)
