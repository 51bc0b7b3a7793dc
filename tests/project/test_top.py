"""`python -m rloop top`: what it shows of other processes, as text, as JSON, and on a terminal. rloop only.

What is published, and who may read it, is tested in loop/test_publish.py.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import pty
import select
import signal
import subprocess
import sys
import textwrap
from typing import Any
from xml.etree import ElementTree

import pytest

from support.published import read_until

rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)
rows: Any = pytest.importorskip("rloop._top_rows")
top_screen: Any = pytest.importorskip("rloop._top_screen")

COMMAND = [sys.executable, "-m", "rloop", "top"]
BLOCKED = """
async def main():
    print("ready", flush=True)
    time.sleep(3600)

rloop.run(main())
"""
IDLE = BLOCKED.replace("time.sleep", "await asyncio.sleep")


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    """The folder in which the processes of a test publish, instead of that of the user."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@contextlib.contextmanager
def process(source, path=None):
    """A Python that publishes the figures of its loops, at `path` if one is given. The figures have a loop."""
    code = "import asyncio, sys, time, rloop\n" + textwrap.dedent(source)
    environment = {**os.environ, "RLOOP_PUBLISH": "1"}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            read_until(lambda found: found.loops, path or child.pid)
            yield child
        finally:
            child.kill()


def run(*arguments):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=25)


# --- once ---


