"""Forks in every state of a loop: the parent goes on as if there had been none, and the child can do what it likes.

`python lab/forks.py --seconds N [--seed S]`

A case is a place and an act. The place is where the program forks: a callback, a protocol's method, a handshake,
another thread while the loop waits, a closed loop. The act is what the child does with the loop that it has inherited:
exit, close it, make a new one, become another program, go on with it. forks_cases.py has both, and says what each place
must show. Each case is a process of its own, with a time limit. It checks that everything arrives once, that what was
watched is still watched, and that no file is left open. One round runs all cases in a random order; rounds follow until
the time is over.

asyncio's child shares the epoll file with its parent: there a child that closes or goes on with the loop takes the
parent's registrations away. So those acts have no counterpart, and the parent without a fork is what is compared with.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import builds
from forks_cases import ACTS, PLACES, fits

LAB = Path(__file__).resolve().parent
LIMIT = 60  # seconds of one case, which takes a fraction of a second on an idle machine
AT_A_TIME = 3


def run(loop, place, act, seed):
    """One case. Returns what was wrong, or None."""
    command = [sys.executable, "-X", "faulthandler", "-W", "error", str(LAB / "forks_cases.py")]
    try:
        done = subprocess.run([*command, loop, place, act, str(seed)], capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired as late:
        return f"no end: {late.stderr!r}"
    if done.returncode or done.stderr:
        return f"exit status {done.returncode}: {done.stderr[-2_000:]}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--loop", default="rloop")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--places", nargs="*", default=list(PLACES))
    options = parser.parse_args()
    print(f"seed {options.seed}, loop {options.loop}", flush=True)
    deadline = time.monotonic() + options.seconds - 3
    seeds = random.Random(options.seed)
    tried, failed, rounds = 0, 0, 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        while time.monotonic() < deadline:
            cases = [(place, act) for place in options.places for act in ACTS if fits(options.loop, place, act)]
            seeds.shuffle(cases)
            jobs = {pool.submit(judge, deadline, options.loop, *case, seeds.randrange(1 << 30)): case for case in cases}
            for job, case in jobs.items():
                wrong = job.result()
                tried += wrong is not SKIPPED
                if wrong not in (None, SKIPPED):
                    failed += 1
                    print(f"FAILED: {' / '.join(case)}: {wrong}", flush=True)
            rounds += 1
    print(f"{rounds} rounds of {len(cases)} cases")
    builds.finish(tried, failed)


SKIPPED = "no time is left"


def judge(deadline, loop, place, act, seed):
    return run(loop, place, act, seed) if time.monotonic() < deadline else SKIPPED


if __name__ == "__main__":
    assert os.name == "posix"
    main()
