"""`python -m rloop top`: reads the command line, and shows what processes publish.

What is shown is in `_top_rows.py`, the view that is drawn again and again in `_top_screen.py`, and the reading of
figures in `_published.py`. Nothing here runs a loop.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

from ._published import Published, all_published, read_published
from ._top_rows import NOTHING, as_json, bar, lag_of, lines, row
from ._top_screen import show


def read(which: str | None) -> list[Published]:
    """What is to be shown: a process by its id or the path of its file, or all of the user's.

    Raises OSError or ValueError, with a text for the user, if it cannot be read.
    """
    if which is None:
        return all_published()
    return [read_published(int(which) if which.isdecimal() else pathlib.Path(which))]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "python -m rloop top",
        description="Show what the loops of processes do that publish their figures (RLOOP_PUBLISH=1).",
        allow_abbrev=False,
    )
    made.add_argument("which", nargs="?", metavar="PID", help="only this process; or the path given to rloop.publish()")
    made.add_argument("--once", action="store_true", help="print the figures once, and end")
    made.add_argument("--json", action="store_true", help="print them once as JSON")
    made.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="how often the view is drawn")
    return made


def main(arguments: list[str]) -> int:
    """Show the figures. Returns the exit status: 1 if there are none to show.

    Raises SystemExit if the command line is wrong, and for `--help`.
    """
    try:
        status = _main(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever reads the text has enough of it. The interpreter flushes once more at its end, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _main(arguments: list[str]) -> int:
    reader = parser()
    options = reader.parse_args(arguments)
    if not 0.01 <= options.interval <= 3600:
        reader.error("--interval takes a number of seconds, from 0.01 to 3600")
    try:
        processes = read(options.which)
    except (OSError, ValueError) as error:
        print(f"python -m rloop top: {error}", file=sys.stderr)
        if isinstance(error, ProcessLookupError):
            print(NOTHING.partition(". ")[2], file=sys.stderr)
        return 1
    if not (options.once or options.json):
        return show(lambda: read(options.which), options.interval)
    if options.json:
        print(as_json(processes))
    elif processes:
        rows = [row(process, loop, bar(lag_of(loop))) for process in processes for loop in process.loops.values()]
        print(*lines(rows), sep="\n")
    if not processes:
        print(NOTHING, file=sys.stderr)
        return 1
    return 0
