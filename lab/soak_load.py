"""The clients of soak.py: one process, which opens connections to every server of soak_server.py, and breaks many.

It reads commands on standard input, and answers each with a line of JSON on standard output. {"targets": {...},
"seed": 1} says where the servers are. {"seconds": 5} makes connections for that long, and is answered by how many there
were, how long the answers took, and what was wrong. All sockets block and there is one thread, so that what is measured
is the server. Each kind of client is a function in `KINDS`, which opens a batch of connections. Nothing is judged here.
"""

import json
import os
import random
import socket
import ssl
import struct
import sys
import time
from collections import Counter

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect as connect_websocket

STEP_LIMIT = 20  # seconds for any single step; a server may wait a second after it ran out of files
BATCH = 12  # connections open at the same time
SAMPLES = 4_000  # latencies kept of a round
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a RST


class Wrong(Exception):
    """The server's answer is not what it should be."""


class Load:
    """What one process does, and what it has seen since the last report."""

    def __init__(self, targets: dict, seed: int):
        self.targets = targets
        self.random = random.Random(seed)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self.clear()

    def clear(self):
        self.connections: Counter[str] = Counter()
        self.answers = 0
        self.seconds: list[float] = []
        self.errors: Counter[str] = Counter()
        self.told: Counter[str] = Counter()

    def run(self, seconds):
        self.clear()
        ends = time.monotonic() + seconds
        names, weights = list(KINDS), [weight for _, weight in KINDS.values()]
        # Each kind once, and then by chance until the time is over.
        first = self.random.sample(names, len(names))
        while first or time.monotonic() < ends:
            name = first.pop() if first else self.random.choices(names, weights)[0]
            try:
                KINDS[name][0](self)
            except (OSError, Wrong, WebSocketException, EOFError) as error:
                self.errors[f"client, {name}: {error!r}"] += 1
        kept = sorted(self.random.sample(self.seconds, min(SAMPLES, len(self.seconds))))
        return {
            "connections": self.connections,
            "answers": self.answers,
            "latencies": [round(seconds * 1e6) for seconds in kept],
            "errors": self.errors,
            "told": self.told,
        }

    def connect(self, name):
        self.connections[name] += 1
        target = self.targets[name]
        if isinstance(target, str):
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(STEP_LIMIT)
            sock.connect(target)
            return sock
        return socket.create_connection(("127.0.0.1", target), timeout=STEP_LIMIT)

    def answered(self, started):
        self.answers += 1
        self.seconds.append(time.monotonic() - started)

    def chance(self, one_in):
        return self.random.randrange(one_in) == 0


def receive(sock, expected):
    got = b""
    while len(got) < len(expected):
        data = sock.recv(len(expected) - len(got))
        if not data:
            break
        got += data
    if got != expected:
        raise Wrong(f"{got[:50]!r}, not {expected[:50]!r}")


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def lines(load, name="lines"):
    """Connections that echo a line each. They end in seven ways."""
    socks = [load.connect(name) for _ in range(BATCH)]
    try:
        started = time.monotonic()
        for number, sock in enumerate(socks):
            sock.sendall(b"connection %d\n" % number)
        for number, sock in enumerate(socks):
            receive(sock, b"connection %d\n" % number)
            load.answered(started)
        for sock in socks:
            end(load, sock, load.random.randrange(7))
    finally:
        for sock in socks:
            sock.close()


def end(load, sock, way):
    if way == 0:  # closed by the client
        sock.close()
    elif way == 1:  # reset by the client
        reset(sock)
    elif way == 2:  # the client's end of file, which the server answers by closing
        sock.shutdown(socket.SHUT_WR)
        receive(sock, b"")
    elif way == 3:  # closed by the server, with an answer on its way
        sock.sendall(b"bye\n")
        receive(sock, b"bye\n")
        receive(sock, b"")
    elif way == 4:  # aborted by the server
        sock.sendall(b"abort\n")
        expect_end(sock)
    elif way == 5:  # a reset behind half a line
        sock.sendall(b"half")
        reset(sock)
    else:  # a reset while the server has more to send than the kernel takes
        sock.sendall(b"much %d\n" % load.random.randrange(1 << 20))
        reset(sock)


def expect_end(sock):
    try:
        if sock.recv(1):
            raise Wrong("an answer where the connection should end")
    except ConnectionResetError:
        pass


def unix(load):
    lines(load, "unix")


def hasty(load):
    """Connections that are over before the server accepts them."""
    for _ in range(BATCH):
        sock = load.connect("lines")
        reset(sock) if load.chance(2) else sock.close()