def test_json_of_a_loop_that_is_blocked():
    with process(BLOCKED) as child:
        read_until(lambda found: found.loops[1].metrics.turns == 1, child.pid)
        done = run("--once", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        [told] = json.loads(done.stdout)
        assert child.poll() is None
    assert told["pid"] == child.pid
    assert told["command"].startswith(f"{sys.executable} -c")
    [loop] = told["loops"]
    assert loop["loop"] == 1
    assert loop["stalls"] is None
    assert set(loop["rates"]) == {field.name for field in dataclasses.fields(rows.Rates)}
    assert set(loop["metrics"]) == {field.name for field in dataclasses.fields(rloop.Metrics)}
    # The turn in which it sleeps is the first one.
    assert loop["metrics"]["turns"] == 1
    assert loop["metrics"]["turn"] == {"count": 0, "sum": 0, "p50": 0, "p90": 0, "p99": 0, "p999": 0, "max": 0}


def test_text_of_several_processes():
    with process(BLOCKED) as first, process(IDLE) as second:
        done = run("--once")
        assert (done.returncode, done.stderr) == (0, "")
        head, *lines = done.stdout.splitlines()
        assert head.split() == list(rows.COLUMNS)
        pids = [int(row.split()[0]) for row in lines]
        assert pids == sorted([first.pid, second.pid])
        one = run("--once", str(second.pid)).stdout.splitlines()
        assert [row.split()[:2] for row in one[1:]] == [[str(second.pid), "1"]]


def test_a_path(tmp_path):
    path = str(tmp_path / "figures")
    source = f"rloop.publish({path!r}); loop = rloop.new_event_loop(); print('ready', flush=True); time.sleep(3600)"
    with process(source, path) as child:
        done = run("--json", path)
        assert [each["pid"] for each in json.loads(done.stdout)] == [child.pid]


def test_nothing_is_published():
    for arguments in (["--once"], ["--once", str(os.getpid())]):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert "python -m rloop --publish PROGRAM" in done.stderr
        assert "RLOOP_PUBLISH=1" in done.stderr
    done = run("--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, [])


def test_a_folder_that_others_may_write(tmp_path):
    (tmp_path / "rloop").mkdir()
    (tmp_path / "rloop").chmod(0o777)
    done = run("--once")
    assert (done.returncode, done.stdout) == (1, "")
    assert "can be written by other users" in done.stderr


@pytest.mark.parametrize("arguments", [["--interval", "0"], ["--what"], ["1", "2"]])
def test_a_command_line_that_is_wrong(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: python -m rloop top" in done.stderr


def test_a_reader_that_goes():
    reading, writing = os.pipe()
    os.close(reading)
    with process(IDLE):
        done = subprocess.run([*COMMAND, "--once"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=25)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


# --- the live view ---


class Terminal:
    """`top` on a terminal."""

    def __init__(self, **environ: str) -> None:
        self.fd, terminal = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "24", **environ}
        self.process = subprocess.Popen(
            [*COMMAND, "--interval", "0.05"], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
        )
        os.close(terminal)
        self.seen = ""

    def read_until(self, *texts: str) -> str:
        """What is drawn, up to each of these texts, in their order."""
        begun = self.seen
        for text in texts:
            while text not in self.seen:
                select.select([self.fd], [], [])
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
            begun, _, self.seen = self.seen.partition(text)
        return begun

    def press(self, key: str) -> None:
        os.write(self.fd, key.encode())


@contextlib.contextmanager
def terminal(**environ):
    made = Terminal(**environ)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        os.close(made.fd)


def without_rich(folder):
    (folder / "rich.py").write_text("raise ImportError")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def test_plain_text_is_drawn_again_and_obeys_keys(tmp_path):
    folder = tmp_path / "path"
    folder.mkdir()
    with process(BLOCKED) as first, process(IDLE) as second, terminal(**without_rich(folder)) as view:
        # The column is as wide as the longer number.
        low, high = (
            str(pid).rjust(max(3, len(str(max(first.pid, second.pid))))) for pid in sorted([first.pid, second.pid])
        )
        view.read_until("\x1b[?1049h", "BUSY", f"> {low}", f"  {high}", top_screen.KEYS)
        view.press("\x1b[B")
        view.read_until(f"> {high}")
        view.press("k")
        view.read_until(f"> {low}")
        first.kill()
        view.read_until(f"> {str(second.pid).rjust(3)}", top_screen.KEYS)
        second.kill()
        view.read_until("No process of yours publishes its figures")
        view.press("q")
        view.read_until("\x1b[?1049l")
        assert view.process.wait() == 0


def test_a_table_of_rich():
    pytest.importorskip("rich")
    with process(BLOCKED) as child, terminal() as view:
        view.read_until("\x1b[?1049h", "BUSY", str(child.pid), top_screen.KEYS, str(child.pid))
        child.kill()
        view.read_until("No process of yours publishes its figures")
        view.process.send_signal(signal.SIGINT)
        view.read_until("\x1b[?1049l")
        assert view.process.wait() == 0


def test_without_a_terminal_the_text_goes_on():
    with process(IDLE) as child:
        command = [*COMMAND, "--interval", "0.01"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as view:
            assert view.stdout is not None
            found = [line for line, _ in zip(view.stdout, range(20), strict=False) if str(child.pid) in line]
            view.send_signal(signal.SIGINT)
            view.stdout.read()
            assert view.wait() == 0
    assert len(found) > 1
    # The bars of the lag, one for each time.
    assert found[1].count("▁") > found[0].count("▁")


def test_keys_of_a_view():
    view = top_screen.View(list)
    assert view.press("t")
    assert view.below == ""
    assert not view.press("q")
    view.rows = [["1"], ["2"], ["3"]]
    for key, selected in (("j", 1), ("j", 2), ("j", 2), ("k", 1), ("k", 0), ("k", 0), ("x", 0)):
        assert view.press(key)
        assert view.selected == selected


def test_tasks_of_a_process():
    source = """
    async def waits():
        await asyncio.sleep(3600)

    async def main():
        task = asyncio.create_task(waits(), name="the task that waits")
        await asyncio.sleep(0)
        print("ready", flush=True)
        await task

    rloop.run(main())
    """
    with process(source) as child:
        text = top_screen.tasks_of(child.pid)
    if sys.version_info < (3, 14):
        assert text.startswith("The tasks of a process can be seen from Python 3.14 on")
    elif "ermission" in text or "not permitted" in text:
        pytest.skip("this system does not let one process look into another")
    else:
        assert "the task that waits" in text


# --- the text ---


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0us"),
        (5e-7, "0.5us"),
        (0.00025, "250us"),
        (0.0123, "12.3ms"),
        (0.9999, "1s"),
        (1.26, "1.26s"),
        (4e3, "4000s"),
    ],
)
def test_times(seconds, text):
    assert rows.time_text(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (7.25, "7.25"), (999, "999"), (999.9, "1k"), (1.5e6, "1.5M"), (2e16, "20000T")]
)
def test_numbers(number, text):
    assert rows.number_text(number) == text


def test_bars():
    lags = [0, 0.00005, 0.0001, 0.0005, 0.001, 0.005, 0.05, 0.5, 5]
    assert "".join(map(rows.bar, lags)) == "▁▁▂▃▄▅▆▇█"


def test_a_command_line_cannot_write_to_the_terminal():
    cells = ["x"] * (len(rows.COLUMNS) - 1) + ["a\x1b[2Jb\nc"]
    assert rows.lines([cells])[1].endswith("a [2Jb c")


def test_the_page_shows_what_top_shows():
    docs = pathlib.Path(__file__).parents[2] / "docs"
    page = (docs / "metrics.md").read_text()
    assert "](top.svg)" in page
    texts = ["".join(element.itertext()).strip() for element in ElementTree.parse(docs / "top.svg").iter()]
    assert [text for text in texts if text in rows.COLUMNS] == list(rows.COLUMNS)
    rates = [field.name for field in dataclasses.fields(rows.Rates)]
    assert [name for name in (*rates, "turn_lasts", "stalls", "thread", "age") if f"`{name}`" not in page] == []
