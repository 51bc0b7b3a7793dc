"""`rloop.watch`: turns that last too long are reported once, with the right stack, and nothing else is. rloop only.

The callbacks here block the loop until they are reported, so that no test depends on how long anything takes.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest

rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

THRESHOLD = 0.05


class Reports(logging.Handler):
    """Keeps what the logger says, and sets `begun` when it says that the loop is blocked."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.messages: list[str] = []
        self.stalls: list[Any] = []
        self.threads: list[int] = []
        self.over = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self.messages.append(message)
        if " is blocked" in message:
            self.begun.set()

    def on_stall(self, stall: Any) -> None:
        self.stalls.append(stall)
        self.threads.append(threading.get_ident())
        self.over.set()

    def of(self, name: str) -> tuple[list[str], list[Any]]:
        """The messages and stalls with this function on the stack. A loaded machine may have others."""
        begun = [message for message in self.messages if " is blocked" in message and f"in {name}\n" in message + "\n"]
        return begun, [stall for stall in self.stalls if f"in {name}\n" in stall.stack]


@contextlib.contextmanager
def watching(threshold=THRESHOLD):
    reports = Reports()
    logger = logging.getLogger("rloop")
    logger.addHandler(reports)
    watch = rloop.watch(threshold, reports.on_stall)
    try:
        yield reports
    finally:
        watch.stop()
        logger.removeHandler(reports)


async def until(event):
    while not event.is_set():
        await asyncio.sleep(0.001)


def run(main, **options):
    return rloop.run(main, **options)


# --- the four ways to block ---


def block_in_sleep(reports):
    while not reports.begun.is_set():
        time.sleep(0.01)


def block_in_python(reports):
    while not reports.begun.is_set():
        pass


def block_in_lock(reports):
    lock = threading.Lock()
    lock.acquire()

    def release():
        reports.begun.wait()
        lock.release()

    thread = threading.Thread(target=release)
    thread.start()
    with lock:
        thread.join()


def block_in_c(reports):
    # It takes some tenths of a second and keeps the GIL. So the report comes when it is over.
    assert re.match(r"(a+)+$", "a" * 24 + "b") is None
    reports.begun.wait()


BLOCKERS = [block_in_sleep, block_in_python, block_in_lock, block_in_c]


@pytest.mark.parametrize("blocker", BLOCKERS)
def test_a_task_that_blocks(blocker, capfd):
    async def main():
        task = asyncio.current_task()
        blocker(reports)
        await until(reports.over)
        # Whatever else may come.
        for _ in range(20):
            await asyncio.sleep(0.005)
        return task

    with watching() as reports:
        task = run(main())
    messages, [stall] = reports.of(blocker.__name__)
    assert len(messages) == 1
    assert stall.task is task and isinstance(stall.loop, rloop.Loop)
    assert isinstance(stall.handle, asyncio.Handle)
    assert stall.duration >= THRESHOLD
    assert repr(task.get_coro()) in messages[0] or "main()" in messages[0]
    [over] = [message for message in reports.messages if f"for {stall.duration:.3f} seconds" in message]
    assert "was blocked" in over


def test_a_callback_that_blocks():
    loop = rloop.new_event_loop()
    with watching() as reports:
        handle = loop.call_soon(block_in_sleep, reports)
        loop.run_until_complete(until(reports.over))
    loop.close()
    _, [stall] = reports.of("block_in_sleep")
    assert (stall.task, stall.handle, stall.loop) == (None, handle, loop)


@pytest.mark.parametrize("debug", [False, True])
def test_a_protocol_that_blocks(debug):
    class Protocol(asyncio.Protocol):
        def data_received(self, data):
            block_in_sleep(reports)

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_debug(debug)
        loop.slow_callback_duration = 1000
        left, right = socket.socketpair()
        with right:
            transport, _ = await loop.create_connection(Protocol, sock=left)
            right.send(b"x")
            await until(reports.over)
            transport.close()
            await asyncio.sleep(0)
        return transport

    with watching() as reports:
        transport = run(main())
    _, [stall] = reports.of("block_in_sleep")
    assert (stall.task, stall.handle) == (None, transport)
    assert "in data_received" in stall.stack


