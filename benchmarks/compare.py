"""Compares two builds of rloop by the instructions that a step takes: `compare.py OLD_PYTHON NEW_PYTHON [--only ROW]`.

Each argument is the Python of a virtual environment in which one of the builds is installed. `make bench-compare
REV=...` makes both. Instructions are counted by valgrind's callgrind, so a busy machine does not change them. The
kernel's are not counted: what a system call costs, `bench.py` and `syscalls.py` show.

Every row is run twice, with few and with many steps. The difference is what the further steps took, without the
interpreter's start. One connection is used, and the next request waits for the answer, so each request is a turn of its
own. The exit code is 1 if a row takes more than 1 % more instructions in the new build.
"""

import argparse
import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import echo
import tls
from child import Child

SIZE = 1024
# How many requests a server answers, and how many callbacks a figure schedules: few, many.
REQUESTS = (300, 2300)
CALLBACKS = (2000, 42000)
ALLOWED = 1.01
# For one server, or one figure. valgrind makes a program about 50 times slower.
RUN_SECONDS = 300
FIGURES = ("call_soon", "call_soon_chained", "threadsafe_own", "sleep_zero", "timer_cancel", "timer_fire")
# Each kind of echo_server.py that is a row, with TLS and without.
PLAIN = ("protocol", "buffered", "head+body", "streams", "unix", "udp", "sock")
SECURE = ("protocol", "streams")
FIGURE = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import inprocess, loops
with asyncio.Runner(loop_factory=lambda: loops.new_loop("rloop")) as runner:
    loop = runner.get_loop()
    loop.run_until_complete(getattr(inprocess, sys.argv[2])(loop, int(sys.argv[3])))
"""


class Counting:
    """The command of a program under callgrind, and afterwards the instructions that it took."""

    def __init__(self, folder: str, *program: object):
        self._file = os.path.join(folder, "callgrind.out")
        # Here valgrind says, for one, that it does not know epoll_pwait2(2). rloop then uses epoll_wait(2).
        messages = os.path.join(folder, "messages.txt")
        # A fixed seed: the order of a dictionary, and with it the number of comparisons, depends on it.
        seed = ("env", "PYTHONHASHSEED=0")
        outputs = (f"--log-file={messages}", f"--callgrind-out-file={self._file}")
        self.command = [*seed, "valgrind", "--tool=callgrind", *outputs, *map(str, program)]

    def instructions(self) -> int:
        with open(self._file) as file:
            [total] = re.findall(r"^(?:summary|totals): (\d+)$", file.read(), re.MULTILINE)[-1:]
        return int(total)


def count_figure(python: str, name: str, callbacks: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        counting = Counting(folder, python, "-c", FIGURE, echo.HERE, name, callbacks)
        subprocess.run(counting.command, check=True, timeout=RUN_SECONDS)
        return counting.instructions()


def count_echo(python: str, kind: str, secure: bool, requests: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        chain = [tls.chain("P-256")] if secure else []
        counting = Counting(folder, python, echo.HERE / "echo_server.py", "rloop", kind, *chain)
        with Child(counting.command, end_seconds=RUN_SECONDS) as server:
            with connected(server.read(RUN_SECONDS), secure) as sock:
                for _ in range(requests):
                    exchange(sock)
        return counting.instructions()


@contextlib.contextmanager
def connected(greeting: dict, secure: bool):
    """A connection to the server that has said where it listens."""
    with contextlib.ExitStack() as stack:
        if "path" in greeting:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(greeting["path"])
        else:
            kind = socket.SOCK_DGRAM if "udp_port" in greeting else socket.SOCK_STREAM
            sock = stack.enter_context(socket.socket(type=kind))
            sock.connect(("127.0.0.1", greeting.get("port") or greeting["udp_port"]))
        sock.settimeout(RUN_SECONDS)
        if secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            sock = stack.enter_context(context.wrap_socket(sock))
        yield sock


def exchange(sock: socket.socket):
    sock.sendall(bytes(SIZE))
    left = SIZE
    while left:
        data = sock.recv(left)
        if not data:
            raise ConnectionError("the server has closed the connection")
        left -= len(data)


def rows() -> dict[str, tuple]:
    """Each row: a function that counts, its arguments behind the Python, and how many steps are few and many."""
    figures = {name: (count_figure, (name,), CALLBACKS) for name in FIGURES}
    plain = {f"echo, {kind}": (count_echo, (kind, False), REQUESTS) for kind in PLAIN}
    secure = {f"echo, TLS {kind}": (count_echo, (kind, True), REQUESTS) for kind in SECURE}
    return figures | plain | secure


def measure(python: str, row: tuple) -> float:
    """Instructions a step."""
    count, arguments, (few, many) = row
    return (count(python, *arguments, many) - count(python, *arguments, few)) / (many - few)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", help="the Python of the environment that has the old build")
    parser.add_argument("new", help="the Python of the environment that has the new build")
    parser.add_argument("--only", action="append", metavar="ROW", help="this row only; may be repeated")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is missing (Debian: apt-get install valgrind)")
    chosen = {name: row for name, row in rows().items() if not options.only or name in options.only}
    worse = []
    print(f"{'instructions a step':<24}{'old':>10}{'new':>10}{'new/old':>9}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pending = {
            name: [pool.submit(measure, python, row) for python in (options.old, options.new)]
            for name, row in chosen.items()
        }
        for name, futures in pending.items():
            old, new = (future.result() for future in futures)
            print(f"{name:<24}{old:>10.0f}{new:>10.0f}{new / old:>9.3f}", flush=True)
            if new > old * ALLOWED:
                worse.append(name)
    print(f"more than 1 % worse: {', '.join(worse) or 'none'}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
