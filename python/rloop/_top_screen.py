"""The live view of `python -m rloop top`: it is drawn again and again, and obeys keys.

With rich (the extra `rloop[top]`) it is a table, otherwise plain text. What is in it is decided in `_top_rows.py`.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from ._published import Published
from ._top_rows import COLUMNS, NOTHING, bar, lag_of, lines, printable, row

# How many bars of the past a loop has.
HISTORY = 20
KEYS = "q: quit   up, down: select   t: tasks of the selected process"
# How long the look at the tasks of a process may take, in seconds.
PATIENCE = 10.0

_UP, _DOWN = ("\x1b[A", "\x1bOA", "k"), ("\x1b[B", "\x1bOB", "j")

Draw = Callable[["View"], None]


class View:
    """What is on the screen: the rows, which of them is selected, and what stands below them."""

    def __init__(self, read: Callable[[], list[Published]]) -> None:
        self._read = read
        self._bars: dict[tuple[int, int], collections.deque[str]] = {}
        self.rows: list[list[str]] = []
        self.selected = 0
        self.below = ""

    def renew(self) -> None:
        """Read the figures."""
        try:
            processes = self._read()
        except (OSError, ValueError) as error:
            processes = []
            self.below = str(error)
        known, rows = self._bars, []
        self._bars = {}
        for process in processes:
            for loop in process.loops.values():
                key = process.pid, loop.number
                bars = self._bars[key] = known.get(key, collections.deque(maxlen=HISTORY))
                bars.append(bar(lag_of(loop)))
                rows.append(row(process, loop, "".join(bars).ljust(HISTORY)))
        self.rows = rows
        self.selected = max(0, min(self.selected, len(rows) - 1))

    def press(self, key: str) -> bool:
        """Do what a key asks for. False if it ends the view."""
        if key in ("q", "\x03", "\x04"):
            return False
        if key in _UP:
            self.selected = max(0, self.selected - 1)
        elif key in _DOWN:
            self.selected = max(0, min(self.selected + 1, len(self.rows) - 1))
        elif key == "t" and self.rows:
            # A second time, they go away.
            self.below = "" if self.below else tasks_of(int(self.rows[self.selected][0]))
        return True

    def texts(self, width: int | None, height: int | None) -> list[str]:
        """The view as lines of plain text, cut to this size. The selected row begins with a mark."""
        below = [KEYS, *(printable(line) for line in self.below.splitlines())]
        if self.rows:
            marks = ["> " if at == self.selected + 1 else "  " for at in range(len(self.rows) + 1)]
            above = [mark + text for mark, text in zip(marks, lines(self.rows), strict=True)]
        else:
            above = NOTHING.splitlines()
        return [text[:width] for text in (*above, "", *below)][:height]


def tasks_of(pid: int) -> str:
    """The tasks of a process, as `python -m asyncio ps` tells them without the help of the process."""
    if sys.version_info < (3, 14):
        return f"The tasks of a process can be seen from Python 3.14 on; this is {sys.version.split()[0]}."
    command = [sys.executable, "-m", "asyncio", "ps", str(pid)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"{' '.join(command[1:])} has not answered."
    told = done.stdout if done.returncode == 0 else done.stdout + done.stderr
    return told.strip() or "The process has no tasks."


# -------------------------------------------------------------------------------------------------- keys


@contextlib.contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """Yields what waits for a key: it returns the key, or nothing when so many seconds have passed."""
    fd = sys.stdin.fileno()
    if not os.isatty(fd):
        yield lambda seconds: _wait([], seconds)
        return
    import termios
    import tty

    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield lambda seconds: _wait([fd], seconds)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _wait(fds: list[int], seconds: float) -> str:
    ready, _, _ = select.select(fds, [], [], seconds)
    # An arrow is several bytes, which come together. At the end of the terminal there are none.
    return (os.read(fds[0], 16).decode(errors="replace") or "q") if ready else ""


# ----------------------------------------------------------------------------------------------- drawing


@contextlib.contextmanager
def plain() -> Iterator[Draw]:
    """Yields what draws plain text: over what was there on a terminal, otherwise below it."""
    out = sys.stdout
    on_terminal = out.isatty()

    def draw(view: View) -> None:
        if on_terminal:
            size = shutil.get_terminal_size()
            text = view.texts(size.columns, size.lines - 1)
            # Each line is cleared behind its end, and the screen below the last one.
            out.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in text) + "\x1b[J")
        else:
            out.write("\n".join([*view.texts(None, None), "", ""]))
        out.flush()

    # The other screen of the terminal, without a cursor.
    if on_terminal:
        out.write("\x1b[?1049h\x1b[?25l")
    try:
        yield draw
    finally:
        if on_terminal:
            out.write("\x1b[?25h\x1b[?1049l")
            out.flush()


@contextlib.contextmanager
def rich() -> Iterator[Draw]:
    """Yields what draws a table of rich. Raises ImportError if rich is not there."""
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        yield lambda view: live.update(picture(view), refresh=True)


def picture(view: View) -> Any:
    """The view as something that rich draws. Raises ImportError if rich is not there."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    below = Text(f"{KEYS}\n{view.below}")
    if not view.rows:
        return Group(Text(NOTHING), Text(), below)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, expand=True)
    for name, right in COLUMNS.items():
        width = {"LAG": HISTORY}.get(name)
        ratio = 1 if name == "COMMAND" else None
        table.add_column(name, justify="right" if right else "left", no_wrap=True, width=width, ratio=ratio)
    for at, cells in enumerate(view.rows):
        texts = [Text(printable(cell)) for cell in cells]
        table.add_row(*texts, style="reverse" if at == view.selected else _style(cells))
    return Group(table, below)


def _style(cells: list[str]) -> str:
    """The colour of a row: that of a loop which is blocked, or whose process is stopped, stands out."""
    return "red" if cells[list(COLUMNS).index("TURN")] != "-" else ""


def _drawing() -> contextlib.AbstractContextManager[Draw]:
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            importlib.import_module("rich.live")
            return rich()
    return plain()


def show(read: Callable[[], list[Published]], interval: float) -> int:
    """Draw the view every `interval` seconds, until a key or Ctrl-C ends it. Returns the exit status."""
    view = View(read)
    with contextlib.suppress(KeyboardInterrupt), keys() as key, _drawing() as draw:
        while True:
            view.renew()
            draw(view)
            if not view.press(key(interval)):
                break
    return 0
