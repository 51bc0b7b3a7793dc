"""`python -m rloop [options] PROGRAM`: reads the command line, and starts the program.

The program is run by a Python that replaces this one (exec), with the same options of the interpreter. So it runs as it
does without rloop: `sys.argv`, `__main__`, tracebacks, exit status, pickling and the process id are Python's own work.
The wishes are in the environment, where `_switch.py` finds them in the new Python. Nothing of asyncio is touched here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import MutableMapping
from typing import NoReturn

from . import _switch

USAGE = """python -m rloop [options] (FILE | -m MODULE | -c CODE | -) [ARGUMENTS]
       python -m rloop [doctor]
       python -m rloop top [PID]"""

DESCRIPTION = """Run a Python program with rloop as its event loop. Without a program: tell what is in use (doctor).
`top` shows what the loops of the processes do that publish their figures."""

AROUND = "start a program by `python -m rloop PROGRAM`: a profiler or debugger around that would see nothing of it"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m rloop", usage=USAGE, description=DESCRIPTION, allow_abbrev=False)
    made.add_argument("--debug", action="store_true", help="asyncio's debug mode (sets PYTHONASYNCIODEBUG)")
    made.add_argument("--watch", metavar="SECONDS", help="report turns of the loop that last longer (sets RLOOP_WATCH)")
    made.add_argument("--publish", action="store_true", help="other processes can read its figures (RLOOP_PUBLISH=1)")
    made.add_argument("--as-uvloop", action="store_true", help="`import uvloop` gives rloop under that name")
    made.add_argument("--no-children", action="store_true", help="child processes do not inherit rloop")
    return made


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our options, and the program with its arguments: the first word that is none of our options begins it."""
    index = 0
    while index < len(arguments):
        word = arguments[index]
        if word == "--watch":
            index += 1
        elif not word.startswith("--") and word != "-h":
            break
        index += 1
    return arguments[:index], arguments[index:]


def interpreter_options(argv: list[str], orig_argv: list[str]) -> list[str] | None:
    """The options of the interpreter in `sys.orig_argv`; None if it was not started by `-m rloop`."""
    ours = len(argv) - 1
    words = orig_argv[1 : len(orig_argv) - ours]
    if words and words[-1] == "rloop" and len(words) > 1:
        words.pop()
        flag = words.pop()
    elif words and words[-1].endswith("mrloop"):
        flag = words.pop().removesuffix("rloop")
    else:
        return None
    # The flag may have others before it: `-bm rloop`.
    if not flag.startswith("-") or flag.startswith("--") or not flag.endswith("m"):
        return None
    return words if flag == "-m" else [*words, flag[:-1]]


def wish(options: argparse.Namespace, environ: MutableMapping[str, str]) -> None:
    """Write the options into the environment of the program."""
    _switch.forget(environ)
    wishes = ["loop"]
    if options.as_uvloop:
        wishes.append("uvloop")
    if options.no_children:
        wishes.append("once")
    environ[_switch.VARIABLE] = ",".join(wishes)
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_switch.SITE, environ.get("PYTHONPATH")]))
    if options.debug:
        environ["PYTHONASYNCIODEBUG"] = "1"
    if options.watch is not None:
        environ["RLOOP_WATCH"] = options.watch
    if options.publish:
        environ["RLOOP_PUBLISH"] = "1"


def obstacle() -> str | None:
    """Why a Python that is started from this one would not be switched over."""
    if sys.flags.ignore_environment or sys.flags.no_site:
        return "the options -E, -I and -S of Python keep rloop from the program"
    if os.pathsep in _switch.SITE:
        return f"{_switch.SITE} cannot be on PYTHONPATH, because {os.pathsep!r} is in it"
    # `-m` has put the current directory first, where the program need not find rloop.
    path = sys.path if sys.flags.safe_path else sys.path[1:]
    if not _switch.is_importable(path):
        return f"{_switch.PACKAGE} is not where `import rloop` of this Python looks: install it, or set PYTHONPATH"
    return None


def is_positive(seconds: str) -> bool:
    try:
        return 0 < float(seconds) < float("inf")
    except ValueError:
        return False


def start(words: list[str]) -> NoReturn:
    """Replace this process by a Python with these arguments."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *words])


def main(arguments: list[str]) -> int:
    """Start the program, which takes the place of this process. If that is not possible, return an exit status.

    Raises SystemExit if the command line is wrong, and for `--help`.
    """
    head, program = split(arguments)
    reader = parser()
    options = reader.parse_args(head)
    if not program:
        reader.error("no program is given")
    if program[0].startswith("-") and program[0] != "-" and not program[0].startswith(("-m", "-c")):
        reader.error(f"unknown option: {program[0]}")
    if options.watch is not None and not is_positive(options.watch):
        reader.error(f"--watch takes a number of seconds, not {options.watch!r}")
    found = interpreter_options(sys.argv, sys.orig_argv)
    wrong = obstacle() or (AROUND if found is None else None)
    if found is None or wrong is not None:
        print(f"python -m rloop: {wrong}", file=sys.stderr)
        return 2
    wish(options, os.environ)
    start([*found, *program])
