"""Debug mode's `_source_traceback`: the stack of the place where a handle was made. And the check of callbacks there.

rloop keeps frames, and makes the stack when somebody looks. What a program sees must not depend on that.
"""

import asyncio
import gc
import inspect
import linecache
import os
import sys
import time
import traceback
import types
import weakref
from asyncio import constants
from typing import Any

import pytest

from support.turns import turn

METHODS = {"call_soon": (), "call_soon_threadsafe": (), "call_later": (3600,), "call_at": (1e9,)}


@pytest.fixture
def debug(loop):
    loop.set_debug(True)
    return loop


@pytest.fixture
def module(tmp_path):
    """A module with a function `make(loop)`, which returns a handle. Its source can be changed on the disk."""
    path = tmp_path / "made_for_this_test.py"
    path.write_text("def make(loop):\n    return loop.call_soon(int)  # as it was\n")
    made: Any = types.ModuleType("made_for_this_test")
    # Since Python 3.15, `linecache` warns of a module with a spec that does not tell its loader.
    del made.__spec__
    exec(compile(path.read_text(), str(path), "exec"), made.__dict__)
    made.path = path
    yield made
    linecache.cache.pop(str(path), None)


def change(module):
    """Gives the module's file another text. What happens next is later by more than a tick of the file system."""
    before = os.stat(module.path).st_ctime_ns
    while os.stat(module.path).st_ctime_ns == before:
        time.sleep(0.001)
        module.path.write_text("\nreturn loop.call_soon(int)  # as it is now\n")
    time.sleep(0.02)


def line(handle):
    return handle._source_traceback[-1].line


# --- the stack ---


@pytest.mark.parametrize("method", METHODS)
def test_is_the_stack_of_the_caller(debug, method):
    handle, expected = getattr(debug, method)(*METHODS[method], int), traceback.extract_stack()
    stack = handle._source_traceback
    assert type(stack) is traceback.StackSummary
    # asyncio's own frames are among those that it counts.
    assert 5 <= len(stack) <= 10
    assert stack.format()[-5:] == expected.format()[-5:]
    assert f" created at {__file__}:{expected[-1].lineno}>" in repr(handle)


def test_is_none_without_debug_mode(loop):
    loop.set_debug(False)
    assert loop.call_soon(int)._source_traceback is None


def test_can_be_changed(debug):
    handle = debug.call_soon(int)
    outer = handle._source_traceback[-2]
    del handle._source_traceback[-1]
    assert handle._source_traceback[-1] is outer
    assert repr(handle).endswith(f" created at {outer.filename}:{outer.lineno}>")
    del handle._source_traceback[:]
    assert "created" not in repr(handle)


def test_depth_is_asyncios_constant(debug, monkeypatch):
    monkeypatch.setattr(constants, "DEBUG_STACK_DEPTH", 6)
    assert 1 <= len(debug.call_soon(int)._source_traceback) <= 6
    monkeypatch.setattr(constants, "DEBUG_STACK_DEPTH", 0)
    handle = debug.call_soon(int)
    assert handle._source_traceback == []
    assert "created" not in repr(handle)


def test_depth_of_another_sort(debug, monkeypatch):
    # The outermost frames, as a negative limit means to `traceback`.
    monkeypatch.setattr(constants, "DEBUG_STACK_DEPTH", -2)
    stack = debug.call_soon(int)._source_traceback
    assert [frame.name for frame in stack] == [frame.name for frame in traceback.extract_stack()[: len(stack)]]


def test_line_of_a_call_that_spans_lines(debug):
    handle = debug.call_soon(
        int,
        1,
    )
    assert handle._source_traceback[-1].lineno == inspect.currentframe().f_lineno - 4


# --- the lines of source ---


