"""`rloop.dump_on`: what a process writes when it gets the signal, also while its loop is blocked. rloop only."""

import os
import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest

rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

PRELUDE = """
import asyncio, ctypes, os, signal, sys, time, rloop
rloop.dump_on(signal.SIGQUIT)
async def main():
    block()
"""


class Process:
    """A child that runs `block` on its loop. It says when it is there by a line on its standard output."""

    def __init__(self, source):
        self.command = [sys.executable, "-c", PRELUDE + textwrap.dedent(source)]

    def __enter__(self):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.pid = int(self.process.stdout.readline())
        return self

    def __exit__(self, *exc_info):
        self.process.kill()
        for file in (self.process.stdin, self.process.stdout, self.process.stderr):
            file.close()
        self.process.wait()

    def read_until(self, text):
        """The lines on stderr up to the first one that contains `text`."""
        lines = []
        while not lines or text not in lines[-1]:
            lines.append(self.process.stderr.readline())
            assert lines[-1], lines
        return lines


@pytest.mark.parametrize("block", ["time.sleep(60)", "\n    while True: pass"])
def test_a_blocked_loop(block):
    with Process(f"""
def block():
    print(os.getpid(), flush=True); {block}
rloop.run(main(), debug=False)
""") as process:
        for _ in range(2):
            os.kill(process.pid, signal.SIGQUIT)
            stacks = process.read_until("loop 1: <rloop.Loop running=True closed=False debug=False>")
            assert any(line.endswith("in block\n") for line in stacks)
            process.read_until("main, running")
        assert process.process.poll() is None


def test_while_the_gil_is_kept():
    """The stacks are written at once. Only then the C function returns, and lets go of the GIL."""
    with Process("""
        def block():
            print(os.getpid(), flush=True)
            ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(1), 1)
            time.sleep(60)
        rloop.run(main())
    """) as process:
        os.kill(process.pid, signal.SIGQUIT)
        process.read_until("in block\n")
        process.process.stdin.write("x")
        process.process.stdin.flush()
        process.read_until("loop 1: <rloop.Loop ")


def test_in_the_child_of_a_fork():
    with Process("""
        import warnings
        warnings.simplefilter("ignore")
        def block():
            print(os.getpid(), flush=True)
            time.sleep(60)
        if pid := os.fork():
            os.waitpid(pid, 0)
        else:
            rloop.run(main())
    """) as process:
        try:
            os.kill(process.pid, signal.SIGQUIT)
            process.read_until("in block\n")
            process.read_until("main, running")
        finally:
            os.kill(process.pid, signal.SIGKILL)


def test_the_end_of_the_process():
    source = PRELUDE + "rloop.dump_on(signal.SIGQUIT)\nrloop.run(asyncio.sleep(0))"
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=25)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("sig, error", [(0, ValueError), (10_000, ValueError), (signal.SIGKILL, OSError)])
def test_refused_signals(sig, error):
    with pytest.raises(error):
        rloop.dump_on(sig)
