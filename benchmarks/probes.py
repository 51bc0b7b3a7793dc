"""How late a loop is while it serves: timers, and callbacks that another thread schedules.

Both come at random times, about `PER_SECOND` of each a second, so that they do not fall into step with the requests.
The schedule is the same for every loop. The delay of a timer is how far from its time its callback runs, by
`time.monotonic()`: a timer that fires too early counts as one that is late. The delay of `call_soon_threadsafe` is the
time from just before the call, when the thread has the GIL, until the callback runs.
"""

import random
import statistics
import threading
import time

PER_SECOND = 500
SEED = 1
FIGURES = ("timer", "threadsafe")


class Probes:
    """They run while the `with` block does."""

    def __init__(self, loop):
        self._loop = loop
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._call_from_here)
        self._gaps = random.Random(SEED)
        self._timer = None
        # Seconds, by figure.
        self._delays: dict[str, list[float]] = {figure: [] for figure in FIGURES}

    def __enter__(self):
        self._schedule()
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._timer.cancel()
        self._ended.set()
        self._thread.join()

    def take(self) -> dict[str, float]:
        """The median and the 99th percentile of what was measured since the last call, in microseconds."""
        figures = {}
        for figure, delays in self._delays.items():
            if len(delays) > 1:
                figures[f"{figure}_p50_us"] = statistics.median(delays) * 1e6
                figures[f"{figure}_p99_us"] = statistics.quantiles(delays, n=100)[98] * 1e6
            delays.clear()
        return figures

    def _schedule(self):
        gap = self._gaps.expovariate(PER_SECOND)
        # Not by the loop's own clock: some loops read it once a turn, and some count milliseconds.
        self._timer = self._loop.call_later(gap, self._on_timer, time.monotonic() + gap)

    def _on_timer(self, due: float):
        self._delays["timer"].append(abs(time.monotonic() - due))
        self._schedule()

    def _call_from_here(self):
        gaps = random.Random(SEED + 1)
        while not self._ended.wait(gaps.expovariate(PER_SECOND)):
            self._loop.call_soon_threadsafe(self._on_call, time.perf_counter())

    def _on_call(self, called: float):
        self._delays["threadsafe"].append(time.perf_counter() - called)
