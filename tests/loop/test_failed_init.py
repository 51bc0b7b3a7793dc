"""Making a loop fails: the program hears of the error and of nothing else, and nothing is left open.

rloop only: asyncio's own loop says "Exception ignored in __del__" besides, or warns of a loop that nobody could close.
"""

import asyncio
import gc
import inspect
from typing import Any

import pytest

rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)


class Failed(Exception):
    pass


def fails_before(base: Any):
    class Loop(base):
        def __init__(self):
            raise Failed

    return Loop


def fails_after(base: Any):
    class Loop(base):
        def __init__(self):
            super().__init__()
            self.call_later(1000, print)
            raise Failed

    return Loop


def fails_after_use(base: Any):
    class Loop(base):
        def __init__(self):
            super().__init__()
            self.run_until_complete(asyncio.sleep(0))
            raise Failed

        def close(self):
            self.what_was_never_set.close()

    return Loop


def fails_in_the_middle(base: Any):
    """A class whose `__init__` calls another one, which raises."""

    class Middle(base):
        def __init__(self):
            super().__init__()
            raise Failed

    class Loop(Middle):
        def __init__(self):
            super().__init__()

    return Loop


CLASSES = pytest.mark.parametrize("make", [fails_before, fails_after, fails_after_use, fails_in_the_middle])


@CLASSES
def test_subclass_that_fails_leaves_nothing(make, recwarn, capsys):
    """The fixtures look for open files and for reports, and a warning out of `__del__` would be reported."""
    cls = make(rloop.Loop)
    with pytest.raises(Failed):
        cls()
    gc.collect()
    assert not recwarn.list
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("loop_name", ["rloop"])
@pytest.mark.parametrize("call", ["rloop.Loop(debug=True)", "rloop.Loop(1)"])
def test_arguments_that_a_loop_does_not_take(child, call):
    source = f"import rloop\ntry:\n    {call}\nexcept TypeError as exc:\n    print(exc)"
    result = child(source, "-X", "dev")
    assert result.returncode == 0
    assert result.stdout.startswith("Loop.__init__() ")
    assert result.stderr == ""


def test_subclass_that_catches_the_error_goes_on():
    class Picky(rloop.Loop):
        def __init__(self):
            super().__init__()
            raise Failed

    class Tolerant(Picky):
        def __init__(self):
            try:
                super().__init__()
            except Failed:
                self.failed = True

    loop = Tolerant()
    assert loop.failed
    assert loop.run_until_complete(asyncio.sleep(0, "value")) == "value"
    loop.close()


def test_init_of_a_subclass_keeps_its_face():
    class Loop(rloop.Loop):
        def __init__(self, name, *, size=1):
            """Docstring."""
            super().__init__()
            self.made_of = name, size

    assert str(inspect.signature(Loop)) == "(name, *, size=1)"
    assert Loop.__init__.__doc__ == "Docstring."
    loop = Loop("a", size=2)
    assert loop.made_of == ("a", 2)
    loop.close()


def test_interrupt_in_init():
    class Loop(rloop.Loop):
        def __init__(self):
            super().__init__()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Loop()
    gc.collect()
