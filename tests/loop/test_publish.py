"""`rloop.publish` and its readers: figures that another process reads without the loop's help. rloop only.

What the figures count is tested in test_metrics.py, and the view of them in test_top.py.
"""

import asyncio
import contextlib
import os
import pathlib
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from typing import Any

import pytest

from support.published import read_until

rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)
_publish: Any = pytest.importorskip("rloop._publish")
_published: Any = pytest.importorskip("rloop._published")

OWN = os.getpid()


@pytest.fixture(autouse=True)
def runtime(tmp_path, monkeypatch):
    """The folder in which the processes of a test publish, instead of that of the user."""
    folder = tmp_path / "runtime"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder
    if _publish._current is not None:
        _publish._current.stop()


@pytest.fixture
def loop():
    with contextlib.closing(rloop.new_event_loop()) as loop:
        yield loop


def number_of(loop):
    return rloop._rloop.Watcher.see(loop)[0]


@contextlib.contextmanager
def process(source, **environ):
    """A Python that runs `source`, and is told on its stdin to end. Yields it once it has written a line."""
    code = "import asyncio, os, sys, time, rloop\n" + textwrap.dedent(source)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


# --- what is read ---


def test_what_is_read_is_what_the_loop_has_counted(loop):
    with contextlib.closing(rloop.new_event_loop()) as other:
        publication = rloop.publish()
        for _ in range(5):
            loop.call_soon(int)
        for _ in range(3):
            loop.call_later(3600, int).cancel()
        loop.run_until_complete(asyncio.sleep(0.001))
        metrics = loop.metrics()
        found = read_until(lambda found: found.loops[number_of(loop)].metrics.turns == metrics.turns)
        assert (found.pid, found.path) == (OWN, publication.path)
        assert found.loops[number_of(loop)].metrics == metrics
        assert (metrics.timers_cancelled, metrics.fds_registered) == (3, 1)
        assert found.loops[number_of(other)].metrics.turns == 0
        assert sys.orig_argv[0] in found.command
    publication.stop()


def test_loops_come_and_go():
    publication = rloop.publish()
    known: set[int] = set()
    for _ in range(3):
        with contextlib.closing(rloop.new_event_loop()) as loop:
            number = number_of(loop)
            read_until(lambda found, number=number: number in found.loops)
            assert number not in known
            known.add(number)
        read_until(lambda found: not known & set(found.loops))
    publication.stop()


def test_figures_of_before(loop):
    rloop.publish()
    loop.call_soon(loop.stop)
    loop.run_forever()
    number = number_of(loop)
    young = rloop.read_published(OWN).loops[number]
    assert young.before.turns == 0
    # They are replaced about once in a second.
    later = read_until(lambda found: found.loops[number].before.turns == 1).loops[number]
    assert later.metrics.turns == 1
    assert later.span > 0


def test_a_loop_that_is_blocked_with_the_gil_kept(loop):
    """Nothing of the process but the thread without the GIL runs."""
    source = """
    import ctypes

    async def main():
        asyncio.get_running_loop().call_soon(int)
        print("ready", flush=True)
        ctypes.PyDLL(None).pause()

    rloop.run(main())
    """
    with process(source, RLOOP_PUBLISH="1") as child:
        found = read_until(lambda found: found.loops[1].turn_lasts > 0, child.pid)
        later = read_until(lambda each: each.loops[1].turn_lasts > found.loops[1].turn_lasts, child.pid)
        assert later.loops[1].metrics.turns == found.loops[1].metrics.turns
        assert later.loops[1].metrics.busy > found.loops[1].metrics.busy
        assert later.loops[1].metrics.idle == found.loops[1].metrics.idle
        assert [each.pid for each in rloop.all_published()] == [child.pid]


def test_a_process_that_is_stopped_does_not_renew_its_figures():
    source = """
    async def main():
        print("ready", flush=True)
        await asyncio.sleep(3600)

    rloop.run(main())
    """
    with process(source, RLOOP_PUBLISH="1") as child:
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        first = rloop.read_published(child.pid)
        second = rloop.read_published(child.pid)
        assert second.loops == first.loops
        assert second.age > first.age


def test_a_read_while_the_loop_writes_is_consistent(loop):
    """Counters never go back, and times add up, in thousands of readings without the GIL."""
    rloop.publish()
    number = number_of(loop)
    numbers = [0, 0, 0.0, 0.0, 0, 0]
    looks = 0

    def look():
        nonlocal numbers, looks
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            found = rloop.read_published(OWN).loops.get(number)
            metrics = found.metrics
            now = [metrics.turns, metrics.callbacks, metrics.busy, metrics.idle, metrics.wakeups]
            now.append(metrics.timers_cancelled)
            assert all(later >= earlier for later, earlier in zip(now, numbers, strict=True)), (now, numbers)
            numbers = now
            looks += 1

    async def main():
        looking = loop.run_in_executor(None, look)
        while not looking.done():
            for _ in range(5):
                loop.call_later(10, int).cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0.0001)
        await looking

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    assert looks > 0
    assert numbers[0] > 0


