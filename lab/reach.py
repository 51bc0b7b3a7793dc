"""The tests of rloop in surroundings that are strict, poor or closed: a part of the laboratory.

`python lab/reach.py [--seconds 600] [--mode pid-1 ...] [--folder tls ...] [tests/tls/test_end.py ...]`

A way, one of `WAYS`, holds for the whole test process and for the processes that it starts: settings of Python, a C
locale, a home that nobody can write to, a sandbox that refuses system calls, the place of process 1, few files. The
tests must pass all the same. Those that measure what a way changes by design are named in `modes_left_out.txt`, with
the reason; how files are run is in `modes.py`. Before its tests, each way is asked whether it really holds.

Of tests/project, only the files that run rloop are run. The others read the sources.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import builds
import modes

# Where `support` is.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from support import failing_calls  # noqa: E402

# The argument by which this program becomes a command in a way: `reach.py --inside WAY COMMAND...`.
INSIDE = "--inside"
FILES = 64
SANDBOXED = ("io_uring_setup", "io_uring_enter", "io_uring_register", "epoll_pwait2", "pidfd_open", "recvmmsg")
# As in a container: no process outside is seen, and the command is process 1. `--user` makes it work without root.
ALONE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")
# Files of tests/project that run rloop.
PROJECT = ("differences", "examples", "launcher", "launcher_children", "readme", "snippets")


@dataclass(frozen=True)
class Way:
    """`holds`: a program that ends without an error if the way holds, and only then. `variables`: of the environment.
    `enter`: what a process does to itself, before it becomes the command. `before`: the words before the command."""

    holds: str
    variables: Mapping[str, str] = field(default_factory=dict)
    enter: Callable[[], None] | None = None
    before: Sequence[str] = ()


def refuse_in_sandbox(error: str) -> None:
    for call in SANDBOXED:
        failing_calls.refuse(call, error)


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))


def refused(call: str, error: str) -> str:
    """A program that ends without an error if a system call is refused."""
    number = failing_calls.NUMBERS.get(call, -1)
    return (
        "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"assert libc.syscall({number}, -1, -1, -1, -1, 0, 0) == -1 and ctypes.get_errno() == errno.{error}"
    )


# Memory that the debugging allocators of Python give out is filled with this byte.
DEBUG_ALLOCATOR = """
import ctypes
allocate = ctypes.pythonapi.PyObject_Malloc
allocate.restype = ctypes.c_void_p
assert ctypes.string_at(allocate(ctypes.c_size_t(16)), 16) == b"\\xcd" * 16
"""
# In /proc nobody can create a file, root included.
NO_HOME = """
import os, tempfile
try:
    tempfile.TemporaryFile(dir=os.path.expanduser("~"))
except OSError:
    raise SystemExit(0)
raise SystemExit(1)
"""
WAYS = {
    "malloc-debug": Way(DEBUG_ALLOCATOR, {"PYTHONMALLOC": "debug"}),
    "dev": Way("import sys; assert sys.flags.dev_mode", {"PYTHONDEVMODE": "1"}),
    "warnings": Way("import sys; assert sys.warnoptions == ['error']", {"PYTHONWARNINGS": "error"}),
    "c-locale": Way(
        "import sys; assert sys.getfilesystemencoding() == 'ascii'",
        {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ),
    "no-home": Way(NO_HOME, {"HOME": "/proc", "XDG_CACHE_HOME": "/proc", "PYTHONDONTWRITEBYTECODE": "1"}),
    "sandbox-eperm": Way(refused("pidfd_open", "EPERM"), enter=lambda: refuse_in_sandbox("EPERM")),
    "sandbox-enosys": Way(refused("pidfd_open", "ENOSYS"), enter=lambda: refuse_in_sandbox("ENOSYS")),
    "linux-4.18": Way(refused("close_range", "ENOSYS"), enter=failing_calls.refuse_what_is_newer_than_linux_4_18),
    "pid-1": Way("import os; assert os.getpid() == 1", before=ALONE),
    "few-files": Way(
        f"import resource; assert resource.getrlimit(resource.RLIMIT_NOFILE) == ({FILES}, {FILES})", enter=limit_files
    ),
}


def environment(way: Way) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(builds.ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "RLOOP_TEST_LOOPS": "rloop", "PYTHONPATH": path, **way.variables}


def before(name: str) -> list[str]:
    """The words that put the command behind them into a way."""
    way = WAYS[name]
    return [*way.before, *([sys.executable, __file__, INSIDE, name] if way.enter else [])]


def why_not(name: str) -> str:
    """Why a way cannot be tried here; empty if it can."""
    way = WAYS[name]
    if way.before and not shutil.which(way.before[0]):
        return f"no {way.before[0]} here"
    command = [*before(name), sys.executable, "-c", way.holds]
    asked = subprocess.run(command, env=environment(way), capture_output=True, text=True, timeout=60)
    return f"it does not hold: {asked.stderr.strip()[-500:]}" if asked.returncode else ""


def run(name: str, path: str) -> tuple[int, list[str]]:
    """Run a file's tests in a way: how many have passed, and which have failed."""
    return modes.run(name, path, environment(WAYS[name]), before(name))


def main() -> None:
    folders = (*builds.FOLDERS, "project")
    options = modes.options_of("Run the tests in strict, poor and closed surroundings.", list(WAYS), folders)
    chosen = []
    for name in options.mode or WAYS:
        if why := why_not(name):
            print(f"{name}: skipped: {why}", flush=True)
        else:
            chosen.append(name)
    named = [f"tests/project/test_{name}.py" for name in PROJECT]
    files = options.tests or builds.test_files(options.folder or folders)
    files = [path for path in files if not path.startswith("tests/project/") or path in named]
    figures = modes.run_all(run, chosen, files, options.seconds, options.seed)
    told = {name: f"{tried} tried, {failed} failed" for name, (tried, failed) in figures.items()}
    for name, text in told.items():
        print(f"{name:<16} {text}")
    builds.finish(sum(tried for tried, _ in figures.values()), sum(failed for _, failed in figures.values()), **told)


if __name__ == "__main__":
    if sys.argv[1:2] == [INSIDE]:
        entry = WAYS[sys.argv[2]].enter
        assert entry
        entry()
        os.execvp(sys.argv[3], sys.argv[3:])
    main()