def test_in_debug_mode():
    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 1000
        handle = loop.call_soon(block_in_sleep, reports)
        await until(reports.over)
        return handle

    with watching() as reports:
        handle = run(main(), debug=True)
    _, [stall] = reports.of("block_in_sleep")
    assert stall.handle is handle


@pytest.mark.parametrize("before", [True, False])
def test_loops_of_other_threads(before):
    """Loops from before the watch and from after it; `on_stall` is called in the thread of the loop."""
    idents = []

    def thread():
        idents.append(threading.get_ident())
        loop.call_soon(block_in_sleep, reports)
        loop.run_until_complete(until(reports.over))

    loop = rloop.new_event_loop() if before else None
    with watching() as reports:
        loop = loop or rloop.new_event_loop()
        worker = threading.Thread(target=thread)
        worker.start()
        worker.join()
    loop.close()
    _, [stall] = reports.of("block_in_sleep")
    assert stall.loop is loop and reports.threads == idents


def test_a_loop_that_does_not_go_on():
    """The last turn of a loop is blocked: `on_stall` is called all the same, and once."""
    loop = rloop.new_event_loop()
    with watching() as reports:
        loop.call_soon(loop.stop)
        loop.call_soon(block_in_sleep, reports)
        loop.run_forever()
        reports.over.wait()
        loop.close()
    _, [stall] = reports.of("block_in_sleep")
    assert stall.loop is loop


def test_many_short_turns_are_no_stall():
    """Turns that together last longer than the threshold."""

    async def main():
        end = time.monotonic() + 5 * THRESHOLD
        while time.monotonic() < end:
            await asyncio.sleep(0)

    with watching() as reports:
        run(main())
    assert (reports.messages, reports.stalls) == ([], [])


def test_an_idle_loop_is_no_stall():
    with watching() as reports:
        run(asyncio.sleep(5 * THRESHOLD))
    assert (reports.messages, reports.stalls) == ([], [])


def test_two_watches():
    async def main():
        # Each of the two gets the messages of both.
        while len(first.messages) < 2:
            time.sleep(0.01)
        await until(first.over)
        await until(second.over)

    with watching() as first, watching() as second:
        run(main())
    assert len(first.of("main")[1]) == len(second.of("main")[1]) == 1


def test_an_exception_of_on_stall(loop_errors):
    def on_stall(stall):
        raise ZeroDivisionError

    async def main():
        loop = asyncio.get_running_loop()
        told = loop.create_future()
        loop.set_exception_handler(lambda loop, context: told.set_result(context["exception"]))
        while not told.done():
            time.sleep(2 * THRESHOLD)
            await asyncio.sleep(0.01)
        return told.result()

    watch = rloop.watch(THRESHOLD, on_stall)
    try:
        assert isinstance(run(main()), ZeroDivisionError)
    finally:
        watch.stop()


def test_stop():
    before = native_threads()
    watch = rloop.watch()
    assert len(native_threads()) == len(before) + 2
    watch.stop()
    watch.stop()
    # The kernel takes a thread out of its list a little after it can be joined.
    while native_threads() - before:
        time.sleep(0.001)


def native_threads():
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("needs /proc")
    return set(os.listdir("/proc/self/task"))


def test_stop_in_on_stall():
    stopped = threading.Event()

    def on_stall(stall):
        watch.stop()
        stopped.set()

    async def main():
        time.sleep(3 * THRESHOLD)
        while not stopped.is_set():
            time.sleep(2 * THRESHOLD)
            await asyncio.sleep(0.001)

    watch = rloop.watch(THRESHOLD, on_stall)
    run(main())
    watch._thread.join()


