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
import logging
import os
import resource
import ssl
import sys
import time
from pathlib import Path

import builds
import hostile

LAB = Path(__file__).resolve().parent
sys.path.append(str(LAB.parent / "tests"))

ENGINES = ("direct", "portable")
# Streams between two looks at the memory and the files, and how much memory may be left of any number of them.
CHUNK, MAX_GROWTH = 500, 48 << 20


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
        assert now[1] - before[1] < 1000, f"{now[1] - before[1]} objects are left"
        assert now[2] - before[2] < MAX_GROWTH, f"{now[2] - before[2]} bytes are left"
    return tried


def child(options: argparse.Namespace) -> None:
    import rloop

    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    print(rloop.run(attack(options.seed, options.seconds, options.count)))


def main() -> None:
    options = hostile.options("Feed TLS layers with mutated streams.", "stream")
    if options.child:
        child(options)
        return
    tried = failed = 0
    for engine in ENGINES:
        count, why = hostile.attack(options, options.seconds / len(ENGINES), 120, RLOOP_TLS_ENGINE=engine)
        if why:
            failed += 1
            print(f"FAILED on {engine}, from stream {options.seed} on: {why}", flush=True)
        else:
            tried += count
            print(f"{engine}: {count} streams from {options.seed} on", flush=True)
    builds.finish(tried, failed)


if __name__ == "__main__":
    main()
