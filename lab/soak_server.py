"""The servers of soak.py, all of them on one loop: uvicorn, aiohttp, asyncio's streams, protocols over TCP, UNIX
sockets and TLS, and a UDP endpoint. soak_chores.py adds what the program does by itself meanwhile.

`python lab/soak_server.py LOOP SEED LONGEST_TURN` prints a line of JSON, {"targets": {...}}, and serves until SIGTERM,
which ends it with status 0. It reads commands on standard input, and answers each with a line of JSON on standard
output: "go" starts the chores, "storm 0.5" takes away the file descriptors for half a second, "pause" ends the chores
and says what they did, "census" says what is alive. Nothing is judged here.
"""

import asyncio
import contextlib
import ctypes
import errno
import gc
import importlib
import json
import logging
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import warnings
from collections import Counter

import uvicorn
from aiohttp import web

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))

from soak_chores import Chores

from support import certificates

KEEP_ALIVE = 600  # seconds, so long that no server closes an idle connection by itself
THREADS = 4  # of the default executor, all of them made at the start
EXAMPLES = 5  # errors of a kind that are shown in full


def loop_factory(name):
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    return importlib.import_module(name).new_event_loop


def listen():
    # The protocol must be given: asyncio sets TCP_NODELAY only on sockets whose `proto` is IPPROTO_TCP.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    sock.listen(512)
    return sock


class Errors(logging.Handler):
    """What went wrong in this process, by kind: reports to the exception handler, and warnings that were logged.

    An error that only says that there are no file descriptors is expected in a storm, and counted apart.
    """

    def __init__(self):
        super().__init__(logging.WARNING)
        self.wrong: Counter[str] = Counter()
        self.expected: Counter[str] = Counter()
        self.storms = 0

    def add(self, what, error):
        if self.storms and lacks_files(error):
            self.expected[f"{what}: no file descriptors"] += 1
        elif sum(self.wrong.values()) < EXAMPLES * 10:
            self.wrong[f"{what}: {error!r}"] += 1

    def of_loop(self, loop, context):
        self.add(f"exception handler, {context.get('message')}", context.get("exception"))

    def of_watch(self, stall):
        """A turn that lasted too long, by `rloop.watch`."""
        self.add(f"a turn of {stall.duration:.3f} s, {stall.stack}", None)

    def emit(self, record):
        self.add(f"log of {record.name}, {record.getMessage()[:500]}", record.exc_info and record.exc_info[1])


def lacks_files(error):
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__ or error.__context__
    return False


class EchoLine(asyncio.Protocol):
    """Sends every line back. It closes after "bye", aborts after "abort", and sends a lot after "much SIZE"."""

    def __init__(self):
        self.line = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.line += data
        if not self.line.endswith(b"\n"):
            return
        line, self.line = self.line, b""
        if line.startswith(b"abort"):
            self.transport.abort()
        elif line.startswith(b"much"):
            self.transport.write(bytes(int(line.split()[1])))
        else:
            self.transport.write(line)
            if line.startswith(b"bye"):
                self.transport.close()


