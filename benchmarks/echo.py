"""The echo figures over TCP, UNIX sockets, UDP, HTTP and WebSockets: which configurations there are, and how one is
measured.

Each measurement has a server, which is a process of its own, and the load generator.
"""

import os
import pathlib
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import web
from child import START_SECONDS, Broken, Child, Lacking

HERE = pathlib.Path(__file__).resolve().parent
# The load generator's own echo server, without a loop and without Python. No request can cost less.
BARE = "bare"
SIZES = (64, 1024, 10 * 1024, 100 * 1024)
CONNECTIONS = (1, 32, 1000, 5000)
WARMUP_SECONDS = 0.2
# How many files a server or the load generator may have, beside those of its connections.
OWN_FILES = 100


@dataclass(frozen=True)
class Config:
    # One of `echo_server.KINDS`.
    kind: str
    size: int
    connections: int
    # How many messages each connection has under way.
    depth: int = 1

    def __str__(self):
        size = f"{self.size // 1024} KiB" if self.size >= 1024 else f"{self.size} B"
        deep = f", {self.depth} deep" if self.depth > 1 else ""
        return f"{self.kind:<12} {size:>7} {self.connections:>4} conns{deep}"

    def has_bare(self) -> bool:
        """Whether the bare server is measured, too. Its traffic is the same for every kind, so one kind is enough."""
        return self.kind == "protocol"

    def measure(self, loop: str, seconds: float, loadgen: str, pin: bool) -> dict[str, float]:
        """Load one server: CPU time a request, rate and latencies."""
        if self.connections + OWN_FILES > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
            raise Lacking("a process may not have so many files here")
        with Child(server_command(loop, self.kind, loadgen), cpu=0 if pin else None) as server:
            command = load_command(loadgen, server.read(), self, "--seconds", seconds)
            with Child(command, cpu=1 if pin else None) as load:
                return loaded(server, load, seconds)


@dataclass(frozen=True)
class Calls:
    """A connection for each message. The client ends it by a reset, so that no port has to wait before it can be used
    again."""

    size: int
    connections: int

    def __str__(self):
        return f"connect, {self.size // 1024} KiB, close, {self.connections} at a time"

    def has_bare(self) -> bool:
        return True

    def measure(self, loop: str, seconds: float, loadgen: str, pin: bool) -> dict[str, float]:
        with Child(server_command(loop, "protocol", loadgen), cpu=0 if pin else None) as server:
            command = calls_command(loadgen, server.read(), self.size, self.connections, "--seconds", seconds)
            with Child(command, cpu=1 if pin else None) as load:
                return loaded(server, load, seconds)


HEAD_AND_BODY = Config("head+body", 1024, 32)
PIPELINED = Config("protocol", 128, 32, depth=32)
CALLS = Calls(1024, 32)
OTHERS: tuple[Config | Calls, ...] = (HEAD_AND_BODY, PIPELINED, CALLS)
# Each section: what is measured by default, with --quick, and with --full.
TCP_QUICK: list[Config | Calls] = [
    Config("protocol", 1024, 32),
    Config("protocol", 100 * 1024, 32),
    Config("buffered", 1024, 32),
    Config("streams", 1024, 32),
]
TCP: list[Config | Calls] = [
    *(Config("protocol", size, 32) for size in SIZES),
    *(Config("protocol", 1024, connections) for connections in CONNECTIONS if connections != 32),
    *(Config(kind, size, 32) for kind in ("buffered", "streams") for size in (1024, 100 * 1024)),
    *OTHERS,
]
TCP_FULL: list[Config | Calls] = [
    *(
        Config(kind, size, connections)
        for kind in ("protocol", "buffered", "streams")
        for size in SIZES
        for connections in CONNECTIONS
    ),
    *OTHERS,
]
UNIX = [
    *(Config("unix", size, 32) for size in SIZES),
    Config("unix", 1024, 1),
    Config("unix streams", 1024, 32),
]
# If a datagram finds the receive buffer full, it is lost, and its connection waits for ever. The buffer is 200 KiB,
# with the kernel's overhead; these configurations stay below that.
UDP = [Config("udp", *row) for row in ((64, 32), (1024, 1), (1024, 32), (1024, 64), (8 * 1024, 8))]
SOCK = [*(Config("sock", size, 32) for size in SIZES[:3]), Config("sock", 1024, 1)]
HTTP = [Config(kind, 1024, 32) for kind in web.SERVERS]
SECTIONS: dict[str, tuple[Sequence[Config | Calls], Sequence[Config | Calls], Sequence[Config | Calls]]] = {
    "tcp": (TCP, TCP_QUICK, TCP_FULL),
    "unix": (UNIX, [Config("unix", 1024, 32)], UNIX),
    "udp": (UDP, [Config("udp", 1024, 32), Config("udp", 1024, 64)], UDP),
    "sock": (SOCK, [Config("sock", 1024, 32)], SOCK),
    "http": (HTTP, HTTP[:1], HTTP),
}


