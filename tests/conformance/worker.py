"""Runs one module of `test.test_asyncio` on rloop, in a process that may hang or die: `worker.py MODULE EVENTS`.

Standard input has the tests that have a result already, one per line. This program writes JSON lines to the file
EVENTS: one for the module, with its tests, one when a test starts, and one with its outcome when it has ended.
Tracebacks go to standard error. `unittest` runs the tests, in its order, with the set-up of modules and classes.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import importlib
import inspect
import json
import random
import signal
import socket
import sys
import time
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from rules import Rule, read_rules

import loops

PACKAGE = "test.test_asyncio"
# No system chooses ports from this range by itself.
PORTS = range(10_000, 32_000)


class Result(unittest.TestResult):
    """Writes each event to the file of events."""

    def __init__(self, events: IO[str]) -> None:
        super().__init__()
        self.events = events
        self.outcome, self.reason = "passed", ""
        self.loops_before, self.started = 0, 0.0

    def emit(self, **event: Any) -> None:
        self.events.write(json.dumps(event) + "\n")
        self.events.flush()

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.outcome, self.reason = "passed", ""
        self.loops_before, self.started = loops.made, time.monotonic()
        self.emit(start=name_of(test))

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        made, seconds = loops.made - self.loops_before, round(time.monotonic() - self.started, 3)
        self.emit(test=name_of(test), outcome=self.outcome, reason=self.reason, loops=made, seconds=seconds)
        if self.outcome == "failed":
            gc.collect()  # what the test has left must not be reported in the next one

    def ended(self, test: Any, outcome: str, reason: str) -> None:
        """Notes an outcome, of a test or of the set-up of a class or a module."""
        if isinstance(test, unittest.TestCase):
            self.outcome, self.reason = outcome, reason
        else:
            self.emit(test=name_of(test), outcome=outcome, reason=reason, loops=0, seconds=0)

    def addError(self, test: Any, err: Any) -> None:
        text = self._exc_info_to_string(err, test)  # type: ignore[attr-defined]
        print(f"\n== {test.id()}\n{text}", file=sys.stderr, flush=True)
        self.ended(test, "failed", "".join(text.strip().splitlines()[-1:]))

    def addFailure(self, test: Any, err: Any) -> None:
        self.addError(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self.addError(test, err)

    def addSkip(self, test: Any, reason: str) -> None:
        self.ended(test, "skipped", reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        self.ended(test, "skipped", "expected to fail")

    def addUnexpectedSuccess(self, test: Any) -> None:
        self.ended(test, "failed", "was expected to fail")


def name_of(test: unittest.TestCase) -> str:
    return test.id().removeprefix(f"{PACKAGE}.")


def tests_in(suite: unittest.TestSuite | unittest.TestCase) -> Iterator[unittest.TestCase]:
    if isinstance(suite, unittest.TestCase):
        yield suite
    else:
        for part in suite:
            yield from tests_in(part)


def rule_for(test: unittest.TestCase, rules: list[Rule]) -> Rule | None:
    method = inspect.unwrap(getattr(test, test._testMethodName))
    try:
        source = inspect.getsource(method)
    except OSError:
        source = ""
    return next((rule for rule in rules if rule.matches(name_of(test), source)), None)


def find_unused_port(family: int = socket.AF_INET, socktype: int = socket.SOCK_STREAM) -> int:
    """Replaces that of `test.support.socket_helper`, whose port another process may get before the test binds it."""
    for port in random.sample(PORTS, 100):
        with socket.socket(family, socktype) as sock:
            try:
                sock.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")


def run(module: str, result: Result, left_out: bool, done: set[str]) -> None:
    """Run the tests of `module` that are not left out, or only those that are left out."""
    try:
        suite = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(f"{PACKAGE}.{module}"))
    except unittest.SkipTest as skip:
        result.emit(module=module, tests=[], skipped=str(skip))
        return
    rules = read_rules()
    chosen = unittest.TestSuite()
    for test in tests_in(suite):
        rule = rule_for(test, rules)
        if (rule is not None) == left_out:
            if name_of(test) not in done:
                chosen.addTest(test)
        if rule is not None:
            result.emit(left_out=name_of(test), rule=rule.condition)
    result.emit(module=module, tests=[name_of(test) for test in tests_in(chosen)])
    chosen.run(result)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("events", type=Path)
    parser.add_argument("--left-out", action="store_true")
    parser.add_argument("--loop", choices=["rloop", "asyncio"], default="rloop")
    options = parser.parse_args()
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for background jobs
    importlib.import_module("test.support.socket_helper").find_unused_port = find_unused_port  # type: ignore[attr-defined]
    if options.loop == "rloop":
        loops.put_in_place(options.module)
    with options.events.open("a") as events:
        run(options.module, Result(events), options.left_out, set(sys.stdin.read().split("\n")))


if __name__ == "__main__":
    main()