class EchoDatagram(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


async def app(scope, receive, send):
    """The ASGI application: echoes requests and WebSocket messages."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": message["bytes"]})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Uvicorn(uvicorn.Server):
    """A uvicorn that leaves signals to the program that it is part of."""

    def capture_signals(self):
        return contextlib.nullcontext()


@contextlib.asynccontextmanager
async def serving_uvicorn(sock):
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, log_level="warning", access_log=False, timeout_keep_alive=KEEP_ALIVE
    )
    server = Uvicorn(config)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield
    server.should_exit = True
    await task


async def echo_message(request):
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    with contextlib.suppress(ConnectionError):  # the client has gone
        async for message in socket:
            await socket.send_bytes(message.data)
    return socket


async def echo_body(request):
    return web.Response(body=await request.read())


@contextlib.asynccontextmanager
async def serving_aiohttp(sock):
    application = web.Application()
    application.router.add_post("/", echo_body)
    application.router.add_get("/ws", echo_message)
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=KEEP_ALIVE, shutdown_timeout=5)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    yield
    await runner.cleanup()


async def echo_request(reader, writer):
    """Just enough of HTTP/1.1 for several requests on a connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length)
            writer.write(body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client has gone
    finally:
        writer.close()


def forget_broken_connections():
    """When a connection breaks before its response is over, uvicorn still sets the timer that would close it when it
    has been idle. The timer keeps the protocol and the transport. It is cancelled here, so that they can be counted."""
    for thing in gc.get_objects():
        if type(thing).__name__ == "HttpToolsProtocol" and thing.transport.is_closing():
            thing._unset_keepalive_if_required()


def watch(loop_name, seconds, on_stall):
    """Watch rloop's loops for turns that last so long, until `stop()` of the result is called. 0: no watch."""
    return importlib.import_module("rloop").watch(seconds, on_stall) if loop_name == "rloop" and seconds else None


class Program:
    """The whole process: its servers, its chores, and the answers to its parent's commands."""

    def __init__(self, loop_name, seed, longest_turn):
        self.loop_name = loop_name
        self.longest_turn = longest_turn
        self.random = random.Random(seed)
        self.errors = Errors()
        self.chores = None
        self.watch = None

    async def main(self):
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self.errors.of_loop)
        logging.getLogger().addHandler(self.errors)
        # The stalls, which `of_watch` is told of as well, are warnings.
        logging.getLogger("rloop").setLevel(logging.ERROR)
        self.stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, self.stop.set)
        commands: asyncio.Queue[str] = asyncio.Queue()
        loop.add_reader(sys.stdin, lambda: commands.put_nowait(sys.stdin.readline()))
        async with contextlib.AsyncExitStack() as stack:
            targets = await self.serve(loop, stack)
            print(json.dumps({"targets": targets}), flush=True)
            answering = asyncio.create_task(self.answer(commands))
            await self.stop.wait()
            answering.cancel()
            loop.remove_reader(sys.stdin)
        await asyncio.gather(answering, return_exceptions=True)
        if self.errors.wrong:
            print(f"after the last command: {dict(self.errors.wrong)}", file=sys.stderr)

    async def serve(self, loop, stack):
        """Starts all servers; they end with the stack. Returns where they are."""
        socks = {name: listen() for name in ("lines", "tls", "uvicorn", "aiohttp", "streams")}
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        servers = [
            await loop.create_server(EchoLine, sock=socks["lines"], backlog=512),
            await loop.create_server(EchoLine, sock=socks["tls"], backlog=512, ssl=certificates.server_context()),
            await loop.create_unix_server(EchoLine, os.path.join(folder, "unix"), backlog=512),
            await asyncio.start_server(echo_request, sock=socks["streams"], backlog=512),
        ]
        for server in servers:
            stack.callback(server.close)
        endpoint, _ = await loop.create_datagram_endpoint(EchoDatagram, ("127.0.0.1", 0))
        stack.callback(endpoint.close)
        await stack.enter_async_context(serving_uvicorn(socks["uvicorn"]))
        await stack.enter_async_context(serving_aiohttp(socks["aiohttp"]))
        targets = {name: sock.getsockname()[1] for name, sock in socks.items()}
        targets |= {"unix": os.path.join(folder, "unix"), "udp": endpoint.get_extra_info("sockname")[1]}
        self.chores = Chores(targets, self.errors, self.random, loop_factory(self.loop_name), THREADS)
        await self.chores.warm_up()
        stack.push_async_callback(self.chores.pause)
        return targets

    async def answer(self, commands):
        while line := await commands.get():
            command, *arguments = line.split()
            if command == "go":
                self.watch = watch(self.loop_name, self.longest_turn, self.errors.of_watch)
                said = self.chores.go()
            elif command == "storm":
                said = await self.storm(float(arguments[0]))
            elif command == "pause":
                said = await self.chores.pause()
                if self.watch:
                    self.watch.stop()  # the census takes its time
            else:
                said = self.census()
            print(json.dumps(said), flush=True)
        self.stop.set()  # the parent has gone

    async def storm(self, seconds):
        """For some time this process can open two or three files at most."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = len(os.listdir("/proc/self/fd"))
        self.errors.storms += 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 2, limits[1]))
        await asyncio.sleep(seconds)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        return {"files": used}

    def census(self):
        """What is alive, once nothing is going on any more."""
        forget_broken_connections()
        for _ in range(3):
            gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        kinds = Counter(type(thing).__name__ for thing in gc.get_objects())
        said = {
            "tasks": len(asyncio.all_tasks()),
            "transports": sum(number for name, number in kinds.items() if name.endswith("Transport")),
            "protocols": kinds["EchoLine"],
            "wrong": self.errors.wrong,
            "expected": self.errors.expected,
        }
        self.errors.wrong, self.errors.expected, self.errors.storms = Counter(), Counter(), 0
        return said


def main(loop_name, seed, longest_turn):
    # The certificates' folder goes with the process.
    warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)
    program = Program(loop_name, int(seed), float(longest_turn))
    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        runner.run(program.main())


if __name__ == "__main__":
    main(*sys.argv[1:])
