"""gunicorn with rloop's workers (`rloop.contrib.gunicorn`): the loop, reload, a worker that hangs, a graceful stop.

Each test starts gunicorn itself, once with each worker. rloop only: the workers are there to use rloop. The snippets of
docs/frameworks.md that use gunicorn are run by test_snippets.py.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from support.http import get, request

pytest.importorskip("rloop", exc_type=ModuleNotFoundError)
pytest.importorskip("gunicorn")

# A worker may take a second to notice what happens, and gunicorn another one.
pytestmark = pytest.mark.time_limit(90)
LIMIT = 40

# The packages that a worker needs beside gunicorn.
NEEDS = {"asgi": "gunicorn.workers.gasgi", "uvicorn": "uvicorn_worker", "aiohttp": "aiohttp"}

# What both applications share. They know three paths: `/` tells who answers, `/block` blocks the loop and answers
# nothing, and `/slow` ends its answer once the test has made a file.
COMMON = """
import asyncio, os, pathlib, time

VERSION = 1
RELEASE = pathlib.Path(__file__).with_name("release")

def who():
    return f"{VERSION} {os.getpid()} {type(asyncio.get_running_loop())}"

async def released():
    while not RELEASE.exists():
        await asyncio.sleep(0.01)
"""

ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/block":
        time.sleep(1000)
    if scope["path"] == "/slow":
        await send({"type": "http.response.body", "body": b"begin ", "more_body": True})
        await released()
    await send({"type": "http.response.body", "body": who().encode()})
"""

AIOHTTP = """
from aiohttp import web

async def answer(request):
    return web.Response(text=who())

async def block(request):
    time.sleep(1000)

async def slow(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begin ")
    await released()
    await response.write(who().encode())
    return response

app = web.Application()
app.router.add_get("/", answer)
app.router.add_get("/block", block)
app.router.add_get("/slow", slow)
"""


class Gunicorn:
    """A gunicorn with one worker. It gets a socket that listens already, so that no test waits for its start."""

    def __init__(self, folder, kind, *options):
        self.folder = folder
        self.log = folder / "log"
        self.write_app(kind, 1)
        with socket.create_server(("127.0.0.1", 0)) as listener, open(self.log, "w") as log:
            self.port = listener.getsockname()[1]
            command = [
                sys.executable,
                "-W",
                "error",
                "-m",
                "gunicorn",
                "-k",
                f"egg:rloop#{kind}",
                "--no-control-socket",
            ]
            command += ["-b", f"fd://{listener.fileno()}", *options, "app:app"]
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )

    def write_app(self, kind, version):
        source = COMMON.replace("VERSION = 1", f"VERSION = {version}")
        (self.folder / "app.py").write_text(source + (AIOHTTP if kind == "aiohttp" else ASGI))

    def who(self):
        """(version of the application, process id, class of the loop) of whoever answers."""
        version, pid, loop = get(self.port).split(" ", 2)
        return int(version), int(pid), loop

    def wait_for(self, text):
        """Until gunicorn has logged a text."""
        deadline = time.monotonic() + LIMIT
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def wait_for_end_of(self, pid):
        deadline = time.monotonic() + LIMIT
        while os.path.exists(f"/proc/{pid}"):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def stop(self):
        """The exit status after a graceful stop."""
        self.process.terminate()
        return self.process.wait(LIMIT)

    def troubles(self):
        """Lines of the log about warnings and exceptions. gunicorn warns of itself while it takes over the socket."""
        _, _, log = self.log.read_text().partition("Listening at")
        assert log
        return [line for line in log.splitlines() if "Traceback" in line or "Warning" in line or "ERROR" in line]


@pytest.fixture(params=list(NEEDS))
def start(request, tmp_path):
    """Starts gunicorn with one of the workers, and ends it after the test."""
    pytest.importorskip(NEEDS[request.param])
    started = []

    def start(*options):
        started.append(Gunicorn(tmp_path, request.param, *options))
        return started[0], request.param

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


LOOP = "<class 'rloop.Loop'>"


def test_serves(start):
    server, _ = start()
    version, pid, loop = server.who()
    assert (version, loop) == (1, LOOP)
    assert pid != server.process.pid
    assert server.stop() == 0
    assert server.troubles() == []


def test_reload(start):
    """SIGHUP: a new worker has the new application, and the old one ends. The listening socket stays."""
    server, kind = start()
    _, old, _ = server.who()
    server.write_app(kind, 2)
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_end_of(old)
    version, new, loop = server.who()
    assert (version, loop) == (2, LOOP)
    assert new != old
    assert server.stop() == 0
    assert server.troubles() == []


def test_worker_that_hangs_is_replaced(start):
    server, _ = start("--timeout", "3")
    _, old, _ = server.who()
    with pytest.raises((OSError, http.client.HTTPException)):
        get(server.port, "/block")
    server.wait_for(f"WORKER TIMEOUT (pid:{old})")
    server.wait_for_end_of(old)
    version, new, loop = server.who()
    assert (version, loop) == (1, LOOP)
    assert new != old
    assert server.stop() == 0


def test_graceful_stop(start):
    """SIGTERM: an answer that has begun is finished, then the worker ends, and gunicorn does."""
    server, _ = start()
    _, pid, _ = server.who()
    with request(server.port, "/slow") as response:
        assert response.read(6) == b"begin "
        server.process.terminate()
        server.wait_for("Handling signal: term")
        (server.folder / "release").touch()
        assert response.read().decode() == f"1 {pid} {LOOP}"
    assert server.process.wait(LIMIT) == 0
    assert not os.path.exists(f"/proc/{pid}")
    assert server.troubles() == []


@pytest.mark.parametrize(
    ("hidden", "module"), [("", "uvicorn_worker"), ("sys.modules['uvicorn_worker'] = None", "uvicorn.workers")]
)
def test_where_uvicorn_has_its_worker(hidden, module):
    """In a package of its own, or in uvicorn itself, which warns that the package should be used."""
    pytest.importorskip(NEEDS["uvicorn"])
    source = f"""
import sys
{hidden}
from rloop.contrib.gunicorn.uvicorn import UvicornWorker
print(UvicornWorker.__mro__[1].__module__.partition("._")[0], UvicornWorker.CONFIG_KWARGS)
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout == f"{module} {{'loop': 'rloop:new_event_loop', 'http': 'auto'}}\n"
