"""The figures of all loops in the terms of OpenMetrics and of OpenTelemetry: names, kinds, units; and OpenMetrics text.

`_metrics.py` has the figures. The classes of the libraries that collect them are in `contrib/`. docs/metrics.md has a
row for each figure, with these names.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from . import _metrics
from ._stacks import open_loops

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# What tells the samples of one family apart: the process, and the number of the loop in it. The first loop is 1.
LABELS = ("pid", "loop")

# The content type of an HTTP response with this text.
CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# Of each field of `Metrics`: what it counts. Kinds and units follow from `GAUGES` and from `_UNITS`.
TEXTS = {
    "turns": "Turns of the loop",
    "callbacks": "Entries of the ready queue that have run",
    "timers_fired": "Timers that became due",
    "timers_cancelled": "Timers cancelled before they were due",
    "ready_depth": "Entries ready when the last turn began to run them",
    "ready_depth_max": "The largest ready depth so far",
    "polls": "System calls that asked for readiness",
    "wakeups": "Wake-ups by other threads",
    "idle": "Time spent waiting in the poll",
    "busy": "Time spent running, and not waiting in the poll",
    "reads": "System calls by which transports have received",
    "writes": "System calls by which transports have sent",
    "bytes_read": "Bytes that transports have received",
    "bytes_written": "Bytes that transports have sent",
    "accepts": "Connections accepted",
    "accept_errors": "Failed attempts to accept a connection",
    "connections_made": "Stream transports made",
    "connections_open": "Stream transports that are open",
    "datagrams_received": "Datagrams received",
    "datagrams_sent": "Datagrams sent",
    "handshakes_done": "TLS handshakes that have succeeded",
    "handshakes_failed": "TLS handshakes that have failed",
    "fds_registered": "Files that the loop watches",
    "bytes_queued": "Bytes that transports keep because the kernel took no more",
    "utilization": "Busy time as a share of busy and idle time",
    "turn": "Length of a turn",
    "delay": "Lateness of timers and of callbacks of other threads",
}
_SECONDS = frozenset({"idle", "busy", "turn", "delay"})
_HISTOGRAMS = ("turn", "delay")
# The quantiles of a histogram that become gauges for OpenTelemetry.
_QUANTILES = ("p50", "p90", "p99", "p999", "max")
# The upper bounds of an exported histogram: the last bucket below each power of two, from 1 us to 68 s.
_EXPORTED = tuple(_metrics.BOUNDS.index(2**power - 1) for power in range(10, 37))


def _is_gauge(field: str) -> bool:
    return field in _metrics.GAUGES or field == "utilization"


def openmetrics_name(field: str) -> str:
    """The name of a field's family: its words, and its unit at the end."""
    if field.startswith("bytes_"):
        return f"rloop_{field.removeprefix('bytes_')}_bytes"
    suffix = "_seconds" if field in _SECONDS else "_ratio" if field == "utilization" else ""
    return f"rloop_{field}{suffix}"


def opentelemetry_name(field: str) -> str:
    """The name of a field's instrument; of a histogram the prefix of several."""
    return "rloop." + field


@dataclasses.dataclass(frozen=True)
class Buckets:
    """A histogram in seconds, as it is exported: pairs of upper bound and cumulative count."""

    bounds: tuple[tuple[str, int], ...]
    sum: float

    @classmethod
    def of(cls, histogram: _metrics.Histogram) -> Buckets:
        """The exported form of a histogram of nanoseconds."""
        counts = histogram.buckets
        bounds = [(repr(_metrics.BOUNDS[at] / 1e9), sum(counts[: at + 1])) for at in _EXPORTED]
        return cls((*bounds, ("+Inf", sum(counts))), histogram.sum / 1e9)

    def as_keywords(self) -> dict[str, Any]:
        """The arguments of `HistogramMetricFamily.add_metric`."""
        return {"buckets": self.bounds, "sum_value": self.sum}


@dataclasses.dataclass(frozen=True)
class Family:
    """All samples of one figure: for each loop the values of `LABELS`, and a number or `Buckets`."""

    name: str
    kind: str
    unit: str
    text: str
    samples: list[tuple[tuple[str, str], Any]]


def _read() -> list[tuple[tuple[str, str], _metrics.Metrics]]:
    pid = str(os.getpid())
    return [((pid, str(number)), _metrics.metrics(loop)) for number, loop in open_loops()]


def families() -> Iterator[Family]:
    """Every figure of every open loop of this process."""
    metrics = _read()
    for field, text in TEXTS.items():
        name = openmetrics_name(field)
        unit = name.rpartition("_")[2]
        unit = unit if unit in ("seconds", "bytes", "ratio") else ""
        kind = "histogram" if field in _HISTOGRAMS else "gauge" if _is_gauge(field) else "counter"
        samples = [(labels, getattr(each, field)) for labels, each in metrics]
        if kind == "histogram":
            samples = [(labels, Buckets.of(value)) for labels, value in samples]
        yield Family(name, kind, unit, text, samples)


def _lines(family: Family) -> Iterator[str]:
    yield f"# TYPE {family.name} {family.kind}"
    if family.unit:
        yield f"# UNIT {family.name} {family.unit}"
    yield f"# HELP {family.name} {family.text}."
    for labels, value in family.samples:
        inner = ",".join(f'{label}="{text}"' for label, text in zip(LABELS, labels, strict=True))
        if family.kind == "histogram":
            for bound, count in value.bounds:
                yield f'{family.name}_bucket{{{inner},le="{bound}"}} {count}'
            yield f"{family.name}_count{{{inner}}} {value.bounds[-1][1]}"
            yield f"{family.name}_sum{{{inner}}} {value.sum!r}"
        else:
            yield f"{family.name}{'_total' if family.kind == 'counter' else ''}{{{inner}}} {value!r}"


def openmetrics() -> str:
    """Return the figures of every open loop of this process as OpenMetrics text, which Prometheus reads.

    The content type is `application/openmetrics-text; version=1.0.0; charset=utf-8`. Callable from any thread.
    """
    lines = [line for family in families() for line in _lines(family)]
    return "\n".join([*lines, "# EOF", ""])


@dataclasses.dataclass(frozen=True)
class Instrument:
    """One observable instrument: of a field of `Metrics`, or of one value (`part`) of a field that is a histogram."""

    name: str
    kind: str
    unit: str
    text: str
    field: str
    part: str | None = None


def _instruments() -> Iterator[Instrument]:
    for field, text in TEXTS.items():
        name = opentelemetry_name(field)
        if field not in _HISTOGRAMS:
            unit = "s" if field in _SECONDS else "By" if field.startswith("bytes_") else "1"
            yield Instrument(name, "gauge" if _is_gauge(field) else "counter", unit, text, field)
            continue
        for part in ("count", "sum", *_QUANTILES):
            kind = "gauge" if part in _QUANTILES else "counter"
            yield Instrument(f"{name}.{part}", kind, "1" if part == "count" else "s", f"{text}: {part}", field, part)


INSTRUMENTS: Sequence[Instrument] = tuple(_instruments())


def observe(instrument: Instrument) -> list[tuple[tuple[str, str], float]]:
    """The values of one instrument, for each loop, with the values of `LABELS`."""
    observed = []
    for labels, metrics in _read():
        value = getattr(metrics, instrument.field)
        if instrument.part is not None:
            value = getattr(value, instrument.part)
            if instrument.part != "count":
                value /= 1e9
        observed.append((labels, value))
    return observed


openmetrics.__module__ = "rloop"
