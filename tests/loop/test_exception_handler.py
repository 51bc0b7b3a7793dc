"""The exception handler of a loop: which one is called, with what, and what the default one logs."""

import asyncio
import logging
from typing import Any

import pytest

from support.loops import logged
from support.turns import turn

ERROR = {"message": "text", "exception": ZeroDivisionError("division")}


def fail(*args):
    raise ZeroDivisionError("division")


@pytest.fixture
def default(loop):
    """The loop with its default exception handler."""
    loop.set_exception_handler(None)
    return loop


def test_none_at_first(loop_factory):
    loop = loop_factory()
    assert loop.get_exception_handler() is None
    loop.close()


def test_set_and_get(loop):
    def handler(loop, context):
        seen.append((loop, context))

    seen = []
    assert loop.set_exception_handler(handler) is None
    assert loop.get_exception_handler() is handler
    context = dict(ERROR)
    loop.call_exception_handler(context)
    assert seen == [(loop, context)]
    assert seen[0][1] is context
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None


@pytest.mark.parametrize("handler", [42, "text", []])
def test_what_cannot_be_called(loop, handler):
    before = loop.get_exception_handler()
    with pytest.raises(TypeError) as raised:
        loop.set_exception_handler(handler)
    assert str(raised.value) == f"A callable object or None is expected, got {handler!r}"
    assert loop.get_exception_handler() is before


def test_handler_is_not_called_with_the_default(loop, caplog):
    loop.set_exception_handler(lambda loop, context: None)
    loop.call_soon(fail)
    turn(loop)
    assert logged(caplog) == []


def test_handler_may_defer_to_the_default(loop, caplog):
    loop.set_exception_handler(lambda loop, context: loop.default_exception_handler(context))
    loop.call_exception_handler({"message": "text"})
    assert logged(caplog) == ["text"]


# --- what the default handler logs ---


def test_exception_in_callback(default, caplog):
    default.set_debug(False)
    handle = default.call_soon(fail, 1)
    described = repr(handle)
    turn(default)
    source = f"{__file__}:{fail.__code__.co_firstlineno}"
    [record] = caplog.records
    first, second = record.getMessage().split("\n")
    assert first.startswith("Exception in callback fail(")
    assert first.endswith(f") at {source}")
    assert second == f"handle: {described}"
    assert record.levelno == logging.ERROR
    assert record.exc_info[0] is ZeroDivisionError
    assert record.exc_info[2].tb_frame is not None
    assert 'raise ZeroDivisionError("division")' in caplog.text


def test_exception_in_callback_in_debug_mode(default, caplog):
    default.set_debug(True)
    default.call_soon(fail)
    turn(default)
    [text] = logged(caplog)
    first, *lines = text.split("\n")
    assert first.startswith("Exception in callback fail() at ")
    assert "source_traceback: Object created at (most recent call last):" in lines
    # The innermost frame comes last. No frame of the loop's own code may come behind it.
    assert lines[-2].endswith(", in test_exception_in_callback_in_debug_mode")
    assert lines[-1].strip() == "default.call_soon(fail)"


def test_handle_traceback_in_debug_mode(default, caplog):
    """In debug mode a report made inside a callback tells where that callback was scheduled."""
    default.set_debug(True)
    default.call_soon(lambda: default.call_exception_handler({"message": "text"}))
    turn(default)
    [text] = logged(caplog)
    first, second, *_, last = text.split("\n")
    assert first == "text"
    assert second == "handle_traceback: Handle created at (most recent call last):"
    assert last.strip().startswith("default.call_soon(lambda:")


def test_no_handle_traceback_outside_of_callbacks(default, caplog):
    default.set_debug(True)
    default.call_soon(lambda: None)
    turn(default)
    default.call_exception_handler({"message": "text"})
    assert logged(caplog) == ["text"]


def test_other_keys_are_logged_in_order(default, caplog):
    default.call_exception_handler({"zebra": 1, "message": "text", "apple": "two", "exception": None})
    assert logged(caplog) == ["text\napple: 'two'\nzebra: 1"]
    assert not caplog.records[0].exc_info


@pytest.mark.parametrize("context", [{}, {"message": None}, {"message": ""}])
def test_no_message(default, caplog, context):
    default.call_exception_handler(context)
    assert logged(caplog) == ["Unhandled exception in event loop"]


def test_source_traceback_of_a_future(default, caplog):
    default.set_debug(True)
    future = default.create_future()
    future.set_exception(ZeroDivisionError())
    del future
    [text] = logged(caplog)
    assert text.startswith("Future exception was never retrieved\nfuture: <Future finished ")
    assert "source_traceback: Object created at (most recent call last):" in text
    assert "future = default.create_future()" in text


@pytest.mark.parametrize("context", [None, 42, []])
def test_default_handler_given_no_dict(default, caplog, context):
    default.call_exception_handler(context)
    assert logged(caplog) == ["Exception in default exception handler"]


# --- handlers that fail ---


def test_failing_handler(loop, caplog):
    def handler(loop, context):
        raise LookupError("in the handler")

    loop.set_debug(False)
    loop.set_exception_handler(handler)
    ran = []
    loop.call_soon(fail)
    loop.call_soon(ran.append, 1)
    turn(loop)
    assert ran == [1]
    [text] = logged(caplog)
    first, second = text.split("\n")
    assert first == "Unhandled error in exception handler"
    assert second.startswith("context: {'message': 'Exception in callback fail(")
    assert caplog.records[0].exc_info[0] is LookupError


def test_handler_of_the_wrong_signature(loop, caplog):
    loop.set_exception_handler(lambda: None)
    loop.call_exception_handler({"message": "text"})
    assert logged(caplog) == ["Unhandled error in exception handler\ncontext: {'message': 'text'}"]
    assert caplog.records[0].exc_info[0] is TypeError


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_in_a_handler_leaves_run_forever(loop, error):
    def handler(loop, context):
        raise error("text")

    loop.set_exception_handler(handler)
    loop.call_soon(fail)
    with pytest.raises(error, match="^text$"):
        loop.run_forever()
    assert not loop.is_running()


def test_default_handler_overridden(loop_factory, caplog):
    plain = loop_factory()
    plain.close()

    base: Any = type(plain)

    class Loop(base):
        def default_exception_handler(self, context):
            seen.append(context)
            raise LookupError

    seen = []
    loop = Loop()
    loop.call_soon(fail)
    turn(loop)
    [context] = seen
    assert isinstance(context["exception"], ZeroDivisionError)
    assert logged(caplog) == ["Exception in default exception handler"]

    caplog.clear()
    loop.set_exception_handler(fail)
    loop.call_exception_handler({"message": "text"})
    [text] = logged(caplog)
    assert text.startswith("Exception in default exception handler while handling an unexpected error ")
    loop.close()


async def test_handler_sees_tasks(loop_errors):
    async def wait_for_ever():
        raise ZeroDivisionError

    task = asyncio.create_task(wait_for_ever())
    await asyncio.sleep(0)
    del task
    context = loop_errors.pop()
    assert context["message"] == "Task exception was never retrieved"
    assert isinstance(context["future"], asyncio.Task)
