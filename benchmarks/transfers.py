"""What a loop spends on moving bytes and on making connections: `transfers.py LOOP [SCALE]` prints it as JSON.

Both ends of each connection are on the loop that is measured, so the CPU time of this process is all that a transfer
costs. A figure is a coroutine function of the loop and of the number of operations. It is run as in `inprocess.py`.
"""

import asyncio
import contextlib
import functools
import mmap
import os
import socket
import sys
import tempfile

import inprocess

HOST = "127.0.0.1"
KIB, MIB = 1024, 1024 * 1024
FILE = 64 * MIB
SMALL, SMALL_A_TURN = bytes(100), 100
BUFFER = 256 * KIB


class Source(asyncio.Protocol):
    """Writes until it is told to pause, and goes on when it is resumed."""

    resumed = None

    def connection_made(self, transport):
        self.transport = transport

    def pause_writing(self):
        self.resumed = asyncio.get_running_loop().create_future()

    def resume_writing(self):
        self.resumed.set_result(None)
        self.resumed = None

    async def write(self, data, times):
        for _ in range(times):
            self.transport.write(data)
            if self.resumed:
                await self.resumed


class Sink(asyncio.Protocol):
    """Counts the bytes that come. `received` is done when the expected number has come."""

    def __init__(self, expected):
        self.left = expected
        self.received = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.left -= len(data)
        if self.left <= 0:
            self.received.set_result(None)


class BufferedSink(asyncio.BufferedProtocol):
    """As `Sink`, but receives into a buffer of its own."""

    def __init__(self, expected):
        self.expect(expected)
        self.buffer = memoryview(mmap.mmap(-1, BUFFER))

    def expect(self, count):
        self.left = count
        self.received = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, count):
        self.left -= count
        if self.left <= 0:
            self.received.set_result(None)


@contextlib.asynccontextmanager
async def tcp(loop, sink_class, expected):
    """(source, sink), connected by TCP."""
    accepted = loop.create_future()

    def sink():
        accepted.set_result(sink_class(expected))
        return accepted.result()

    server = await loop.create_server(sink, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    transport, source = await loop.create_connection(Source, HOST, port)
    yield source, await accepted
    transport.close()
    server.close()


@contextlib.asynccontextmanager
async def pair(loop, sink_class, expected):
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    sending, source = await loop.connect_accepted_socket(Source, near)
    receiving, sink = await loop.connect_accepted_socket(lambda: sink_class(expected), far)
    yield source, sink
    sending.close()
    receiving.close()


@contextlib.asynccontextmanager
async def pipe(loop, sink_class, expected):
    read_end, write_end = os.pipe()
    with open(read_end, "rb", 0) as reader, open(write_end, "wb", 0) as writer:
        receiving, sink = await loop.connect_read_pipe(lambda: sink_class(expected), reader)
        sending, source = await loop.connect_write_pipe(Source, writer)
        yield source, sink
        sending.close()
        receiving.close()
        await asyncio.sleep(0)


async def bulk(loop, mebibytes, connected, size):
    """One operation is a MiB, in writes of `size` bytes."""
    async with connected(loop, Sink, mebibytes * MIB) as (source, sink):
        await source.write(bytes(size), mebibytes * MIB // size)
        await sink.received


async def small_writes(loop, turns):
    """One operation is a turn of the loop with SMALL_A_TURN writes."""
    async with tcp(loop, Sink, turns * SMALL_A_TURN * len(SMALL)) as (source, sink):
        for _ in range(turns):
            for _ in range(SMALL_A_TURN):
                source.transport.write(SMALL)
            await (source.resumed or asyncio.sleep(0))
        await sink.received


@functools.cache
def file_to_send():
    """The file is made by the first call, which is not measured."""
    file = tempfile.TemporaryFile()
    file.write(bytes(FILE))
    file.flush()
    return file


async def sendfile(loop, files, size):
    """One operation is a file of `size` bytes, as an answer: the next one is sent when it has come."""
    async with tcp(loop, BufferedSink, size) as (source, sink):
        for _ in range(files):
            await loop.sendfile(source.transport, file_to_send(), 0, size)
            await sink.received
            sink.expect(size)


class Lost(asyncio.Protocol):
    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc):
        self.lost.set_result(None)


async def connect_close(loop, connections):
    """One connection after the other."""
    accepted = []

    def accept():
        accepted.append(Lost())
        return accepted[-1]

    server = await loop.create_server(accept, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    for _ in range(connections):
        transport, protocol = await loop.create_connection(Lost, HOST, port)
        transport.close()
        await protocol.lost
    for protocol in accepted:
        await protocol.lost
    server.close()


# The number of operations: about 50 to 100 ms of asyncio.
BULK = {
    f"{where.__name__}, {size // KIB} KiB writes": (inprocess.timed(bulk, connected=where, size=size), 64)
    for where in (tcp, pair, pipe)
    for size in (64 * KIB, MIB)
}
SENDFILES = {
    f"sendfile {size // MIB} MiB": (inprocess.timed(sendfile, size=size), count)
    for size, count in ((MIB, 128), (FILE, 2))
}
CONNECT = "connect + close"
FIGURES = (
    BULK
    | SENDFILES
    | {
        f"{SMALL_A_TURN} writes a turn": (inprocess.timed(small_writes), 500),
        CONNECT: (inprocess.timed(connect_close), 300),
    }
)
NAMES = list(FIGURES)


if __name__ == "__main__":
    inprocess.main(FIGURES, *sys.argv[1:])
