"""The client that measures. It has a fixed number of connections, each with one request under way.

It uses selectors and no event loop, so it is the same for every loop that is measured. It compares every answer.
"""

import os
import selectors
import socket
import time

from result import Slice
from server import check

TIMEOUT = 10  # seconds without any answer
CONNECTIONS = 32

UPGRADE = (
    b"GET /echo HTTP/1.1\r\nHost: demo\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: ZGVtbyBvZiBybG9vcCEhIQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def get(path):
    return b"GET " + path + b" HTTP/1.1\r\nHost: demo\r\n\r\n"


class Workload:
    """A request that is repeated, and how its answer begins and ends. What is between may change: it has the date."""

    def __init__(self, name, request, start, end, opening=None):
        self.name = name
        self.request = request
        self.start = start
        self.end = end
        self.opening = opening  # what is sent first on a new connection

    def check_answer(self, answer):
        if not (answer.startswith(self.start) and answer.endswith(self.end)):
            check(False, f"{self.name}: wrong answer {bytes(answer[:300])!r}")


# A text frame of 100 bytes, masked with zeros (a client must mask; zeros change nothing), and its echo.
TEXT = b"0123456789" * 10
WORKLOADS = [
    Workload("GET, plain ASGI", get(b"/plain/"), b"HTTP/1.1 200 OK\r\n", b"\r\n\r\nHello, world!"),
    Workload("GET, Starlette JSON", get(b"/square?number=12"), b"HTTP/1.1 200 OK\r\n", b"}"),
    Workload("WebSocket echo", b"\x81\xe4\0\0\0\0" + TEXT, b"\x81\x64", TEXT, opening=UPGRADE),
]


def open_connection(server, workload):
    """A connection, and the length of an answer. All answers to the same request have the same length."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if workload.opening:
        connection.sendall(workload.opening)
        head = read_until(connection, b"\r\n\r\n")
        check(head.startswith(b"HTTP/1.1 101 "), f"{workload.name}: no upgrade, but {head[:100]!r}")
    connection.sendall(workload.request)
    answer = read_until(connection, workload.end)
    workload.check_answer(answer)
    connection.setblocking(False)
    return connection, len(answer)


def read_until(connection, end):
    data = b""
    while not data.endswith(end):
        more = connection.recv(65536)
        check(more, f"connection closed by the server after {data[:100]!r}")
        data += more
    return data


def run(server, workload, seconds):
    """Loads the server for that time; returns a `Slice`."""
    selector = selectors.DefaultSelector()
    pending = {}
    try:
        for _ in range(CONNECTIONS):
            connection, length = open_connection(server, workload)
            pending[connection] = bytearray()
            selector.register(connection, selectors.EVENT_READ, length)
        return drive(server, workload, seconds, selector, pending)
    finally:
        selector.close()
        for connection in pending:
            connection.close()


def drive(server, workload, seconds, selector, pending):
    answered = 0
    machine, client = machine_seconds(), time.process_time()
    cpu, begin = server.cpu_seconds(), time.monotonic()
    for connection in pending:
        connection.send(workload.request)
    in_flight = len(pending)
    while in_flight:
        events = selector.select(TIMEOUT)
        check(events, f"{workload.name}: no answer for {TIMEOUT} s")
        more_to_send = time.monotonic() - begin < seconds
        for key, _ in events:
            connection, answer = key.fileobj, pending[key.fileobj]
            data = connection.recv(65536)
            check(data, f"{workload.name}: connection closed by the server")
            answer += data
            if len(answer) < key.data:
                continue
            check(len(answer) == key.data, f"{workload.name}: answer of {len(answer)} bytes, not {key.data}")
            workload.check_answer(answer)
            answer.clear()
            answered += 1
            if more_to_send:
                connection.send(workload.request)
            else:
                in_flight -= 1
    elapsed, used = time.monotonic() - begin, server.cpu_seconds() - cpu
    others = machine_seconds() - machine - (time.process_time() - client) - used
    return Slice(answered, elapsed, used, max(0.0, others / elapsed))


def machine_seconds():
    """The CPU time that all processes have used, and other virtual machines have taken. 0 if it is unknown."""
    try:
        with open("/proc/stat") as file:
            _, user, nice, system, _, _, _, _, steal, *_ = file.readline().split()
    except OSError:
        return 0.0
    return sum(map(int, (user, nice, system, steal))) / os.sysconf("SC_CLK_TCK")
