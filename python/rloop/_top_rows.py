"""What `python -m rloop top` shows of a loop: its rates, as the cells of a row of text, and as JSON.

The command line is in `_top.py`, the view that is drawn again and again in `_top_screen.py`.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ._metrics import Histogram, Metrics
from ._published import Published, PublishedLoop

NOTHING = """No process of yours publishes its figures. To have one do so, start it by
    python -m rloop --publish PROGRAM
or set RLOOP_PUBLISH=1 for a program that uses rloop, or call rloop.publish() in it."""

# The columns, and whether they are numbers, which stand at the right.
COLUMNS = {
    "PID": True,
    "LOOP": True,
    "BUSY": True,
    "TURNS/S": True,
    "CALLS/S": True,
    "P50": True,
    "P99": True,
    "LAG": False,
    "STALLS": True,
    "CONNS": True,
    "READ/S": True,
    "WRITE/S": True,
    "TURN": True,
    "COMMAND": False,
}
# The quantiles of `delay`, drawn as bars: so many nanoseconds and more have this bar.
_BARS = tuple(zip("▁▂▃▄▅▆▇█", (0, 100_000, 300_000, 10**6, 3 * 10**6, 10**7, 10**8, 10**9), strict=True))
# A turn is shown from so many seconds on, and the age of figures, too.
_LONG_TURN, _OLD = 0.1, 2.0


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a loop has done in the last one to two seconds. The names are those of the JSON."""

    span: float
    utilization: float
    turns_per_second: float
    callbacks_per_second: float
    delay_p50: float
    delay_p99: float
    bytes_read_per_second: float
    bytes_written_per_second: float

    @classmethod
    def of(cls, loop: PublishedLoop) -> Rates:
        """The rates of a loop. All are 0 if it has just been made."""
        span, seconds = loop.metrics - loop.before, loop.span or float("inf")
        return cls(
            loop.span,
            span.utilization,
            span.turns / seconds,
            span.callbacks / seconds,
            span.delay.p50 / 1e9,
            span.delay.p99 / 1e9,
            span.bytes_read / seconds,
            span.bytes_written / seconds,
        )


# ------------------------------------------------------------------------------------------------- text


def time_text(seconds: float) -> str:
    """A time in three digits and a unit."""
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 999.5:
            return f"{seconds * factor:.3g}{unit}"
    return f"{seconds:.3g}s" if seconds < 999.5 else f"{seconds:.0f}s"


def number_text(number: float) -> str:
    """A number in at most four digits and a letter for thousands, millions and so on."""
    for letter in " kMGT":
        if number < 999.5 or letter == "T":
            break
        number /= 1000
    return f"{number:.3g}{letter}".rstrip() if number < 999.5 else f"{number:.0f}{letter}"


def bar(lag: float) -> str:
    """The bar for a lag of so many seconds."""
    return [bar for bar, least in _BARS if lag * 1e9 >= least][-1]


def lag_of(loop: PublishedLoop) -> float:
    """How late callbacks are, in seconds. While a turn lasts, those behind it wait, and none has run late yet."""
    return max(Rates.of(loop).delay_p99, loop.turn_lasts)


def row(process: Published, loop: PublishedLoop, history: str) -> list[str]:
    """The cells of one loop, one for each of `COLUMNS`. `history`: the bars of its lag."""
    rates = Rates.of(loop)
    turn = f"old {time_text(process.age)}" if process.age >= _OLD else "-"
    if turn == "-" and loop.turn_lasts >= _LONG_TURN:
        turn = time_text(loop.turn_lasts)
    return [
        str(process.pid),
        str(loop.number),
        f"{rates.utilization:.0%}",
        number_text(rates.turns_per_second),
        number_text(rates.callbacks_per_second),
        time_text(rates.delay_p50) if rates.delay_p50 else "-",
        time_text(rates.delay_p99) if rates.delay_p99 else "-",
        history,
        "-" if loop.stalls is None else str(loop.stalls),
        str(loop.metrics.connections_open),
        number_text(rates.bytes_read_per_second),
        number_text(rates.bytes_written_per_second),
        turn,
        process.command,
    ]


def printable(text: str) -> str:
    """The text without characters that a terminal would obey: a command line may have any."""
    return "".join(character if character.isprintable() else " " for character in text)


def lines(rows: list[list[str]]) -> list[str]:
    """The rows below their headings, as lines."""
    rows = [list(COLUMNS), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = []
    for cells in rows:
        adjusted = zip(cells, widths, COLUMNS.values(), strict=True)
        text = "  ".join(cell.rjust(size) if right else cell.ljust(size) for cell, size, right in adjusted)
        texts.append(text.rstrip())
    return texts


# ------------------------------------------------------------------------------------------------- JSON


def _plain(metrics: Metrics) -> dict[str, Any]:
    """All figures, with the values of histograms in place of their buckets."""
    figures = {}
    for field in dataclasses.fields(metrics):
        value = getattr(metrics, field.name)
        if isinstance(value, Histogram):
            value = {name: getattr(value, name) for name in ("count", "sum", "p50", "p90", "p99", "p999", "max")}
        figures[field.name] = value
    return figures


def as_json(processes: list[Published]) -> str:
    """The processes as JSON. docs/metrics.md has its keys."""
    told = []
    for process in processes:
        loops = [
            {
                "loop": loop.number,
                "turn_lasts": loop.turn_lasts,
                "stalls": loop.stalls,
                "thread": loop.thread,
                "rates": dataclasses.asdict(Rates.of(loop)),
                "metrics": _plain(loop.metrics),
            }
            for loop in process.loops.values()
        ]
        known = {"pid": process.pid, "command": process.command, "path": str(process.path), "age": process.age}
        told.append({**known, "loops": loops})
    return json.dumps(told, indent=2)
