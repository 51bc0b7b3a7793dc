"""What rloop promises to be, and whether the samples bear it out. Nothing here runs or measures anything."""

import statistics
import sys
from dataclasses import dataclass

import loops
import tcp
import tls
from report import Samples


@dataclass(frozen=True)
class Bar:
    """What rloop promises: its ratio to another loop's is at most, or at least, the limit."""

    what: str
    row: str
    metric: str
    limit: float
    # Of several, the one with the lowest median counts.
    base: str | tuple[str, ...] = loops.BASE
    # A rate is the inverse of a time: "at least 1.8 times the rate" is a bar on 1 / (time ratio).
    rate: bool = False
    python: tuple[int, int] = (3, 11)
    # Whose ratio it is.
    loop: str = "rloop"

    def judge(self, samples: Samples) -> dict:
        base = self.base if isinstance(self.base, str) else samples.best(self.row, self.metric, self.base)
        ratios = samples.ratios(self.row, self.loop, self.metric, base)
        if self.rate:
            ratios = [1 / ratio for ratio in ratios]
        if not ratios:
            return {"what": str(self), "verdict": "not measured"}
        middle = statistics.median(ratios)
        passed = middle >= self.limit if self.rate else middle <= self.limit
        verdict = "PASS" if passed else "MISS"
        span = (min(ratios), max(ratios))
        return {"what": str(self), "verdict": verdict, "ratio": middle, "span": span, "limit": self.limit}

    def __str__(self):
        sign = ">=" if self.rate else "<="
        base = self.base if isinstance(self.base, str) else "the best"
        return f"{self.what} {sign} {self.limit:.2f} of {base}'s"


@dataclass(frozen=True)
class Ceiling:
    """What rloop promises in numbers of its own: the median is at most the limit."""

    what: str
    row: str
    metric: str
    limit: float
    unit: str
    python: tuple[int, int] = (3, 11)

    def judge(self, samples: Samples) -> dict:
        values = [sample[self.metric] for sample in samples.rounds.get((self.row, "rloop"), [])]
        if not values or (self.row, "rloop") in samples.broken:
            return {"what": str(self), "verdict": "not measured"}
        middle = statistics.median(values)
        verdict = "PASS" if middle <= self.limit else "MISS"
        span = (min(values), max(values))
        return {"what": str(self), "verdict": verdict, "ratio": middle, "span": span, "limit": self.limit}

    def __str__(self):
        return f"{self.what} <= {self.limit:g} {self.unit}"


def _scheduling(figure: str, limit: float) -> Bar:
    return Bar(f"{figure}, rate", figure, "cpu_ns", limit, rate=True)


_ECHO, _STREAMS = (str(tcp.Config(kind, 1024, 32)) for kind in ("protocol", "streams"))
TCP_BARS = [
    Bar("TCP protocol echo 1 KiB, CPU", _ECHO, "cpu_us", 0.88),
    Bar("TCP protocol echo 1 KiB, CPU", _ECHO, "cpu_us", 1.0, base="zuvloop", python=(3, 14)),
    Bar("TCP streams echo 1 KiB, CPU", _STREAMS, "cpu_us", 0.85),
]

def _tls() -> list[Bar | Ceiling]:
    echoes = [tls.Echo(kind, size) for kind in ("protocol", "buffered", "streams") for size in (1024, 100 * 1024)]
    shakes = [tls.Shake(key, resumed) for key in tls.KEYS for resumed in (False, True)]
    rivals = ("asyncio", "uvloop", loops.FASTNET)
    return [
        *(Bar(f"{echo}, CPU", str(echo), "cpu_us", 1.0, base=loops.FASTNET) for echo in echoes),
        *(Bar(f"{shake}, CPU", str(shake), "cpu_us", 1.0, base=rivals) for shake in shakes),
        *(Bar(f"{echo}, portable", str(echo), "cpu_us", 0.75, "asyncio", loop=tls.PORTABLE) for echo in echoes),
        Ceiling("TLS memory of an idle connection", str(tls.Idle()), "kib", 20, "KiB"),
    ]


TLS_BARS = _tls()
INPROCESS_BARS = [
    _scheduling("call_soon", 1.8),
    _scheduling("call_soon_chained", 3.5),
    _scheduling("call_soon_args", 1.5),
    _scheduling("threadsafe_own", 1.5),
    _scheduling("threadsafe_other", 1.5),
    _scheduling("sleep_zero", 1.5),
    _scheduling("timer_cancel", 1.5),
    _scheduling("timer_fire", 1.5),
    _scheduling("wait_for", 1.3),
    _scheduling("create_task", 1.0),
    _scheduling("run_in_executor", 1.0),
]


def judge(bars: list[Bar | Ceiling], samples: Samples) -> list[dict]:
    return [bar.judge(samples) for bar in bars if sys.version_info >= bar.python]


def lines(verdicts: list[dict]):
    yield "bars (ratio: median, and the range over the rounds)"
    for verdict in verdicts:
        figures = ""
        if "ratio" in verdict:
            low, high = verdict["span"]
            figures = f"{verdict['ratio']:.2f} ({low:.2f}-{high:.2f})"
        yield f"  {verdict['what']:<58} {figures:<20} {verdict['verdict']}"
