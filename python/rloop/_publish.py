"""`rloop.publish`: the figures of every loop of this process in a file, for other processes to read at any time.

`_rloop.Publisher` writes the figures, in a thread without the GIL. This file decides where the file is and who may have
it, makes and removes it, and keeps it apart from that of a fork's parent. Reading is in `_published.py`. Nothing of
this file is used while nobody publishes.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import pathlib
import sys
import warnings

from . import _rloop
from ._published import HEADER_SIZE, files_in, header, open_folder, path_of, pid_of
from ._stacks import on_new_loop, open_loops

logger = logging.getLogger("rloop")

# What this process publishes. There is at most one.
_current: Publication | None = None
_hooks_are_set = False


class Publication:
    """What `publish()` returns. `path`: the file, which is there from the first loop of the process on."""

    def __init__(self, path: pathlib.Path, is_own: bool) -> None:
        self.path = path
        # The path is that of the caller, and not the usual one of this process.
        self._is_own = is_own
        self._fd = -1
        self._publisher: _rloop.Publisher | None = None
        os.close(self._folder())

    def _folder(self) -> int:
        """An fd of the folder, which is made if it is rloop's."""
        parent = self.path.parent
        if not self._is_own:
            with contextlib.suppress(FileExistsError):
                os.mkdir(parent, 0o700)
        return open_folder(parent, shared=self._is_own)

    def _begin(self) -> None:
        """Make the file, if it is not there yet. Raises OSError if that is not possible."""
        if self._publisher is not None:
            return
        folder = self._folder()
        try:
            if not self._is_own:
                for _ in files_in(folder):
                    # Looking at them removes those of dead processes.
                    pass
            self._make(folder)
        finally:
            os.close(folder)

    def _make(self, folder: int) -> None:
        _refuse_other_file(self.path, folder)
        # It gets its name when it is complete.
        new = f".{self.path.name}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(new, flags, 0o600, dir_fd=folder)
        publisher = None
        try:
            os.write(fd, header(" ".join(sys.orig_argv)))
            publisher = _rloop.Publisher(fd, HEADER_SIZE)
            os.rename(new, self.path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            if publisher is not None:
                publisher.stop()
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(new, dir_fd=folder)
            raise
        self._fd, self._publisher = fd, publisher

    def stop(self) -> None:
        """End it, and remove the file. More calls do nothing."""
        global _current
        if _current is self:
            _current = None
        publisher, self._publisher = self._publisher, None
        if publisher is None:
            return
        publisher.stop()
        with contextlib.suppress(OSError):
            # Not a file that somebody else has put there.
            if os.path.samestat(os.fstat(self._fd), os.stat(self.path, follow_symlinks=False)):
                os.unlink(self.path)
        os.close(self._fd)

    def _forget(self) -> None:
        """In the child of a fork, where the thread is not there, and the file is the parent's."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.forget()
            os.close(self._fd)


def _refuse_other_file(path: pathlib.Path, folder: int) -> None:
    """Raise FileExistsError if there is something at the path that is no file of figures."""
    try:
        fd = os.open(path.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FileExistsError(f"{path} exists, and cannot be read: {error.strerror}") from None
    try:
        pid_of(fd, path)
    except (ValueError, OSError):
        raise FileExistsError(f"{path} exists, and is no file of figures") from None
    finally:
        os.close(fd)


def publish(path: str | os.PathLike[str] | None = None) -> Publication:
    """Publish the figures of every loop of this process, those that are made later included, until `stop()` of the
    result is called, or the process ends.

    Other processes of the user read them with `read_published` and `python -m rloop top`, without the help of this one,
    and so also while a loop is blocked. `path`: the file; without it, a file of this process in a folder of the user's,
    where the others find it by the process id. The file is made with the first loop. There is one publication in a
    process: a call with another path ends the one before.

    Raises PermissionError if the folder is not this user's, or can be written by others; FileExistsError if there is
    another file at `path`; OSError if the file cannot be made.
    """
    global _current, _hooks_are_set
    is_own = path is not None
    wanted = path_of(os.getpid()) if path is None else pathlib.Path(os.path.abspath(path))
    if _current is not None and _current.path == wanted:
        return _current
    made = Publication(wanted, is_own)
    if open_loops():
        made._begin()
    if _current is not None:
        _current.stop()
    _current = made
    if not _hooks_are_set:
        _hooks_are_set = True
        on_new_loop.append(_begin_late)
        atexit.register(_stop)
        os.register_at_fork(after_in_child=_start_in_child)
    return made


def publish_by_environment() -> None:
    """Publish if the environment variable RLOOP_PUBLISH says so. Nothing and 0 say no."""
    text = os.environ.get("RLOOP_PUBLISH", "")
    if text not in ("0", "1"):
        warnings.warn(f"RLOOP_PUBLISH must be 0 or 1, not {text!r}", RuntimeWarning, stacklevel=2)
    elif text == "1":
        try:
            publish()
        except OSError as error:
            warnings.warn(f"RLOOP_PUBLISH: {error}", RuntimeWarning, stacklevel=2)


def _begin_late() -> None:
    """When a loop was made. A loop must not fail because its figures cannot be published."""
    publication = _current
    if publication is None:
        return
    try:
        publication._begin()
    except OSError as error:
        publication.stop()
        logger.warning("the figures of the loops are not published: %s", error)


def _stop() -> None:
    # Before the interpreter ends, since the thread looks at the loops.
    if _current is not None:
        _current.stop()


def _start_in_child() -> None:
    global _current
    publication, _current = _current, None
    if publication is None:
        return
    publication._forget()
    if not publication._is_own:
        try:
            # Its file is made with the child's first loop: many children run no loop, and do not live for long.
            _current = Publication(path_of(os.getpid()), False)
        except OSError as error:
            logger.warning("the figures of the loops are not published: %s", error)


Publication.__module__ = publish.__module__ = "rloop"
