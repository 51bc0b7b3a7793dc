"""Random programs of loop and transport calls, played on rloop and on asyncio: both must tell the same.

A program opens a connection or two, calls their transports, their peers and the loop in any order, and raises
exceptions in protocols and callbacks. hypothesis draws programs, and shrinks one that fails to a few lines, which are
printed. Differences that docs/compatibility.md lists are left out by `program_known.py`. Programs with SystemExit and
KeyboardInterrupt run on rloop only, where every connection must come to its end all the same.

    python lab/programs.py --seconds 60 [--seed 7] [--kinds tcp,unix]
    python lab/programs.py --replay FILE      (a program as it was printed; what both loops tell of it)

Each seed runs in a child process, which may crash. The program at which it did is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

LAB = Path(__file__).resolve().parent
sys.path.append(str(LAB.parent / "tests"))

import builds  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis.errors import Flaky  # noqa: E402
from program_connections import KINDS, STREAMS  # noqa: E402
from program_draw import programs  # noqa: E402
from program_known import known  # noqa: E402
from program_steps import Program, parsed, shown  # noqa: E402
from program_world import Outcome, open_files, play  # noqa: E402

import rloop  # noqa: E402

LOOPS: dict[str, Any] = {"rloop": rloop.new_event_loop, "asyncio": asyncio.SelectorEventLoop}
# Which kinds of connections meet in a program. "exits" are programs that leave the loop by exceptions.
MIXES = {
    "all": KINDS,
    "streams": STREAMS,
    "plain": ("tcp", "unix", "accepted"),
    "tls": ("tls-client", "tls-server"),
    "datagrams": ("udp", "udp-free", "unix-datagram"),
    "pipes": ("read-pipe", "write-pipe"),
    "raw": ("raw",),
    "exits": KINDS,
}
# How long one child runs, and after which time more than that it hangs.
SLICE, GRACE = 30, 120


class Over(KeyboardInterrupt):
    """The time is over. hypothesis lets this one through."""


class Differs(AssertionError):
    """Both loops promise the same, and do not do it."""


def broken(program: Program, outcome: Outcome) -> str | None:
    """What rloop must never do, whatever the program."""
    for name, notes in outcome.items():
        calls = [note[0] for note in notes]
        # A protocol whose start_tls() fails is told nothing more, as on asyncio.
        ends = calls.count("connection_lost"), "start_tls" in calls
        if "connection_made" in calls and ends not in [(1, False), (1, True), (0, True)]:
            return f"{name}: connection_lost is not called once"
        if "hangs" in calls or "never quiet" in calls:
            return f"{name}: {calls[-1]}"
    return None


def first_difference(ours: Outcome, theirs: Outcome) -> str:
    """Where two outcomes part, for each name."""
    lines = []
    for name in sorted(set(ours) | set(theirs)):
        mine, its = ours.get(name, []), theirs.get(name, [])
        at = next((i for i in range(max(len(mine), len(its))) if mine[i : i + 1] != its[i : i + 1]), None)
        if at is not None:
            lines += [
                f"  {name}, {at}: rloop   {mine[at : at + 4]}",
                f"  {' ' * len(name)}     asyncio {its[at : at + 4]}",
            ]
    return "\n".join(lines)[:4000]


def compare(program: Program) -> None:
    """Raises Differs if the loops tell different things of a program, each time that it is played."""
    ours, theirs = play(program, LOOPS["rloop"]), play(program, LOOPS["asyncio"])
    for _ in range(3):
        if ours == theirs or known(program, ours, theirs):
            return
        # Was it chance, such as the kernel's? Then it comes out otherwise.
        again = play(program, LOOPS["rloop"]), play(program, LOOPS["asyncio"])
        if again != (ours, theirs):
            ours, theirs = again
            if ours == theirs:
                return
    if ours != theirs:
        raise Differs(first_difference(ours, theirs))


def check_alone(program: Program) -> None:
    """Raises Differs if rloop does what it must never do."""
    files = open_files()
    outcome = play(program, LOOPS["rloop"])
    if what := broken(program, outcome):
        raise Differs(f"  {what}\n  {outcome}"[:4000])
    if open_files() - files:
        raise Differs("  leaves a file open")


def search(mix: str, number: int, seconds: float, most: int, trace: Path) -> dict[str, Any]:
    """Plays programs until the time is over, or one fails. What is played is kept in the file `trace`."""
    deadline = time.monotonic() + seconds
    tried = 0
    failed: list[tuple[str, str]] = []

    @seed(number)
    @settings(
        max_examples=most,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(programs(MIXES.get(mix) or tuple(mix.split(",")), exits=mix == "exits"))
    def one(program: Program) -> None:
        nonlocal tried
        if time.monotonic() > deadline and not failed:
            raise Over
        tried += 1
        text = shown(program)
        trace.write_text(text)
        try:
            check_alone(program)
            if mix != "exits":
                compare(program)
        except Differs as exc:
            failed.append((text, str(exc)))
            raise

    try:
        one()
    except (Differs, Flaky, BaseExceptionGroup, Over):
        pass
    # The last one is the shortest.
    return {"tried": tried, "failed": failed[-1] if failed else None}


def child(options: argparse.Namespace) -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("asyncio").propagate = False
    result = search(options.kinds, options.seed, options.seconds, options.programs, Path(options.child))
    print(json.dumps(result))


def run_child(mix: str, number: int, seconds: float, most: int) -> dict[str, Any]:
    """One seed in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "program"
        arguments = ["--seconds", str(seconds), "--seed", str(number), "--kinds", mix, "--programs", str(most)]
        command = [sys.executable, "-X", "faulthandler", __file__, *arguments, "--child", str(trace)]
        # Every other round of the mixes uses the other engine of TLS.
        engine = ("direct", "portable")[number // len(MIXES) % 2]
        environment = {**os.environ, "RLOOP_TLS_ENGINE": engine}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=seconds + 5 * 60 + GRACE
            )
        except subprocess.TimeoutExpired:
            return {"tried": 0, "failed": (trace.read_text() if trace.exists() else "", "  hangs")}
        try:
            return dict(json.loads(done.stdout.splitlines()[-1]))
        except (IndexError, ValueError):
            text = trace.read_text() if trace.exists() else ""
            return {"tried": 0, "failed": (text, f"  ends with {done.returncode}\n{done.stderr[-3000:]}")}


