"""What looks at a running program from inside and outside: tasks, call graphs, `python -m asyncio`, faulthandler,
tracemalloc. Debug mode has a file of its own.
"""

import asyncio
import contextvars
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from typing import Any

import pytest

from support.turns import turn

CALL_GRAPHS = pytest.mark.skipif(sys.version_info < (3, 14), reason="new in Python 3.14")

# A program whose tasks wait for each other, and that says when they do.
WAITING = """
import asyncio, sys
from {loop} import new_event_loop

async def wait_long():
    await asyncio.sleep(3600)

async def in_between():
    await wait_long()

async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(in_between(), name="first child")
        group.create_task(in_between(), name="second child")
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(print, "ready")

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main())
"""


async def forever():
    await asyncio.Event().wait()


# --- tasks ---


def test_tasks_of_each_loop(loop, loop_factory):
    other = loop_factory()
    tasks, others = {loop.create_task(forever())}, {other.create_task(forever())}
    turn(loop)
    assert asyncio.all_tasks(loop) == tasks
    assert asyncio.all_tasks(other) == others
    assert asyncio.current_task(loop) is asyncio.current_task(other) is None
    for each, its in (loop, tasks), (other, others):
        for task in its:
            task.cancel()
        turn(each)
        turn(each)
        assert asyncio.all_tasks(each) == set()
    other.close()


def test_tasks_seen_from_another_thread(loop):
    seen: list[Any] = []
    started, looked = threading.Event(), threading.Event()

    async def main():
        waiting = asyncio.get_running_loop().create_task(forever(), name="waiting")
        await asyncio.sleep(0)
        started.set()
        looked.wait(10)
        assert not waiting.done()

    def look():
        started.wait(10)
        seen.append({task.get_name() for task in asyncio.all_tasks(loop)})
        seen.append(asyncio.current_task(loop).get_name())
        looked.set()

    thread = threading.Thread(target=look)
    thread.start()
    loop.run_until_complete(loop.create_task(main(), name="main"))
    thread.join()
    assert seen == [{"main", "waiting"}, "main"]
    for task in asyncio.all_tasks(loop):
        task.cancel()
    turn(loop)
    turn(loop)


async def test_current_task_in_callbacks():
    """A callback belongs to no task, even if a task has scheduled it."""
    seen = []
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    loop.call_soon(lambda: seen.append(asyncio.current_task()))
    await asyncio.sleep(0)
    assert seen == [None]
    assert asyncio.current_task() is task


async def test_stack_of_a_waiting_task():
    async def outer():
        await forever()

    task = asyncio.get_running_loop().create_task(outer())
    await asyncio.sleep(0)
    [frame] = task.get_stack()
    assert frame.f_code is outer.__code__
    task.cancel()
    await asyncio.wait([task])


# --- call graphs ---


@CALL_GRAPHS
async def test_call_graph_of_a_waiting_task():
    async def waits_for(task):
        await task

    loop = asyncio.get_running_loop()
    inner = loop.create_task(forever(), name="inner")
    outer = loop.create_task(waits_for(inner), name="outer")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    graph = asyncio.capture_call_graph(inner)  # type: ignore[attr-defined]
    assert [entry.frame.f_code.co_name for entry in graph.call_stack] == ["wait", "forever"]
    [awaited_by] = graph.awaited_by
    assert awaited_by.future is outer
    assert [entry.frame.f_code for entry in awaited_by.call_stack] == [waits_for.__code__]
    text = asyncio.format_call_graph(inner)  # type: ignore[attr-defined]
    assert re.search(r"Task\(name='inner'.*Awaited by.*Task\(name='outer'.*waits_for", text, re.DOTALL)
    outer.cancel()
    await asyncio.wait([inner, outer])


@CALL_GRAPHS
async def test_call_graph_of_the_running_task():
    graph = asyncio.capture_call_graph()  # type: ignore[attr-defined]
    assert graph.future is asyncio.current_task()
    names = [entry.frame.f_code.co_name for entry in graph.call_stack]
    assert names[0] == "test_call_graph_of_the_running_task"


# --- python -m asyncio ---


