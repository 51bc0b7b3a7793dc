"""Reading the figures that processes publish: `rloop.read_published`, `rloop.all_published`; and where their files are.

What a file has before its slots is here, and which process it belongs to. How the slots are written is in
`src/reactor/publishing.rs`. The layout is in docs/metrics.md. Nothing is published here: see `_publish.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from ._metrics import LENGTH, Metrics, from_figures

MAGIC = b"rloopfig"
VERSION = 1
# Magic, version, pid, start of the process; behind them, up to the first slot, what the process was started as.
_HEADER = struct.Struct("=8s3Q")
HEADER_SIZE = 512
_SLOT = struct.Struct(f"={8 + 2 * LENGTH}Q")

# How often a slot is read that is being written at the moment. A write takes some microseconds.
_TRIES = 1000


@dataclasses.dataclass(frozen=True)
class PublishedLoop:
    """The figures of one loop of another process.

    `number`: the number of the loop in that process; the first is 1. `metrics`: its figures since it was made.
    `before`: its figures of one to two seconds earlier, or zeroes if the loop is younger. `span`: the time between the
    two, in seconds. `turn_lasts`: for how long the present turn had lasted, in seconds; 0 between two turns. `stalls`:
    how many stalls `rloop.watch` has found, or None if nobody watches. `thread`: the kernel's number of the loop's
    thread; 0 if it has not run, or where the system does not tell.
    """

    number: int
    metrics: Metrics
    before: Metrics
    span: float
    turn_lasts: float
    stalls: int | None
    thread: int


@dataclasses.dataclass(frozen=True)
class Published:
    """What a process publishes.

    `pid`: its process id. `command`: what it was started as, cut to some hundred bytes. `path`: the file. `age`: how
    old the figures are, in seconds; it grows while the process is stopped. `loops`: the open loops, by their numbers.
    """

    pid: int
    command: str
    path: pathlib.Path
    age: float
    loops: dict[int, PublishedLoop]


# -------------------------------------------------------------------------------------------- processes


def start_of(pid: int) -> int | None:
    """When a process has started, as a number that no later process of the same id has. None if it does not run."""
    if sys.platform == "linux":
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
        except OSError:
            return None
        # proc(5): the state is the third field, and the start the twenty-second, in ticks since the system's start.
        return None if fields[0] in "ZX" else int(fields[19])
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.split()
    return int(time.mktime(time.strptime(" ".join(told)))) if told else None


def _namespace() -> int:
    """A number that tells apart processes of the same id: that of the namespace of process ids; 0 if there is one."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


# ------------------------------------------------------------------------------------------------ files


def folder() -> pathlib.Path:
    """Where this user's processes publish: in `$XDG_RUNTIME_DIR` if that is the user's, otherwise where files are
    temporary.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    with contextlib.suppress(OSError):
        if os.path.isabs(runtime) and os.stat(runtime).st_uid == os.geteuid():
            return pathlib.Path(runtime, "rloop")
    return pathlib.Path(tempfile.gettempdir(), f"rloop-{os.geteuid()}")


def path_of(pid: int) -> pathlib.Path:
    """The file of a process that publishes without a path of its own."""
    return folder() / f"{pid}-{_namespace()}"


def open_folder(path: pathlib.Path, *, shared: bool) -> int:
    """Open a folder. `shared`: it may be one like /tmp, in which each user has files of their own.

    Raises PermissionError if somebody else could put a file there in place of ours: if it is a symlink, if it is not
    this user's, or if others may write to it. Raises OSError if it cannot be opened.
    """
    if path.is_symlink() and not shared:
        raise PermissionError(f"{path} is a symlink, so rloop does not publish there")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if shared else os.O_NOFOLLOW))
    status = os.fstat(fd)
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not (shared and status.st_mode & stat.S_ISVTX)
    foreign = status.st_uid != os.geteuid() and not (shared and status.st_uid == 0)
    if foreign or others_write:
        os.close(fd)
        why = "belongs to another user" if foreign else "can be written by other users"
        raise PermissionError(f"{path} {why}, so rloop does not publish there")
    return fd


def header(command: str) -> bytes:
    """What a file of this process has before its slots."""
    start = start_of(os.getpid()) or 0
    text = command.encode(errors="backslashreplace")[: HEADER_SIZE - _HEADER.size]
    return (_HEADER.pack(MAGIC, VERSION, os.getpid(), start) + text).ljust(HEADER_SIZE, b"\0")


def _open(path: str | pathlib.Path, dir_fd: int | None = None) -> int:
    """Open a file to read it. Raises PermissionError if it is not this user's, or no file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.close(fd)
        raise PermissionError(f"{path} is not a file of this user")
    return fd


