"""asyncio's own tests, those of the running interpreter, on rloop: `run.py [--left-out] [--loop asyncio] [MODULE...]`.

`loops.py` says how rloop's loop comes in asyncio's place, `left_out.txt` what is left out and why. Each module of
`test.test_asyncio` runs in a process of its own (`worker.py`) with a folder of its own, two at a time: they share no
port, file or signal. A process that is silent for too long is ended with its group, and the test it was at has failed,
as it has if the process died; a new process goes on with the rest. The results go to target/conformance, for
`table.py`. Exit status 1 if a test failed.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rules import read_rules

HERE = Path(__file__).resolve().parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent.parent / "target"))
# These modules take longest, and are therefore run first.
SLOW = ["test_events", "test_tasks", "test_ssl", "test_taskgroups", "test_subprocess"]

Event = dict[str, Any]


class ModuleRun:
    """Runs the tests of one module, in as many processes as that takes."""

    def __init__(self, module: str, options: argparse.Namespace, folder: Path) -> None:
        self.module, self.options = module, options
        self.events, self.log = folder / f"{module}.jsonl", folder / f"{module}.log"
        self.results: dict[str, Event] = {}
        # For each test that is left out, the condition of its rule.
        self.left_out: dict[str, str] = {}

    def run(self) -> ModuleRun:
        """Run processes until each test has a result."""
        self.log.write_text("")
        while (victim := self.run_process()) is not None and victim in self.results:
            pass
        return self

    def run_process(self) -> str | None:
        """Run one process. None if it came to its end, otherwise the test (or other step) at which it failed."""
        self.events.write_text("")
        how = self.wait_for_process()
        events: list[Event] = [json.loads(line) for line in self.events.read_text().splitlines()]
        self.results |= {event["test"]: event for event in events if "test" in event}
        self.left_out |= {event["left_out"]: event["rule"] for event in events if "left_out" in event}
        tests = next((event["tests"] for event in events if "tests" in event), None)
        waiting = [test for test in tests or [] if test not in self.results]
        if not how and tests is not None and not waiting:
            return None
        started: list[str] = [event["start"] for event in events if "start" in event]
        if started and started[-1] in waiting:
            self.fail(started[-1], how or "no result")
            return started[-1]
        # It failed between tests, or before the first one. Another process would not do better.
        for name in [f"{self.module} as a whole", *waiting]:
            self.fail(name, how or "not run")
        return None

    def fail(self, test: str, reason: str) -> None:
        self.results[test] = {"test": test, "outcome": "failed", "reason": reason, "loops": 0, "seconds": 0}

    def wait_for_process(self) -> str:
        """Empty if the process ended by itself as it should, otherwise what went wrong."""
        command = [sys.executable, HERE / "worker.py", self.module, self.events, "--loop", self.options.loop]
        command += ["--left-out"] if self.options.left_out else []
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        # The path of the folder is short, because the path of a UNIX socket must be.
        with tempfile.TemporaryDirectory(prefix="rl") as folder, self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**environment, "TMPDIR": folder},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            assert process.stdin is not None
            process.stdin.write("\n".join(self.results).encode())
            process.stdin.close()
            silent = self.is_silent(process)
            try:
                os.killpg(process.pid, signal.SIGKILL)  # together with the processes that the tests have left
            except ProcessLookupError:
                pass
            status = process.wait()
        if silent:
            return f"no end after {self.options.limit:g} s"
        return f"the process ended with exit status {status}" if status else ""

    def is_silent(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for a process to end. True once a test has taken too long."""
        size, since = -1, time.monotonic()
        while process.poll() is None:
            time.sleep(0.02)
            if (now := self.events.stat().st_size) != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > self.options.limit:
                process.send_signal(signal.SIGABRT)  # faulthandler then writes the tracebacks
                try:
                    process.wait(3)
                except subprocess.TimeoutExpired:
                    pass
                return True
        return False


def modules() -> list[str]:
    [folder] = importlib.import_module("test.test_asyncio").__path__
    names = sorted(path.stem for path in Path(folder).glob("test_*.py"))
    return sorted(names, key=lambda name: SLOW.index(name) if name in SLOW else len(SLOW))


def report(runs: list[ModuleRun], options: argparse.Namespace) -> collections.Counter[str]:
    results = [result for run in runs for result in run.results.values()]
    for result in results:
        if result["outcome"] == "failed" and not options.left_out:
            print(f"FAILED {result['test']}: {result['reason'][:200]}")
        if result["outcome"] == "passed" and options.left_out:
            condition = next(run.left_out[result["test"]] for run in runs if result["test"] in run.left_out)
            print(f"PASSED {result['test']} (left out by `{condition}`)")
    used = {rule for run in runs for rule in run.left_out.values()}
    for rule in read_rules():
        if rule.condition not in used and options.left_out and not options.modules:
            print(f"`{rule.condition}` matches nothing on Python {platform.python_version()}")
    return collections.Counter(result["outcome"] for result in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="test_events, ...; default: all")
    parser.add_argument("--left-out", action="store_true", help="run what is left out, and name what passes")
    parser.add_argument("--loop", choices=["rloop", "asyncio"], default="rloop")
    parser.add_argument("--limit", type=float, default=60, help="seconds for one test")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    started = time.monotonic()
    kind = "left-out" if options.left_out else options.loop
    folder = TARGET / "conformance" / f"{platform.python_version()}-{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    runs = [ModuleRun(module, options, folder) for module in options.modules or modules()]
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = list(pool.map(ModuleRun.run, runs))
    count = report(runs, options)
    if not options.modules:
        (folder / "results.json").write_text(
            json.dumps({run.module: {"results": list(run.results.values()), "left_out": run.left_out} for run in runs})
        )
    on_a_loop = sum(result["loops"] > 0 for run in runs for result in run.results.values())
    left_out = sum(len(run.left_out) for run in runs)
    print(
        f"Python {platform.python_version()} on {options.loop}: {count['passed']} passed, {count['failed']} failed, "
        f"{count['skipped']} skipped by themselves, {left_out} are left out; {on_a_loop} have made a loop of rloop's; "
        f"{time.monotonic() - started:.0f} s. Tracebacks: {folder}/*.log"
    )
    if options.loop == "rloop" and not on_a_loop:
        sys.exit("No test has made a loop of rloop's: this run shows nothing")
    sys.exit(bool(count["failed"]) and not options.left_out)


if __name__ == "__main__":
    main()
