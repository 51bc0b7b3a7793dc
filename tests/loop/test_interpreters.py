"""rloop runs in the main interpreter, with the GIL. Everywhere else importing it says so.

rloop only: asyncio is written in Python and runs in every interpreter.
"""

import ctypes
import subprocess
import sys
from typing import Any

import pytest

import rloop
from rloop import _rloop

IN_SUBINTERPRETER = """
import sys
try:
    import rloop
except ImportError as error:
    print(error)
else:
    print("imported")
sys.stdout.flush()
"""


SOURCE = f"""
import asyncio, _testcapi
async def sleep():
    await asyncio.sleep(0.001)
    return 7
def main():
    import rloop
    print(rloop.run(sleep()), flush=True)
def sub():
    _testcapi.run_in_subinterp({IN_SUBINTERPRETER!r})
"""


@pytest.mark.parametrize("order", [["sub"], ["main", "sub", "main"], ["sub", "sub", "main"]])
def test_a_subinterpreter_is_refused_and_the_main_one_goes_on(order):
    pytest.importorskip("_testcapi")
    source = SOURCE + "".join(f"{step}()\n" for step in order)
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=20)
    refused = "rloop does not support subinterpreters: it can be imported in the main interpreter only"
    assert result.stdout.splitlines() == [refused if step == "sub" else "7" for step in order], result.stderr
    assert result.returncode == 0


def test_without_the_gil_no_loop_is_made(monkeypatch):
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    with pytest.raises(RuntimeError, match="rloop needs the GIL"):
        rloop.new_event_loop()


@pytest.mark.skipif(sys.version_info[:2] not in ((3, 13), (3, 14)), reason="where a module definition says so")
def test_the_module_says_that_it_needs_the_gil():
    """A build of CPython without the GIL turns it on for such a module."""
    init: Any = ctypes.PyDLL(_rloop.__file__).PyInit__rloop
    init.restype = ctypes.c_void_p
    m_slots, py_mod_gil, py_mod_gil_used = 72, 4, 0
    at: Any = ctypes.c_void_p.from_address(init() + m_slots).value
    slots = {}
    while (number := ctypes.c_int.from_address(at).value) != 0:
        slots[number] = ctypes.c_void_p.from_address(at + 8).value or 0
        at += 16
    assert slots[py_mod_gil] == py_mod_gil_used