def pid_of(fd: int, path: pathlib.Path) -> tuple[int, bool, str]:
    """The process that a file belongs to, whether it still runs, and its command.

    Raises ValueError if it is no such file, or one of another version.
    """
    data = os.pread(fd, HEADER_SIZE, 0)
    if len(data) < HEADER_SIZE or not data.startswith(MAGIC):
        raise ValueError(f"{path} has no figures of rloop")
    _, version, pid, start = _HEADER.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"{path} has layout {version} of the figures; this version of rloop reads {VERSION}")
    command = data[_HEADER.size :].rstrip(b"\0").decode(errors="replace")
    return pid, start_of(pid) == start, command


def _read_slot(fd: int, at: int) -> tuple[int, ...] | None:
    """The words of a slot. None behind the last one, and if its writer was stopped in the middle of it."""
    for _ in range(_TRIES):
        data = os.pread(fd, _SLOT.size, at)
        # A slot that was not written to its end yet is the last one.
        words = _SLOT.unpack(data.ljust(_SLOT.size, b"\0"))
        if not data or (words[0] % 2 == 0 and os.pread(fd, 8, at) == data[:8]):
            return words if data else None
        time.sleep(0)
    return None


def _loop(words: tuple[int, ...]) -> PublishedLoop:
    _, number, at, turn_lasts, watchers, stalls, thread, before = words[:8]
    return PublishedLoop(
        number,
        from_figures(words[8 : 8 + LENGTH]),
        from_figures(words[8 + LENGTH :]),
        (at - before) / 1e9,
        turn_lasts / 1e9,
        stalls if watchers else None,
        thread,
    )


def _read(fd: int, path: pathlib.Path) -> Published | None:
    """What a file says; None if its process does not run any more."""
    pid, lives, command = pid_of(fd, path)
    if not lives:
        return None
    size = os.fstat(fd).st_size
    slots = [_read_slot(fd, at) for at in range(HEADER_SIZE, size, _SLOT.size)]
    used = [words for words in slots if words is not None and words[1]]
    age = (time.monotonic_ns() - max(words[2] for words in used)) / 1e9 if used else 0.0
    return Published(pid, command, path, max(0.0, age), {words[1]: _loop(words) for words in used})


def read_published(which: int | str | os.PathLike[str]) -> Published:
    """Read the figures that a process publishes (`RLOOP_PUBLISH=1` or `rloop.publish()`), without its help.

    `which`: a process id, or the path that the process has given to `publish()`.

    Raises ProcessLookupError if the process publishes nothing, or has ended; PermissionError if a folder or file is not
    this user's; ValueError if the file is none of rloop's, or has the layout of another version.
    """
    path = path_of(which) if isinstance(which, int) else pathlib.Path(which)
    nothing = f"process {which} publishes no figures" if isinstance(which, int) else f"nothing is published in {path}"
    try:
        with _folder_of(path, shared=not isinstance(which, int)) as dir_fd:
            fd = _open(path.name, dir_fd)
    except FileNotFoundError:
        raise ProcessLookupError(nothing) from None
    try:
        found = _read(fd, path)
    finally:
        os.close(fd)
    if found is None:
        raise ProcessLookupError(f"{nothing}: it has ended" if isinstance(which, int) else f"{nothing} any more")
    return found


def all_published() -> list[Published]:
    """What every process of this user publishes, by process id. Files of processes that have ended are removed.

    Raises PermissionError if the folder is not this user's, or can be written by others. Files that cannot be read are
    left out.
    """
    found = []
    try:
        with _folder_of(path_of(0), shared=False) as dir_fd:
            for name, fd in files_in(dir_fd):
                with contextlib.suppress(OSError, ValueError):
                    found.append(_read(fd, folder() / name))
    except FileNotFoundError:
        return []
    return sorted(filter(None, found), key=lambda each: each.pid)


@contextlib.contextmanager
def _folder_of(path: pathlib.Path, *, shared: bool) -> Iterator[int]:
    fd = open_folder(path.parent, shared=shared)
    try:
        yield fd
    finally:
        os.close(fd)


def files_in(dir_fd: int) -> Iterator[tuple[str, int]]:
    """The files of live processes in a folder, with an fd that is open for as long as the caller looks at it.

    Those of dead processes are removed. Those of other namespaces of process ids are left alone.
    """
    suffix = f"-{_namespace()}"
    for name in os.listdir(dir_fd):
        # A file whose header is not written yet begins with a dot: see `_publish.py`.
        if not (name.endswith(suffix) and name.lstrip(".").removesuffix(suffix).isdecimal()):
            continue
        try:
            fd = _open(name, dir_fd)
        except OSError:
            continue
        try:
            try:
                _, lives, _ = pid_of(fd, pathlib.Path(name))
            except ValueError:
                continue
            if lives and not name.startswith("."):
                yield name, fd
            elif not lives:
                _remove(name, fd, dir_fd)
        finally:
            os.close(fd)


def _remove(name: str, fd: int, dir_fd: int) -> None:
    """Remove a file, unless another one has taken its place."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=dir_fd, follow_symlinks=False)):
            os.unlink(name, dir_fd=dir_fd)


Published.__module__ = PublishedLoop.__module__ = "rloop"
read_published.__module__ = all_published.__module__ = "rloop"
