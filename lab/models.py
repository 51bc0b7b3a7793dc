"""Checks the waker, the inbox, the close of a loop and the end that hosts wait for, in every order of their threads.

The models are in `lab/models/`, a Rust program of its own, which has loom try all orders of what several threads do
with one loop. The files under test are the crate's own. This part builds the program and runs each model within its
share of the time. A model that fails shows the order that led to it. `tried` is the number of orders.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import builds

# The crate's sources are found from here, so that a changed copy of the tree is checked by its own models.
MODELS = Path("lab") / "models"
# How often loom may take the processor away from a thread that could go on. With 4, each model takes ten seconds or
# less; with 5, those of three threads take minutes, which is why they may end early.
PREEMPTIONS = (4, 5)


def program(tree: Path = builds.ROOT, folder: Path = builds.OUTPUT / "models") -> Path | None:
    """Build the models of this source tree. None, and the compiler's messages, if they cannot be built."""
    built = builds.cargo(("build", "--quiet", "--locked"), folder, {}, tree=tree / MODELS)
    if built.returncode:
        print(built.stdout)
        return None
    return folder / "debug" / "rloop-models"


def check(command: Path, name: str, seconds: float, preemptions: int) -> tuple[int, str]:
    """Check one model. Returns how many orders were tried, 0 if it has failed, and the program's output."""
    arguments = [str(command), name, str(max(int(seconds), 1)), str(preemptions)]
    try:
        done = subprocess.run(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds + 60
        )
    except subprocess.TimeoutExpired:
        return 0, f"{name}: no end"
    found = re.search(r": (\d+) orders", done.stdout)
    return int(found[1]) if found and not done.returncode else 0, done.stdout


def names(command: Path) -> list[str]:
    return subprocess.run([str(command)], capture_output=True, text=True, check=True).stdout.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=300)
    clock = builds.Clock(parser.parse_args().seconds)
    if shutil.which("cargo") is None:
        builds.skip("cargo is not here")
    command = program()
    if command is None:
        builds.finish(0, 1)
    models = names(command)
    tried = failed = 0
    for preemptions in PREEMPTIONS:
        for place, name in enumerate(models):
            if preemptions > PREEMPTIONS[0] and clock.is_over():
                break
            orders, output = check(command, name, clock.left() / (len(models) - place), preemptions)
            print(builds.shown(output), flush=True)
            tried, failed = tried + orders, failed + (orders == 0)
    builds.finish(tried, failed)


if __name__ == "__main__":
    main()
