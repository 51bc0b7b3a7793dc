"""Checks that the interpreter exits at once and with the program's exit code, whatever a loop is doing at that time.

`python examples/exits.py LOOP [COUNT]` starts COUNT programs (500). In each, four threads call call_soon_threadsafe all
the time, and the interpreter exits while the loop runs, is open, is closed or looks up names. Prints how long the
slowest exit took, from the call of sys.exit() to the end of the process, and the exit codes that were not the program's
own. The exit status is 1 if there were any, or if an exit took longer than a second.
"""

import collections
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

CODE = 7
LIMIT = 1.0  # seconds

START = """
import asyncio, sys, threading, time
from {loop} import new_event_loop
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


def run(loop, source):
    """The exit code, how long the exit took in seconds, and what was printed to stderr."""
    source = START.format(loop=loop, code=CODE) + source
    process = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", source], capture_output=True, text=True, timeout=60
    )
    return process.returncode, time.monotonic() - float(process.stdout or "nan"), process.stderr


def main(loop, count="500"):
    sources = list(ENDS.values())
    jobs = [sources[number % len(sources)] for number in range(int(count))]
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        results = list(executor.map(lambda source: run(loop, source), jobs))
    wrong = [result for result in results if result[0] != CODE]
    slowest = max(seconds for _, seconds, _ in results)
    codes = dict(collections.Counter(code for code, _, _ in wrong))
    print(f"{loop}: {len(results)} exits, wrong exit codes: {codes or 'none'}, slowest end {slowest:.2f} s")
    for _, _, stderr in wrong[:3]:
        print(stderr, file=sys.stderr)
    return 1 if wrong or not slowest < LIMIT else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
