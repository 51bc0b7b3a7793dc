"""One echo server on one loop: `echo_server.py LOOP KIND [CHAIN]`. The process that is measured; nothing else is.

With CHAIN, a file with a certificate and its key, it speaks TLS. Prints {"port": N}, answers each line on stdin with
the CPU time it has used and its resident memory, ends when stdin is closed.
"""

import asyncio
import json
import mmap
import os
import resource
import ssl
import sys

import loops

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


class HeadAndBody(Echo):
    """Answers in two writes, as HTTP servers do."""

    def data_received(self, data):
        self.transport.write(data[:HEAD])
        self.transport.write(data[HEAD:])


class BufferedEcho(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        # Page-aligned: where malloc happens to put a bytearray would decide the speed of the kernel's copy.
        self.buffer = memoryview(mmap.mmap(-1, BUFFER))

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        # A copy, because a transport may keep what it is given and the buffer is used again.
        self.transport.write(bytes(self.buffer[:count]))

    def eof_received(self):
        return False


async def echo_stream(reader, writer):
    while data := await reader.read(STREAM_READ):
        writer.write(data)
        await writer.drain()
    writer.close()


PROTOCOLS = {"protocol": Echo, "head+body": HeadAndBody, "buffered": BufferedEcho}
KINDS = (*PROTOCOLS, "streams")


async def start(kind: str, chain: str | None) -> asyncio.Server:
    context = None
    if chain is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
    if kind == "streams":
        return await asyncio.start_server(echo_stream, HOST, 0, backlog=BACKLOG, ssl=context)
    loop = asyncio.get_running_loop()
    return await loop.create_server(PROTOCOLS[kind], HOST, 0, backlog=BACKLOG, ssl=context)


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
    server = await start(kind, chain)
    stopped = loop.create_future()

    def on_stdin():
        if os.read(0, 256):
            say({"cpu_seconds": cpu_seconds(), "resident": resident_bytes()})
        else:
            loop.remove_reader(0)
            stopped.set_result(None)

    loop.add_reader(0, on_stdin)
    say({"port": server.sockets[0].getsockname()[1]})
    await stopped
    server.close()


def main(name: str, kind: str, chain: str | None = None):
    with asyncio.Runner(loop_factory=lambda: loops.new_loop(name)) as runner:
        runner.run(serve(kind, chain))


if __name__ == "__main__":
    main(*sys.argv[1:])
