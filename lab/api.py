"""Random wrong calls of everything that rloop exports: none may crash, panic, or raise SystemError.

An episode makes a loop, and on it handles, timers, servers, and transports of every kind in every state. It calls their
methods, and those of their classes, with junk, with the wrong `self`, inside callbacks, protocols and finalizers, from
other threads, after the end, and on objects that were never initialised. Whatever exception comes is right, but for a
panic, a SystemError, or a second borrow of the loop's state.

    python lab/api.py --seconds 60 [--seed 7]

Each child process plays episodes, and may crash. The seed of the episode that failed is printed, and its last calls;
`--seed N --episodes 1` plays it again.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import builds

LAB = Path(__file__).resolve().parent
# How long one child runs, and how much longer it may take before it hangs.
SLICE, GRACE = 20, 60
# So many of its last calls are shown of an episode that failed.
SHOWN = 15


def run_child(number: int, seconds: float, episodes: int) -> tuple[int, str | None]:
    """One child; returns how many calls it made, and what failed."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace"
        arguments = [str(number), str(seconds), str(episodes), str(trace)]
        command = [sys.executable, "-X", "faulthandler", str(LAB / "api_episode.py"), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE, cwd=folder)
            why = f"ends with {done.returncode}\n{done.stderr[-3000:]}"
        except subprocess.TimeoutExpired:
            why = "hangs"
        lines = trace.read_text(errors="replace").splitlines() if trace.exists() else []
    calls = sum(not line.startswith("episode ") for line in lines)
    if lines and lines[-1] == "done":
        return calls, None
    episode = next((line for line in reversed(lines) if line.startswith("episode ")), "no episode")
    return calls, f"{episode}: {why}\n" + "\n".join(f"    {line}" for line in lines[-SHOWN:])


def main() -> None:
    parser = argparse.ArgumentParser(description="Call everything that rloop exports in wrong ways.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="the first episode")
    parser.add_argument("--episodes", type=int, default=1 << 30, help="how many at most")
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    number = options.seed if options.seed is not None else random.randrange(1 << 30)
    tried = failed = 0
    while (left := deadline - time.monotonic()) > 0:
        print(f"episodes from {number}", flush=True)
        calls, why = run_child(number, min(SLICE, left), options.episodes)
        tried += calls
        if why is not None:
            failed += 1
            print(f"FAILED, {why}", flush=True)
        number += 1000
        if options.episodes < 1 << 30:
            break
    builds.finish(tried, failed)


if __name__ == "__main__":
    main()
