"""The response times at 70 % load: an open loop, in which requests come when they come and the server works for each.

Requests arrive as a Poisson process over 64 connections, from one schedule for all loops of a round. The server takes
a fixed amount of CPU time for each in `data_received` and then answers. A response time begins when the request was
due (see loadgen/src/arrivals.rs), so that waiting behind others is counted.

The rate is the same for every loop: 0.7 / the CPU time that a request, its work included, costs the loop that all are
compared with, in a closed loop over as many connections. That loop is then busy for about 70 % of the time; a loop
that costs less a request is busy for less of it.
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
# A sample is taken again, so often at most, if others used more of the CPUs than so many seconds a second.
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
        """What a request costs this loop when there are always some to be served."""
        with self.server(loop, pin) as server:
            config = echo.Config("work", SIZE, CONNECTIONS)
            command = echo.load_command(loadgen, server.read(), config, "--seconds", CAPACITY_SECONDS)
            with Child(command, cpu=1 if pin else None) as load:
                return echo.loaded(server, load, CAPACITY_SECONDS)

    def measure(self, loop: str, rate: float, seed: int, seconds: float, loadgen: str, pin: bool) -> dict[str, float]:
        """Response times at this rate, and how busy the server was. A disturbed sample is taken again, because one
        pause of some milliseconds makes hundreds of requests wait; of several, the least disturbed counts."""
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
    """Requests a second that keep a server busy for its share of the time, if one costs so much."""
    return LOAD / (cpu_us * 1e-6)