def test_stalls_are_counted_while_somebody_watches(loop):
    rloop.publish()
    number = number_of(loop)
    assert rloop.read_published(OWN).loops[number].stalls is None
    over = threading.Event()
    watch = rloop.watch(0.02, lambda stall: over.set())
    try:

        async def main():
            read_until(lambda found: found.loops[number].stalls == 1)
            await loop.run_in_executor(None, over.wait)

        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        watch.stop()
    read_until(lambda found: found.loops[number].stalls is None)


# --- files ---


def test_the_file_is_the_users_alone(runtime, loop):
    publication = rloop.publish()
    status = publication.path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert stat.S_IMODE(publication.path.parent.stat().st_mode) == 0o700
    assert publication.path.parent == runtime / "rloop"
    publication.stop()
    publication.stop()
    assert os.listdir(runtime / "rloop") == []
    with pytest.raises(ProcessLookupError, match="publishes no figures"):
        rloop.read_published(OWN)


def test_without_a_runtime_folder_it_is_among_temporary_files(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert _published.folder() == tmp_path / f"rloop-{os.geteuid()}"
    # That of another user, as `su` leaves it behind.
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/dev" if os.stat("/dev").st_uid != os.geteuid() else "/nowhere")
    assert _published.folder() == tmp_path / f"rloop-{os.geteuid()}"


def test_the_file_is_made_with_the_first_loop():
    source = """
    publication = rloop.publish()
    assert not publication.path.exists()
    loop = rloop.new_event_loop()
    assert publication.path.exists()
    assert rloop.publish() is publication
    loop.close()
    print("ready")
    """
    with process(source):
        pass


def test_a_symlink_is_refused(runtime, tmp_path, loop):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (runtime / "rloop").symlink_to(tmp_path / "elsewhere")
    for call in (rloop.publish, rloop.all_published, lambda: rloop.read_published(OWN)):
        with pytest.raises(PermissionError, match="is a symlink"):
            call()
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o702])
def test_a_folder_that_others_may_write_is_refused(runtime, loop, mode):
    (runtime / "rloop").mkdir()
    (runtime / "rloop").chmod(mode)
    for call in (rloop.publish, rloop.all_published, lambda: rloop.read_published(OWN)):
        with pytest.raises(PermissionError, match="can be written by other users"):
            call()


def test_a_foreign_owner_is_refused(runtime, loop, monkeypatch):
    (runtime / "rloop").mkdir(mode=0o700)
    monkeypatch.setattr(_published, "folder", lambda: runtime / "rloop")
    monkeypatch.setattr(os, "geteuid", lambda: OWN + 1)
    for call in (rloop.publish, rloop.all_published, lambda: rloop.read_published(OWN)):
        with pytest.raises(PermissionError, match="belongs to another user"):
            call()


def test_a_foreign_file_or_a_symlink_to_one_is_not_read(runtime, loop, tmp_path):
    publication = rloop.publish(tmp_path / "figures")
    name = _published.path_of(OWN)
    name.parent.mkdir(mode=0o700)
    name.symlink_to(publication.path)
    assert rloop.all_published() == []
    with pytest.raises(OSError, match="symbolic links"):
        rloop.read_published(OWN)
    name.unlink()
    os.mkfifo(name)
    with pytest.raises(PermissionError, match="not a file of this user"):
        rloop.read_published(OWN)


def test_a_path_of_ones_own(loop, tmp_path, runtime):
    path = tmp_path / "figures"
    first = rloop.publish()
    publication = rloop.publish(path)
    assert publication.path == path
    # There is one publication in a process.
    assert not first.path.exists()
    assert number_of(loop) in rloop.read_published(path).loops
    assert rloop.read_published(str(path)).pid == OWN
    assert rloop.all_published() == []
    # The file of figures that a process has left behind gives way.
    data = path.read_bytes()
    publication.stop()
    path.write_bytes(data)
    rloop.publish(path).stop()
    assert not path.exists()
    with pytest.raises(ProcessLookupError, match="nothing is published in"):
        rloop.read_published(path)


def test_another_file_at_the_path_is_left_alone(loop, tmp_path):
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="is no file of figures"):
        rloop.publish(path)
    assert path.read_text(encoding="utf-8") == "mine"
    with pytest.raises(ValueError, match="has no figures of rloop"):
        rloop.read_published(path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(FileExistsError, match="cannot be read"):
        rloop.publish(tmp_path / "link")
    with pytest.raises(FileNotFoundError):
        rloop.publish(tmp_path / "nowhere" / "figures")
    assert _publish._current is None


def test_a_layout_of_another_version(loop, tmp_path):
    path = tmp_path / "figures"
    publication = rloop.publish(path)
    data = bytearray(path.read_bytes())
    publication.stop()
    data[8] = 77
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"has layout 77 of the figures; this version of rloop reads 1"):
        rloop.read_published(path)


def test_a_slot_that_was_left_half_written_is_left_out(loop, tmp_path):
    path = tmp_path / "figures"
    publication = rloop.publish(path)
    data = bytearray(path.read_bytes())
    publication.stop()
    data[_published.HEADER_SIZE] |= 1
    path.write_bytes(data)
    assert rloop.read_published(path).loops == {}


