"""The programs of examples/ that are in Python: each is run as its first lines say, used, and stopped. rloop only.

The two programs in Rust are run by embed/host_programs.py.
"""

import contextlib
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from typing import Any

import pytest

from support import certificates

pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"
LIMIT = 25


@contextlib.contextmanager
def running(name, *arguments, port=r"port (\d+)", end=signal.SIGINT, status=0):
    """Run a program until the block ends, and then stop it by a signal. The target of the block is a pair: the port
    that the program has named, and the list in which its other lines are found after the block."""
    command = [sys.executable, "-W", "error", EXAMPLES / name, *map(str, arguments)]
    process: Any = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    guard = threading.Timer(LIMIT, process.kill)
    guard.start()
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if found := re.search(port, line):
                yield int(found[1]), lines
                break
        else:
            pytest.fail(f"{name} has named no port: {lines}")
        process.send_signal(end)
        lines.extend(process.stdout)
        assert process.wait() == status, lines
    finally:
        guard.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
    assert "Traceback" not in "".join(lines)


def talk(port):
    return socket.create_connection(("127.0.0.1", port), timeout=LIMIT)


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=LIMIT) as answer:
        return answer.read().decode()


def programs():
    return {path.name for path in EXAMPLES.glob("*.py")}


def test_index_names_every_program():
    linked = set(re.findall(r"\]\(([\w.-]+)\)", (EXAMPLES / "README.md").read_text()))
    assert linked == programs() | {path.parent.name for path in EXAMPLES.glob("*/Cargo.toml")}


def test_every_program_is_run():
    source = pathlib.Path(__file__).read_text()
    assert [name for name in programs() if f'"{name}"' not in source] == []


def test_uvicorn_stops_gracefully():
    pytest.importorskip("uvicorn")
    with running(
        "with_uvicorn.py", 0, port=r"http://127\.0\.0\.1:(\d+)", status=-signal.SIGTERM, end=signal.SIGTERM
    ) as (
        port,
        lines,
    ):
        assert get(port, "/") == "Hello from rloop\n"
        # An answer that is under way when the signal comes.
        slow = talk(port)
        slow.sendall(b"GET /slow HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert get(port, "/") == "Hello from rloop\n"
    with slow, slow.makefile() as file:
        assert file.read().endswith("Hello from rloop\n")
    assert "running on rloop\n" in lines
    assert "closing what the application has opened\n" in lines


def test_aiohttp():
    pytest.importorskip("aiohttp")
    with running("with_aiohttp.py", 0, port=r"http://127\.0\.0\.1:(\d+)") as (port, _):
        assert get(port, "/world") == "Hello, world!\n"


def test_echo():
    with running("echo_server.py", 0, port=r"\('127\.0\.0\.1', (\d+)\)") as (port, _), talk(port) as sock:
        sock.sendall(b"hello")
        assert sock.recv(5, socket.MSG_WAITALL) == b"hello"


def test_echo_pushes_back():
    """A client that sends without reading is read no further, and gets everything once it reads."""
    with running("echo_server.py", 0, port=r"\('127\.0\.0\.1', (\d+)\)") as (port, _), talk(port) as sock:
        sock.settimeout(1)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1 << 28:
                sent += sock.send(bytes(1 << 16))
        sock.settimeout(LIMIT)
        sock.shutdown(socket.SHUT_WR)
        received = 0
        while data := sock.recv(1 << 20):
            received += len(data)
        assert received == sent


@pytest.fixture
def pem_files(tmp_path):
    """The server's certificate with its key, and the certificate of its issuer."""
    authority = tmp_path / "authority.pem"
    authority.write_text(certificates.authority().pem)
    return certificates.server().chain, authority


def test_starttls(pem_files):
    chain, ca = pem_files
    with running("starttls.py", "serve", chain, chain, 0) as (port, _):
        command = [sys.executable, "-W", "error", EXAMPLES / "starttls.py", "ask", ca, str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        assert done.stderr == ""
        assert done.stdout.splitlines() == [
            "220 ready",
            "SECRET: 530 only under TLS",
            "STARTTLS: 220 go ahead",
            "SECRET: 250 TLSv1.3",
        ]


def test_starttls_takes_no_plain_text_for_encrypted(pem_files):
    chain, _ = pem_files
    with running("starttls.py", "serve", chain, chain, 0) as (port, _), talk(port) as sock:
        sock.sendall(b"STARTTLS\nSECRET\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(1000):
                answer += data
        assert answer in (b"", b"220 ready\n")


def test_starttls_handshake_that_fails(pem_files):
    chain, _ = pem_files
    with running("starttls.py", "serve", chain, chain, 0) as (port, lines), talk(port) as sock:
        with sock.makefile("rwb", buffering=0) as file:
            assert file.readline() == b"220 ready\n"
            file.write(b"STARTTLS\n")
            assert file.readline() == b"220 go ahead\n"
            file.write(b"no TLS at all, but text\n")
            with contextlib.suppress(ConnectionResetError):
                while file.readline():
                    pass
    assert any(line.startswith("no TLS: SSLError") for line in lines)


def test_udp_counters():
    with running("udp_counters.py", 0) as (port, lines), socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(LIMIT)
        sock.connect(("127.0.0.1", port))
        for _ in range(50):
            sock.send(b"apples:2")
        sock.send(b"apples:many")
        sock.send(b"?apples")
        assert sock.recv(100) == b"100"
        sock.send(b"pears:1")
        sock.send(b"?pears")
        assert sock.recv(100) == b"1"
    assert lines[-1] == "101 in 2 names, 1 datagrams dropped\n"


def test_pipeline(tmp_path):
    text = tmp_path / "text"
    text.write_text("one two two\nTHREE three, three\n" + "many " * 200_000)
    command = [sys.executable, "-W", "error", EXAMPLES / "pipeline.py", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["200000", "many", "3", "three", "2", "two", "1", "one"]


def test_loops_in_threads():
    with running("loops_in_threads.py", 0, 3) as (port, lines):
        names = set()
        for _ in range(100):
            with talk(port) as sock, sock.makefile("rw") as file:
                file.write("hello\n")
                file.flush()
                name, _, rest = file.readline().partition(": ")
                assert rest == "hello\n"
                names.add(name)
        assert names <= {"loop 1", "loop 2", "loop 3"}
        # The kernel chooses by the ports of the connection: that all of a hundred fall to one loop has a chance of 1
        # in 10**47.
        assert len(names) > 1
    assert lines[-1] == "all loops have ended\n"
