"""Tasks and futures: create_task, create_future and task factories, by the running version's rules."""

import asyncio
import contextvars
import gc
import inspect
import re
import sys

import pytest

from support.turns import turn

# Earlier versions name each keyword argument of create_task, and eager_start is not among them.
ANY_KEYWORD = any(
    parameter.kind is parameter.VAR_KEYWORD
    for parameter in inspect.signature(asyncio.BaseEventLoop.create_task).parameters.values()
)
EAGER_TASKS = sys.version_info >= (3, 12)


async def value(result="value"):
    await asyncio.sleep(0)
    return result


# --- create_future ---


def test_create_future(loop):
    future = loop.create_future()
    assert isinstance(future, asyncio.Future)
    assert future.get_loop() is loop
    ran = []
    future.add_done_callback(ran.append)
    future.set_result(1)
    assert ran == []
    turn(loop)
    assert ran == [future]


def test_exception_that_nobody_asks_for(loop, loop_errors):
    future = loop.create_future()
    future.set_exception(ZeroDivisionError())
    del future
    context = loop_errors.pop()
    assert context["message"] == "Future exception was never retrieved"
    assert isinstance(context["exception"], ZeroDivisionError)


def test_class_that_asyncio_was_given(loop, monkeypatch):
    """Programs replace asyncio's classes, for example by those written in Python."""

    class Future(asyncio.Future):
        pass

    assert type(loop.create_future()) is asyncio.Future
    monkeypatch.setattr("asyncio.futures.Future", Future)
    assert type(loop.create_future()) is Future


# --- create_task ---


def test_create_task(loop):
    task = loop.create_task(value())
    assert isinstance(task, asyncio.Task)
    assert task.get_loop() is loop
    assert not task.done()
    assert re.fullmatch(r"Task-\d+", task.get_name())
    assert loop.run_until_complete(task) == "value"


def test_class_of_tasks_that_asyncio_was_given(loop, monkeypatch):
    class Task(asyncio.Task):
        pass

    monkeypatch.setattr("asyncio.tasks.Task", Task)
    task = loop.create_task(value())
    assert type(task) is Task
    assert loop.run_until_complete(task) == "value"


def test_name(loop):
    task = loop.create_task(value(), name="given")
    assert task.get_name() == "given"
    loop.run_until_complete(task)


def test_context(loop):
    var = contextvars.ContextVar("var")

    async def change():
        await asyncio.sleep(0)
        var.set("changed")

    context = contextvars.copy_context()
    loop.run_until_complete(loop.create_task(change(), context=context))
    assert context[var] == "changed"
    assert var.get("unset") == "unset"


@pytest.mark.skipif(not ANY_KEYWORD, reason="needs a later Python version")
@pytest.mark.parametrize("eager", [False, True, None])
async def test_eager_start(eager):
    ran = []

    async def note():
        ran.append(asyncio.current_task())
        return "result"

    task = asyncio.get_running_loop().create_task(note(), eager_start=eager)  # type: ignore[call-arg]
    assert task.done() is bool(eager)
    assert ran == ([task] if eager else [])
    assert await task == "result"
    assert ran == [task]


def test_unknown_keyword(loop):
    coroutine = value()
    with pytest.raises(TypeError, match="unknown"):
        loop.create_task(coroutine, unknown=1)
    coroutine.close()


def test_loop_given_as_a_keyword(loop):
    coroutine = value()
    with pytest.raises(TypeError, match="'loop'"):
        loop.create_task(coroutine, loop=loop)
    coroutine.close()


@pytest.mark.parametrize("what", [None, 42, value, [], lambda: None])
def test_what_is_no_coroutine(loop, what):
    with pytest.raises(TypeError, match="^a coroutine was expected, got "):
        loop.create_task(what)


def test_closed_loop(loop):
    loop.close()
    coroutine = value()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.create_task(coroutine)
    coroutine.close()


def test_pending_task_is_reported_when_destroyed(loop, loop_errors):
    async def wait_for_ever():
        await loop.create_future()

    task = loop.create_task(wait_for_ever())
    turn(loop)
    del task
    gc.collect()
    context = loop_errors.pop()
    assert context["message"] == "Task was destroyed but it is pending!"
    assert isinstance(context["task"], asyncio.Task)


def test_exception_of_a_task(loop, loop_errors):
    async def fail():
        raise ZeroDivisionError("text")

    task = loop.create_task(fail())
    turn(loop)
    turn(loop)
    assert isinstance(task.exception(), ZeroDivisionError)
    del task

    task = loop.create_task(fail())
    turn(loop)
    turn(loop)
    del task
    assert loop_errors.pop()["message"] == "Task exception was never retrieved"


def test_current_task_and_all_tasks(loop):
    async def look():
        current = asyncio.current_task()
        return current, asyncio.current_task(loop), asyncio.all_tasks()

    other = loop.create_task(asyncio.sleep(3600))
    task = loop.create_task(look())
    assert asyncio.all_tasks(loop) == {task, other}
    assert asyncio.current_task(loop) is None
    assert loop.run_until_complete(task) == (task, task, {task, other})
    assert asyncio.all_tasks(loop) == {other}
    other.cancel()
    turn(loop)
    turn(loop)
    assert asyncio.all_tasks(loop) == set()


