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
import json
import logging
import os
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

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
        tried += number + 1 - first - tried
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
    parser = argparse.ArgumentParser(description="Play hostile peers of streams, datagrams and children.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="the number of the first round")
    parser.add_argument("--count", type=int, default=1 << 40, help="how many rounds, at most")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    seed = options.seed if options.seed is not None else random.randrange(1 << 40)
    arguments = ["--seed", str(seed), "--seconds", str(options.seconds), "--count", str(options.count), "--child"]
    command = [sys.executable, "-X", "faulthandler", __file__, *arguments]
    tried, why = 0, ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.seconds + 100)
        if done.returncode == 0:
            tried = int(done.stdout)
        else:
            why = f"ends with {done.returncode}\n{done.stderr[-3000:]}"
    except subprocess.TimeoutExpired:
        why = "hangs"
    print(f"{tried} rounds from {seed} on")
    if why:
        print(f"FAILED, from round {seed} on: {why}")
    print(json.dumps({"tried": tried, "failed": int(bool(why))}))
    sys.exit(1 if why else 0)


if __name__ == "__main__":
    main()
