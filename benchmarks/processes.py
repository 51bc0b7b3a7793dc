"""What a loop spends on child processes: `processes.py LOOP [SCALE]` prints every figure as JSON.

A spawn is timed from the call of `create_subprocess_exec` until `wait()` has returned. One child is spawned after the
other. What a user feels is wall time: the loop stands still while fork copies its memory map, or while vfork waits
until the child runs its program, and then the caller waits for the child's end. But nobody sleeps in that time. It is
all work of the loop's process or of the child. So on a machine that does nothing else, the CPU time of both together
equals the wall time within a few per cent. Where other programs run, they disturb the wall time much more: its median
can double from run to run. Therefore the bars are on CPU time, that of the best of several batches. Wall time is shown
as well: the median of the best batch, and the 99th percentile of all spawns.

What goes through a child's pipes is measured as in `transfers.py`, by the CPU time of the loop's process. The other
ends are programs in C, which are the same for every loop. `bare_pipes.py` measures the same without a loop.
"""

import asyncio
import functools
import itertools
import mmap
import resource
import statistics
import sys
import time

import inprocess

KIB, MIB = 1024, 1024 * 1024
TRUE = "/bin/true"
BATCHES = 10
# A batch ends after BATCH_SECONDS, but not before BATCH_AT_LEAST spawns.
BATCH_SECONDS, BATCH_AT_LEAST = 0.1, 3
SMALL, LARGE = 8 * KIB, 64 * KIB
WRITE = bytes(LARGE)
MESSAGE = bytes(100)
PIPE, DEVNULL = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL


# ------------------------------------------------------------------------------------------------ spawn


def resident() -> int:
    """The resident memory of this process, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def grow(mebibytes: int) -> mmap.mmap | None:
    """Allocates memory until this process has that size. The pages have the usual size, as those of a program with
    many small objects."""
    if (lacking := mebibytes * MIB - resident()) <= 0:
        return None
    memory = mmap.mmap(-1, lacking, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for start in range(0, lacking, mmap.PAGESIZE):
        memory[start] = 1
    return memory


def cpu_seconds() -> float:
    """The CPU time of this process, and of its children that have been waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


async def spawn(**pipes):
    process = await asyncio.create_subprocess_exec(TRUE, **pipes)
    if pipes:
        await process.communicate()
    if await process.wait() != 0:
        raise RuntimeError(f"{TRUE} ended with {process.returncode}")


async def batch(count: int, **pipes) -> tuple[list[float], float]:
    """How long each spawn took, and the mean CPU time of one, in microseconds."""
    times: list[float] = []
    cpu, end = cpu_seconds(), time.perf_counter() + BATCH_SECONDS
    while len(times) < count and (len(times) < BATCH_AT_LEAST or time.perf_counter() < end):
        start = time.perf_counter()
        await spawn(**pipes)
        times.append((time.perf_counter() - start) * 1e6)
    return times, (cpu_seconds() - cpu) * 1e6 / len(times)


