"""Hostile TLS: mutated handshakes and records, given to TLS layers by the thousand each second, on both engines.

The streams, and what must hold for each, are those of `tests/support/hostile.py`. A failure of a layer may cost an
exception, never the process; nothing is delivered that the peer has not said; what a layer has used is freed.

    python lab/hostile_tls.py --seconds 60 [--seed 7]

A stream that fails is named by its number: `--seed NUMBER --count 1` plays it again.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import random
import resource
import ssl
import subprocess
import sys
import time
from pathlib import Path

LAB = Path(__file__).resolve().parent
sys.path.append(str(LAB.parent / "tests"))

ENGINES = ("direct", "portable")
# Streams between two looks at the memory and the files, and how much memory may be left of any number of them.
CHUNK, MAX_GROWTH = 2000, 48 << 20


def measure() -> tuple[int, int, int]:
    """The numbers of open files, of live objects, and of resident bytes."""
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * resource.getpagesize()
    return len(os.listdir("/proc/self/fd")), len(gc.get_objects()), resident


async def attack(first: int, seconds: float, count: int) -> int:
    from support.hostile import Hostile, feed

    reports: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: reports.append(repr(context.get("exception"))))
    versions = [Hostile(version) for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)]
    deadline = time.monotonic() + seconds
    tried, before = 0, (0, 0, 0)
    while tried < count and time.monotonic() < deadline:
        many = min(CHUNK, count - tried)
        await feed(range(first + tried, first + tried + many), versions)
        tried += many
        wrong = [text for text in reports if "SSL" not in text and "Connection" not in text]
        assert not wrong, wrong[:3]
        reports.clear()
        now = measure()
        before = before if before[0] else now
        assert now[0] == before[0], f"{now[0] - before[0]} files are left open"
        assert now[1] - before[1] < 2000, f"{now[1] - before[1]} objects are left"
        assert now[2] - before[2] < MAX_GROWTH, f"{now[2] - before[2]} bytes are left"
    return tried


def child(options: argparse.Namespace) -> None:
    import rloop

    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    print(rloop.run(attack(options.seed, options.seconds, options.count)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Feed TLS layers with mutated streams.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="the number of the first stream")
    parser.add_argument("--count", type=int, default=1 << 40, help="how many streams on each engine, at most")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    seed = options.seed if options.seed is not None else random.randrange(1 << 40)
    tried = failed = 0
    for engine in ENGINES:
        seconds = options.seconds / len(ENGINES)
        arguments = ["--seed", str(seed), "--seconds", str(seconds), "--count", str(options.count), "--child"]
        command = [sys.executable, "-X", "faulthandler", __file__, *arguments]
        environment = {**os.environ, "RLOOP_TLS_ENGINE": engine}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 120)
            why = "" if done.returncode == 0 else f"ends with {done.returncode}\n{done.stderr[-3000:]}"
        except subprocess.TimeoutExpired:
            why = "hangs"
        if why:
            failed += 1
            print(f"FAILED on {engine}, from stream {seed} on: {why}", flush=True)
        else:
            tried += int(done.stdout)
            print(f"{engine}: {int(done.stdout)} streams from {seed} on", flush=True)
    print(json.dumps({"tried": tried, "failed": failed}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
