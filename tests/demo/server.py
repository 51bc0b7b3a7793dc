"""One uvicorn process: it is started on a loop given by name, and its log is read. It is always ended.

No answers are checked here, and nothing is measured.
"""

import os
import re
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
START_LIMIT = 20  # seconds
STOP_LIMIT = 15

# uvicorn has a name for asyncio's loop. For any other loop it gets the name of the function that makes one.
UVICORN_NAMES = {"asyncio": "asyncio"}

COMPLAINT = re.compile(r"Traceback|ERROR|WARNING|never (retrieved|awaited)|destroyed but|Warning:")


class CheckFailed(Exception):
    """A check has failed. The message says what was wrong."""


def check(true, message):
    if not true:
        raise CheckFailed(message)


class UvicornProcess:
    def __init__(self, loop_name):
        self.loop_name = loop_name
        self.port = None
        self.log = []
        self._listening = threading.Event()
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "uvicorn", "app:app", "--app-dir", HERE,
                "--loop", UVICORN_NAMES.get(loop_name, f"{loop_name}:new_event_loop"),
                "--host", "127.0.0.1", "--port", "0",  # the system chooses a free port, which the log names
                "--no-access-log", "--no-use-colors", "--lifespan", "on",
                "--timeout-graceful-shutdown", "10",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "default::ResourceWarning"},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._process.kill()
        self._process.wait()
        self._reader.join(STOP_LIMIT)
        self._process.stderr.close()

    @property
    def pid(self):
        return self._process.pid

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def wait_until_listening(self):
        self._listening.wait(START_LIMIT)
        check(self.port is not None, f"uvicorn on {self.loop_name} did not start:\n{self.log_text()}")

    def terminate(self):
        self._process.terminate()

    def wait(self):
        """The exit status."""
        try:
            status = self._process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            raise CheckFailed(f"uvicorn did not stop within {STOP_LIMIT} s of SIGTERM") from None
        self._reader.join(STOP_LIMIT)
        return status

    def complaints(self):
        return [line for line in self.log if COMPLAINT.search(line)]

    def log_text(self):
        return "".join(f"    | {line}\n" for line in self.log[-40:])

    def cpu_seconds(self):
        """The user and system time of the process, in nanosecond resolution; /proc/PID/stat has steps of 10 ms.

        Python has no clock_getcpuclockid(3) for other processes, so the clock's number is computed as Linux does it.
        """
        return time.clock_gettime((~self.pid << 3) | 2)

    def _read_log(self):
        for line in self._process.stderr:
            self.log.append(line.rstrip("\n"))
            found = re.search(r"running on http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                self._listening.set()
        self._listening.set()  # the process has ended, listening or not
