"""A child process that answers in JSON lines. Every wait for it has a limit, and every child is waited for."""

import json
import os
import select
import signal
import subprocess
import time

START_SECONDS = 30
END_SECONDS = 10


class Broken(Exception):
    """A measurement failed: a process ended, hung, or echoed the wrong bytes."""


class Lacking(Exception):
    """The loop has no such function, so that it cannot be measured."""


class Child:
    """A running command. When the `with` block ends, the command's input is closed and its end is waited for. After an
    error it is killed."""

    def __init__(self, command: list[str], cpu: int | None = None, end_seconds: float = END_SECONDS):
        self._name = " ".join(os.path.basename(part) for part in command[:3])
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._unread = b""
        self._end_seconds = end_seconds
        self.pid = self._process.pid
        if cpu is not None:
            os.sched_setaffinity(self.pid, {cpu})

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self._process.stdin.close()
        if kind is not None:
            self._process.kill()
        try:
            code = self._process.wait(self._end_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise Broken(f"{self._name} did not end") from None
        finally:
            self._process.stdout.close()
        if kind is None and code != 0:
            raise Broken(f"{self._name} ended with {code}")

    def read(self, seconds: float = START_SECONDS) -> dict:
        """The next line of its output."""
        output = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = max(0, deadline - time.monotonic())
            if not select.select([output], [], [], left)[0]:
                raise Broken(f"{self._name} said nothing for {seconds:g} s")
            data = os.read(output, 65536)
            if not data:
                raise Broken(f"{self._name} ended without an answer")
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        return json.loads(line)

    def tell(self):
        """Sends a line. Its text does not matter to any of our children."""
        try:
            self._process.stdin.write(b"next\n")
        except BrokenPipeError:
            raise Broken(f"{self._name} has ended") from None

    def ask(self, seconds: float = START_SECONDS) -> dict:
        self.tell()
        return self.read(seconds)

    def interrupt(self):
        self._process.send_signal(signal.SIGINT)