def test_a_stall_is_frozen():
    stall = rloop.Stall(None, None, None, "", 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stall.duration = 2.0


@pytest.mark.parametrize("threshold", [0, -1.0, float("nan"), float("inf"), 1e30])
def test_refused_thresholds(threshold):
    with pytest.raises(ValueError, match="positive number of seconds"):
        rloop.watch(threshold)
    assert "rloop-watch" not in [thread.name for thread in threading.enumerate()]


# --- whole processes ---

PRELUDE = """
import asyncio, logging, os, re, signal, sys, textwrap, threading, time, rloop
begun, over = threading.Event(), threading.Event()
def on_stall(stall):
    print(f"{stall.duration >= 0.05} {'in block' in stall.stack}", flush=True)
    over.set()
class Reports(logging.Handler):
    def emit(self, record):
        if "is blocked" in record.getMessage():
            begun.set()
logging.getLogger("rloop").addHandler(Reports())
def block():
    while not begun.is_set():
        time.sleep(0.01)
async def main():
    block()
    while not over.is_set():
        await asyncio.sleep(0.001)
"""


def program(source, **environ):
    command = [sys.executable, "-X", "faulthandler", "-c", PRELUDE + textwrap.dedent(source)]
    environ = {**os.environ, **environ}
    return subprocess.run(command, capture_output=True, text=True, timeout=25, env=environ)


def test_the_stack_is_written_while_the_gil_is_kept():
    """A C function keeps the GIL until something is written to stderr."""
    result = program("""
        import ctypes
        reader, writer = os.pipe()
        stderr = os.dup(2)
        os.dup2(writer, 2)
        buffer = ctypes.create_string_buffer(100_000)
        def block():
            ctypes.PyDLL(None).read(reader, buffer, len(buffer))
            begun.wait()
        rloop.watch(0.05, on_stall)
        rloop.run(main())
        os.dup2(stderr, 2)
        print(buffer.value.decode(errors="replace"))
    """)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"rloop: a callback has blocked loop 1 for [\d.]+ seconds, and keeps the GIL", lines[1])
    assert lines[0] == "True True"
    assert lines[2] == "Stack (most recent call first):"
    assert re.fullmatch(r'  File "<string>", line \d+ in block', lines[3])
    # The outermost frame is the last one.
    assert re.fullmatch(r'  File "<string>", line \d+ in <module>', [line for line in lines if line][-1])


def test_a_stall_that_is_over_before_its_report():
    """The GIL is kept until the turn is over. There is one report, with the stack that was written without the GIL."""
    result = program("""
        import ctypes
        reader, writer = os.pipe()
        stderr = os.dup(2)
        # While other threads ask for the GIL, it is not handed over between two bytecodes.
        sys.setswitchinterval(20)
        c = ctypes.PyDLL(None)
        def block():
            c.dup2(writer, 2)
            c.read(reader, ctypes.create_string_buffer(100_000), 100_000)
            c.dup2(stderr, 2)
        def on_stall(stall):
            print(stall.task, stall.handle, "in block" in stall.stack, begun.is_set())
            if stall.task is stall.handle is None and not told.done():
                told.set_result(None)
        async def main():
            global told
            # What a method does when it is called first may let go of the GIL.
            await asyncio.sleep(0.001)
            told = asyncio.get_running_loop().create_future()
            # It is the last callback of its turn: no Python code follows, which could let go of the GIL.
            asyncio.get_running_loop().call_soon(block)
            await told
        logging.basicConfig(format="%(message)s")
        rloop.watch(0.05, on_stall)
        rloop.run(main())
    """)
    assert result.returncode == 0, result.stderr
    # A loaded machine may have other stalls.
    assert result.stdout.splitlines().count("None None True False") == 1, result.stdout + result.stderr
    assert " was blocked for 0." in result.stderr
    assert "in block" in result.stderr


