"""Each system call of rloop fails in turn: a part of the laboratory.

`python lab/faults.py [--seconds 600] [--scenario tcp ...] [--call recv ...] [--errno EINTR ...] [--list]`

A case is one scenario in which one call has one fault: the first to the twentieth call of a name fails with one errno
of its manual page, or is cut short. Some errors are also tried on every call, or on several in a row. The cases of a
scenario are made from what it calls when nothing fails, so that each case really has its fault; only those count.

Each case must end in going on, or in an OSError that is raised or told. After EINTR, EAGAIN or a short count it must go
on. Afterwards the loop works, and no file, task or
transport is left. `faults_world.py` and `faults_worker.py` have these checks, `faults_table.py` the errors.

Without enough seconds for all cases, a part of them is tried, spread over all calls and errors by `--seed`. Only the
system calls that go through `src/reactor/sys/attempt.rs` fail; those of Python's own modules do not.
"""

from __future__ import annotations

import argparse
import collections
import errno
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import builds
import faults_build
from faults_scenarios import SCENARIOS
from faults_table import AFTER, ERRORS, FOR_EVER, IN_A_ROW, LAST, NEVER_FOR_EVER, PASSING, SHORT

# What runs the cases.
SCRIPT = (str(Path(__file__).resolve().parent / "faults_worker.py"),)
# Cases that one process runs, at most.
BATCH = 300
# Seconds without a word of a worker, which names each case, until it is ended.
SILENCE = 90
# So many failures are enough to look at.
ENOUGH = 100
# Tell of every case.
VERBOSE = bool(os.environ.get("RLOOP_LAB_VERBOSE"))


@dataclass(frozen=True)
class Case:
    scenario: str
    call: str
    first: int
    times: int
    what: str
    number: int

    @property
    def rule(self) -> list[Any]:
        return [self.call, self.first, self.times, self.what, self.number]

    @property
    def is_harmless(self) -> bool:
        """True if nobody may be told: the call is repeated, or goes on later. A connect with EAGAIN does not go on."""
        passing = errno.errorcode.get(self.number) in PASSING and self.call != "connect"
        return self.what in ("short", "after") or passing

    def __str__(self) -> str:
        what = f"{self.number} only" if self.what == "short" else errno.errorcode[self.number]
        times = "" if self.times == 1 else ", for ever" if self.times == FOR_EVER else f", {self.times} times"
        after = " after it was made" if self.what == "after" else ""
        return f"{self.scenario}: {self.call} number {self.first}: {what}{after}{times}"


@dataclass
class Tally:
    fired: int = 0
    silent: int = 0
    failed: list[str] = field(default_factory=list)
    ends: collections.Counter[str] = field(default_factory=collections.Counter)


def cases_of(scenario: str, counts: dict[str, list[int]]) -> Iterator[Case]:
    """The cases of a scenario that makes so many calls of each name."""
    for call, (made, _) in sorted(counts.items()):
        last = min(made, LAST)
        for name in ERRORS[call].split():
            number = getattr(errno, name)
            for first in range(1, last + 1):
                yield Case(scenario, call, first, 1, "errno", number)
            passing = name in PASSING or (scenario, call) in NEVER_FOR_EVER
            yield Case(scenario, call, 1, IN_A_ROW if passing else FOR_EVER, "errno", number)
        for name in AFTER.get(call, "").split():
            for first in range(1, last + 1):
                yield Case(scenario, call, first, 1, "after", getattr(errno, name))
        for length in SHORT.get(call, ()):
            for first in range(1, last + 1):
                yield Case(scenario, call, first, 1, "short", length)
            yield Case(scenario, call, 1, IN_A_ROW, "short", length)


