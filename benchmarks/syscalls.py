"""System calls per request of the echo servers: `syscalls.py [--loops ...]`. Needs strace.

strace is attached after the warm-up and detached before the load ends, so only requests are counted. Tracing slows the
server down. Therefore more requests wait at each poll than usual, and there are fewer polls per request.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter

import echo
import loops
import report
from child import END_SECONDS, START_SECONDS, Broken, Child, Lacking

REQUESTS = 5000
CONFIGS = [echo.Config(kind, 1024, 32) for kind in ("protocol", "head+body", "unix", "sock")]
CONFIGS.append(echo.Config("udp", 1024, 64))
SENDS = ("write", "writev", "sendto", "sendmsg", "sendmmsg")


class Strace:
    """Counts the system calls of all threads of a process during a `with` block, by strace."""

    def __init__(self, pid: int):
        self._tasks = pathlib.Path(f"/proc/{pid}/task")
        self._summary = tempfile.NamedTemporaryFile("r")
        command = ["strace", "-f", "-c", "-q", "-o", self._summary.name, "-p", str(pid)]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        deadline = time.monotonic() + END_SECONDS
        while not all(self._traced(task) for task in self._tasks.iterdir()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise Broken(f"strace cannot attach: {self._process.communicate()[1].strip()}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.communicate(timeout=END_SECONDS)

    @staticmethod
    def _traced(task: pathlib.Path) -> bool:
        return "TracerPid:\t0\n" not in (task / "status").read_text()

    def counts(self) -> Counter[str]:
        """The number of calls of each name. To be called after the block."""
        counts: Counter[str] = Counter()
        for line in self._summary:
            # % time, seconds, usecs/call, calls, [errors,] name
            words = line.split()
            if len(words) in (5, 6) and words[3].isdigit() and words[-1] != "total":
                counts[words[-1]] += int(words[3])
        return counts


def count(loop: str, config: echo.Config, loadgen: str) -> Counter[str]:
    """The system calls of one server for REQUESTS requests."""
    with Child(echo.server_command(loop, config.kind, loadgen)) as server:
        command = echo.load_command(loadgen, server.read(), config, "--requests", REQUESTS)
        with Child(command) as load:
            echo.checked(load.read())
            with Strace(server.pid) as strace:
                echo.checked(load.ask(START_SECONDS))
    return strace.counts()


def print_calls(title: str, counts: dict[str, Counter[str]], names: list[str]):
    calls = sum(counts.values(), Counter())
    rows = [name for name, total in calls.most_common() if total > REQUESTS // 1000]

    def cell(row, loop):
        if loop not in counts:
            return "-"
        return f"{(counts[loop] | {'all': counts[loop].total()}).get(row, 0) / REQUESTS:.2f}"

    report.print_table(f"system calls a request: {title}", [*rows, "all"], names, cell)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loops", default=",".join(loops.NAMES))
    options = parser.parse_args()
    loadgen = echo.find_loadgen()
    if shutil.which("strace") is None:
        print("system calls are left out: strace is not installed")
        return 0
    if loadgen is None:
        sys.exit(echo.LOADGEN_MISSING)
    names = list(loops.installed(options.loops.split(",")))
    remarks, broken = [], []
    for config in CONFIGS:
        counts = {}
        for loop in names:
            try:
                counts[loop] = count(loop, config, loadgen)
            except Lacking as error:
                remarks.append(f"not there (-): {config}, {loop}: {error}")
            except Broken as error:
                broken.append(f"{config}, {loop}: {error}")
        print_calls(str(config), counts, names)
        if config.kind == "head+body":
            for loop, calls in counts.items():
                sends = sum(calls[name] for name in SENDS)
                verdict = "one send" if sends <= 1.05 * REQUESTS else f"{sends / REQUESTS:.2f} sends"
                remarks.append(f"{loop}: a response written as head and body leaves in {verdict}")
    print(*remarks, sep="\n")
    for line in broken:
        print(f"BROKEN: {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
