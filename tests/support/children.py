"""Child processes for the tests of subprocesses: short programs, and a protocol that writes down what it is told.

No test lives here, and no assertion about a loop.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any

from support.peers import resolve

PIPE, DEVNULL, STDOUT = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL, asyncio.subprocess.STDOUT


def shell(script: str, *args: str) -> tuple[str, ...]:
    """The arguments of `script` for sh. Its `$1` is the first of `args`."""
    return "/bin/sh", "-c", script, "sh", *args


def python(source: str, *args: str) -> tuple[str, ...]:
    """The arguments of a Python that starts quickly."""
    return sys.executable, "-I", "-S", "-c", source, *args


class Recorder(asyncio.SubprocessProtocol):
    """Writes down every call, and what came out of each pipe. `exited` and `lost` are futures."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.calls: list[str] = []
        self.data = {1: b"", 2: b""}
        self.transport: Any = None
        self.exited = loop.create_future()
        self.lost = loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self.calls.append("connection_made")
        self.transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if self.calls[-1] != f"data {fd}":
            self.calls.append(f"data {fd}")
        self.data[fd] += data

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.calls.append(f"lost {fd}")

    def process_exited(self) -> None:
        self.calls.append("process_exited")
        resolve(self.exited, self.transport.get_returncode())

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("connection_lost")
        resolve(self.lost, exc)


async def start(args: Sequence[Any], factory: Any = Recorder, **kwargs: Any) -> tuple[Any, Any]:
    """(transport, protocol) of a child, with pipes for all three unless told otherwise."""
    return await asyncio.get_running_loop().subprocess_exec(factory, *args, **kwargs)


async def run(args: Sequence[Any], **kwargs: Any) -> tuple[int | None, Any, Any]:
    """(return code, stdout, stderr) of a child whose standard input is empty."""
    options = {"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE, **kwargs}
    process = await asyncio.create_subprocess_exec(*args, **options)
    out, err = await process.communicate()
    return process.returncode, out, err


def is_alive(pid: int) -> bool:
    """Whether there is such a process, zombies included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def lowest_fd() -> int:
    """The number that the next file gets. If nothing was left open, it is the same at the end of a test as at its
    start.
    """
    for _ in range(5):
        await asyncio.sleep(0)
    fd = os.dup(0)
    os.close(fd)
    return fd


async def all_gone(before: int) -> None:
    """Waits until there is no child any more, and no file is open that was not open before."""
    while has_children() or await lowest_fd() != before:
        await asyncio.sleep(0.001)


def has_children() -> bool:
    """Whether this process has children. Unlike waitpid, this does not reap them."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
