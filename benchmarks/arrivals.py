"""Response times, and the delays of timers, at a fixed load. Requests come at fixed times, whether the server keeps up
or not (an open loop).

Requests arrive as a Poisson process over 64 connections. All loops of a round get the same schedule. For each request
the server works for a fixed CPU time, and then answers: in `data_received` of a protocol, or as an application on
uvicorn or aiohttp. A response time begins when the request was due (see loadgen/src/arrivals.rs), so a wait behind
other requests is counted.

All loops get requests at the same rate. It is LOAD / C, where C is the CPU time of one request, its work included, on
the loop that the others are compared with. C is measured in a closed loop over the same number of connections. That
loop is then busy for about this share of the time. A loop that needs less CPU time for a request is busy for less; one
that needs more may not keep up at all, and its response times grow for as long as the load lasts.
"""

import sys
from dataclasses import dataclass, replace

import echo
import echo_server
import probes
from child import Child

# The shares of one core at which the loops are compared.
LOADS = (0.3, 0.7, 0.9)
# CPU time of a request's work, in microseconds.
WORKS = (20, 300, 2000)
CONNECTIONS = 64
SIZE = 1024
CAPACITY_SECONDS = 0.5
WARMUP_SECONDS = 0.3
# A load lasts longer than it was asked for, if it would have fewer requests: a percentile needs some.
LEAST_REQUESTS = 1000
# A sample is taken up to ATTEMPTS times, until other processes use less than QUIET seconds of CPU time a second.
ATTEMPTS = 4
QUIET = 0.1


@dataclass(frozen=True)
class Load:
    # "protocol", or one of `web.SERVERS`.
    server: str
    work_us: int
    load: float
    # Whether the server measures its timers, too.
    delays: bool = False

    def __str__(self):
        return f"{self.server:<8} {self.work_us:>4} us of work, {self.load:.0%}"

    @property
    def title(self) -> str:
        return f"{self.server}, {self.work_us} us of work, {self.load:.0%} load"

    @property
    def request(self) -> "Load":
        """What decides how much CPU time a request takes: the same for all loads."""
        return replace(self, load=1, delays=False)

    def start(self, loop: str, pin: bool) -> Child:
        kind = echo_server.DELAYS if self.delays else "work" if self.server == "protocol" else self.server
        script = str(echo.HERE / "echo_server.py")
        command = [sys.executable, script, loop, kind, "--work", str(self.work_us)]
        return Child(command, cpu=0 if pin else None)

    def capacity(self, loop: str, loadgen: str, pin: bool) -> dict[str, float]:
        """What a request costs this loop in a closed loop, where a request is always waiting."""
        with self.start(loop, pin) as server:
            config = echo.Config("work" if self.server == "protocol" else self.server, SIZE, CONNECTIONS)
            command = echo.load_command(loadgen, server.read(), config, "--seconds", CAPACITY_SECONDS)
            with Child(command, cpu=1 if pin else None) as load:
                return echo.loaded(server, load, CAPACITY_SECONDS)

    def measure(self, loop: str, rate: float, seed: int, seconds: float, loadgen: str, pin: bool) -> dict[str, float]:
        """Response times at this rate, and how busy the server was. If other processes disturb a sample, it is taken
        again, because a pause of a few milliseconds makes hundreds of requests wait. The least disturbed one counts."""
        attempts: list[dict[str, float]] = []
        while len(attempts) < ATTEMPTS and not any(figures["others"] < QUIET for figures in attempts):
            attempts.append(self._attempt(loop, rate, seed, seconds, loadgen, pin))
        return min(attempts, key=lambda figures: figures["others"])

    def _attempt(self, loop: str, rate: float, seed: int, seconds: float, loadgen: str, pin: bool) -> dict[str, float]:
        with self.start(loop, pin) as server:
            options = echo.address_of(server.read()) | {"--connections": CONNECTIONS, "--size": SIZE}
            options |= {"--rate": rate, "--seed": seed, "--seconds": seconds, "--warmup": WARMUP_SECONDS}
            command = [loadgen, "arrivals", *echo.words(options), *echo.framing(self.server)]
            with Child(command, cpu=1 if pin else None) as load:
                figures = echo.loaded(server, load, seconds)
        return figures | {"busy": figures["cpu_us"] * figures["requests_per_second"] * 1e-6}


def loads(server: str, works=WORKS, shares=LOADS) -> list[Load]:
    return [Load(server, work, share) for work in works for share in shares]


def delays(shares=LOADS) -> list[Load]:
    """The work of a usual request."""
    return [Load("protocol", 300, share, delays=True) for share in shares]


def servers(works=WORKS, shares=LOADS) -> list[Load]:
    return [*loads("uvicorn", works, shares), *loads("aiohttp", works, shares)]


# Each section: what is measured by default, with --quick, and with --full.
SECTIONS = {
    "load": (loads("protocol"), loads("protocol", (300,), (0.7,)), loads("protocol")),
    "web": (servers((300,)), servers((300,), (0.7,)), servers()),
    "delays": (delays(), delays((0.7,)), delays()),
}
# The figures of "delays", and what they are called.
DELAYS = {
    f"{figure}_{percentile}_us": f"{title}, {name}"
    for figure, title in zip(probes.FIGURES, ("delay of a timer", "delay of call_soon_threadsafe"), strict=True)
    for percentile, name in (("p50", "median"), ("p99", "p99"))
}
RESPONSES = {"p50_us": "response time, median", "p99_us": "response time, p99"}


def rate(load: Load, cpu_us: float) -> float:
    """How many requests a second keep a server busy for this load, if one costs `cpu_us`."""
    return load.load / (cpu_us * 1e-6)


def seconds(rate: float, least: float, quick: bool) -> float:
    """How long to measure."""
    return max(least, (LEAST_REQUESTS / 10 if quick else LEAST_REQUESTS) / rate)
