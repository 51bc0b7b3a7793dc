"""The bars: limits that rloop promises to keep, and whether the samples keep them. Nothing here measures anything."""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import arrivals
import echo
import footprint
import loops
import processes
import tls
import transfers
from report import Samples

# As the base of a bar, instead of a loop's name: the best of rloop's rivals.
BEST = "the best"


@dataclass(frozen=True)
class Bar:
    """A promise about a ratio: rloop's value divided by another loop's is at most, or at least, the limit."""

    what: str
    row: str
    metric: str
    limit: float
    base: str = loops.BASE
    # True if the bar is on the rate, which is the inverse of the time that was measured: "at least 1.8 times the rate"
    # is a limit of 1 / (ratio of the times).
    rate: bool = False
    python: tuple[int, int] = (3, 11)
    # The loop whose value it is.
    loop: str = "rloop"

    def judge(self, samples: Samples) -> dict:
        if self.base == BEST:
            ratios = samples.ratios_to_best(self.row, self.loop, self.metric)
        else:
            ratios = samples.ratios(self.row, self.loop, self.metric, self.base)
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
        owner = self.base if self.base == BEST else f"{self.base}'s"
        return f"{self.what} {sign} {self.limit:.2f} of {owner}"


@dataclass(frozen=True)
class Ceiling:
    """A promise about rloop alone: the median of its values is at most the limit."""

    what: str
    row: str
    metric: str
    limit: float
    unit: str
    python: tuple[int, int] = (3, 11)

    def judge(self, samples: Samples) -> dict:
        values = samples.values(self.row, "rloop", self.metric)
        if not values:
            return {"what": str(self), "verdict": "not measured"}
        middle = statistics.median(values)
        verdict = "PASS" if middle <= self.limit else "MISS"
        span = (min(values), max(values))
        return {"what": str(self), "verdict": verdict, "ratio": middle, "span": span, "limit": self.limit}

    def __str__(self):
        return f"{self.what} <= {self.limit:g} {self.unit}"


def _scheduling(figure: str, limit: float) -> Bar:
    return Bar(f"{figure}, rate", figure, "cpu_ns", limit, rate=True)


def _echo(what: str, kind: str, limit: float, base: str = loops.BASE, python: tuple[int, int] = (3, 11)) -> Bar:
    row = str(echo.Config(kind, 1024, 32))
    return Bar(f"{what} echo 1 KiB, CPU", row, "cpu_us", limit, base, python=python)


def _least(config: echo.Config | echo.Calls, limit: float = 1.0, base: str = BEST) -> Bar:
    return Bar(f"{config}, CPU", str(config), "cpu_us", limit, base)


def _transfer(row: str) -> Bar:
    # All the CPU time is that of the measured process, so this is the inverse of what it can move in a second.
    return Bar(f"{row}, CPU", row, "cpu_ns", 1.0, BEST)


def _spawn(row: str, limit: float, base: str = loops.BASE) -> Bar:
    return Bar(f"{row}, rate", row, "cpu_us", limit, base, rate=True)


def _tls() -> list[Bar | Ceiling]:
    echoes = [tls.Echo(kind, size) for kind in ("protocol", "buffered", "streams") for size in (1024, 100 * 1024)]
    shakes = [tls.Shake(key, resumed) for key in tls.KEYS for resumed in (False, True)]
    return [
        *(Bar(f"{figure}, CPU", str(figure), "cpu_us", 1.0, "aiofastnet") for figure in echoes),
        *(Bar(f"{figure}, CPU", str(figure), "cpu_us", 1.0, BEST) for figure in shakes),
        *(Bar(f"{figure}, portable", str(figure), "cpu_us", 0.75, "asyncio", loop=tls.PORTABLE) for figure in echoes),
        Ceiling("TLS memory of an idle connection", str(tls.Idle()), "kib", 20, "KiB"),
    ]


ECHO_BARS = {
    "tcp": [
        _echo("TCP protocol", "protocol", 0.88),
        _echo("TCP protocol", "protocol", 1.0, base="zuvloop", python=(3, 14)),
        _echo("TCP streams", "streams", 0.85),
        _least(echo.HEAD_AND_BODY),
        _least(echo.CALLS),
        _least(echo.PIPELINED, base=loops.BASE),
    ],
    "unix": [_echo("UNIX", "unix", 1.0)],
    "udp": [_echo("UDP", "udp", 0.8)],
    "sock": [_echo("sock_*", "sock", 0.3)],
    "http": [_least(config, 0.95) for config in echo.HTTP],
}
ARRIVAL_BARS = {
    section: [
        Bar(f"{load}: {what}", str(load), metric, 1.0, BEST)
        for load in default
        for metric, what in (arrivals.DELAYS if section == "delays" else arrivals.RESPONSES).items()
    ]
    for section, (default, _, _) in arrivals.SECTIONS.items()
}
TRANSFER_BARS = [_transfer(row) for row in [*transfers.BULK, *transfers.SENDFILES]]
TLS_BARS = _tls()
FOOTPRINT_BARS = [
    Ceiling("memory of an idle connection", footprint.IDLE, "value", 700, "B"),
    Ceiling("memory of an idle TLS connection over an SSLObject", footprint.IDLE_TLS, "value", 3072, "B"),
    Ceiling("a loop made and closed", footprint.MADE, "value", 80, "us"),
    Ceiling("import after asyncio", footprint.IMPORT, "value", 5, "ms"),
]
INPROCESS_BARS = [
    _scheduling("call_soon", 1.8),
    _scheduling("call_soon_chained", 3.5),
    _scheduling("call_soon_args", 1.5),
    _scheduling("call_soon_debug", 2.0),
    _scheduling("threadsafe_own", 1.5),
    _scheduling("threadsafe_other", 1.5),
    _scheduling("threadsafe_4_threads", 1.5),
    _scheduling("sleep_zero", 1.5),
    _scheduling("timer_cancel", 1.5),
    _scheduling("timer_fire", 1.5),
    _scheduling("wait_for", 1.3),
    _scheduling("create_task", 1.0),
    Bar("queue_ping_pong, rate", "queue_ping_pong", "cpu_ns", 1.0, BEST, rate=True),
    Bar("reader_wakeups, rate", "reader_wakeups", "cpu_ns", 1.0, BEST, rate=True),
    Bar("run_in_executor, rate", "run_in_executor", "cpu_ns", 1.0, BEST, rate=True),
    Bar("getaddrinfo of an address, rate", "getaddrinfo", "cpu_ns", 1.0, BEST, rate=True),
]
PROCESS_BARS = [
    *(_spawn(row, 1.0, "asyncio") for row in processes.SPAWNS),
    _spawn(processes.SPAWN_SMALL, 2.0),
    _spawn(processes.SPAWN_PIPES, 2.0),
    _spawn(processes.SPAWN_LARGE, 20.0),
    *(_transfer(row) for row in processes.PIPES),
]


def judge(bars: Sequence[Bar | Ceiling], samples: Samples) -> list[dict]:
    return [bar.judge(samples) for bar in bars if sys.version_info >= bar.python]


def lines(verdicts: list[dict]):
    yield "bars (ratio: median, and the range over the rounds)"
    width = max(len(verdict["what"]) for verdict in verdicts)
    for verdict in verdicts:
        figures = ""
        if "ratio" in verdict:
            low, high = verdict["span"]
            figures = f"{verdict['ratio']:.2f} ({low:.2f}-{high:.2f})"
        yield f"  {verdict['what']:<{width}} {figures:<20} {verdict['verdict']}"
