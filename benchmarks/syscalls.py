"""System calls per request of the protocol echo server: `syscalls.py [--loops ...]`. Needs strace.

strace is attached when the load is warm and detached before it ends, so that only requests are counted.
Tracing slows the server down, so more requests wait at each poll than usual and polls look rarer.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter

import loops
import report
import tcp
from child import END_SECONDS, START_SECONDS, Broken, Child

REQUESTS = 5000
CONNECTIONS = 32
SIZE = 1024
SENDS = ("write", "writev", "sendto", "sendmsg", "sendmmsg")


class Strace:
    """strace, attached to all threads of a process and counting, for the length of a `with` block."""

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
        """Calls by name; to be asked after the block."""
        counts = Counter()
        for line in self._summary:
            # % time, seconds, usecs/call, calls, [errors,] name
            words = line.split()
            if len(words) in (5, 6) and words[3].isdigit() and words[-1] != "total":
                counts[words[-1]] += int(words[3])
        return counts


def count(loop: str, kind: str, loadgen: str) -> Counter[str]:
    """The system calls of so many requests to one server."""
    config = tcp.Config(kind, SIZE, CONNECTIONS)
    with Child(tcp.server_command(loop, kind, loadgen)) as server:
        command = tcp.load_command(loadgen, server.read()["port"], config, "--requests", REQUESTS)
        with Child(command) as load:
            tcp.checked(load.read())
            with Strace(server.pid) as strace:
                tcp.checked(load.ask(START_SECONDS))
    return strace.counts()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loops", default=",".join(loops.NAMES))
    options = parser.parse_args()
    loadgen = tcp.find_loadgen()
    if shutil.which("strace") is None:
        print("system calls are left out: strace is not installed")
        return 0
    if loadgen is None:
        sys.exit(tcp.LOADGEN_MISSING)
    names = list(loops.installed(options.loops.split(",")))
    echo, sends, broken = {}, {}, []
    for loop in names:
        try:
            echo[loop] = count(loop, "protocol", loadgen)
            halves = count(loop, "head+body", loadgen)
            sends[loop] = sum(halves[name] for name in SENDS)
        except Broken as error:
            broken.append(f"{loop}: {error}")
    calls = sum(echo.values(), Counter())
    rows = [name for name, total in calls.most_common() if total > REQUESTS // 1000]

    def cell(row, loop):
        if loop not in sends:
            return "BROKEN"
        counts = {"all": echo[loop].total(), "head+body: sends": sends[loop]} | echo[loop]
        return f"{counts.get(row, 0) / REQUESTS:.2f}"

    title = f"system calls a request ({CONNECTIONS} connections, {SIZE} bytes)"
    report.print_table(title, [*rows, "all", "head+body: sends"], names, cell)
    for loop in sends:
        verdict = "one send" if sends[loop] <= 1.05 * REQUESTS else f"{sends[loop] / REQUESTS:.2f} sends"
        print(f"{loop}: a response written as head and body leaves in {verdict}")
    for line in broken:
        print(f"BROKEN: {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