@pytest.fixture
def waiting_program(loop_name):
    """The process number of a program that waits."""
    source = WAITING.format(loop=loop_name)
    with subprocess.Popen([sys.executable, "-uc", source], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.kill()


def tool(command, pid):
    result = subprocess.run(
        [sys.executable, "-m", "asyncio", command, str(pid)], capture_output=True, text=True, timeout=20
    )
    if "Operation not permitted" in result.stderr or "PermissionError" in result.stderr:
        pytest.skip("this machine does not let a process look into another")
    assert result.returncode == 0, result.stderr
    return result.stdout


@CALL_GRAPHS
def test_ps(waiting_program):
    rows = [line.split() for line in tool("ps", waiting_program).splitlines()]
    text = "\n".join(" ".join(row) for row in rows)
    for name in "first child", "second child":
        assert re.search(rf"{name}.*sleep.*wait_long.*in_between.*Task-1", text)


@CALL_GRAPHS
def test_pstree(waiting_program):
    lines = tool("pstree", waiting_program).splitlines()
    tree = [re.sub(r"^[\W_]*|\s+/.*$", "", line) for line in lines]
    main = next(index for index, text in enumerate(tree) if "Task-1" in text)
    for name in "first child", "second child":
        child = next(index for index, text in enumerate(tree) if name in text)
        assert main < child
        assert [text.split()[0] for text in tree[child + 1 : child + 4]] == ["in_between", "wait_long", "sleep"]


# --- faulthandler ---


def test_faulthandler_in_a_callback(child):
    result = child(
        """
        import faulthandler

        def stuck():
            faulthandler.dump_traceback()
            loop.stop()

        loop = new_event_loop()
        loop.call_soon(stuck)
        loop.run_forever()
        loop.close()
        """
    )
    assert result.returncode == 0
    functions = re.findall(r" in (\S+)$", result.stderr, re.MULTILINE)
    assert (functions[0], functions[-1]) == ("stuck", "<module>")
    assert "run_forever" in functions


def test_faulthandler_while_the_loop_waits(child):
    """A watchdog of faulthandler looks at a thread that is waiting in the poll."""
    result = child(
        """
        import faulthandler
        loop = new_event_loop()
        faulthandler.dump_traceback_later(0.2, exit=True)
        loop.run_forever()
        """
    )
    assert result.returncode == 1
    assert "Timeout (0:00:00.200000)!" in result.stderr
    assert "run_forever" in result.stderr


# --- tracemalloc ---


@pytest.fixture
def traced():
    tracemalloc.start(25)
    yield
    tracemalloc.stop()


def lines_of(thing):
    """The lines of this file by which `thing` was made."""
    traceback = tracemalloc.get_object_traceback(thing)
    return [frame.lineno for frame in traceback if os.path.samefile(frame.filename, __file__)] if traceback else None


def here():
    return sys._getframe(1).f_lineno


async def test_where_objects_were_made(traced):
    loop = asyncio.get_running_loop()
    future, line = loop.create_future(), here()
    assert lines_of(future)[-1] == line
    task, line = loop.create_task(forever()), here()
    assert lines_of(task)[-1] == line
    timer, line = loop.call_later(60, print), here()
    assert lines_of(timer)[-1] == line
    timer.cancel()
    task.cancel()
    await asyncio.wait([task])


# --- profilers ---


async def test_profiler_sees_that_a_task_waits():
    """A profiler that goes by contexts, as pyinstrument does, is called outside of it before and after a wait."""
    loop = asyncio.get_running_loop()
    var = contextvars.ContextVar("var", default="outside")
    seen = []
    outside = threading.Event()
    woken = loop.create_future()

    def profile(frame, event, arg):
        if event == "call":
            seen.append(var.get())
            if seen[-1] == "outside":
                outside.set()

    def wake():
        outside.wait()
        seen.append("woken")
        loop.call_soon_threadsafe(woken.set_result, None)

    def called_by_the_task():
        pass

    var.set("in the task")
    thread = threading.Thread(target=wake)
    thread.start()
    sys.setprofile(profile)
    try:
        called_by_the_task()
        await woken
    finally:
        sys.setprofile(None)
    thread.join()
    wake_up = seen.index("woken")
    assert seen[0] == "in the task"
    assert seen[wake_up - 1] == seen[wake_up + 1] == "outside"


async def test_profiler_that_schedules_something():
    """The profiler is called when the loop is about to wait. Because of the new callback it then does not wait."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def profile(frame, event, arg):
        if event == "call" and not scheduled and frame.f_code.co_name == "outside_tasks":
            scheduled.append(loop.call_soon(done.set_result, None))

    scheduled = []
    if type(loop).__module__.startswith("asyncio"):
        pytest.skip("asyncio's loop has computed how long it waits by then")
    sys.setprofile(profile)
    try:
        await asyncio.wait_for(done, 10)
    finally:
        sys.setprofile(None)


# --- `sys.remote_exec` ---


def wait_for_state(pid, state):
    """Waits until the process is in this state of proc_pid_stat(5): S for one that waits, T for one that is stopped."""
    while True:
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == state:
                return
        time.sleep(0.01)


@CALL_GRAPHS
def test_remote_exec_reaches_an_idle_loop_that_is_stopped_and_continued(loop_name, tmp_path):
    """docs/stalls.md says so. Without that, the request waits until the loop runs Python code."""
    script = tmp_path / "script.py"
    script.write_text("print('executed', flush=True)\n")
    source = WAITING.format(loop=loop_name)
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            wait_for_state(process.pid, "S")
            try:
                sys.remote_exec(process.pid, str(script))  # type: ignore[attr-defined, unused-ignore]
            except (PermissionError, RuntimeError) as exc:
                pytest.skip(f"the system does not allow it: {exc}")
            process.send_signal(signal.SIGSTOP)
            wait_for_state(process.pid, "T")
            process.send_signal(signal.SIGCONT)
            assert process.stdout.readline() == "executed\n"
        finally:
            process.kill()
