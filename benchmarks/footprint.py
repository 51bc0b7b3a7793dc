"""What a loop costs before it does anything: `footprint.py LOOP [SCALE]` prints a JSON line.

There are four figures: the memory of an idle TCP connection; the memory of an idle TLS connection, less that of an
`ssl.SSLObject` in the same state; the CPU time in which a loop is made and closed; and the CPU time of the loop's
import, when asyncio is imported already. The other scripts of this folder measure what a loop costs while it works.

Memory is counted by the C library (mallinfo2, in glibc since 2.33), and PYTHONMALLOC=malloc has Python take all of its
memory there. So the bytes are those of the transport, its protocol, its context and the loop's own tables, with the
C library's headers. What the kernel keeps for a socket is not in them.
"""

import array
import asyncio
import contextlib
import ctypes
import gc
import importlib
import json
import os
import socket
import ssl
import subprocess
import sys
import time

import echo
import loops

sys.path.append(str(echo.HERE.parent / "tests"))
from support import certificates  # noqa: E402

IDLE, IDLE_TLS = "idle connection, B", "idle TLS connection, over an SSLObject, B"
MADE, IMPORT = "loop made and closed, us", "import after asyncio, ms"
NAMES = [IDLE, IDLE_TLS, MADE, IMPORT]
# Connections before the first look, which pay for tables that grow; connections that are counted; accepted at a time.
FIRST, COUNTED, BACKLOG = 200, 600, 50
MAKES, RUNS = 20, 30


class MallInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc's `malloc.h`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    ] + [("keepcost", ctypes.c_size_t)]


def used_bytes() -> int:
    gc.collect()
    look = ctypes.CDLL(None).mallinfo2
    look.restype = MallInfo
    info = look()
    return info.uordblks + info.hblkhd


async def idle_bytes() -> float:
    """The memory of a connection that was accepted and has received nothing."""
    made = 0

    class Counted(asyncio.Protocol):
        def connection_made(self, transport):
            nonlocal made
            made += 1
            self.transport = transport

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Counted, "127.0.0.1", 0, backlog=BACKLOG)
    # Plain numbers: the memory of the clients' socket objects would be counted as well.
    clients = array.array("i", [-1] * (FIRST + COUNTED))
    at = 0

    async def connect(count: int):
        nonlocal at
        for _ in range(count):
            with socket.create_connection(server.sockets[0].getsockname()) as sock:
                clients[at] = sock.detach()
            at += 1
            while made < at:
                await asyncio.sleep(0)

    await connect(FIRST)
    before = used_bytes()
    await connect(COUNTED)
    result = (used_bytes() - before) / COUNTED
    for fd in clients:
        os.close(fd)
    server.close()
    return result


# A program that opens as many TLS connections as a line of its input says, has each echo something, and keeps them.
TLS_CLIENTS = """
import socket, ssl, sys
context = ssl._create_unverified_context()
kept = []
for line in sys.stdin:
    for _ in range(int(line)):
        kept.append(context.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1])))))
        kept[-1].sendall(b"x")
        kept[-1].recv(1)
    print(flush=True)
"""


async def idle_tls_bytes() -> float:
    """The memory of a TLS connection that was accepted, has echoed a byte, and is idle, less that of `SSLObject`s."""

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)

    loop = asyncio.get_running_loop()
    context = certificates.server_context()
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=context, backlog=BACKLOG)
    command = [sys.executable, "-c", TLS_CLIENTS, str(server.sockets[0].getsockname()[1])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:

        async def connect(count: int):
            print(count, file=clients.stdin, flush=True)
            await loop.run_in_executor(None, clients.stdout.readline)

        await connect(FIRST)
        before = used_bytes()
        await connect(COUNTED)
        result = (used_bytes() - before) / COUNTED
        before = used_bytes()
        kept = [shaken(context) for _ in range(FIRST)]
        own = (used_bytes() - before) / len(kept)
        clients.kill()
    server.close()
    return result - own


def shaken(context: ssl.SSLContext) -> tuple:
    """A server's `SSLObject` after its handshake, with its two BIOs. Those of the client are not kept."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = ssl._create_unverified_context().wrap_bio(to_client, to_server)
    for _ in range(3):
        for end in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    client.write(b"x")
    server.write(server.read())
    client.read()
    return server, to_server, to_client


def made_us(name: str) -> float:
    """The CPU time in which a loop is made and closed: the best of several runs."""
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        for _ in range(MAKES):
            loops.new_loop(name).close()
        times.append((time.process_time() - start) / MAKES)
    return min(times) * 1e6


def import_ms(name: str) -> float:
    """The CPU time of the import in a new process: the best of several."""
    code = "import asyncio, time; start = time.process_time(); __import__({!r}); print(time.process_time() - start)"
    command = [sys.executable, "-c", code.format(name)]
    runs = (subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(RUNS))
    return min(map(float, runs)) * 1e3


def measure_idle(name: str, row: str) -> dict:
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        return {"lacking": "mallinfo2 of glibc 2.33"}
    command = [sys.executable, __file__, name, row]
    environment = os.environ | {"PYTHONMALLOC": "malloc"}
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return {"value": float(result.stdout)}


def main():
    name = sys.argv[1]
    importlib.import_module(name)
    if measure := {IDLE: idle_bytes, IDLE_TLS: idle_tls_bytes}.get(sys.argv[-1]):
        with asyncio.Runner(loop_factory=lambda: loops.new_loop(name)) as runner:
            print(runner.run(measure()))
        return
    figures = {row: measure_idle(name, row) for row in (IDLE, IDLE_TLS)}
    print(json.dumps(figures | {MADE: {"value": made_us(name)}, IMPORT: {"value": import_ms(name)}}))


if __name__ == "__main__":
    main()
