"""Runs cases of the faults in this process, one after the other. `faults.py` starts it, with the build that it needs.

A case is a line of JSON on the standard input: {"id": 7, "scenario": "tcp", "rules": [...]}. Before it begins, its id
is written, so that a crash or a hang has a name; after it, what has come of it. Without rules a case counts calls only.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import logging
import resource
import socket
import sys
import threading
import time
import warnings
from typing import Any

from faults_scenarios import SCENARIOS
from faults_world import Ended, Peer, Problem, World

import rloop
from rloop import _rloop
from support.loops import open_files

FAULTS = _rloop._faults  # type: ignore[attr-defined]
# Seconds after which a case is ended, together with the process.
CASE_LIMIT = 60
# The most turns and seconds of CPU time that a case may take: a case that spins takes many more.
MOST_WAITS = 20_000
MOST_CPU = 10.0
# How often an error of the loop's own wait may leave `run_until_complete` before the schedule ends.
MOST_RAISED = 5


def drive(world: World, task: asyncio.Task[None]) -> str:
    """Run the loop until the task is done; say how it ended."""
    raised = 0
    while not task.done():
        try:
            world.loop.run_until_complete(task)
        except OSError:
            if task.done():
                # If the wait has failed just now, the end of the run is still in the queue, as on asyncio.
                world.loop.call_soon(world.loop.stop)
                world.loop.run_forever()
                break
            # An error of the loop's own wait. The loop can be run again.
            raised += 1
            if raised == MOST_RAISED:
                FAULTS.clear()
                task.cancel()
        except (Ended, Problem, asyncio.CancelledError):
            break
    if task.cancelled():
        return "ended by the loop's wait"
    error = task.exception()
    if error is None:
        return "told" if world.troubles else "went on"
    if isinstance(error, Ended):
        return "told"
    if not isinstance(error, OSError):
        world.problems.append(f"raised {error!r}")
    return "raised"


async def is_alive(world: World) -> None:
    """A timer, an echo, and a callback of another thread."""
    loop = world.loop
    await asyncio.sleep(0.001)
    near, far = socket.socketpair()
    left, right = Peer(world), Peer(world)
    right.on_data = lambda data: right.write(data)
    await loop.connect_accepted_socket(lambda: left, near)
    await loop.connect_accepted_socket(lambda: right, far)
    left.write(b"echo")
    called = loop.create_future()
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(called.set_result, None))
    thread.start()
    await asyncio.wait_for(called, 20)
    thread.join()
    while bytes(left.received) != b"echo":
        await asyncio.wait_for(asyncio.sleep(0), 20)
    left.transport.close()
    right.transport.close()


def examine(world: World) -> None:
    """After the schedule: everything ends, the loop works, nothing is left."""
    loop = world.loop
    loop.run_until_complete(world.teardown())
    loop.run_until_complete(is_alive(world))
    loop.run_until_complete(world.teardown())
    for _ in range(3):
        loop.run_until_complete(asyncio.sleep(0))
    if left := asyncio.all_tasks(loop):
        world.problems.append(f"tasks are left: {left}")
    world.verify()


def run_case(name: str, rules: list[Any]) -> dict[str, Any]:
    files, cpu = open_files(), time.process_time()
    rules = [tuple(rule) for rule in rules]
    world = World()
    ended = "not made"
    FAULTS.set(rules)
    try:
        world.loop = rloop.new_event_loop()
    except OSError:
        FAULTS.clear()
    else:
        world.loop.set_exception_handler(world.report)
        if name != "loop":
            FAULTS.set(rules)
        try:
            ended = drive(world, world.loop.create_task(SCENARIOS[name](world)))
            FAULTS.clear()
            examine(world)
        except Exception as error:
            world.problems.append(f"afterwards: {error!r}")
        finally:
            FAULTS.clear()
            world.loop.close()
    counts = FAULTS.counts()
    problems, transports, troubles = world.problems, world.transports, [repr(error) for error in world.troubles]
    del world
    gc.collect()
    if any(transport() is not None for transport in transports):
        problems.append("a transport is left")
    if left := open_files() - files:
        problems.append(f"files are left: {sorted(left)}")
    if gone := files - open_files():
        problems.append(f"a file of another was closed: {sorted(gone)}")
    if counts.get("epoll_pwait2", (0, 0))[0] > MOST_WAITS or time.process_time() - cpu > MOST_CPU:
        problems.append("spins")
    problems += unraisable
    unraisable.clear()
    fired = sum(failed for _, failed in counts.values())
    return {"ended": ended, "fired": fired, "problems": problems, "counts": counts, "told": troubles[:-2]}


# What Python could not raise anywhere, and warnings, in the present case.
unraisable: list[str] = []


def note_unraisable(args: Any) -> None:
    # asyncio's create_server leaves its listening sockets to the garbage collector if the loop cannot watch them.
    if not (isinstance(args.exc_value, ResourceWarning) and "unclosed <socket.socket" in str(args.exc_value)):
        unraisable.append(f"unraisable: {args.exc_value!r} in {args.object!r}")


def main() -> None:
    # asyncio logs writes to connections that are gone, for instance.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("error")
    # At the end of the process the certificates' folder is removed without having been told to.
    warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)
    sys.unraisablehook = note_unraisable
    threading.excepthook = lambda args: unraisable.append(f"thread: {args.exc_value!r}")
    started = False
    for line in sys.stdin:
        case = json.loads(line)
        if not started:
            # What is made once in a process is made before anything is counted.
            for _ in range(2):
                run_case(case["scenario"], [])
            gc.collect()
            gc.freeze()
            started = True
        print(json.dumps({"begin": case["id"]}), flush=True)
        faulthandler.dump_traceback_later(CASE_LIMIT, exit=True)
        began = time.monotonic()
        result = run_case(case["scenario"], case["rules"])
        faulthandler.cancel_dump_traceback_later()
        seconds = round(time.monotonic() - began, 3)
        print(json.dumps({"id": case["id"], "seconds": seconds, **result}), flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
