"""Response times at 70 % load. Requests come at fixed times, whether the server keeps up or not (an open loop).

Requests arrive as a Poisson process over 64 connections. All loops of a round get the same schedule. For each request
the server works for a fixed CPU time in `data_received`, and then answers. A response time begins when the request was
due (see loadgen/src/arrivals.rs), so a wait behind other requests is counted.

All loops get requests at the same rate. It is 0.7 / C, where C is the CPU time of one request, its work included, on
the loop that the others are compared with. C is measured in a closed loop over the same number of connections. That
loop is then busy for about 70 % of the time. A loop that needs less CPU time for a request is busy for less.
"""

import sys
from dataclasses import dataclass

import echo
from child import Child

LOAD = 0.7
CONNECTIONS = 64
SIZE = 1024
CAPACITY_SECONDS = 0.5
WARMUP_SECONDS = 0.3
# A sample is taken up to ATTEMPTS times, until other processes use less than QUIET seconds of CPU time a second.
ATTEMPTS = 4
QUIET = 0.1


@dataclass(frozen=True)
class Work:
    milliseconds: float

    def __str__(self):
        return f"{self.milliseconds:g} ms a request, {CONNECTIONS} conns"

    def server(self, loop: str, pin: bool) -> Child:
        work = str(self.milliseconds * 1000)
        command = [sys.executable, str(echo.HERE / "echo_server.py"), loop, "work", "--work", work]
        return Child(command, cpu=0 if pin else None)

    def capacity(self, loop: str, loadgen: str, pin: bool) -> dict[str, float]:
        """What a request costs this loop in a closed loop, where a request is always waiting."""
        with self.server(loop, pin) as server:
            config = echo.Config("work", SIZE, CONNECTIONS)
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
        with self.server(loop, pin) as server:
            options = echo.address_of(server.read()) | {"--connections": CONNECTIONS, "--size": SIZE}
            options |= {"--rate": rate, "--seed": seed, "--seconds": seconds, "--warmup": WARMUP_SECONDS}
            words = [str(word) for option in options.items() for word in option]
            with Child([loadgen, "arrivals", *words], cpu=1 if pin else None) as load:
                figures = echo.loaded(server, load, seconds)
        return figures | {"busy": figures["cpu_us"] * figures["requests_per_second"] * 1e-6}


ROWS = [Work(milliseconds) for milliseconds in (0.05, 0.3, 1)]


def rate(cpu_us: float) -> float:
    """How many requests a second keep a server busy for the share LOAD of the time, if one costs `cpu_us`."""
    return LOAD / (cpu_us * 1e-6)
