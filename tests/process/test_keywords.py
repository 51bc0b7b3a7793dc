"""Keywords of subprocesses: whatever value a program gives, it gets from a loop what `subprocess.Popen` gives it, the
same child or the same exception, and nothing is left behind.

What each keyword does is in test_options.py.
"""

import asyncio
import os
import pathlib
import subprocess
from typing import Any

import pytest

from support.children import PIPE, shell

pytestmark = [
    pytest.mark.usefixtures("no_child_left"),
    # Popen warns of threads when it has to fork.
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

# The child reports its identity and its files.
REPORT = shell(
    'id -u; id -g; id -G; umask; pwd; test "$(cut -d" " -f5 /proc/$$/stat)" -eq $$ && echo leads; nice; '
    "ls /proc/$$/fd; sort -z /proc/$$/environ | head -c 200; grep SigIgn /proc/$$/status; echo error >&2; wc -c; exit 3"
)


def fail():
    raise ZeroDivisionError


VALUES: dict[str, list[Any]] = {
    "cwd": ["/", "/no/such/folder", b"/usr", pathlib.Path("/usr"), "/etc/passwd", "", 1, "nul\0byte"],
    "env": [{}, {"A": "b"}, {b"A": b"b"}, {"A=B": "c"}, {"A": 1}, {"A": "nul\0byte"}, []],
    "executable": ["/bin/sh", b"/bin/sh", "/no/such/program", "/etc/passwd", "", 1],
    "user": [0, 1, "daemon", "no such user", -1, 2**32, 1.5],
    "group": [0, 1, "daemon", "no such group", -1, 2**32, []],
    "extra_groups": [[], [1, 2], ["daemon"], ["no such group"], [-1], "12", [1.5], list(range(1, 70000))],
    "umask": [0, 0o77, 0o1777, -1, -2, "x"],
    "process_group": [None, 0, -1, -2, 999999, "x"],
    "pass_fds": [(), (0,), (-1,), (987654,), (1.5,), "x"],
    "close_fds": [True, False],
    "start_new_session": [False, True, "x"],
    "preexec_fn": [None, fail, lambda: os._exit(9), lambda: os.nice(1), 1],
    "pipesize": [-1, 0, 4096, 1 << 16, 1 << 40, "x"],
    "restore_signals": [True, False],
    "creationflags": [0, 1],
    "startupinfo": [None, 1],
    "stdin": [PIPE, subprocess.DEVNULL, subprocess.STDOUT, 987654, "x"],
    "stdout": [PIPE, subprocess.DEVNULL, subprocess.STDOUT, 987654, "x"],
    "stderr": [PIPE, subprocess.DEVNULL, subprocess.STDOUT, 987654, "x"],
    "no_such_keyword": [1],
}
TOGETHER = [
    {"start_new_session": True, "process_group": 0},
    {"user": 1, "group": 1, "extra_groups": [1], "umask": 0o27, "cwd": "/"},
    {"preexec_fn": fail, "cwd": "/no/such/folder"},
    {"env": {}, "executable": "/bin/sh", "close_fds": False, "restore_signals": False},
]
KEYWORDS = [{keyword: value} for keyword, values in VALUES.items() for value in values] + TOGETHER
PROGRAMS = [
    [""],
    ["/"],
    ["/etc/passwd"],
    ["no such program"],
    ["nul\0byte"],
    [1],
    ["/bin/echo", None],
    ["/bin/echo", "\udcff"],
    [b"/bin/echo", b"\xff"],
    [pathlib.Path("/bin/echo"), pathlib.Path("/usr")],
    shell("kill -9 $$"),
    shell("cat; exit 255"),
    shell("exec <&-; cat /etc/passwd"),
]


def described(error):
    return type(error), str(error), getattr(error, "errno", None), getattr(error, "filename", None)


def by_popen(args, keywords):
    try:
        process = subprocess.Popen(args, **keywords)
    except Exception as error:
        return described(error)
    out, err = process.communicate(b"input" if process.stdin else None)
    return process.returncode, out, err


async def by_loop(args, keywords):
    try:
        process = await asyncio.create_subprocess_exec(*args, **keywords)
    except Exception as error:
        return described(error)
    out, err = await process.communicate(b"input" if process.stdin else None)
    return process.returncode, out, err


async def check(args, keywords):
    keywords = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE, **keywords}
    assert await by_loop(args, keywords) == by_popen(args, keywords)


@pytest.mark.parametrize("keywords", KEYWORDS, ids=lambda keywords: repr(keywords)[:60])
async def test_keywords(keywords):
    await check(REPORT, keywords)


@pytest.mark.parametrize("args", PROGRAMS, ids=repr)
async def test_programs(args):
    await check(args, {})