def tls(load):
    """TLS: whole connections, and some that break during the handshake, or send what is no TLS."""
    for _ in range(BATCH // 3):
        sock = load.connect("tls")
        way = load.random.randrange(8)
        if way == 0:
            sock.sendall(load.random.randbytes(load.random.randrange(1, 600)))
            sock.close()
        elif way == 1:
            handshake_half(load, sock)
        else:
            tls_line(load, sock, way)


def handshake_half(load, sock):
    """The client's first flight, some of it at least, and a reset."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls_object = load.context.wrap_bio(incoming, outgoing)
    try:
        tls_object.do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello = outgoing.read()
    sock.sendall(hello[: load.random.randrange(1, len(hello) + 1)])
    reset(sock) if load.chance(2) else sock.close()


def tls_line(load, sock, way):
    started = time.monotonic()
    with load.context.wrap_socket(sock, suppress_ragged_eofs=False) as secure:
        secure.sendall(b"over TLS\n")
        receive(secure, b"over TLS\n")
        load.answered(started)
        if way == 2:
            secure.unwrap()
        elif way == 3:
            secure.sendall(b"bye\n")
            receive(secure, b"bye\n")
        elif way == 4:
            reset(secure)


def http(load, name):
    """Keep-alive connections with some requests each, with small bodies and sometimes a large one. Some break."""
    socks = [load.connect(name) for _ in range(BATCH // 2)]
    try:
        for number in range(load.random.randrange(1, 8)):
            size = 50_000 if load.chance(10) else 1 + number
            body = b"request %d;" % number * size
            head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
            started = time.monotonic()
            for sock in socks:
                sock.sendall(head + body)
            for sock in socks:
                check_response(sock, body)
                load.answered(started)
        for sock in socks:
            if load.chance(3):
                sock.sendall(head[: load.random.randrange(len(head))])
            if load.chance(3):
                reset(sock)
    finally:
        for sock in socks:
            sock.close()


def check_response(sock, body):
    with sock.makefile("rb") as file:
        status = file.readline()
        length = 0
        while (header := file.readline()) not in (b"\r\n", b""):
            if header.lower().startswith(b"content-length:"):
                length = int(header.partition(b":")[2])
        answer = file.read(length)
    if b" 200 " not in status or answer != body:
        raise Wrong(f"{status!r} {answer[:50]!r} in answer to {body[:50]!r}")


def websocket(load, name):
    """A WebSocket with some messages; it ends by the protocol, or its connection breaks."""
    load.connections[name] += 1
    client = connect_websocket(f"ws://127.0.0.1:{load.targets[name]}/ws", open_timeout=STEP_LIMIT, compression=None)
    with client:
        for size in load.random.choices((1, 200, 70_000), k=load.random.randrange(1, 6)):
            started = time.monotonic()
            client.send(b"m" * size)
            if client.recv(STEP_LIMIT) != b"m" * size:
                raise Wrong("another message")
            load.answered(started)
        if load.chance(3):
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.socket.shutdown(socket.SHUT_RDWR)


def udp(load):
    """Datagrams and their answers. The kernel may drop some of them when it has no room, so they are sent again."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        load.connections["udp"] += 1
        sock.connect(("127.0.0.1", load.targets["udp"]))
        for number in range(5):
            data = b"%d %d;" % (os.getpid(), load.random.randrange(1 << 30)) * (1 + number)
            started = time.monotonic()
            for sock_limit in (1, 2, 4, STEP_LIMIT):
                sock.settimeout(sock_limit)
                sock.send(data)
                try:
                    while sock.recv(65_536) != data:
                        pass
                    break
                except TimeoutError:
                    load.told["UDP: sent again"] += 1
            else:
                raise Wrong("no datagram came back")
            load.answered(started)


def worker(load):
    """Requests to the uvicorn worker that is restarted now and then. A worker that ends may close a connection before
    it has read the request, so a request may be made again, on another connection."""
    for attempt in range(5):
        sock = load.connect("worker")
        try:
            with sock:
                started = time.monotonic()
                sock.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nworker")
                check_response(sock, b"worker")
                load.answered(started)
                return
        except (ConnectionError, Wrong):
            load.told["worker: asked again"] += 1
            time.sleep(0.05 * attempt)
    raise Wrong("the worker did not answer 5 times")


def by_name(kind, name):
    return lambda load: kind(load, name)


# The kinds of clients, and how often each has its turn.
KINDS = {
    "lines": (lines, 40),
    "hasty": (hasty, 4),
    "unix": (unix, 10),
    "tls": (tls, 10),
    "uvicorn": (by_name(http, "uvicorn"), 4),
    "aiohttp": (by_name(http, "aiohttp"), 4),
    "streams": (by_name(http, "streams"), 6),
    "websocket on uvicorn": (by_name(websocket, "uvicorn"), 2),
    "websocket on aiohttp": (by_name(websocket, "aiohttp"), 2),
    "udp": (udp, 6),
    "worker": (worker, 2),
}


def main():
    load = None
    for line in sys.stdin:
        command = json.loads(line)
        if load is None:
            load = Load(command["targets"], command["seed"])
            print(json.dumps("ready"), flush=True)
        else:
            print(json.dumps(load.run(command["seconds"])), flush=True)


if __name__ == "__main__":
    main()
