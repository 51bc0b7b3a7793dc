"""Whether a loop that has nothing to do sleeps, shown by counting instead of by a clock. No test lives here."""

import asyncio
import resource

TIMERS = 20


def sleeps() -> int:
    """How often this thread has gone to sleep: its voluntary context switches.

    A loop goes to sleep whenever its poll finds nothing. A loop that is busy never does, because none of its polls
    waits.
    """
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


async def sleeps_between_timers() -> bool:
    """Whether the running loop goes to sleep before each of some timers, and not much more often than that."""
    before = sleeps()
    for _ in range(TIMERS):
        await asyncio.sleep(0.01)
    # A loop may go to sleep more than once for a timer. On a busy machine a timer may be due at once.
    return TIMERS // 2 <= sleeps() - before <= 4 * TIMERS