def replay(path: str) -> None:
    program = parsed(Path(path).read_text())
    outcomes = {name: play(program, factory) for name, factory in LOOPS.items()}
    for name, outcome in outcomes.items():
        print(name)
        for whose, notes in sorted(outcome.items()):
            print(f"  {whose}")
            for note in notes:
                print(f"    {' '.join(note)}")
    ours, theirs = outcomes["rloop"], outcomes["asyncio"]
    if ours != theirs:
        print(f"{first_difference(ours, theirs)}\nknown as {known(program, ours, theirs)}")
    print(f"broken: {broken(program, ours)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Play random programs on rloop and on asyncio.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="the first one; each further child has the next one")
    parser.add_argument("--kinds", help=f"{', '.join(MIXES)}, or kinds of connections: {', '.join(KINDS)}")
    parser.add_argument("--programs", type=int, default=100_000, help="how many programs a child plays at most")
    parser.add_argument("--replay", metavar="FILE")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.replay:
        warnings.simplefilter("ignore")
        replay(options.replay)
        return
    if options.child:
        child(options)
        return
    deadline = time.monotonic() + options.seconds
    number = options.seed if options.seed is not None else random.randrange(1 << 30)
    mixes = [options.kinds] if options.kinds else list(MIXES)
    tried, failures = 0, {}
    while (left := deadline - time.monotonic()) > 0:
        mix = mixes[number % len(mixes)]
        result = run_child(mix, number, min(SLICE, left), options.programs)
        tried += result["tried"]
        print(f"seed {number}, {mix}: {result['tried']} programs", flush=True)
        if result["failed"]:
            program, why = result["failed"]
            failures[program] = why
            print(f"FAILED, again by --seed {number} --kinds {mix}\n{program}{why}", flush=True)
        number += 1
        if result["tried"] >= options.programs:
            break
    builds.finish(tried, len(failures))


if __name__ == "__main__":
    main()
