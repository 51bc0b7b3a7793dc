"""One echo server on one loop: `echo_server.py LOOP KIND [CHAIN | --work US]`. This is the process that is measured.

With CHAIN, a file with a certificate and its key, the kinds that use streams use TLS. With --work, the kinds "work",
"delays", "uvicorn" and "aiohttp" use this many microseconds of CPU time for each message. The server prints where it
listens: {"port": N}, {"path": P} or {"udp_port": N}, or {"lacking": TEXT} if the loop cannot serve this kind. It
answers each line on stdin with the CPU time that it has used and its resident memory; the kind "delays" adds the
figures of probes.py. It ends when stdin is closed.
"""

import asyncio
import contextlib
import json
import mmap
import os
import resource
import socket
import ssl
import sys
import tempfile

import loops
import probes
import web
import work

HOST = "127.0.0.1"
BACKLOG = 1024
BUFFER = 256 * 1024
STREAM_READ = 64 * 1024
HEAD = 64


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Worker(Echo):
    def data_received(self, data):
        work.use()
        self.transport.write(data)


class HeadAndBody(Echo):
    """Answers in two writes, as HTTP servers do."""

    def data_received(self, data):
        self.transport.write(data[:HEAD])
        self.transport.write(data[HEAD:])


class BufferedEcho(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        # Page-aligned, because the address decides how fast the kernel copies. malloc may give a bytearray a slow one.
        self.buffer = memoryview(mmap.mmap(-1, BUFFER))

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        # A copy, because the transport may keep the object and the buffer is used again.
        self.transport.write(bytes(self.buffer[:count]))

    def eof_received(self):
        return False


async def echo_stream(reader, writer):
    while data := await reader.read(STREAM_READ):
        writer.write(data)
        await writer.drain()
    writer.close()


class DatagramEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)


async def echo_socket(loop, sock):
    with sock, contextlib.suppress(ConnectionError):
        while data := await loop.sock_recv(sock, STREAM_READ):
            await loop.sock_sendall(sock, data)


async def accept_sockets(loop, listener):
    """Never ends."""
    echoing = set()
    while True:
        sock, _ = await loop.sock_accept(listener)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        echoing.add(loop.create_task(echo_socket(loop, sock)))


DELAYS = "delays"
PROTOCOLS = {
    "protocol": Echo,
    "work": Worker,
    DELAYS: Worker,
    "head+body": HeadAndBody,
    "buffered": BufferedEcho,
}
KINDS = (*PROTOCOLS, "streams", "unix", "unix streams", "udp", "sock", *web.SERVERS)


@contextlib.asynccontextmanager
async def serving(kind: str, context: ssl.SSLContext | None):
    """Serves in the `with` block, whose target is the address."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        if kind == "udp":
            transport, _ = await loop.create_datagram_endpoint(DatagramEcho, (HOST, 0))
            stack.callback(transport.close)
            yield {"udp_port": transport.get_extra_info("sockname")[1]}
        elif kind == "sock":
            listener = stack.enter_context(socket.create_server((HOST, 0), backlog=BACKLOG))
            listener.setblocking(False)
            # The reference keeps the task alive. The tasks that it starts are cancelled when the loop ends.
            accepting = loop.create_task(accept_sockets(loop, listener))
            yield {"port": listener.getsockname()[1]}
            accepting.cancel()
        elif kind in web.SERVERS:
            async with web.SERVERS[kind]((HOST, 0), BACKLOG) as port:
                yield {"port": port}
        elif kind.startswith("unix"):
            path = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "echo")
            if kind == "unix streams":
                server = await asyncio.start_unix_server(echo_stream, path, backlog=BACKLOG, ssl=context)
            else:
                server = await loop.create_unix_server(Echo, path, backlog=BACKLOG, ssl=context)
            stack.callback(server.close)
            yield {"path": path}
        else:
            if kind == "streams":
                server = await asyncio.start_server(echo_stream, HOST, 0, backlog=BACKLOG, ssl=context)
            else:
                server = await loop.create_server(PROTOCOLS[kind], HOST, 0, backlog=BACKLOG, ssl=context)
            stack.callback(server.close)
            yield {"port": server.sockets[0].getsockname()[1]}


def say(answer: dict):
    print(json.dumps(answer), flush=True)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


async def serve(kind: str, chain: str | None):
    loop = asyncio.get_running_loop()
    context = None
    if chain is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
    stopped = loop.create_future()
    probing = probes.Probes(loop) if kind == DELAYS else None

    def on_stdin():
        if os.read(0, 256):
            figures = probing.take() if probing else {}
            say({"cpu_seconds": cpu_seconds(), "resident": resident_bytes()} | figures)
        else:
            loop.remove_reader(0)
            stopped.set_result(None)

    try:
        async with serving(kind, context) as address:
            loop.add_reader(0, on_stdin)
            say(address)
            with probing or contextlib.nullcontext():
                await stopped
    except NotImplementedError as error:
        say({"lacking": repr(error)})


def main(name: str, kind: str, chain: str | None = None):
    with asyncio.Runner(loop_factory=lambda: loops.new_loop(name)) as runner:
        runner.run(serve(kind, chain))


if __name__ == "__main__":
    if sys.argv[3:4] == ["--work"]:
        work.nanoseconds = round(float(sys.argv[4]) * 1000)
        del sys.argv[3:5]
    main(*sys.argv[1:])