def test_lines_that_were_read_before_the_file_changed(debug, module):
    linecache.getlines(str(module.path))
    handle = module.make(debug)
    change(module)
    assert line(handle) == "return loop.call_soon(int)  # as it was"
    # And they stay: another handle, made now, throws them out.
    assert line(handle) == "return loop.call_soon(int)  # as it was"
    assert line(module.make(debug)) == "return loop.call_soon(int)  # as it is now"


def test_lines_of_a_file_that_changed_before(debug, module):
    linecache.getlines(str(module.path))
    change(module)
    assert line(module.make(debug)) == "return loop.call_soon(int)  # as it is now"


def test_lines_that_were_not_read_before_the_file_changed(debug, module):
    handle = module.make(debug)
    change(module)
    assert line(handle) == "return loop.call_soon(int)  # as it is now"


def test_lines_of_a_file_that_is_gone(debug, module):
    linecache.getlines(str(module.path))
    handle = module.make(debug)
    module.path.unlink()
    assert line(handle) == "return loop.call_soon(int)  # as it was"


def test_lines_of_a_module_that_is_no_file(debug, module):
    class Loader:
        def get_source(self, name):
            return f"# {name}\nfrom the loader\n"

    spec = types.SimpleNamespace(name="made_for_this_test", loader=Loader())
    module.__spec__, module.__loader__ = spec, spec.loader
    module.path.unlink()
    assert line(module.make(debug)) == "from the loader"


# --- what it keeps alive ---


def test_local_variables_are_not_kept(debug):
    class Local:
        pass

    def make():
        local = Local()
        references.append(weakref.ref(local))
        return debug.call_soon(int)

    references: list[weakref.ref] = []
    handle = make()
    assert references[0]() is None
    assert handle._source_traceback[-1].name == "make"


@pytest.mark.parametrize("look", [False, True])
def test_cycle_of_global_variables_and_their_handle_is_collected(debug, look):
    class Kept:
        pass

    variables: dict[str, Any] = {"loop": debug, "kept": Kept()}
    exec("handle = loop.call_soon(int)", variables)
    reference = weakref.ref(variables["kept"])
    if look:
        assert variables["handle"]._source_traceback
    turn(debug)
    variables.clear()
    gc.collect()
    assert reference() is None


# --- the check of callbacks ---


class Strict:
    """Mixed into the class of a loop, this one notes what is checked."""

    checked: list[Any]

    def _check_callback(self, callback, method):
        self.checked.append((callback, method))
        super()._check_callback(callback, method)  # type: ignore[misc]


def test_own_check_of_a_subclass(loop_factory):
    plain = loop_factory()
    plain.close()
    loop = type("Own", (Strict, type(plain)), {"checked": []})()
    loop.set_debug(True)
    try:
        loop.call_soon(int)
        loop.call_at(1e9, int)
        assert loop.checked == [(int, "call_soon"), (int, "call_at")]
    finally:
        loop.close()


def test_own_check_of_a_loop(debug):
    checked = []
    debug._check_callback = lambda *args: checked.append(args)
    debug.call_soon(turn)
    assert checked == [(turn, "call_soon")]


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_called_is_refused(debug, method):
    checked_by = "call_at" if method == "call_later" else method
    with pytest.raises(TypeError, match=rf"^a callable object was expected by {checked_by}\(\), got 1$"):
        getattr(debug, method)(*METHODS[method], 1)


def marked():
    """A function that passes for a coroutine function."""

    def function():
        pass

    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return function


def test_function_that_is_marked_as_a_coroutine_function(debug):
    for callback in marked(), types.MethodType(marked(), 1):
        with pytest.raises(TypeError, match=r"^coroutines cannot be used with call_soon\(\)$"):
            debug.call_soon(callback)


def test_functions_with_attributes_are_accepted(debug):
    def function(*args):
        ran.append(args)

    function.note = 1  # type: ignore[attr-defined]
    ran: list[tuple] = []
    for callback in function, types.MethodType(function, 1), ran.append, [].copy:
        debug.call_soon(callback, *([3] if callback == ran.append else []))
    turn(debug)
    assert ran == [(), (1,), 3]