def test_a_regular_expression_that_keeps_the_gil():
    """The stack that is written without the GIL has the right names and lines, also where a call spans lines."""
    result = program(r"""
        source = '''import re


        def block_\u00e9():
            before = 1
            return re.match(
                r"(a+)+$",
                "a" * 23 + "b",
            )


        def block_\u03b1():
            if block_\u00e9():
                raise ValueError
        '''
        variables = {}
        exec(compile(textwrap.dedent(source), "some \u00e9.py", "exec"), variables)
        async def main():
            asyncio.get_running_loop().call_soon(variables["block_\u03b1"])
            while not over.is_set():
                await asyncio.sleep(0.001)
        def on_stall(stall):
            over.set()
        rloop.watch(0.05, on_stall)
        rloop.run(main())
    """)
    assert result.returncode == 0, result.stderr
    [_, stack] = re.split(
        r"rloop: a callback has blocked loop 1 for [\d.]+ seconds, and keeps the GIL\n", result.stderr
    )
    file, inner, outer = names_of_this_version()
    first, of_re, *lines = stack.splitlines()
    assert first == "Stack (most recent call first):"
    assert of_re.endswith("match")
    assert lines[:2] == [
        f'  File "some {file}.py", line 6 in block_{inner}',
        f'  File "some {file}.py", line 13 in block_{outer}',
    ]


def test_a_file_whose_source_cannot_be_read():
    """In the C locale `linecache` cannot look for a file with such a name. The stall is told without source lines."""
    result = program(
        r"""
        source = "def block():\n    while not begun.is_set():\n        time.sleep(0.01)\n"
        exec(compile(source, "some \u00e9.py", "exec"))
        rloop.watch(0.05, on_stall)
        rloop.run(main())
    """,
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    assert (result.returncode, result.stdout) == (0, "True True\n"), result.stderr


def names_of_this_version():
    """`faulthandler`'s function escapes what is not ASCII."""
    if (3, 13) <= sys.version_info < (3, 15):
        return "\u00e9", "\u00e9", "\u03b1"
    return r"\xe9", r"\xe9", r"\u03b1"


def test_by_the_environment():
    result = program(
        """
        rloop._watch._watches[0]._on_stall = on_stall
        rloop.run(main())
    """,
        RLOOP_WATCH="0.05",
    )
    assert (result.returncode, result.stdout) == (0, "True True\n"), result.stderr


@pytest.mark.parametrize("value", ["", "0"])
def test_off_by_the_environment(value):
    result = program("import rloop._watch; print(rloop._watch._watches, threading.active_count())", RLOOP_WATCH=value)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[] 1\n", "")


@pytest.mark.parametrize("value", ["much", "-1"])
def test_what_the_environment_cannot_mean(value):
    result = program("print(threading.active_count())", RLOOP_WATCH=value)
    assert (result.returncode, result.stdout) == (0, "1\n")
    assert f"RuntimeWarning: RLOOP_WATCH must be a number of seconds, not '{value}'" in result.stderr


def test_a_process_that_was_stopped():
    """A turn that only lasts because the process does not run is not reported. The watch goes on afterwards."""
    source = """
        async def first():
            os.write(1, b"x")
            os.read(0, 1)
            print(f" {begun.is_set()}", flush=True)
        async def both():
            await first()
            await asyncio.sleep(0.3)
            print(begun.is_set(), flush=True)
            await main()
        rloop.watch(1.0, on_stall)
        rloop.run(both())
    """
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(source)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        try:
            assert process.stdout.read(1) == b"x"
            process.send_signal(signal.SIGSTOP)
            time.sleep(1.3)
            process.send_signal(signal.SIGCONT)
            output, _ = process.communicate(b"y", timeout=25)
        finally:
            process.kill()
    assert output == b" False\nFalse\nTrue True\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_in_the_child_of_a_fork():
    result = program("""
        import warnings
        warnings.simplefilter("ignore")
        rloop.watch(0.05, on_stall)
        rloop.run(asyncio.sleep(0))
        if pid := os.fork():
            _, status = os.waitpid(pid, 0)
            sys.exit(os.waitstatus_to_exitcode(status))
        rloop.run(main())
    """)
    assert (result.returncode, result.stdout) == (0, "True True\n"), result.stderr


def test_the_interpreter_ends_while_a_loop_is_blocked():
    result = program("""
        rloop.watch(0.05, on_stall)
        def block():
            begun.wait()
            print("blocked", flush=True)
            time.sleep(60)
        threading.Thread(target=lambda: rloop.run(main()), daemon=True).start()
        begun.wait()
        time.sleep(0.1)
    """)
    assert (result.returncode, result.stdout) == (0, "blocked\n"), result.stderr
