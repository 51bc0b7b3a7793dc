"""Interpreters that end while a loop is busy: at once, with the program's own exit code, and without a word.

`python lab/exits.py --seconds N [--count 10000] [--loop asyncio]`

There are two kinds of programs. Those of tests/support/exits.py end while a daemon thread runs a loop, in the middle of
the program's own code, one for each way in which rloop calls it. Those of `ENDS` end while four threads post to a loop
which runs, is open, is closed or looks up names. All of them run on every Python of the machine that rloop supports,
until each Python has ended 10,000 times, or until the time is over. An exit fails if its code is not the program's own,
if the interpreter tells a fatal error, or if more than five seconds pass between `sys.exit()` and the end of the
process. That takes a hundredth of a second on an idle machine; whatever waits for a thread that sleeps takes longer
than five seconds.

Each Python gets a virtual environment in target/venvs, with rloop's wheel. A wheel that must be built first is built
while the first Python is tried, and not counted in the time.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import builds
import machine
import task

from support import exits

CODE = exits.CODE
SLOW = 5.0  # seconds from sys.exit() to the end, on a machine with much else to do
LIMIT = 60  # seconds that a program may take
BATCH = 16  # exits of one program at a time
AT_A_TIME = 2

START = """
import asyncio, sys, threading, time
loop = new_event_loop()
def post():
    while True:
        try:
            loop.call_soon_threadsafe(int)
        except RuntimeError:
            time.sleep(0.001)
for _ in range(4):
    threading.Thread(target=post, daemon=True).start()
def end():
    print(time.monotonic(), flush=True)
    sys.exit({code})
"""
ENDS = {
    "runs in the main thread": "loop.call_later(0.02, end)\nloop.run_forever()",
    "runs in a daemon thread": """
def step():
    sum(range(100))
    loop.call_soon(step)
loop.call_soon(step)
threading.Thread(target=loop.run_forever, daemon=True).start()
time.sleep(0.02)
end()
""",
    "was left open": "loop.run_until_complete(asyncio.sleep(0.02))\nend()",
    "is closed": "loop.run_until_complete(asyncio.sleep(0.02))\nloop.close()\nend()",
    "looks up names": """
import ctypes, socket
socket.getaddrinfo = lambda *args: ctypes.CDLL(None).sleep(5)
tasks = [loop.create_task(loop.getaddrinfo("name.invalid", 80)) for _ in range(3)]
loop.run_until_complete(asyncio.sleep(0.02))
end()
""",
    "is closed at exit": "import atexit\natexit.register(loop.close)\nloop.call_later(0.02, end)\nloop.run_forever()",
}


def programs():
    """All programs by name: source code that finds `new_event_loop`, and exits with `CODE`."""
    found = {f"in {name}": exits.program(name) for name in exits.ROWS}
    return found | {f"a loop that {name}": START.format(code=CODE) + source for name, source in ENDS.items()}


def environment(python, loop):
    """The command of an interpreter that has rloop: this one, or one of an environment that is made for it."""
    if python.command == (sys.executable,):
        return (sys.executable,)
    requirements = (task.wheel(python),) if loop == "rloop" else ()
    return task.venv(f"exits-{python.name}", python, *requirements)


def run(command, loop, name, source, count):
    """Runs a program so many times. Returns what was wrong with each exit that was not as it should be."""
    forker = exits.FORKER.format(loop=loop, tests=exits.TESTS, count=count, parallel=min(exits.PARALLEL, count))
    try:
        done = subprocess.run(
            [*command, "-X", "faulthandler", "-c", forker],
            input=source,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT + count,
            cwd=exits.TESTS,
        )
    except subprocess.TimeoutExpired:
        return [f"{name}: no end after {LIMIT + count} s"] * count
    try:
        results = json.loads(done.stdout)
    except ValueError:
        return [f"{name}: {done.stderr[-2_000:]}"] * count
    wrong = [f"{name}: exit code {code}, {done.stderr[-2_000:]}" for code, _ in results if code != CODE]
    if "Fatal" in done.stderr:
        wrong.append(f"{name}: {done.stderr[-2_000:]}")
    return wrong + [f"{name}: {seconds:.1f} s to its end" for _, seconds in results if not seconds < SLOW]


def sweep(python, command, loop, count, deadline):
    """All programs on one Python, again and again, until there are enough exits. Returns (exits, what was wrong)."""
    tried, wrong = 0, []

    def one(name, source):
        if time.monotonic() > deadline:
            return None
        return run(command, loop, name, source, BATCH)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        while tried < count and time.monotonic() < deadline:
            rest = list(programs().items())[: max(1, (count - tried + BATCH - 1) // BATCH)]
            for found in pool.map(one, *zip(*rest, strict=True)):
                if found is not None:
                    tried += BATCH
                    wrong += [f"Python {python.name}, {text}" for text in found]
    return tried, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--count", type=int, default=10_000, help="exits, on each Python")
    parser.add_argument("--loop", default="rloop")
    parser.add_argument("--here", action="store_true", help="only on the Python that runs this")
    options = parser.parse_args()
    here = machine.Python((sys.executable,), sys.version_info[:3])
    pythons = [here, *([] if options.here else others(here))]
    left, tried, wrong = options.seconds - 3, 0, []
    with ThreadPoolExecutor(1) as builder:
        made = [builder.submit(environment, python, options.loop) for python in pythons]
        for number, (python, building) in enumerate(zip(pythons, made, strict=True)):
            command = building.result()
            started = time.monotonic()
            until = started + left / (len(pythons) - number)
            exited, found = sweep(python, command, options.loop, options.count, until)
            left -= time.monotonic() - started
            tried += exited
            wrong += found
            print(f"Python {python.name}: {exited:,} exits, {len(found)} wrong", flush=True)
    for text, number in Counter(wrong).most_common(20):
        print(f"FAILED, {number} times: {text}")
    builds.finish(tried, len(wrong), pythons=", ".join(python.name for python in pythons))


def others(here):
    """The other Pythons of the machine."""
    return [python for python in machine.all_pythons() if python.version != here.version]


if __name__ == "__main__":
    main()
