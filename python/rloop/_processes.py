"""Subprocesses: started by `subprocess.Popen` (vfork), talked to through the native pipe transports, and waited for by
a pidfd that the loop watches. No SIGCHLD handler, no child watcher of asyncio's, and so no rule about threads.

The transport is asyncio's own for the running version, completed where some version of it leaves a process, an fd or a
waiting caller behind.
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

# Tells a transport of the exit of its process: at once since 3.14, a turn or two later before.
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
            # Nothing can be scheduled any more (gh-114177); the process is killed all the same.
            pipes, self._pipes = self._pipes, {}
            super().close()
            self._pipes = pipes
        else:
            super().close()

    async def _connect_pipes(self, waiter: asyncio.Future[None] | None) -> None:
        await super()._connect_pipes(waiter)
        # What was to be called once all pipes are there waits still.
        if self._pending_calls is not None or self._closed:
            # Nobody gets the transport, or it has been closed meanwhile: whoever else has the pipes' other ends.
            for fd, file in enumerate((self._proc.stdin, self._proc.stdout, self._proc.stderr)):
                if self._pipes.get(fd) is not None:
                    self._pipes[fd].pipe.close()
                elif file is not None:
                    file.close()
        elif self._pipes and self._pipesize <= 0:
            # The program has not said how much they are to hold.
            for protocol in self._pipes.values():
                protocol.pipe._let_grow()

    def _process_exited(self, returncode: int) -> None:
        try:
            super()._process_exited(returncode)
        finally:
            # Before 3.14 `wait()` returns once all pipes are closed, which whoever has inherited one can put off
            # (gh-119710), and never if the pipes were not connected.
            waiters = self._exit_waiters
            if waiters:
                self._exit_waiters = type(waiters)()
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(returncode)


class ProcessMethods(PipeMethods):
    """A part of `Loop`."""

    # The pidfd of each child that is waited for, and the child's transport.
    _children: dict[int, SubprocessTransport]

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
            # Not Linux, a sandbox, or too many open files.
            name = f"rloop-waitpid-{pid}"
            threading.Thread(target=self._wait_in_thread, args=(pid, transport), name=name, daemon=True).start()

    def _watch_pidfd(self, pidfd: int, transport: SubprocessTransport) -> None:
        try:
            self.add_reader(pidfd, self._child_exited, pidfd, transport)
        except BaseException:
            os.close(pidfd)
            raise
        self._children[pidfd] = transport

    def _child_exited(self, pidfd: int, transport: SubprocessTransport) -> None:
        self.remove_reader(pidfd)
        del self._children[pidfd]
        try:
            self._reap(transport, os.P_PIDFD, pidfd)
        finally:
            os.close(pidfd)

    def _wait_in_thread(self, pid: int, transport: SubprocessTransport) -> None:
        # The status is left for the loop's thread: until it has it, nobody else can get this pid.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        try:
            self.call_soon_threadsafe(self._reap, transport, os.P_PID, pid)
        except RuntimeError:  # the loop is closed
            transport._proc.poll()

    def _reap(self, transport: SubprocessTransport, kind: int, number: int) -> None:
        """Take the status of a child that has exited, and tell its transport."""
        proc = transport._proc
        try:
            returncode = _take_status(kind, number, proc.pid)
        except ChildProcessError:
            # Reaped already: by its Popen object, which looks before it sends a signal, or by somebody else.
            if proc.returncode is not None:
                returncode = proc.returncode
            else:
                returncode = 255
                logger.warning("child process pid %d exit status already read:  will report returncode 255", proc.pid)
        # From here on the pid may be another process's: nobody may send a signal to it.
        proc.returncode = returncode
        _tell_exit(self, proc.pid, returncode, transport)

    def _forget_children(self) -> None:
        """For the end of the loop. Those that still run are reaped by a thread, which nobody waits for."""
        running: dict[int, subprocess.Popen[bytes]] = {}
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
                # No more threads: the subprocess module reaps them when it starts the next child.
                for pidfd in running:
                    os.close(pidfd)


def _take_status(kind: int, number: int, pid: int) -> int:
    """Reap a child that has exited; return its exit code as `subprocess` counts them."""
    try:
        status: Any = os.waitid(kind, number, os.WEXITED)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        # Linux 5.3 has pidfds, and no waiting for them.
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
