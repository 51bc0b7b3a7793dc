"""uvicorn on rloop: give uvicorn the name of the function that makes the loop.

On the command line: `uvicorn --app-dir examples with_uvicorn:app --loop rloop:new_event_loop`.
In a program, as below: `python examples/with_uvicorn.py [PORT]` and then `curl http://127.0.0.1:8000/`.
"""

import asyncio
import sys

import uvicorn


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    text = f"Hello from {type(asyncio.get_running_loop()).__module__}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    uvicorn.run(app, host="127.0.0.1", port=port, loop="rloop:new_event_loop", lifespan="off")
