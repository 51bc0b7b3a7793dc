"""Soak test: many requests to real servers on one loop. It checks the answers, and that nothing is left behind.

`python examples/soak.py LOOP [--quick] [--servers uvicorn,aiohttp,streams,protocol]`

uvicorn, aiohttp and streams each get 10,000 requests over 100 keep-alive connections. Then their open files are
counted. protocol gets 5,000 connections, which end in five ways. Then its open files, live objects and memory are
compared. Each server is a child process (soak_server.py). Prints a line for each server. The exit status is 1 after any
error or leak.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "soak_server.py")
THREADS = 10
STEP_LIMIT = 15  # seconds for any single step
TIME_LIMIT = 180  # seconds for everything, which takes about 20
BATCH = 50  # connections open at the same time in the protocol round
MAX_GROWTH = 1 << 20  # bytes of resident memory


class Failure(Exception):
    """The server has done something wrong, or left something behind."""


# The exceptions that a wrong server can cause here. Any other exception is a bug of this file.
FAILURES = (Failure, OSError, ValueError, http.client.HTTPException, subprocess.TimeoutExpired)


class Child:
    """A server process; its standard error must stay empty."""

    def __init__(self, kind, loop_name):
        self._errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "default::ResourceWarning", CHILD, kind, loop_name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self._errors.close()

    def start(self):
        first_line = self.process.stdout.readline()
        if not first_line:
            self.process.wait(STEP_LIMIT)
            raise Failure("the server did not start")
        self.port = int(first_line)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=STEP_LIMIT)

    def open_files(self):
        folder = f"/proc/{self.process.pid}/fd"
        files = {}
        for fd in os.listdir(folder):
            try:
                files[int(fd)] = os.readlink(f"{folder}/{fd}")
            except FileNotFoundError:
                pass  # closed meanwhile
        return files

    def wait_for_open_files(self, number):
        """The open files, as soon as there are no more than that. The last connections may take a moment to close."""
        deadline = time.monotonic() + STEP_LIMIT
        while len(files := self.open_files()) > number and time.monotonic() < deadline:
            time.sleep(0.02)
        return files

    def resident(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def report(self, ended):
        """How many objects are alive at the server once that many connections have ended."""
        self.process.stdin.write(f"{ended}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self):
        self.process.terminate()
        status = self.process.wait(STEP_LIMIT)
        if status != 0 or self.complaints():
            raise Failure(f"after SIGTERM: exit status {status}, standard error below")

    def complaints(self):
        self._errors.seek(0)
        return self._errors.read()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("loop", help="rloop, asyncio or another module that has new_event_loop()")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests and connections")
    parser.add_argument("--servers", default="uvicorn,aiohttp,streams,protocol", help="default: %(default)s")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(1))  # the `with` below ends the child
    signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(TIME_LIMIT)
    failed = False
    for kind in arguments.servers.split(","):
        with Child(kind, arguments.loop) as child:
            try:
                line = soak(child, kind, arguments.quick)
            except FAILURES as error:
                failed = True
                line = f"FAILED: {error or repr(error)}\n{child.complaints()}"
        print(f"{arguments.loop}, {kind}: {line.rstrip()}", flush=True)
    sys.exit(failed)


def soak(child, kind, quick):
    child.start()
    if kind == "protocol":
        line = soak_connections(child, 500 if quick else 5_000)
    else:
        line = soak_requests(child, 1_000, 20) if quick else soak_requests(child, 10_000, 100)
    child.stop()
    return line


def out_of_time(signum, frame):
    raise SystemExit(f"soak: not done after {TIME_LIMIT} s")


def soak_requests(child, requests, connections):
    begin = time.monotonic()
    # One connection stays open all the time. When it has an answer, the server has opened all files that it needs.
    witness = open_client(child.port)
    errors = exchange([witness], "witness", 0)
    before = child.open_files()
    with ThreadPoolExecutor(THREADS) as threads:
        for found in threads.map(
            lambda number: drive(child.port, number, connections // THREADS, requests // connections),
            range(THREADS),
        ):
            errors += found
    after = child.wait_for_open_files(len(before))
    errors += exchange([witness], "witness", 1)
    witness.close()
    line = (
        f"{requests:,} requests over {connections} connections, {len(errors)} errors, "
        f"open files {len(before)} before, {len(after)} after, {time.monotonic() - begin:.1f} s"
    )
    if errors:
        raise Failure("\n    ".join([line, *errors[:5]]))
    if len(after) > len(before):
        raise Failure(f"{line}\n    left: {sorted(after.items() - before.items())}")
    if len(child.wait_for_open_files(len(before) - 1)) >= len(before):
        raise Failure(f"{line}\n    the last connection was not closed")
    return line


def drive(port, thread, connections, rounds):
    """The connections of one thread. Sends on all of them, then reads from all of them, and so on."""
    clients, errors = [], []
    try:
        clients += [open_client(port) for _ in range(connections)]
        for number in range(rounds):
            errors += exchange(clients, f"thread {thread}", number)
    except (OSError, http.client.HTTPException) as error:
        errors.append(f"thread {thread}: {error!r}")
    finally:
        for client in clients:
            client.close()
    return errors


def open_client(port):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=STEP_LIMIT)
    client.connect()
    client.auto_open = False  # a connection that the server closes is an error, not a reason to open another
    return client


def exchange(clients, name, number):
    """Makes a request on each connection, all at the same time. Returns what was wrong with the answers."""
    bodies = []
    for index, client in enumerate(clients):
        body = f"{name}, connection {index}, request {number};".encode()
        body *= 2_000 if number % 25 == 10 else 1 + number % 7
        bodies.append(body)
        client.request("POST", "/", body)
    errors = []
    for client, body in zip(clients, bodies, strict=True):
        response = client.getresponse()
        answer = response.read()
        if response.status != 200 or answer != body:
            errors.append(f"{response.status} {answer[:60]!r}... in answer to {body[:60]!r}...")
    return errors


def soak_connections(child, connections):
    begin = time.monotonic()
    settled = connections // 5  # from then on the server's allocators and caches do not grow any more
    with child.connect() as witness:
        echo_line(witness, b"hello\n")
        before = child.open_files()
        open_and_end(child, range(settled))
        alive_early, memory_early = child.report(settled), child.resident()
        open_and_end(child, range(settled, connections))
        alive, memory = child.report(connections), child.resident()
        after = child.wait_for_open_files(len(before))
        echo_line(witness, b"still here\n")
    grown = memory - memory_early
    line = (
        f"{connections:,} connections, open files {len(before)} before, {len(after)} after, "
        f"alive {alive['transports']} transports and {alive['protocols']} protocols with 1 connection open, "
        f"{grown / 1024:+,.0f} KiB from connection {settled:,} on, {time.monotonic() - begin:.1f} s"
    )
    if len(after) > len(before):
        raise Failure(f"{line}\n    left: {sorted(after.items() - before.items())}")
    if alive != {"transports": 1, "protocols": 1} or alive != alive_early:
        raise Failure(f"{line}\n    alive after {settled:,}: {alive_early}, after {connections:,}: {alive}")
    if grown > MAX_GROWTH:
        raise Failure(f"{line}\n    more than {MAX_GROWTH // 1024:,} KiB of growth")
    return line


def open_and_end(child, numbers):
    """Opens the connections in batches that are open at the same time. Each connection ends in one of five ways."""
    for start in range(numbers.start, numbers.stop, BATCH):
        batch = [(number, child.connect()) for number in range(start, min(start + BATCH, numbers.stop))]
        for number, sock in batch:
            sock.sendall(b"connection %d\n" % number)
        for number, sock in batch:
            receive(sock, b"connection %d\n" % number)
        for number, sock in batch:
            end_connection(sock, number % 5)


def end_connection(sock, way):
    with sock:
        if way == 0:  # closed by the client
            return
        if way == 1:  # reset by the client
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if way == 2:  # end of file from the client, answered by closing
            sock.shutdown(socket.SHUT_WR)
        elif way == 3:  # closed by the server with an answer on its way
            echo_line(sock, b"bye\n")
        else:  # aborted by the server
            sock.sendall(b"abort\n")
        if data := sock.recv(100):
            raise Failure(f"{data!r} where the connection should end")


def echo_line(sock, line):
    sock.sendall(line)
    receive(sock, line)


def receive(sock, line):
    data = b""
    while len(data) < len(line) and (more := sock.recv(1000)):
        data += more
    if data != line:
        raise Failure(f"sent {line!r}, received {data!r}")


if __name__ == "__main__":
    main()
