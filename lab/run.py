"""Runs the parts of the laboratory, three at a time, and prints one line for each: what was tried, and what failed.

`make lab` runs all parts; `make lab ARGS="faults soak"` runs these. Each part is a program of its own in this folder.
`PARTS` names them, with the time that each may take. No check lives here.

The contract of a part: `python lab/NAME.py --seconds N` takes about N seconds or fewer. It writes what it does and what
it finds to its output, and ends with one line of JSON: {"tried": 5000, "failed": 0}, or {"skipped": "why"}. Its exit
status is 0 if nothing failed. A part that ends otherwise, that tried nothing and does not say why, or that takes twice
its time and a minute, has failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

LAB = Path(__file__).resolve().parent
# Where the output of each part is kept.
OUTPUT = Path(os.environ.get("CARGO_TARGET_DIR", LAB.parent / "target")) / "lab"
# Many tests wait, so that three parts keep two cores busy.
AT_A_TIME = 3

# The most seconds that all parts together may take.
LIMIT = 80 * 60
# Each part, and for how many seconds it runs as part of the whole.
PARTS: dict[str, int] = {
    "asan": 1800,
    "debug_python": 1200,
    "memcheck": 600,
    "miri": 600,
    "models": 240,
    "planted": 720,
    "tsan": 180,
    "api": 180,
    "fuzzers": 360,
    "hostile_peers": 240,
    "hostile_tls": 900,
    "programs": 540,
    "soak": 600,
    "interrupts": 480,
    "faults": 600,
    "modes": 1800,
    "reach": 1200,
    "allocations": 480,
    "forks": 480,
    "exits": 780,
}


@dataclass(frozen=True)
class Outcome:
    name: str
    seconds: float
    # The part's last line, or why there is none.
    said: dict[str, object]
    passed: bool

    def __str__(self) -> str:
        told = ", ".join(f"{key} {value}" for key, value in self.said.items())
        return f"{self.name:<14} {'passed' if self.passed else 'FAILED'} {self.seconds:6.0f} s  {told}"


def run(name: str, seconds: int) -> Outcome:
    """Run one part; its output goes to a file."""
    command = [sys.executable, str(LAB / f"{name}.py"), "--seconds", str(seconds)]
    path = OUTPUT / f"{name}.txt"
    started = time.monotonic()
    with path.open("wb") as output:
        try:
            status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=2 * seconds + 60)
        except subprocess.TimeoutExpired:
            return Outcome(name, time.monotonic() - started, {"error": f"hangs, see {path}"}, passed=False)
    said = last_line(path)
    if not said.keys() & {"tried", "skipped", "error"} or said.get("tried") == 0:
        said["error"] = "nothing was tried"
    passed = status.returncode == 0 and not said.get("failed", 0) and "error" not in said
    if not passed:
        said["see"] = str(path)
    return Outcome(name, time.monotonic() - started, said, passed)


def last_line(path: Path) -> dict[str, object]:
    lines = path.read_text(errors="replace").strip().splitlines()
    try:
        said = json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"error": "no result"}
    return said if isinstance(said, dict) else {"error": "no result"}


def in_order(names: Iterable[str]) -> list[str]:
    """The longest part begins first, so that no long one is left when the others have ended."""
    return sorted(names, key=lambda name: -PARTS[name])


def main() -> None:
    parser = argparse.ArgumentParser(description="Run parts of the laboratory.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all, without any: {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=int, help="how long each part runs, instead of its own time")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    names = in_order(options.parts or PARTS)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        running = [pool.submit(run, name, options.seconds or PARTS[name]) for name in names]
        outcomes = []
        for future in running:
            outcomes.append(future.result())
            print(outcomes[-1], flush=True)
    failed = [outcome.name for outcome in outcomes if not outcome.passed]
    print(f"{len(outcomes)} parts, failed: {', '.join(failed) or 'none'}, in {time.monotonic() - started:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