class Worker:
    """A process that runs cases of one scenario."""

    def __init__(self, package: Path, scenario: str, script: Sequence[str] = SCRIPT) -> None:
        more = {"RLOOP_TLS_ENGINE": "portable"} if scenario.endswith("-portable") else {}
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", *script],
            env=faults_build.environment(package, **more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.errors: list[bytes] = []
        self.reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr or ()))
        self.reader.start()

    def run(self, requests: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield what comes of each request. The last one is the word of a crash, if there was one."""
        assert self.process.stdin is not None and self.process.stdout is not None
        lines = "".join(json.dumps(request) + "\n" for request in requests)
        feeder = threading.Thread(target=self.feed, args=(lines.encode(),))
        feeder.start()
        begun = None
        watch = threading.Timer(SILENCE, self.process.kill)
        watch.start()
        for line in self.process.stdout:
            watch.cancel()
            watch = threading.Timer(SILENCE, self.process.kill)
            watch.start()
            said = json.loads(line)
            if "begin" in said:
                begun = said["begin"]
            else:
                begun = None
                yield said
        watch.cancel()
        status = self.process.wait()
        feeder.join()
        self.reader.join()
        if status or self.errors:
            tail = b"".join(self.errors[-30:]).decode(errors="replace")
            yield {
                "status": status,
                "id": begun,
                "problems": [f"the process has ended with {status}: {tail}"],
                "fired": 1,
                "ended": "",
            }

    def feed(self, lines: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(lines)
            self.process.stdin.close()
        except BrokenPipeError:
            pass


def census(package: Path, scenario: str) -> dict[str, list[int]]:
    """How many calls of each name a scenario makes when nothing fails."""
    results = list(Worker(package, scenario).run([{"id": 0, "scenario": scenario, "rules": []}]))
    for result in results:
        if result["problems"] or result["ended"] != "went on":
            sys.exit(f"{scenario} does not work without faults: {result}")
    counts: dict[str, list[int]] = results[0]["counts"]
    return counts


def run_batch(package: Path, cases: list[Case], tally: Tally) -> None:
    """Run cases of one scenario. After a crash the others follow in another process."""
    left = dict(enumerate(cases))
    while left and len(tally.failed) < ENOUGH:
        requests = [{"id": at, "scenario": case.scenario, "rules": [case.rule]} for at, case in left.items()]
        for result in Worker(package, cases[0].scenario).run(requests):
            case = left.pop(result["id"], None) if result["id"] is not None else None
            if case and case.is_harmless and result["fired"] and result["ended"] not in ("went on", ""):
                result["problems"].append(f"an error of the moment was {result['ended']}: {result['told']}")
            if result["problems"]:
                tally.failed.append(f"{case or cases[0].scenario + ' at the end'}: {'; '.join(result['problems'])}")
                print("FAILED", tally.failed[-1], flush=True)
            if VERBOSE:
                print(case, result.get("seconds"), result["ended"], result.get("told"), flush=True)
            if result["fired"]:
                tally.fired += 1
                tally.ends[result["ended"]] += 1
            else:
                tally.silent += 1
            if case is None:
                return


def chosen(options: argparse.Namespace, package: Path) -> list[Case]:
    cases: list[Case] = []
    for scenario in options.scenario or SCENARIOS:
        found = list(cases_of(scenario, census(package, scenario)))
        if options.call:
            found = [case for case in found if case.call in options.call]
        if options.errno:
            numbers = {getattr(errno, name) for name in options.errno}
            found = [case for case in found if case.what != "short" and case.number in numbers]
        print(f"{scenario}: {len(found)} cases", flush=True)
        cases += found
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description="Make each system call fail in turn.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS))
    parser.add_argument("--call", action="append", choices=list(ERRORS))
    parser.add_argument("--errno", action="append")
    parser.add_argument("--list", action="store_true", help="print the cases, and run none")
    options = parser.parse_args()
    package = faults_build.build()
    started = time.monotonic()
    cases = chosen(options, package)
    if options.list:
        print(*cases, sep="\n")
        return
    print(f"seed {options.seed}", flush=True)
    random.Random(options.seed).shuffle(cases)
    tally = Tally()
    by_scenario: dict[str, list[Case]] = collections.defaultdict(list)
    for case in cases:
        by_scenario[case.scenario].append(case)
    batches = [group[at : at + BATCH] for group in by_scenario.values() for at in range(0, len(group), BATCH)]
    random.Random(options.seed).shuffle(batches)
    untried = 0
    for batch in batches:
        if time.monotonic() - started > options.seconds:
            untried += len(batch)
        else:
            run_batch(package, batch, tally)
    print(f"how they ended: {dict(tally.ends)}; without their fault: {tally.silent}; no time for: {untried}")
    print(*tally.failed, sep="\n")
    builds.finish(tally.fired, len(tally.failed))


if __name__ == "__main__":
    main()
