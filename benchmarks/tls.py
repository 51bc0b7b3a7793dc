"""The TLS figures: echo, handshakes, and memory per connection. Each has a server of its own and the load generator.

The servers use a context of Python's ssl module with OpenSSL's defaults (TLS 1.3, AES-256-GCM). The load generator
uses rustls. The certificates are made by the module that the tests use. For comparison, the load generator's own server
on the same OpenSSL shows the cost without a loop and without Python.
"""

import functools
import os
import sys
from dataclasses import dataclass

import echo
from child import Child, Lacking

sys.path.append(str(echo.HERE.parent / "tests"))
from support import certificates  # noqa: E402

SIZES = (64, 1024, 10 * 1024, 100 * 1024)
CONNECTIONS = 64
IDLE = 1000
# rloop with its other TLS engine, which calls Python's ssl module for each step.
PORTABLE = "rloop-portable"
KEYS = {"RSA-2048": certificates.rsa_server, "P-256": certificates.server}


@dataclass(frozen=True)
class Echo:
    kind: str
    size: int
    connections: int = CONNECTIONS

    def __str__(self):
        return f"TLS {self.config()}"

    def config(self) -> echo.Config:
        return echo.Config(self.kind, self.size, self.connections)

    def has_bare(self) -> bool:
        return self.config().has_bare()

    def measure(self, loop: str, seconds: float, loadgen: str, pin: bool) -> dict[str, float]:
        """CPU time a request, rate and latencies."""
        config = self.config()
        with serving(loop, self.kind, pin) as server:
            command = echo.load_command(loadgen, server.read(), config, "--tls", "--seconds", seconds)
            with Child(command, cpu=1 if pin else None) as load:
                return echo.loaded(server, load, seconds)


@dataclass(frozen=True)
class Shake:
    key: str
    resumed: bool

    def __str__(self):
        return f"TLS handshake {self.key:<8} {'resumed' if self.resumed else 'full':<7} 32 conns"

    def has_bare(self) -> bool:
        return True

    def measure(self, loop: str, seconds: float, loadgen: str, pin: bool) -> dict[str, float]:
        """The CPU time of a handshake, and the rate. A byte is echoed in each connection."""
        with serving(loop, "protocol", pin, self.key) as server:
            resume = ["--resume"] if self.resumed else []
            command = echo.calls_command(loadgen, server.read(), 1, 32, "--seconds", seconds, "--tls", *resume)
            with Child(command, cpu=1 if pin else None) as load:
                return echo.loaded(server, load, seconds)


@dataclass(frozen=True)
class Idle:
    connections: int = IDLE

    def __str__(self):
        return f"TLS idle connection, of {self.connections}"

    def has_bare(self) -> bool:
        return True

    def measure(self, loop: str, seconds: float, loadgen: str, pin: bool) -> dict[str, float]:
        """The server's resident memory for each connection that has echoed something and is idle now."""
        warm = echo.Config("protocol", 1024, 1)
        config = echo.Config("protocol", 1024, self.connections)
        with serving(loop, "protocol", pin) as server:
            greeting = server.read()
            with Child(echo.load_command(loadgen, greeting, warm, "--tls", "--requests", 100)) as load:
                echo.checked(load.read())
                echo.checked(load.ask())
                before = server.ask()["resident"]
                command = echo.load_command(loadgen, greeting, config, "--tls", "--requests", self.connections)
                with Child(command, cpu=1 if pin else None) as idle:
                    echo.checked(idle.read())
                    echo.checked(idle.ask())
                    after = server.ask()["resident"]
                    idle.tell()
                load.tell()
        return {"kib": (after - before) / self.connections / 1024}


QUICK: list[Echo | Shake | Idle] = [
    Echo("protocol", 1024),
    Echo("protocol", 100 * 1024),
    Echo("streams", 1024),
    Shake("P-256", False),
    Idle(),
]
DEFAULT: list[Echo | Shake | Idle] = [
    *(Echo("protocol", size) for size in SIZES),
    Echo("protocol", 1024, 1),
    *(Echo(kind, size) for kind in ("buffered", "streams") for size in (1024, 100 * 1024)),
    *(Shake(key, resumed) for key in KEYS for resumed in (False, True)),
    Idle(),
]
FULL: list[Echo | Shake | Idle] = [
    *(
        Echo(kind, size, connections)
        for kind in ("protocol", "buffered", "streams")
        for size in SIZES
        for connections in (1, 32, CONNECTIONS)
    ),
    *(Shake(key, resumed) for key in KEYS for resumed in (False, True)),
    Idle(),
]


def names(chosen: list[str]) -> list[str]:
    """The columns of the tables: the bare server, the loops, and rloop with its other engine."""
    return [echo.BARE, *chosen, *([PORTABLE] if "rloop" in chosen else [])]


@functools.cache
def chain(key: str) -> str:
    return str(KEYS[key]().chain)


@functools.cache
def libssl() -> str:
    """The path of the library that this interpreter's `ssl` has loaded."""
    import ssl  # noqa: F401

    with open("/proc/self/maps") as lines:
        paths = [line.split(maxsplit=5)[-1].strip() for line in lines]
    for path in paths:
        if os.path.basename(path).startswith("libssl"):
            return path
    raise Lacking("the interpreter's OpenSSL is not a library of its own")


def bare_command(key: str) -> list[str]:
    loadgen = echo.find_loadgen()
    assert loadgen is not None
    return [loadgen, "serve", "--libssl", libssl(), "--chain", chain(key)]


def serving(loop: str, kind: str, pin: bool, key: str = "P-256") -> Child:
    if loop == echo.BARE:
        return Child(bare_command(key), cpu=0 if pin else None)
    command = [sys.executable, str(echo.HERE / "echo_server.py"), loop.removesuffix("-portable"), kind, chain(key)]
    if loop == PORTABLE:
        command = ["env", "RLOOP_TLS_ENGINE=portable", *command]
    return Child(command, cpu=0 if pin else None)
