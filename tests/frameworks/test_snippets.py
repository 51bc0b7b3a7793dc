"""The snippets of docs/frameworks.md: each starts the real program, which answers with the class of its loop.

A section is skipped if its packages are not installed: `make test` has some of them, `make frameworks` all. The page is
read by page.py.
"""

import contextlib
import importlib.metadata
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest

from frameworks.page import BEGIN, END, NEED_REDIS, PACKAGES, PAGE, sections
from support.http import get_when_ready

pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

# The start of some of these programs takes long.
pytestmark = pytest.mark.time_limit(100)
LIMIT = 60

LOOP = "<class 'rloop.Loop'>"
RUNS = [
    pytest.param(section, run, id=f"{section.title}-{number}")
    for section in sections()
    for number, run in enumerate(section.runs)
]


def lacking(title):
    """The packages of a section that are not installed."""
    found = []
    for name in PACKAGES[title]:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found.append(name)
    return found


@contextlib.contextmanager
def free_port():
    """A port that nobody else gets while this is open. A server that sets SO_REUSEADDR can listen on it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextlib.contextmanager
def redis(folder):
    """The port of a Redis that is up."""
    with free_port() as port:
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder)]
        with subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL) as server:
            deadline = time.monotonic() + LIMIT
            while not is_open(port):
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            try:
                yield port
            finally:
                server.kill()


def is_open(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


class Program:
    """A command of the page. It has a process group of its own, so that whatever it starts ends with it."""

    def __init__(self, command, folder):
        # The Python and the commands of this environment come first.
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        environ = {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}
        environ |= {name: str(folder) for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
        self.out, self.log = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", command], cwd=folder, env=environ, stdout=self.out, stderr=self.log, process_group=0
        )

    def printed(self):
        """What the command prints until it ends."""
        assert self.process.wait(LIMIT) == 0, self.text(self.log)
        return self.text(self.out)

    def text(self, file):
        file.seek(0)
        return file.read()

    def end(self):
        """Stop the command if it still runs, and whatever it has started. Prints what it has written."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for file in (self.out, self.log):
            print(self.text(file))
            file.close()


def write(section, folder, port, redis_port):
    """Write the files of a section, with ports that are free here."""
    for name, source in section.files.items():
        (folder / name).write_text(with_ports(source, port, redis_port))


def with_ports(text, port, redis_port):
    return text.replace("8000", str(port)).replace("6379", str(redis_port))


@pytest.mark.parametrize(("section", "run"), RUNS)
def test_loop(section, run, tmp_path):
    if missing := lacking(section.title):
        pytest.skip(f"not installed: {', '.join(missing)}")
    needs_redis = section.title in NEED_REDIS
    if needs_redis and shutil.which("redis-server") is None:
        pytest.skip("not installed: redis-server")
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(free_port())
        redis_port = stack.enter_context(redis(tmp_path)) if needs_redis else 6379
        write(section, tmp_path, port, redis_port)
        for command in run:
            program = Program(with_ports(command, port, redis_port).removesuffix("&"), tmp_path)
            # What the program has written is printed then, and pytest shows it if the test fails.
            stack.callback(program.end)
        # `program` is the last one: a server, or a program that asks the one before.
        is_server = any("8000" in text for text in [*run, section.files.get(run[-1].split()[-1], "")])
        answer = get_when_ready(port) if is_server else program.printed()
    assert LOOP in answer
    assert "asyncio" not in answer


def test_table_has_every_section():
    titles = [section.title for section in sections()]
    assert titles == list(PACKAGES)
    _, _, table = PAGE.read_text().partition(BEGIN)
    _, _, *rows = re.findall(r"^\| ([^|]+) \|", table.partition(END)[0], re.MULTILINE)
    assert rows == titles
