"""Running a loop by the turn, for tests that say what runs in which turn. No test lives here."""

import asyncio
from collections.abc import Callable


def turn(loop: asyncio.AbstractEventLoop) -> None:
    """Runs one turn. It does not wait, even if there is nothing to do."""
    loop.stop()
    loop.run_forever()


def turn_until(loop: asyncio.AbstractEventLoop, condition: Callable[[], object]) -> None:
    """Runs turns until `condition()` holds, for what may take the loop one turn or a few."""
    for _ in range(100):
        if condition():
            return
        turn(loop)
    raise AssertionError("the condition does not hold after 100 turns")
