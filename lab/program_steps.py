"""What a random program is made of: steps, which are plain data and print as Python.

A program is a tuple of steps. `Do` calls something, `When` says what a protocol or a callback does at its next call,
`Wait` lets the loop run in between. `program_draw.py` makes programs, `program_world.py` plays them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Do:
    """Calls `what` of the transport, the peer or the loop that is called `on`."""

    on: str
    what: str
    args: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"Do({', '.join(map(repr, (self.on, self.what, *self.args)))})"


@dataclass(frozen=True)
class When:
    """The next call of `method` of the protocol of `on` does these calls, and then raises or returns something."""

    on: str
    method: str
    does: tuple[Do, ...] = ()
    raises: str | None = None
    returns: Any = None

    def __repr__(self) -> str:
        parts = [repr(self.on), repr(self.method), *map(repr, self.does)]
        if self.raises is not None:
            parts.append(f"raises={self.raises!r}")
        if self.returns is not None:
            parts.append(f"returns={self.returns!r}")
        return f"When({', '.join(parts)})"


@dataclass(frozen=True)
class Wait:
    """Lets the loop run for a turn, or until nothing happens any more."""

    until: str  # "turn" or "quiet"

    def __repr__(self) -> str:
        return f"Wait({self.until!r})"


Step = Do | When | Wait
Program = tuple[Step, ...]


def do(on: str, what: str, *args: Any) -> Do:
    return Do(on, what, args)


def when(on: str, method: str, *does: Do, raises: str | None = None, returns: Any = None) -> When:
    return When(on, method, does, raises, returns)


def shown(program: Program) -> str:
    """The program as Python, a step a line."""
    return "".join(f"    {step!r},\n" for step in program)


def parsed(text: str) -> Program:
    """The program that `shown` has printed. The text is trusted: it is the laboratory's own."""
    names = {"Do": do, "When": when, "Wait": Wait}
    return tuple(eval(f"({text.strip()}\n)", {"__builtins__": {}}, names))
