"""What `loop.metrics()` returns: `Metrics`, and `Histogram` for the two figures that have a distribution.

The numbers are counted natively (`src/reactor/metrics.rs`), in the order of `_ORDER` here. Nothing is counted in this
file. What each figure means is in docs/metrics.md.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any

from ._stacks import open_loops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._rloop import EventLoop

# How many buckets a histogram has, and how many there are between a power of two and the next.
BUCKETS = 320
_SPLIT = 8

# The names of the native figures, in their order.
_ORDER = (
    "turns",
    "callbacks",
    "timers_fired",
    "timers_cancelled",
    "ready_depth",
    "ready_depth_max",
    "polls",
    "wakeups",
    "idle",
    "busy",
    "reads",
    "writes",
    "bytes_read",
    "bytes_written",
    "accepts",
    "accept_errors",
    "connections_made",
    "connections_open",
    "datagrams_received",
    "datagrams_sent",
    "handshakes_done",
    "handshakes_failed",
    "fds_registered",
    "bytes_queued",
)
# Behind them: twice the sum, the maximum and the buckets of a histogram.
LENGTH = len(_ORDER) + 2 * (2 + BUCKETS)

# Of these the later value stands when two `Metrics` are subtracted. All other figures count.
GAUGES = frozenset({"ready_depth", "ready_depth_max", "connections_open", "fds_registered", "bytes_queued"})


def _upper(bucket: int) -> int:
    """The largest value that belongs to a bucket, but for the last one, which has no end."""
    if bucket < _SPLIT:
        return bucket
    exponent, within = divmod(bucket, _SPLIT)
    return ((_SPLIT + within + 1) << (exponent - 1)) - 1


BOUNDS = tuple(map(_upper, range(BUCKETS)))


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How often something lasted how long, in nanoseconds.

    A quantile (`p50` and the others) is the upper bound of the bucket that it is in: it is never too low, and at most
    an eighth too high. It is never above `max`.
    """

    sum: int
    """The sum of all values, in nanoseconds."""
    max: int
    """The largest value since the loop was made, in nanoseconds."""
    buckets: tuple[int, ...] = dataclasses.field(repr=False)
    """How many values are in each bucket."""

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.buckets)

    def quantile(self, share: float) -> int:
        """The value, in nanoseconds, that this share (0 to 1) of all values does not exceed; 0 if there is none.

        Raises ValueError for another share.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"a share is between 0 and 1, not {share!r}")
        counts = list(itertools.accumulate(self.buckets))
        if not counts[-1]:
            return 0
        bucket = bisect.bisect_left(counts, max(1, math.ceil(share * counts[-1])))
        return self.max if bucket == BUCKETS - 1 else min(BOUNDS[bucket], self.max)

    @property
    def p50(self) -> int:
        """The median, in nanoseconds."""
        return self.quantile(0.5)

    @property
    def p90(self) -> int:
        """What 90 % of the values do not exceed, in nanoseconds."""
        return self.quantile(0.9)

    @property
    def p99(self) -> int:
        """What 99 % of the values do not exceed, in nanoseconds."""
        return self.quantile(0.99)

    @property
    def p999(self) -> int:
        """What 99.9 % of the values do not exceed, in nanoseconds."""
        return self.quantile(0.999)

    def __sub__(self, other: Histogram) -> Histogram:
        """The values that came after `other` was read. `max` stays: it is that of the whole time."""
        if not isinstance(other, Histogram):
            return NotImplemented
        counts = (later - earlier for later, earlier in zip(self.buckets, other.buckets, strict=True))
        return Histogram(self.sum - other.sum, self.max, tuple(counts))


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The figures of a loop at one time, or with `later - earlier` of the span between. docs/metrics.md explains them.

    Times are in seconds, sizes in bytes, all else are counts. Histograms are in nanoseconds.
    """

    turns: int
    callbacks: int
    timers_fired: int
    timers_cancelled: int
    ready_depth: int
    ready_depth_max: int
    polls: int
    wakeups: int
    idle: float
    busy: float
    reads: int
    writes: int
    bytes_read: int
    bytes_written: int
    accepts: int
    accept_errors: int
    connections_made: int
    connections_open: int
    datagrams_received: int
    datagrams_sent: int
    handshakes_done: int
    handshakes_failed: int
    fds_registered: int
    bytes_queued: int
    utilization: float
    turn: Histogram
    delay: Histogram

    def __sub__(self, other: Metrics) -> Metrics:
        """The span between two readings of the same loop; of gauges and maxima the later value stands."""
        if not isinstance(other, Metrics):
            return NotImplemented
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            values[field.name] = value if field.name in GAUGES else value - getattr(other, field.name)
        values["utilization"] = _utilization(values["busy"], values["idle"])
        return Metrics(**values)


def _utilization(busy: float, idle: float) -> float:
    return busy / (busy + idle) if busy + idle > 0 else 0.0


def from_figures(figures: Sequence[int]) -> Metrics:
    """What the native figures say."""
    values: dict[str, Any] = dict(zip(_ORDER, figures, strict=False))
    values["idle"] /= 1e9
    values["busy"] /= 1e9
    values["utilization"] = _utilization(values["busy"], values["idle"])
    start = len(_ORDER)
    for name in ("turn", "delay"):
        end = start + 2 + BUCKETS
        values[name] = Histogram(figures[start], figures[start + 1], tuple(figures[start + 2 : end]))
        start = end
    return Metrics(**values)


def metrics(loop: EventLoop) -> Metrics:
    """The figures of this loop now. Callable from any thread, also after the loop was closed."""
    return from_figures(loop._figures())


def all_metrics() -> dict[EventLoop, Metrics]:
    """The figures of every open loop of this process, by loop. Callable from any thread."""
    return {loop: metrics(loop) for _, loop in open_loops()}


Histogram.__module__ = Metrics.__module__ = all_metrics.__module__ = "rloop"
