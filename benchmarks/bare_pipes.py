"""What a child's pipes cost without a loop: `bare_pipes.py [SCALE]` prints it as JSON. No loop can cost less.

It makes blocking reads and writes in Python. The children and the amounts of data are those of `processes.py`, which
shows the result as a column of its table. The pipes hold as much as those of rloop do once they have been full.
"""

import functools
import json
import os
import subprocess
import sys

import inprocess
import processes
from processes import MIB, PIPE, WRITE

HELD = 256 * 1024


def child(command, **pipes) -> subprocess.Popen:
    return subprocess.Popen(command, bufsize=0, pipesize=HELD, **pipes)


def end(process: subprocess.Popen):
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    if process.wait() != 0:
        raise RuntimeError(f"a child ended with {process.returncode}")


def from_child(mebibytes: int, size: int):
    process = child(processes.writer_command(mebibytes, size), stdout=PIPE)
    left = mebibytes * MIB
    while left:
        left -= len(os.read(process.stdout.fileno(), HELD))
    end(process)


def to_child(mebibytes: int):
    process = child(processes.reader_command(mebibytes), stdin=PIPE)
    for _ in range(mebibytes * MIB // len(WRITE)):
        os.write(process.stdin.fileno(), WRITE)
    end(process)


def ping_pong(times: int):
    process = child("cat", stdin=PIPE, stdout=PIPE)
    for _ in range(times):
        os.write(process.stdin.fileno(), processes.MESSAGE)
        left = len(processes.MESSAGE)
        while left:
            left -= len(os.read(process.stdout.fileno(), left))
    end(process)


FUNCTIONS = {
    processes.FROM_CHILD_SMALL: functools.partial(from_child, size=processes.SMALL),
    processes.FROM_CHILD_LARGE: functools.partial(from_child, size=processes.LARGE),
    processes.TO_CHILD: to_child,
    processes.PING_PONG: ping_pong,
}


def main(scale: str = "1"):
    results = {}
    for figure, function in FUNCTIONS.items():
        _, operations = processes.PIPES[figure]
        results[figure] = inprocess.measure(function, max(1, round(operations * float(scale))), warmup=1)
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
