"""Exceptions out of a running loop, at random instants: nothing that the loop has accepted may be lost.

`python lab/interrupts.py --seconds N [--count 100000] [--loop asyncio] [--seed S]`

An interval timer's signal handler raises KeyboardInterrupt wherever the loop is. The loop is run again at once, and so
on, 100,000 times or until the time is over. What a callback was doing when the exception hit it is the program's own
matter. So whatever counts here is done by a callback that is written in C, where no signal handler can run.

interrupts_waits.py waits for one thing at a time; if its wake-up is lost, the wait never ends. interrupts_ledger.py
keeps a loop busy with everything at once, and compares what was accepted with what was done. Each process runs one of
the two, with a seed and a time limit.

On rloop nothing may be lost. asyncio does lose some: for instance, it takes a callback off its queue and runs it with
Python code in between. `--loop asyncio` shows how much, and is no part of the laboratory.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import builds

LAB = Path(__file__).resolve().parent
PROGRAMS = ("interrupts_waits.py", "interrupts_ledger.py")
EACH = 2_000  # interrupts of one process
LIMIT = 120  # seconds that a process may take beyond the time that it was given
AT_A_TIME = 2


def run(program, loop, seed, count, seconds):
    """One process: what it reports, or what became of it."""
    command = [sys.executable, "-X", "faulthandler", str(LAB / program), loop, str(seed), str(count), f"{seconds:.1f}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + LIMIT)
    except subprocess.TimeoutExpired:
        return {"interrupts": 0, "wrong": [f"{program}, seed {seed}: no end"]}
    if done.returncode:
        told = done.stderr[-3_000:]
        return {"interrupts": 0, "wrong": [f"{program}, seed {seed}: exit status {done.returncode}\n{told}"]}
    said = json.loads(done.stdout.splitlines()[-1])
    said["wrong"] = [f"{program}, seed {seed}: {text}" for text in said["wrong"]]
    return said


def work(options, deadline, number, reports):
    """Process after process, until there are enough interrupts or the time is over."""
    seeds = random.Random(f"{options.seed} {number}")
    while sum(report["interrupts"] for report in reports) < options.count:
        left = deadline - time.monotonic()
        if left < 0.5 and reports:
            return
        program = PROGRAMS[number % len(PROGRAMS)]
        count = min(EACH, options.count)
        reports.append(run(program, options.loop, seeds.randrange(1 << 30), count, max(0.5, left)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--count", type=int, default=100_000, help="interrupts")
    parser.add_argument("--loop", default="rloop")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    options = parser.parse_args()
    print(f"seed {options.seed}, loop {options.loop}", flush=True)
    deadline = time.monotonic() + options.seconds - 2
    reports: list[dict] = []
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(lambda number: work(options, deadline, number, reports), range(AT_A_TIME)))
    seen: Counter[str] = Counter()
    for report in reports:
        seen += Counter(report.get("seen", {}))
    wrong = [text for report in reports for text in report["wrong"]]
    for text in wrong[:20]:
        print(f"FAILED: {text}")
    interrupts = sum(report["interrupts"] for report in reports)
    print(f"{len(reports)} processes, {interrupts:,} interrupts; {dict(seen)}")
    builds.finish(interrupts, len(wrong))


if __name__ == "__main__":
    assert os.name == "posix"
    main()
