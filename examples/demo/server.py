"""One uvicorn process: started on a loop given by name, watched through its log, always ended.

No checks of answers and no measuring here.
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

# uvicorn knows asyncio's loop by name; any other one is given to it as the function that makes a loop.
UVICORN_NAMES = {"asyncio": "asyncio"}

COMPLAINT = re.compile(r"Traceback|ERROR|WARNING|never (retrieved|awaited)|destroyed but|Warning:")


class CheckFailed(Exception):
    """Something did not come out as it should; the message says what."""


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
                "--host", "127.0.0.1", "--port", "0",  # the system picks a free port, the log tells which
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
        """User and system time of the process so far, to the nanosecond, where /proc/PID/stat counts in steps of 10 ms:
        the clock that clock_getcpuclockid(3) names, which Python does not have for other processes."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def _read_log(self):
        for line in self._process.stderr:
            self.log.append(line.rstrip("\n"))
            found = re.search(r"running on http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                self._listening.set()
        self._listening.set()  # the process has ended, listening or not
