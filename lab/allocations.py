"""Each allocation of Python's memory fails in turn, in the scenarios of the faults: a part of the laboratory.

`python lab/allocations.py [--seconds 300] [--seed N] [--scenario tcp ...]`

`_testcapi.set_nomemory` makes the nth allocation fail, or some from the nth on. That may be one of rloop, of asyncio,
of CPython, or of the scenario itself, so that a case may end in any exception; most end in a MemoryError. What must not
happen: the process ends, Rust panics (a panic that is caught counts), the loop cannot be closed, or the next loop does
not work. CPython 3.12 and 3.13 crash by themselves under this, and are skipped.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import json
import logging
import os
import random
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import builds
import faults_build
import faults_world
from faults_scenarios import SCENARIOS

CASE_LIMIT = 60
# The line that begins the errors of a case.
CASE = "the case"
# Cases that one process runs, at most. So few that each scenario has its turn within the part's time.
BATCH = 25
# How many allocations fail in a row. With twelve, PyO3 would have no memory for the exception of a panic, and abort.
WIDTHS = (1, 1, 2, 3, 12, 40)
# How much of a panic is shown: two lines of what it says, then functions of rloop that were running.
PLACES = 6
# What faulthandler tells of a process that waits for a lock of CPython's threading module. A thread that has no memory
# left to give such a lock back leaves it locked for ever. (A loop that nobody wakes waits in rloop's run_forever.)
HANGS_BY_ITSELF = re.compile(
    r'Timeout \(.*\)!\n(.*\n)*Thread .*\n  File ".*/threading\.py", line \d+ in .*\n(  File .*\n)*\s*$'
)
# Seconds after which a scenario that waits for something that was lost is given up.
PATIENCE = 0.3


# --- in the process that runs cases ---


def count_allocations(name: str) -> int:
    """After how many allocations a scenario has ended, to a factor of 1.2."""
    number = 1000.0
    while number < 1e6 and run_case(name, int(number), 1)["raised"]:
        # The limit is for one run of the scenario, and begins anew.
        faulthandler.dump_traceback_later(CASE_LIMIT, exit=True)
        number *= 1.2
    return int(number)


def run_case(name: str, start: int, width: int) -> dict[str, Any]:
    import _testcapi  # type: ignore[import-not-found]

    import rloop
    from support.loops import open_files

    files = open_files()
    raised: set[str] = set()
    problems: list[str] = []
    world = faults_world.World()
    sys.unraisablehook = lambda args: raised.add(type(args.exc_value).__name__)
    loop = None
    try:
        _testcapi.set_nomemory(start, start + width)
        try:
            loop = world.loop = rloop.new_event_loop()
            loop.set_exception_handler(lambda loop, context: raised.add(type(context.get("exception")).__name__))
            # If the wake-up of a task was what had no memory, nothing else ends this.
            loop.call_later(PATIENCE, loop.stop)
            loop.run_until_complete(SCENARIOS[name](world))
        finally:
            _testcapi.remove_mem_hooks()
    except BaseException as error:
        raised.add(type(error).__name__)
        del error
    raised |= {type(error).__name__ for error in world.troubles}
    # asyncio's own `run_forever` can fail before it forgets which loop runs.
    asyncio._set_running_loop(None)
    if loop is not None:
        loop._thread_id = None  # type: ignore[attr-defined]
        try:
            end(world)
        except Exception as error:
            problems.append(f"the end: {error!r}")
        loop.close()
    del loop, world
    gc.collect()
    if "PanicException" in raised:
        problems.append("a panic")
    # Not a problem: where a call of a Python function has no memory, CPython may leak its arguments, and their files.
    left = len(open_files() - files)
    problems += works(rloop)
    return {"raised": sorted(raised), "problems": problems, "fired": bool(raised), "left": left}


def end(world: faults_world.World) -> None:
    """Close what is left of the scenario, and let its tasks end."""
    loop = world.loop
    close(world)
    for peer in world.peers:
        if peer.transport is not None:
            getattr(peer.transport, "abort", peer.transport.close)()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    # A stop of the run that has failed may still be in the queue.
    for _ in range(5):
        loop.call_soon(loop.stop)
        loop.run_forever()
    # A task that is in the queue, although there was no memory to make all of it, has begun only now.
    close(world)


def close(world: faults_world.World) -> None:
    """Close what the scenario has opened."""
    while world.closing:
        try:
            world.closing.pop()()
        except (OSError, RuntimeError):
            pass


def works(rloop: Any) -> Iterator[str]:
    """Whether a new loop works."""
    loop = rloop.new_event_loop()
    try:
        if loop.run_until_complete(asyncio.sleep(0, 7)) != 7:
            yield "the next loop does not work"
    finally:
        loop.close()


class Patient(threading.Event):
    """An event for which nobody waits for ever. `Thread.start`, which executors use, waits for one that the new thread
    sets. A thread that has no memory to begin never does, and CPython has no limit for it."""

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(PATIENCE if timeout is None else timeout)


def work() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    faults_world.LIMIT = PATIENCE  # type: ignore[misc]
    threading.Event = Patient  # type: ignore[misc]
    started = False
    for line in sys.stdin:
        case = json.loads(line)
        if not started:
            # What is made once in a process is made before anything fails.
            for _ in range(2):
                run_case(case["scenario"], 1 << 30, 1)
            started = True
        print(json.dumps({"begin": case["id"]}), flush=True)
        # So that a panic that is printed belongs to a case.
        print(f"{CASE} {case['id']}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback_later(CASE_LIMIT, exit=True)
        if case["start"]:
            result = run_case(case["scenario"], case["start"], case["width"])
        else:
            result = {"problems": [], "count": count_allocations(case["scenario"])}
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"id": case["id"], **result}), flush=True)
    # The end of the process waits for threads of executors.
    faulthandler.dump_traceback_later(CASE_LIMIT, exit=True)


# --- in the process that chooses them ---


def cannot_run() -> str | None:
    if (3, 12) <= sys.version_info < (3, 14):
        return "CPython 3.12 and 3.13 crash by themselves"
    try:
        import _testcapi  # type: ignore[import-not-found]
    except ImportError:
        return "this Python has no _testcapi"
    return None if hasattr(_testcapi, "set_nomemory") else "this Python has no set_nomemory"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make allocations fail in turn.")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return
    if why := cannot_run():
        builds.skip(why)
    tried, failed = sweep(options)
    print(*failed, sep="\n")
    builds.finish(tried, len(failed))


def sweep(options: argparse.Namespace) -> tuple[int, list[str]]:
    """Run rounds of one batch of each scenario until the time is over. The seed decides on the order in a round.
    Returns how many cases had a failure, and what was wrong."""
    from faults import Worker

    package = faults_build.build()
    os.environ.setdefault("RUST_BACKTRACE", "1")
    script = [str(Path(__file__).resolve()), "--worker"]
    print(f"seed {options.seed}", flush=True)
    chance = random.Random(options.seed)
    names = options.scenario or [name for name in SCENARIOS if name != "loop"]
    counts: dict[str, int] = {}
    started, tried, failed = time.monotonic(), 0, []
    rest: list[str] = []
    while time.monotonic() - started < options.seconds:
        rest = rest or chance.sample(names, len(names))
        name = rest.pop()
        if name not in counts:
            counted, *_ = Worker(package, name, script).run([{"id": 0, "scenario": name, "start": 0}])
            if "count" not in counted:
                failed += [f"{name}, when its allocations are counted: {problem}" for problem in counted["problems"]]
            # Without a count it takes a number that is large enough.
            counts[name] = counted.get("count", 20_000)
            print(f"{name}: about {counts[name]} allocations", flush=True)
        # Half of them among the first, where most objects are made.
        starts = [
            int(counts[name] ** chance.uniform(0, 1)) if chance.random() < 0.5 else chance.randrange(1, counts[name])
            for _ in range(BATCH)
        ]
        cases = [
            {"id": at, "scenario": name, "start": start, "width": chance.choice(WIDTHS)}
            for at, start in enumerate(starts)
        ]
        worker = Worker(package, name, script)
        problems = []
        for result in worker.run(cases):
            if result.get("status") and HANGS_BY_ITSELF.search(result["problems"][0]):
                at = result["id"]
                print(f"CPython's threading hangs by itself: {name if at is None else cases[at]}", flush=True)
            # Without an error the last result says only that something was printed.
            elif result.get("status") != 0:
                tried += result["fired"]
                problems += [(result["id"], problem) for problem in result["problems"]]
        for at, problem in problems + panics(worker.errors):
            failed.append(f"{name if at is None else cases[at]}: {problem}")
            print("FAILED", failed[-1], flush=True)
    if unreached := set(names) - counts.keys():
        print(f"no time for: {', '.join(sorted(unreached))}")
    return tried, failed


def panics(errors: list[bytes]) -> list[tuple[int | None, str]]:
    """The panics among what a worker has printed: the case, and the message with where it is from in rloop."""
    case, found = None, []
    for line in b"".join(errors).decode(errors="replace").splitlines():
        if line.startswith(CASE):
            case = int(line.removeprefix(CASE))
        elif "panicked at" in line:
            found.append((case, [line]))
        elif found and (len(found[-1][1]) == 1 or re.search(r"\brloop::", line)):
            found[-1][1].append(line.strip())
    return [(case, " / ".join(lines[:PLACES])) for case, lines in found]


if __name__ == "__main__":
    main()
