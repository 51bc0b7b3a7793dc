"""The ASGI application that the demo serves: plain Starlette, as a user would write it.

Nothing here knows or chooses an event loop; the application only reports which one it runs on.
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

# uvicorn raises SIGTERM once more after it has stopped gracefully, and hands it to the handler that was there
# before: with this one the process ends with status 0 instead of "killed by signal 15".
signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))

jobs: dict[int, asyncio.Future[str]] = {}
job_numbers = itertools.count(1)
produced = {"chunks": 0}


def piece(number, size):
    """The chunk of that number: the client builds the same one to compare."""
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
    """About a second of answer: what a graceful shutdown has to wait for."""

    async def body():
        for number in range(10):
            yield piece(number, 1024)
            await asyncio.sleep(0.1)

    return StreamingResponse(body())


async def start_job(request):
    """Answers at once; the work is done after the answer has gone out."""
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
    """The shortest possible ASGI application: what is measured with it is the server and the loop."""
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
