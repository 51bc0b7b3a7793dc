"""What a loop spends on scheduling, with next to no I/O: `inprocess.py LOOP [SCALE]` prints every figure as JSON.

A figure is a coroutine function of the loop and of the number of operations. It is run a few times, and the best time
counts: CPU and wall time in ns per operation. Each loop has a process of its own.
"""

import asyncio
import functools
import json
import socket
import sys
import threading
import time

import loops

REPEATS = 5
# How many callbacks are scheduled at a time. A busy server has about as many, and they fit into the CPU's caches. With
# ten times as many, cache misses and garbage collections make every loop slower and change the ratios.
BATCH = 1000


def nothing():
    pass


def take(first, second, third):
    pass


async def trivial():
    pass


async def flood(loop, fill, operations):
    """Schedules one batch of callbacks after the other, from a callback. The loop runs each batch before the next."""
    done = loop.create_future()
    left = operations

    def batch():
        nonlocal left
        fill()
        left -= BATCH
        if left > 0:
            loop.call_soon(batch)
        else:
            loop.call_soon(done.set_result, None)

    loop.call_soon(batch)
    await done


async def call_soon(loop, operations):
    def fill():
        for _ in range(BATCH):
            loop.call_soon(nothing)

    await flood(loop, fill, operations)


async def call_soon_args(loop, operations):
    def fill():
        for _ in range(BATCH):
            loop.call_soon(take, 1, 2, 3)

    await flood(loop, fill, operations)


async def call_soon_chained(loop, operations):
    done = loop.create_future()
    left = operations

    def step():
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            done.set_result(None)

    loop.call_soon(step)
    await done


async def call_soon_debug(loop, operations):
    """In debug mode. The loop is set back to what it was, for the other figures."""
    loop.set_debug(True)
    try:
        await call_soon(loop, operations)
    finally:
        loop.set_debug(False)


async def threadsafe_own(loop, operations):
    def fill():
        for _ in range(BATCH):
            loop.call_soon_threadsafe(nothing)

    await flood(loop, fill, operations)


async def threadsafe_other(loop, operations, threads=1):
    done = loop.create_future()
    left = threads

    def finish():
        nonlocal left
        left -= 1
        if not left:
            done.set_result(None)

    def produce():
        for _ in range(operations // threads):
            loop.call_soon_threadsafe(nothing)
        loop.call_soon_threadsafe(finish)

    producers = [threading.Thread(target=produce) for _ in range(threads)]
    for producer in producers:
        producer.start()
    await done
    for producer in producers:
        producer.join()


async def threadsafe_4_threads(loop, operations):
    await threadsafe_other(loop, operations, 4)


async def sleep_zero(loop, operations):
    for _ in range(operations):
        await asyncio.sleep(0)


async def timer_cancel(loop, operations):
    for _ in range(operations // BATCH):
        timers = [loop.call_later(3600 + i % 60, nothing) for i in range(BATCH)]
        for timer in timers:
            timer.cancel()
        await asyncio.sleep(0)


async def timer_fire(loop, operations):
    for _ in range(operations // BATCH):
        for i in range(BATCH):
            # Spread over a millisecond, and not in order.
            loop.call_later(i * 7 % BATCH * 0.001 / BATCH, nothing)
        done = loop.create_future()
        loop.call_later(0.0011, done.set_result, None)
        await done


async def create_task(loop, operations):
    for _ in range(operations // BATCH):
        tasks = [loop.create_task(trivial()) for _ in range(BATCH)]
        for task in tasks:
            await task


async def wait_for(loop, operations):
    for _ in range(operations):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await asyncio.wait_for(future, 10)


async def queue_ping_pong(loop, operations):
    """Two tasks wake each other."""
    there: asyncio.Queue[int] = asyncio.Queue()
    back: asyncio.Queue[int] = asyncio.Queue()

    async def answer():
        for _ in range(operations):
            back.put_nowait(await there.get())

    answering = loop.create_task(answer())
    for _ in range(operations):
        there.put_nowait(0)
        await back.get()
    await answering


async def reader_wakeups(loop, operations):
    """Each callback of `add_reader` receives a byte, and sends the one for the next callback."""
    near, far = socket.socketpair()
    left, done = operations, loop.create_future()

    def on_readable():
        nonlocal left
        near.recv(1)
        left -= 1
        if left > 0:
            far.send(b"x")
        else:
            loop.remove_reader(near)
            done.set_result(None)

    with near, far:
        loop.add_reader(near, on_readable)
        far.send(b"x")
        await done


async def run_in_executor(loop, operations):
    for _ in range(operations):
        await loop.run_in_executor(None, nothing)


async def getaddrinfo(loop, operations):
    """An address, which needs no look-up, is resolved."""
    for _ in range(operations):
        await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)


def measure(run, operations: int, warmup: int) -> dict[str, float]:
    """`run` is a function of the number of operations."""
    run(warmup)
    cpu_times, wall_times = [], []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        run(operations)
        cpu_times.append((time.process_time_ns() - cpu) / operations)
        wall_times.append((time.perf_counter_ns() - wall) / operations)
    return {"cpu_ns": min(cpu_times), "wall_ns": min(wall_times)}


def timed(function, batch: int = 1, **options):
    """Makes a function that measures a figure. Its arguments are the loop and the number of operations, which is
    rounded up to whole batches."""

    def run(loop, count):
        return loop.run_until_complete(function(loop, count, **options))

    return lambda loop, count: measure(functools.partial(run, loop), -(-count // batch) * batch, batch)


# The number of operations: about 50 to 100 ms of asyncio.
OPERATIONS = {
    call_soon: 100_000,
    call_soon_args: 100_000,
    call_soon_chained: 30_000,
    call_soon_debug: 3_000,
    threadsafe_own: 30_000,
    threadsafe_other: 20_000,
    threadsafe_4_threads: 20_000,
    sleep_zero: 30_000,
    timer_cancel: 50_000,
    timer_fire: 20_000,
    create_task: 20_000,
    wait_for: 5_000,
    queue_ping_pong: 10_000,
    reader_wakeups: 10_000,
    run_in_executor: 2_000,
    getaddrinfo: 1_000,
}
FIGURES = {function.__name__: (timed(function, BATCH), count) for function, count in OPERATIONS.items()}
NAMES = list(FIGURES)


def main(figures, name: str, scale: str = "1"):
    """Measures `figures` on the loop `name` and prints them. Each is a function that `timed` has made, and a number of
    operations."""
    results = {}
    with asyncio.Runner(loop_factory=lambda: loops.new_loop(name)) as runner:
        loop = runner.get_loop()
        for figure, (function, operations) in figures.items():
            try:
                results[figure] = function(loop, max(1, round(operations * float(scale))))
            except NotImplementedError as error:
                results[figure] = {"lacking": repr(error)}
    print(json.dumps(results))


if __name__ == "__main__":
    main(FIGURES, *sys.argv[1:])
