"""`rloop.dump_on`: a signal on which the process writes what its loops are doing, also while they are blocked.

The signal's handler is `faulthandler`'s, which is written in C and needs no GIL. It writes the stacks of all threads
into a pipe. A thread of this file copies them to stderr, without the GIL, and then calls `dump`, which needs it.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading

from . import _rloop
from ._dump import dump

# The pipe of each signal: (reader, writer).
_pipes: dict[int, tuple[int, int]] = {}


def dump_on(sig: int) -> None:
    """Write the stacks of all threads, and then what `dump()` writes, to stderr when the process gets the signal `sig`.

    The stacks come at once, even if a callback keeps the GIL; the rest when the GIL is free. The process goes on, and
    no system call is interrupted. The signal has no other effect from here on: its handler is replaced. A second call
    for the same signal does nothing. It can be called in any thread.

    Raises ValueError for an invalid signal number, RuntimeError for a signal that `faulthandler` uses itself, and
    OSError for one that cannot be caught.
    """
    if sig not in _pipes:
        if not _pipes:
            os.register_at_fork(after_in_child=_start_in_child)
        _start(sig)


def _start(sig: int) -> None:
    reader, writer = os.pipe()
    try:
        faulthandler.register(sig, file=writer, all_threads=True)
    except BaseException:
        os.close(reader)
        os.close(writer)
        raise
    _pipes[sig] = reader, writer
    threading.Thread(target=_listen, args=(reader,), name="rloop-dump", daemon=True).start()


def _listen(reader: int) -> None:
    # The signals of the program are for its other threads.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while _rloop.relay_once(reader, 2):
        try:
            dump()
        except Exception:
            logging.getLogger("rloop").exception("rloop.dump_on() has failed to write what the loops are doing")


def _start_in_child() -> None:
    """In the child of a fork, where the thread is not there, and the pipe is the parent's."""
    for sig, pipe in list(_pipes.items()):
        _start(sig)
        for fd in pipe:
            os.close(fd)


dump_on.__module__ = "rloop"
