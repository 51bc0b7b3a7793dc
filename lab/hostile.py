"""What the parts with hostile peers share: their options, and the child process in which a part attacks.

The child is the part's own program with `--child`. It prints how many attacks it has made, and ends with an exception
if rloop has not withstood one. No attack lives here.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys


def options(description: str, what: str) -> argparse.Namespace:
    """The options of a part. `what`: the word for one attack."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 40), help=f"the number of the first {what}")
    parser.add_argument("--count", type=int, default=1 << 40, help=f"how many {what}s, at most")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def attack(given: argparse.Namespace, seconds: float, grace: float, **environment: str) -> tuple[int, str]:
    """Run the part's child for so many seconds. Returns how many attacks it made, and what was wrong, if anything. A
    child that has not ended `grace` seconds later hangs."""
    arguments = ["--seed", str(given.seed), "--seconds", str(seconds), "--count", str(given.count), "--child"]
    command = [sys.executable, "-X", "faulthandler", sys.argv[0], *arguments]
    variables = {**os.environ, **environment}
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=seconds + grace)
    except subprocess.TimeoutExpired:
        return 0, "hangs"
    if done.returncode:
        return 0, f"ends with {done.returncode}\n{done.stderr[-3000:]}"
    return int(done.stdout), ""
