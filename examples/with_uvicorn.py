"""An HTTP service under uvicorn: give uvicorn the name of the function that makes the loop. It stops gracefully.

In a program, as below: `python examples/with_uvicorn.py [PORT]` and then `curl http://127.0.0.1:8000/`.
On the command line: `uvicorn --app-dir examples with_uvicorn:app --loop rloop:new_event_loop`.

Ctrl+C or SIGTERM begins the stop. uvicorn accepts no more connections, waits for the answers that are under way (here
for 10 seconds at most), and then sends `lifespan.shutdown`, in which the application closes what it has opened.
`curl http://127.0.0.1:8000/slow` takes a second: stop the service meanwhile, and the answer still arrives.
"""

import asyncio
import sys

import uvicorn


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http":
        await answer(scope, send)
    else:
        raise NotImplementedError(scope["type"])


async def lifespan(receive, send):
    """The life of the application: one message at its start, one at its end."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            print(f"running on {type(asyncio.get_running_loop()).__module__}", flush=True)
            await send({"type": "lifespan.startup.complete"})
        else:
            print("closing what the application has opened", flush=True)
            await send({"type": "lifespan.shutdown.complete"})
            return


async def answer(scope, send):
    if scope["path"] == "/slow":
        await asyncio.sleep(1)
    text = f"Hello from {type(asyncio.get_running_loop()).__module__}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    uvicorn.run(app, host="127.0.0.1", port=port, loop="rloop:new_event_loop", timeout_graceful_shutdown=10)