def measure_spawn(loop, count: int, mebibytes: int, **pipes) -> dict[str, float]:
    """All in microseconds. With fewer than a hundred spawns, p99 is the slowest."""
    memory = grow(mebibytes)
    loop.run_until_complete(batch(BATCH_AT_LEAST, **pipes))
    batches = [loop.run_until_complete(batch(-(-count // BATCHES), **pipes)) for _ in range(BATCHES)]
    if memory is not None:
        memory.close()
    times = sorted(itertools.chain.from_iterable(times for times, _ in batches))
    return {
        "cpu_us": min(cpu for _, cpu in batches),
        "wall_us": min(statistics.median(times) for times, _ in batches),
        "p99_us": times[len(times) * 99 // 100],
    }


# ------------------------------------------------------------------------------------------------ pipes


class Peer(asyncio.SubprocessProtocol):
    """The parent's side. `received` is done when the expected number of bytes has come, `gone` when the child has
    ended and its pipes are closed."""

    def __init__(self, expected: int = 0):
        loop = asyncio.get_running_loop()
        self.left = expected
        self.received, self.gone = loop.create_future(), loop.create_future()
        self.resumed: asyncio.Future[None] | None = None

    def connection_made(self, transport):
        self.transport = transport
        self.stdin = transport.get_pipe_transport(0)

    def pipe_data_received(self, fd, data):
        self.left -= len(data)
        if self.left == 0:
            self.received.set_result(None)

    def pause_writing(self):
        self.resumed = asyncio.get_running_loop().create_future()

    def resume_writing(self):
        self.resumed.set_result(None)
        self.resumed = None

    def connection_lost(self, exc):
        self.gone.set_result(None)

    async def end(self):
        await self.gone
        if (code := self.transport.get_returncode()) != 0:
            raise RuntimeError(f"a child ended with {code}")
        self.transport.close()


class Echoed(Peer):
    """Sends the message again each time that it has come back whole."""

    def pipe_data_received(self, fd, data):
        self.left -= len(data)
        if self.left == 0:
            self.received.set_result(None)
        elif self.left % len(MESSAGE) == 0:
            self.stdin.write(MESSAGE)


def writer_command(mebibytes: int, size: int) -> tuple[str, ...]:
    return "dd", "if=/dev/zero", "status=none", f"bs={size}", f"count={mebibytes * MIB // size}"


def reader_command(mebibytes: int) -> tuple[str, ...]:
    """A command that reads all its input. Its exit status is 1 if that has the wrong length."""
    return "sh", "-c", f'test "$(wc -c)" -eq {mebibytes * MIB}'


async def from_child(loop, mebibytes, size):
    """One operation: a MiB, in writes of `size` bytes."""
    _, peer = await loop.subprocess_exec(
        lambda: Peer(mebibytes * MIB), *writer_command(mebibytes, size), stdin=DEVNULL, stdout=PIPE, stderr=None
    )
    await peer.received
    await peer.end()


async def to_child(loop, mebibytes):
    command = reader_command(mebibytes)
    _, peer = await loop.subprocess_exec(Peer, *command, stdin=PIPE, stdout=None, stderr=None)
    for _ in range(mebibytes * MIB // len(WRITE)):
        peer.stdin.write(WRITE)
        if peer.resumed:
            await peer.resumed
    peer.stdin.close()
    await peer.end()


async def ping_pong(loop, times):
    _, peer = await loop.subprocess_exec(
        lambda: Echoed(times * len(MESSAGE)), "cat", stdin=PIPE, stdout=PIPE, stderr=None
    )
    peer.stdin.write(MESSAGE)
    await peer.received
    peer.stdin.close()
    await peer.end()


# ------------------------------------------------------------------------------------------------ all


THREE_PIPES = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}
SPAWN_SMALL, SPAWN_PIPES, SPAWN_LARGE = "spawn at 20 MB", "spawn at 20 MB, 3 pipes", "spawn at 500 MB"
SPAWNS = {
    SPAWN_SMALL: (functools.partial(measure_spawn, mebibytes=20), 200),
    SPAWN_PIPES: (functools.partial(measure_spawn, mebibytes=20, **THREE_PIPES), 150),
    SPAWN_LARGE: (functools.partial(measure_spawn, mebibytes=500), 200),
}
FROM_CHILD_SMALL, FROM_CHILD_LARGE = "child to parent, 8 KiB writes", "child to parent, 64 KiB writes"
TO_CHILD, PING_PONG = "parent to child, 64 KiB writes", "100 bytes through cat"
# The number of operations: about 50 to 100 ms of asyncio.
PIPES = {
    FROM_CHILD_SMALL: (inprocess.timed(from_child, size=SMALL), 64),
    FROM_CHILD_LARGE: (inprocess.timed(from_child, size=LARGE), 64),
    TO_CHILD: (inprocess.timed(to_child), 64),
    PING_PONG: (inprocess.timed(ping_pong), 1000),
}
FIGURES = PIPES | SPAWNS
NAMES = list(FIGURES)


if __name__ == "__main__":
    inprocess.main(FIGURES, *sys.argv[1:])
