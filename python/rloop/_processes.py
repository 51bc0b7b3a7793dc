"""Subprocesses.

They are started by `subprocess.Popen` (vfork). Their pipes are native transports. For their exit the loop watches a
pidfd, so that there is no SIGCHLD handler and no child watcher, and every thread's loop can start processes.

The process transport is the running version's own, asyncio's, completed where some version of it leaves a process, an
fd or a waiting caller behind. What may be a pipe is in `_pipes.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import sys
import threading
from asyncio import unix_events
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

from ._pipes import PipeMethods

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

# Tells a transport that its process has exited: since 3.14 at once, before that a turn or two later.
_tell_exit: Callable[[Any, int, int, Any], None] = unix_events._UnixSelectorEventLoop._child_watcher_callback  # type: ignore[attr-defined]


class SubprocessTransport(unix_events._UnixSubprocessTransport):  # type: ignore[name-defined, misc]
    """A child process and its protocol."""

    if TYPE_CHECKING:
        _loop: ProcessMethods | None
        _proc: subprocess.Popen[bytes]
        _closed: bool
        _pipes: dict[int, Any]
        _pending_calls: Any
        _exit_waiters: Any
        _protocol: Any

    def __init__(self, loop: ProcessMethods, *args: Any, **kwargs: Any) -> None:
        self._pipesize = kwargs.get("pipesize", -1)
        super().__init__(loop, *args, **kwargs)

    def close(self) -> None:
        """Close the pipes and kill the process if it still runs."""
        if self._loop is not None and self._loop.is_closed():
            # Closing the pipes would schedule callbacks, which is not possible any more (gh-114177). So only the
            # process is killed.
            pipes, self._pipes = self._pipes, {}
            super().close()
            self._pipes = pipes
        else:
            super().close()

    async def _connect_pipes(self, waiter: asyncio.Future[None] | None) -> None:
        await super()._connect_pipes(waiter)
        # `_pending_calls` is None once all pipes are connected.
        if self._pending_calls is not None or self._closed:
            # Connecting has failed, or the transport was closed meanwhile. Nobody uses the pipes, whoever else has
            # their other ends.
            for fd, file in enumerate((self._proc.stdin, self._proc.stdout, self._proc.stderr)):
                if self._pipes.get(fd) is not None:
                    self._pipes[fd].pipe.close()
                elif file is not None:
                    file.close()
        elif self._pipes and self._pipesize <= 0:
            # The program has not set the size of the pipes.
            for protocol in self._pipes.values():
                protocol.pipe._let_grow()

    def _process_exited(self, returncode: int) -> None:
        try:
            super()._process_exited(returncode)
        finally:
            # Before 3.14 `wait()` returns only when all pipes are closed. A process that has inherited one can put that
            # off (gh-119710), and it never happens if the pipes were not connected. So those who wait are told here.
            waiters = self._exit_waiters
            if waiters:
                self._exit_waiters = type(waiters)()
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(returncode)


class ProcessMethods(PipeMethods):
    """The part of `Loop` with the hook of `subprocess_exec` and `subprocess_shell`."""

    def __init__(self) -> None:
        super().__init__()
        # The pidfd of each child that the loop waits for, with the child's transport.
        self._children: dict[int, SubprocessTransport] = {}
        # The pid of each child that a thread waits for, with the child's transport.
        self._children_of_threads: dict[int, SubprocessTransport] = {}

    async def _make_subprocess_transport(
        self,
        protocol: asyncio.BaseProtocol,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SubprocessTransport:
        waiter = self.create_future()
        transport = SubprocessTransport(
            self, protocol, args, shell, stdin, stdout, stderr, bufsize, waiter=waiter, extra=extra, **kwargs
        )
        try:
            self._watch_child(transport)
        except BaseException:
            waiter.cancel()
            transport.close()
            transport._proc.wait()
            raise
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            raise
        return transport

    def _watch_child(self, transport: SubprocessTransport) -> None:
        pid = transport._proc.pid
        try:
            self._watch_pidfd(os.pidfd_open(pid), transport)
        except (AttributeError, OSError):
            # This is not Linux, or a sandbox forbids it, or there are too many open files.
            name = f"rloop-waitpid-{pid}"
            threading.Thread(target=self._wait_in_thread, args=(pid, transport), name=name, daemon=True).start()
            self._children_of_threads[pid] = transport

    def _watch_pidfd(self, pidfd: int, transport: SubprocessTransport) -> None:
        try:
            self.add_reader(pidfd, self._child_exited, pidfd, transport)
        except BaseException:
            os.close(pidfd)
            raise
        self._children[pidfd] = transport

    def _child_exited(self, pidfd: int, transport: SubprocessTransport) -> None:
        with contextlib.suppress(OSError):  # is raised again below
            # A poll may wake up without a reason. To take the status of a child that still runs would block the loop.
            if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                return
        self.remove_reader(pidfd)
        del self._children[pidfd]
        try:
            self._reap(transport, os.P_PIDFD, pidfd)
        finally:
            os.close(pidfd)

    def _wait_in_thread(self, pid: int, transport: SubprocessTransport) -> None:
        # WNOWAIT leaves the status for the loop's thread. Until it has taken it, the pid cannot be used again.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        try:
            self.call_soon_threadsafe(self._reap, transport, os.P_PID, pid)
        except RuntimeError:  # the loop is closed
            transport._proc.poll()

    def _reap(self, transport: SubprocessTransport, kind: int, number: int) -> None:
        """Take the status of a child that has exited, and tell its transport."""
        proc = transport._proc
        self._children_of_threads.pop(proc.pid, None)
        try:
            returncode = _take_status(kind, number, proc.pid)
        except ChildProcessError:
            # Somebody has reaped it already: its Popen object, which looks before it sends a signal, or other code.
            if proc.returncode is not None:
                returncode = proc.returncode
            else:
                returncode = 255
                logger.warning("child process pid %d exit status already read:  will report returncode 255", proc.pid)
        # From here on the pid may belong to another process. With a returncode, Popen sends no signals to it.
        proc.returncode = returncode
        _tell_exit(self, proc.pid, returncode, transport)

    def _forget_children(self) -> None:
        """Called when the loop is closed. Children that still run are reaped by a daemon thread."""
        running: dict[int, subprocess.Popen[bytes]] = {}
        # Their threads reap these.
        self._children_of_threads.clear()
        while self._children:
            pidfd, transport = self._children.popitem()
            self.remove_reader(pidfd)
            if transport._proc.poll() is None and not sys.is_finalizing():
                running[pidfd] = transport._proc
            else:
                os.close(pidfd)
        if running:
            try:
                threading.Thread(target=_reap_all, args=(running,), name="rloop-reaper", daemon=True).start()
            except RuntimeError:
                # There can be no more threads. The subprocess module reaps the children when it starts another one.
                for pidfd in running:
                    os.close(pidfd)


def _take_status(kind: int, number: int, pid: int) -> int:
    """Reap a child that has exited; return its exit code as `subprocess` counts them."""
    try:
        status: Any = os.waitid(kind, number, os.WEXITED)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        # Linux 5.3 has pidfds, but cannot wait for them.
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return int(status.si_status if status.si_code == os.CLD_EXITED else -status.si_status)


def _reap_all(children: dict[int, subprocess.Popen[bytes]]) -> None:
    """Reap children, by their pidfds, as they exit."""
    poll = select.poll()
    for pidfd in children:
        poll.register(pidfd, select.POLLIN)
    while children:
        for pidfd, _ in poll.poll():
            poll.unregister(pidfd)
            children.pop(pidfd).poll()
            os.close(pidfd)