def test_steps_interleave(loop):
    ran = []

    async def count(name):
        for number in range(3):
            ran.append((name, number))
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(count("a"), count("b"))

    loop.run_until_complete(main())
    assert ran == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]


# --- what asyncio builds on tasks ---


async def test_cancel():
    task = asyncio.create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)
    task.cancel("message")
    with pytest.raises(asyncio.CancelledError) as raised:
        await task
    assert raised.value.args == ("message",)


async def test_timeout():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.sleep(3600)


async def test_wait_for():
    assert await asyncio.wait_for(value(), 10) == "value"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(3600), 0.001)


async def test_task_group():
    async def fail():
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.TaskGroup() as group:
            sleeper = group.create_task(asyncio.sleep(3600))
            group.create_task(fail())
    assert raised.group_contains(ZeroDivisionError)
    assert sleeper.cancelled()


async def test_synchronisation():
    queue, event, ready = asyncio.Queue(1), asyncio.Event(), asyncio.Condition()

    async def produce():
        for number in range(10):
            await queue.put(number)
        await event.wait()
        async with ready:
            ready.notify_all()

    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        async with ready:
            assert [await queue.get() for _ in range(10)] == list(range(10))
            event.set()
            await ready.wait()


# --- task factories ---


class CustomTask(asyncio.Task):
    pass


def test_factory_is_kept(loop):
    def factory(loop, coro, **kwargs):
        return CustomTask(coro, loop=loop, **kwargs)

    assert loop.get_task_factory() is None
    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    task = loop.create_task(value())
    assert isinstance(task, CustomTask)
    assert loop.run_until_complete(task) == "value"
    assert loop.run_until_complete(value("from a coroutine")) == "from a coroutine"
    loop.set_task_factory(None)
    assert loop.get_task_factory() is None
    assert type(loop.create_task(asyncio.sleep(3600))) is asyncio.Task
    for task in asyncio.all_tasks(loop):
        task.cancel()
    turn(loop)
    turn(loop)


@pytest.mark.parametrize("factory", [42, "text", []])
def test_what_is_no_factory(loop, factory):
    with pytest.raises(TypeError, match="^task factory must be a callable or None$"):
        loop.set_task_factory(factory)
    assert loop.get_task_factory() is None


@pytest.mark.parametrize("name", [{}, {"name": None}, {"name": "given"}], ids=str)
@pytest.mark.parametrize(
    "context", [{}, {"context": None}, {"context": contextvars.Context()}], ids=["{}", "none", "given"]
)
@pytest.mark.parametrize("more", [{}, {"eager_start": False}] if ANY_KEYWORD else [{}], ids=str)
def test_what_a_factory_is_given(loop, name, context, more):
    """Versions differ in what they pass on, even patch releases. So the test asks asyncio's own loop."""

    def given(loop):
        def factory(loop, coro, **kwargs):
            seen.append((loop, coro, kwargs))
            return asyncio.Task(coro, loop=loop)

        seen, coroutine = [], value()
        loop.set_task_factory(factory)
        task = loop.create_task(coroutine, **name, **context, **more)
        loop.run_until_complete(task)
        [(seen_loop, seen_coroutine, kwargs)] = seen
        assert seen_loop is loop
        assert seen_coroutine is coroutine
        return kwargs, re.sub(r"\d+", "N", task.get_name())

    with asyncio.Runner() as runner:
        expected = given(runner.get_loop())
    assert given(loop) == expected


def test_failing_factory(loop):
    def factory(loop, coro, **kwargs):
        raise ZeroDivisionError("text")

    loop.set_task_factory(factory)
    coroutine = value()
    with pytest.raises(ZeroDivisionError, match="^text$"):
        loop.create_task(coroutine)
    coroutine.close()


@pytest.mark.skipif(not EAGER_TASKS, reason="new in Python 3.12")
async def test_eager_task_factory():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    main = asyncio.current_task()
    ran = []

    async def note(wait):
        ran.append(asyncio.current_task())
        if wait:
            await asyncio.sleep(0)
        ran.append(asyncio.current_task())
        return wait

    done = asyncio.create_task(note(False), name="done")
    assert done.done()
    assert done.result() is False
    waiting = asyncio.create_task(note(True), name="waiting")
    assert not waiting.done()
    assert asyncio.current_task() is main
    assert asyncio.all_tasks() == {main, waiting}
    assert await waiting is True
    assert ran == [done, done, waiting, waiting]
    assert [done.get_name(), waiting.get_name()] == ["done", "waiting"]


@pytest.mark.skipif(not EAGER_TASKS, reason="new in Python 3.12")
async def test_eager_task_that_fails_and_task_group():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]

    async def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.create_task(fail())
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await asyncio.sleep(3600)
    assert raised.group_contains(ZeroDivisionError)
    assert await asyncio.gather(value(1), value(2)) == [1, 2]  # type: ignore[comparison-overlap]


@pytest.mark.skipif(not EAGER_TASKS, reason="new in Python 3.12")
async def test_eager_factory_of_custom_tasks():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.create_eager_task_factory(CustomTask))  # type: ignore[attr-defined]
    context = contextvars.copy_context()
    task = loop.create_task(value(), context=context)
    assert isinstance(task, CustomTask)
    assert task.get_context() is context  # type: ignore[attr-defined]
    assert await task == "value"
