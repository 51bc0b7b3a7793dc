"""Hostile peers that need no TLS: streams, datagrams and children that do whatever the kernel lets them do.

A round opens one thing on rloop and plays one peer, both chosen by the round's number. The loop's end must be told its
end once, deliver only what was sent, and leave no file, no child and no task behind; the loop serves on.

    python lab/hostile_peers.py --seconds 60 [--seed 7]

A round that fails is named by its number: `--seed NUMBER --count 1` plays it again.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import random
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import builds
import hostile

LAB = Path(__file__).resolve().parent
sys.path.append(str(LAB.parent / "tests"))

# How long a round may take, on a machine that is busy with other things.
PATIENCE = 30
# Rounds between two looks at what is left.
CHUNK = 200


def child(options: argparse.Namespace) -> None:
    import hostile_rounds

    import rloop

    warnings.simplefilter("ignore")
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    print(rloop.run(attack(hostile_rounds, options.seed, options.seconds, options.count)))


async def attack(rounds: Any, first: int, seconds: float, count: int) -> int:
    reports: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(repr(context)))
    deadline = time.monotonic() + seconds
    tried = 0
    files = None
    while tried < count and time.monotonic() < deadline:
        many = min(CHUNK, count - tried)
        for number in range(first + tried, first + tried + many):
            play = random.Random(number).choice(rounds.ROUNDS)
            try:
                async with asyncio.timeout(PATIENCE):
                    await play(random.Random(number))
            except Exception as exc:
                raise AssertionError(f"round {number}, {play.__name__}: {exc!r}") from exc
            assert not reports, f"round {number}, {play.__name__}: {reports[:2]}"
            if time.monotonic() > deadline:
                break
        tried = number + 1 - first
        gc.collect()
        now = set(os.listdir("/proc/self/fd"))
        files = files or now
        assert len(now) <= len(files) + 1, f"files are left open before round {number}: {sorted(now - files)}"
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        assert not tasks, f"tasks are left before round {number}: {tasks}"
        serve = rounds.stream_that_serves
        await serve(random.Random(number))
    return tried


def main() -> None:
    options = hostile.options("Play hostile peers of streams, datagrams and children.", "round")
    if options.child:
        child(options)
        return
    tried, why = hostile.attack(options, options.seconds, 100)
    print(f"{tried} rounds from {options.seed} on")
    if why:
        print(f"FAILED, from round {options.seed} on: {why}")
    builds.finish(tried, int(bool(why)))


if __name__ == "__main__":
    main()