def find_loadgen() -> str | None:
    target = os.environ.get("CARGO_TARGET_DIR") or HERE.parent / "target"
    path = pathlib.Path(target, "release", "rloop-loadgen")
    return str(path) if path.exists() else None


LOADGEN_MISSING = "the load generator is missing: cargo build --release --manifest-path benchmarks/Cargo.toml"


def server_command(loop: str, kind: str, loadgen: str) -> list[str]:
    if loop == BARE:
        return [loadgen, "serve"]
    return [sys.executable, str(HERE / "echo_server.py"), loop, kind]


def address_of(greeting: dict) -> dict[str, object]:
    """The load generator's option for where the server listens; raises Lacking if the loop cannot serve this."""
    if "lacking" in greeting:
        raise Lacking(greeting["lacking"])
    return {f"--{what.replace('_', '-')}": where for what, where in greeting.items()}


def words(options: dict[str, object]) -> list[str]:
    """Options as words of a command line."""
    return [str(word) for option in options.items() for word in option]


def framing(kind: str) -> list[str]:
    """The load generator's option for how messages are sent to a server of this kind."""
    return [web.LOAD[kind]] if kind in web.LOAD else []


def load_command(loadgen: str, greeting: dict, config: Config, *limit: object) -> list[str]:
    """The command of the load generator. `greeting`: the first line that the server has printed."""
    load = _load(greeting, config.size, config.connections) | {"--depth": config.depth}
    return [loadgen, "load", "--gated", *words(load), *framing(config.kind), *map(str, limit)]


def calls_command(loadgen: str, greeting: dict, size: int, connections: int, *more: object) -> list[str]:
    """The command of the load generator that makes a connection for each message."""
    return [loadgen, "calls", *words(_load(greeting, size, connections)), *map(str, more)]


def _load(greeting: dict, size: int, connections: int) -> dict[str, object]:
    """The options that both have."""
    options = address_of(greeting) | {"--connections": connections, "--size": size}
    return options | {"--warmup": WARMUP_SECONDS, "--timeout": START_SECONDS}


def checked(result: dict) -> dict:
    """The load generator's result, if there was no error."""
    if result.get("first_error"):
        raise Broken(f"{result['errors']} errors, the first: {result['first_error']}")
    return result


def machine_seconds() -> float:
    """The CPU time that all processes have used, and other virtual machines have taken."""
    with open("/proc/stat") as file:
        _, user, nice, system, _, _, _, _, steal, *_ = file.readline().split()
    return sum(map(int, (user, nice, system, steal))) / os.sysconf("SC_CLK_TCK")


def loaded(server: Child, load: Child, seconds: float) -> dict[str, float]:
    """What a load that is warmed up costs its server per request."""
    checked(load.read())
    machine, before = machine_seconds(), server.ask()["cpu_seconds"]
    result = checked(load.ask(START_SECONDS + seconds))
    after = server.ask()
    cpu = after.pop("cpu_seconds") - before
    others = machine_seconds() - machine - cpu - result["client_cpu_seconds"]
    return after | {
        "cpu_us": cpu / result["requests"] * 1e6,
        "requests_per_second": result["requests_per_second"],
        "p50_us": result["p50_us"],
        "p99_us": result["p99_us"],
        # How late the load generator was. Only an open loop has this figure.
        "late_p99_us": result.get("late_p99_us", 0),
        "others": max(0, others) / result["seconds"],
        "client_cpu": result["client_cpu_seconds"] / result["seconds"],
    }
