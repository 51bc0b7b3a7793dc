"""What a loop costs before it does anything: `footprint.py LOOP [SCALE]` prints a JSON line.

The figures: the memory of a TCP connection that is idle, the CPU time in which a loop is made and closed, and that of
the loop's import, after asyncio's. What a loop costs while it works, the other scripts of this folder measure.

Memory is counted by the C library (mallinfo2, in glibc since 2.33), and PYTHONMALLOC=malloc has Python take all of its
memory there. So the bytes are those of the transport, its protocol, its context and the loop's own tables, with the
C library's headers. What the kernel keeps for a socket is not in them.
"""

import array
import asyncio
import ctypes
import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import time

import loops

IDLE, MADE, IMPORT = "idle connection, B", "loop made and closed, us", "import after asyncio, ms"
NAMES = [IDLE, MADE, IMPORT]
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


def measure_idle(name: str) -> dict:
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        return {"lacking": "mallinfo2 of glibc 2.33"}
    command = [sys.executable, __file__, name, "--idle"]
    environment = os.environ | {"PYTHONMALLOC": "malloc"}
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return {"value": float(result.stdout)}


def main():
    name = sys.argv[1]
    importlib.import_module(name)
    if "--idle" in sys.argv:
        with asyncio.Runner(loop_factory=lambda: loops.new_loop(name)) as runner:
            print(runner.run(idle_bytes()))
        return
    print(json.dumps({IDLE: measure_idle(name), MADE: {"value": made_us(name)}, IMPORT: {"value": import_ms(name)}}))


if __name__ == "__main__":
    main()
