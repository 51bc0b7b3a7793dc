"""The interrupts of interrupts.py: an interval timer whose handler raises KeyboardInterrupt in this thread. And the
course of its two programs, which try one thing after the other until there were enough interrupts.

Nothing is checked here.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import time
from collections import Counter

# Seconds after which nothing can come any more, and the loop is left.
LOST = 10


class Lost(SystemExit):
    """The loop has waited for too long: what it waits for is not going to come."""


class Alarm:
    """At most one interrupt for each `expected`: the timer fires once."""

    def __init__(self):
        self.interrupts = 0
        self.error: type[BaseException] | None = None
        self.due = 0.0
        signal.signal(signal.SIGALRM, self.fire)
        # For a loop that hangs where no signal handler is called.
        faulthandler.dump_traceback_later(300, exit=True)

    def fire(self, signum, frame):
        if self.error is Lost and time.monotonic() < self.due:
            return  # a signal of another thread, which is meant for a run that may be interrupted
        error, self.error = self.error, None
        if error is not None:
            raise error

    @contextlib.contextmanager
    def expected(self, seconds, error=KeyboardInterrupt):
        """Within the block the exception comes after so many seconds. If the block ends before, it does not come."""
        self.error, self.due = error, time.monotonic() + seconds
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            # Once this is None, a signal that is on its way raises nothing.
            self.error = None
            signal.setitimer(signal.ITIMER_REAL, 0)

    def run(self, function, seconds):
        """Calls the function, which the interrupt may end. Returns the interrupt, if there was one."""
        try:
            with self.expected(seconds):
                function()
        except KeyboardInterrupt as error:
            self.interrupts += 1
            return error
        return None

    def run_to_the_end(self, function):
        """Calls the function without an interrupt. Raises `Lost` if it takes too long."""
        with self.expected(LOST, Lost):
            function()


def frames(error):
    """The frames of an exception's traceback, from the outermost to the innermost."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def play(make, step, loop_name, seed, count, seconds):
    """Calls `step` with what `make(loop, seed)` returns, the alarm, and a counter of what was tried, until there were
    `count` interrupts, the time is over, or it returns what was wrong. Prints the report, and ends the process."""
    loop = importlib.import_module(loop_name).new_event_loop()
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    subject, alarm = make(loop, int(seed)), Alarm()
    deadline = time.monotonic() + float(seconds)
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    while alarm.interrupts < int(count) and time.monotonic() < deadline and not wrong:
        wrong = step(subject, alarm, seen)
    wrong += [f"exception handler: {context}" for context in reports[:5]]
    print(json.dumps({"interrupts": alarm.interrupts, "seen": seen, "wrong": wrong}), flush=True)
    # The threads and files are still there; the end of a busy program is checked elsewhere.
    os._exit(0)
