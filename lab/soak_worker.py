"""The uvicorn worker of soak.py, and the supervisor that replaces it at each SIGHUP.

`python lab/soak_worker.py LOOP` prints {"worker": PORT} and serves until SIGTERM. Nothing is checked here.
"""

import ctypes
import json
import os
import signal
import sys

import uvicorn
from uvicorn.supervisors import Multiprocess

PR_SET_PDEATHSIG = 1


async def app(scope, receive, send):
    """Echoes a POST, and tells the process that serves for a GET."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["method"] == "GET":
        body = b"%d" % os.getpid()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def main(loop_name):
    config = uvicorn.Config(
        "soak_worker:app",
        loop="asyncio" if loop_name == "asyncio" else f"{loop_name}:new_event_loop",
        lifespan="off",
        log_level="error",
        access_log=False,
        port=0,
        workers=1,
    )
    with config.bind_socket() as sock:
        print(json.dumps({"worker": sock.getsockname()[1]}), flush=True)
        Multiprocess(config, sockets=[sock]).run()


if __name__ == "__main__":
    main(sys.argv[1])
else:
    # A worker ends when its supervisor does, even if that was killed.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
