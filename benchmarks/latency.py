"""What a loop does when there is nothing to do, and how late it wakes up: `latency.py LOOP [--json]`.

Idle: how often the process woke up, and how many threads it has. Lateness: how long after its time a sleep ended, by
`time.monotonic()`. If a sleep ends before its time, by that clock or by the loop's own, the line says EARLY.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import time

import loops

IDLE_SECONDS = 5.0
SAMPLES = 300
DELAYS = (0.0002, 0.0011, 0.005)


async def idle(seconds: float) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.sleep(seconds)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": seconds,
        "wakeups": after.ru_nvcsw - before.ru_nvcsw,
        "threads": len(os.listdir("/proc/self/task")),
        "cpu_ms": cpu * 1000,
    }


async def lateness(delay: float, samples: int) -> dict[str, float]:
    """In microseconds."""
    loop = asyncio.get_running_loop()
    real, own = [], []
    for _ in range(samples):
        own_start, start = loop.time(), time.monotonic()
        await asyncio.sleep(delay)
        end, own_end = time.monotonic(), loop.time()
        real.append((end - start - delay) * 1e6)
        own.append((own_end - own_start - delay) * 1e6)
    return {
        "delay": delay,
        "min_us": min(real),
        "median_us": statistics.median(real),
        "p99_us": statistics.quantiles(real, n=100)[98],
        "min_by_loop_us": min(own),
    }


def measure(name: str, idle_seconds: float, samples: int) -> dict:
    with asyncio.Runner(loop_factory=lambda: loops.new_loop(name)) as runner:
        return {
            "idle": runner.run(idle(idle_seconds)),
            "lateness": [runner.run(lateness(delay, samples)) for delay in DELAYS],
        }


def lines(results: dict[str, dict]):
    """The table of one or more loops."""
    yield f"{'idle':<22}{'wake-ups':>10}{'threads':>10}{'CPU ms':>10}"
    for name, result in results.items():
        row = result["idle"]
        label = f"{name} {row['seconds']:g} s"
        yield f"  {label:<20}{row['wakeups']:>10}{row['threads']:>10}{row['cpu_ms']:>10.2f}"
    yield f"{'lateness of sleep, us':<22}{'min':>10}{'median':>10}{'p99':>10}{'min by loop.time()':>20}"
    for name, result in results.items():
        for row in result["lateness"]:
            # The clocks are floats of seconds, so differences of a few nanoseconds are rounding errors.
            early = "  EARLY" if row["min_by_loop_us"] < -0.01 or row["min_us"] < -0.01 else ""
            figures = f"{row['min_us']:>10.1f}{row['median_us']:>10.1f}{row['p99_us']:>10.1f}"
            label = f"{name} {row['delay'] * 1000:g} ms"
            yield f"  {label:<20}{figures}{row['min_by_loop_us']:>20.1f}{early}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("loop", choices=loops.NAMES)
    parser.add_argument("--idle", type=float, default=IDLE_SECONDS, metavar="SECONDS")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON line")
    options = parser.parse_args()
    result = measure(options.loop, options.idle, options.samples)
    if options.json:
        print(json.dumps(result))
    else:
        print("\n".join(lines({options.loop: result})))


if __name__ == "__main__":
    main()
