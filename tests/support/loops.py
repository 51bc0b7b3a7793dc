"""The loops that are tested, what they log, and the files that this process has open. No test lives here."""

import asyncio
import contextlib
import importlib
import os
from typing import Any

# The modules whose `new_event_loop` makes the loops. RLOOP_TEST_LOOPS=asyncio checks the tests themselves where rloop
# is not built.
LOOPS = os.environ.get("RLOOP_TEST_LOOPS", "rloop,asyncio").split(",")


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = importlib.import_module(name).new_event_loop()
    return loop


# glibc's malloc opens these files for a moment. A thread of an executor can do so after the test that started it has
# ended. The first two are opened when a thread gets an area of its own, the last one when such an area becomes smaller.
_MALLOC = frozenset({"/sys/devices/system/cpu/online", "/proc/stat", "/proc/sys/vm/overcommit_memory"})


def open_files() -> set[tuple[int, str]]:
    """(number, what it is) of every open file of this process, except those that malloc opens for a moment."""
    linux = os.path.isdir("/proc/self/fd")
    files = set()
    for name in os.listdir("/proc/self/fd" if linux else "/dev/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))  # the listing contains the file that read the listing, which is gone by now
            path = os.readlink(f"/proc/self/fd/{name}") if linux else ""
            if path not in _MALLOC:
                files.add((int(name), path))
    return files


def logged(caplog: Any) -> list[str]:
    """The messages that asyncio's logger got in this test."""
    return [record.getMessage() for record in caplog.records if record.name == "asyncio"]