# --- processes that end ---

ENDLESS = """
async def main():
    print("ready", flush=True)
    await asyncio.sleep(3600)

rloop.run(main())
"""


def test_files_of_dead_processes_are_removed(runtime, loop):
    with process(ENDLESS, RLOOP_PUBLISH="1") as child:
        assert rloop.read_published(child.pid).loops.keys() == {1}
        path = _published.path_of(child.pid)
        data = path.read_bytes()
    # It was killed, and could not remove it.
    assert path.exists()
    with pytest.raises(ProcessLookupError, match="it has ended"):
        rloop.read_published(child.pid)
    half_made = path.with_name("." + path.name)
    half_made.write_bytes(data)
    other = path.with_name(f"{child.pid}-12")
    other.write_bytes(data)
    assert rloop.all_published() == []
    # The last one is of a process that cannot be seen from here.
    assert os.listdir(runtime / "rloop") == [other.name]
    path.write_bytes(data)
    rloop.publish()
    assert sorted(os.listdir(runtime / "rloop")) == sorted([other.name, _published.path_of(OWN).name])


def test_a_process_id_that_is_used_again_is_another_process(runtime, loop, tmp_path):
    publication = rloop.publish(tmp_path / "figures")
    data = bytearray(publication.path.read_bytes())
    # The start of the process.
    data[24] ^= 1
    path = _published.path_of(OWN)
    path.parent.mkdir(mode=0o700)
    path.write_bytes(data)
    with pytest.raises(ProcessLookupError, match="it has ended"):
        rloop.read_published(OWN)
    assert rloop.all_published() == []
    assert not path.exists()


def test_a_zombie_has_ended():
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert _published.start_of(pid) is None
    os.waitpid(pid, 0)
    assert _published.start_of(pid) is None
    assert _published.start_of(OWN) is not None


def test_the_end_of_the_process_removes_the_file(runtime):
    source = """
    loop = rloop.new_event_loop()
    print("ready", flush=True)
    sys.stdin.read()
    loop.close()
    """
    with process(source, RLOOP_PUBLISH="1") as child:
        assert rloop.read_published(child.pid).loops.keys() == {1}
        child.stdin.close()
        assert child.wait() == 0
    assert os.listdir(runtime / "rloop") == []


# --- forks ---


def in_fork(function):
    """What a function writes in a forked child, as the child's exit status and text."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # The thread that publishes is one of those that Python warns of.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(writing, function().encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading) as told:
        text = told.read()
    return os.waitpid(pid, 0)[1], text, pid


def test_a_forks_child_has_a_file_of_its_own(runtime, loop):
    publication = rloop.publish()

    def in_child():
        files = sorted(os.listdir(runtime / "rloop"))
        child = rloop.new_event_loop()
        child.call_soon(child.stop)
        child.run_forever()
        found = read_until(lambda found: found.loops[number_of(child)].metrics.turns == 1, os.getpid())
        child.close()
        return f"{len(files)} {found.pid} {found.path.name}"

    status, text, pid = in_fork(in_child)
    # Before it has made a loop, it has none.
    assert (status, text) == (0, f"1 {pid} {_published.path_of(pid).name}")
    assert number_of(loop) in rloop.read_published(OWN).loops
    # It has ended without Python's help.
    assert [each.pid for each in rloop.all_published()] == [OWN]
    assert publication.path.exists()


def test_the_child_of_a_process_with_a_path_of_its_own_publishes_nothing(loop, tmp_path):
    path = tmp_path / "figures"
    rloop.publish(path)

    def in_child():
        rloop.new_event_loop().close()
        return str(rloop.read_published(path).pid) + str(_publish._current)

    assert in_fork(in_child)[:2] == (0, f"{OWN}None")
    assert rloop.read_published(path).pid == OWN


# --- the environment ---


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", ""), ("yes", "RLOOP_PUBLISH must be 0 or 1, not 'yes'"), ("1", "can be written by other users")],
)
def test_the_environment(runtime, value, expected):
    (runtime / "rloop").mkdir()
    (runtime / "rloop").chmod(0o777)
    code = "import rloop; rloop.new_event_loop().close()"
    environment = {**os.environ, "RLOOP_PUBLISH": value}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert expected in done.stderr
    assert bool(expected) == bool(done.stderr)
    assert os.listdir(runtime / "rloop") == []


def test_a_loop_is_made_though_its_figures_cannot_be_published(runtime, caplog):
    publication = _publish.Publication(_published.path_of(OWN), False)
    _publish._current = publication
    (runtime / "rloop").chmod(0o777)
    _publish._begin_late()
    assert "the figures of the loops are not published" in caplog.text
    assert _publish._current is None


def test_the_page_has_the_layout():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    slot, length = _published._SLOT.size // 8, rloop._metrics.LENGTH
    assert f"layout {_published.VERSION}" in page
    assert f"| {_published.HEADER_SIZE} |" in page
    assert f"{slot} words" in page
    assert f"{length} words" in page
