"""Awaits between Rust and Python in a Rust program: rloop beside pyo3-async-runtimes with tokio, in turn.

    hosting.py PROGRAM [AWAITS]      PROGRAM: rloop-awaits (benchmarks/awaits), built in release mode

Shown are medians of the rounds. The last column is rloop's round trips a second divided by pyo3-async-runtimes'.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

ROUNDS = 5
CLIENTS = (1, 50)
DIRECTIONS = {"rust": "Rust awaits Python", "python": "Python awaits Rust"}


def measure(program: str, which: str, direction: str, awaits: int, clients: int) -> tuple[float, float, float]:
    """Round trips per second, CPU microseconds for each, and by how many kilobytes the process has grown."""
    command = [program, which, direction, str(awaits), str(clients)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate, cpu, grown = map(float, output.split())
    return rate, cpu, grown


def main(program: str, awaits: int) -> None:
    print(f"{'':20} clients    rloop/s  CPU us     kB  runtimes/s  CPU us  times")
    for direction, title in DIRECTIONS.items():
        for clients in CLIENTS:
            ours, theirs = [], []
            for _ in range(ROUNDS):
                ours.append(measure(program, "rloop", direction, awaits, clients))
                theirs.append(measure(program, "runtimes", direction, awaits, clients))
            rate, cpu, grown = (statistics.median(column) for column in zip(*ours, strict=True))
            their_rate, their_cpu, _ = (statistics.median(column) for column in zip(*theirs, strict=True))
            print(
                f"{title:20} {clients:7}  {rate:9.0f} {cpu:7.2f} {grown:6.0f}  "
                f"{their_rate:10.0f} {their_cpu:7.2f} {rate / their_rate:6.1f}"
            )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 50_000)
