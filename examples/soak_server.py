"""The child processes of soak.py: small echo servers by uvicorn, aiohttp, asyncio's streams and a protocol.

`python examples/soak_server.py uvicorn|aiohttp|streams|protocol LOOP` prints the port it listens on and serves until
SIGTERM, which ends it with status 0. Nothing is checked here.
"""

import asyncio
import gc
import importlib
import json
import signal
import socket
import sys
import weakref

KEEP_ALIVE = 600  # seconds, so long that no server closes an idle connection while soak.py runs


def loop_factory(name):
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    return importlib.import_module(name).new_event_loop


def listen():
    """A listening socket. The parent reads its port from our standard output."""
    # The protocol must be given: asyncio sets TCP_NODELAY only on sockets whose `proto` is IPPROTO_TCP.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    sock.listen(512)
    print(sock.getsockname()[1], flush=True)
    return sock


def serve_uvicorn(loop_name):
    import uvicorn

    async def echo(scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    # After its graceful stop uvicorn sends itself the signal again.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
    config = uvicorn.Config(
        echo,
        loop="asyncio" if loop_name == "asyncio" else f"{loop_name}:new_event_loop",
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
    )
    uvicorn.Server(config).run(sockets=[listen()])


def serve_aiohttp(loop_name):
    from aiohttp import web

    async def echo(request):
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_post("/", echo)
    loop = loop_factory(loop_name)()
    web.run_app(
        app,
        loop=loop,
        sock=listen(),
        print=None,
        access_log=None,
        keepalive_timeout=KEEP_ALIVE,
        shutdown_timeout=5,
    )


def serve_streams(loop_name):
    """Just enough of HTTP/1.1 for several requests on a connection."""

    async def echo(reader, writer):
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

    async def main():
        server = await asyncio.start_server(echo, sock=listen())
        serving = asyncio.ensure_future(server.serve_forever())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
        try:
            await serving
        except asyncio.CancelledError:
            pass

    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        runner.run(main())


class Census:
    """Which protocols and transports are alive, and how many connections have ended."""

    def __init__(self):
        self.ended = 0
        self.protocols: weakref.WeakSet[EchoLine] = weakref.WeakSet()
        self.transports: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()
        self.transport_type: type | None = None

    def count(self):
        gc.collect()
        # Each way of counting can miss objects that the other one finds, so the larger number counts.
        types = [type(thing) for thing in gc.get_objects()]
        return {
            "protocols": max(len(self.protocols), types.count(EchoLine)),
            "transports": max(len(self.transports), sum(kind is self.transport_type for kind in types)),
        }


class EchoLine(asyncio.Protocol):
    """Sends every line back; then closes after "bye", aborts after "abort"."""

    def __init__(self, census):
        self.census = census
        self.line = b""
        census.protocols.add(self)

    def connection_made(self, transport):
        self.transport = transport
        self.census.transports.add(transport)
        self.census.transport_type = type(transport)

    def data_received(self, data):
        self.line += data
        if not self.line.endswith(b"\n"):
            return
        if self.line.startswith(b"abort"):
            self.transport.abort()
            return
        self.transport.write(self.line)
        if self.line.startswith(b"bye"):
            self.transport.close()
        self.line = b""

    def connection_lost(self, exc):
        self.census.ended += 1


def serve_protocol(loop_name):
    """Answers each line "NUMBER" on standard input by what is alive once that many connections have ended."""
    census = Census()

    async def main():
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        commands: asyncio.Queue[str] = asyncio.Queue()
        loop.add_reader(sys.stdin, lambda: commands.put_nowait(sys.stdin.readline()))
        server = await loop.create_server(lambda: EchoLine(census), sock=listen(), backlog=512)
        reporter = asyncio.ensure_future(report(commands))
        await stop.wait()
        loop.remove_reader(sys.stdin)
        reporter.cancel()
        server.close()
        await server.wait_closed()

    async def report(commands):
        while True:
            number = int(await commands.get())
            while census.ended < number:  # the parent gives up on us if this takes too long
                await asyncio.sleep(0.01)
            await asyncio.sleep(0)  # until the callback that ended the last connection has returned
            print(json.dumps(census.count()), flush=True)

    with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
        runner.run(main())


SERVERS = {
    "uvicorn": serve_uvicorn,
    "aiohttp": serve_aiohttp,
    "streams": serve_streams,
    "protocol": serve_protocol,
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](sys.argv[2])
