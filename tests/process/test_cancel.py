"""What goes wrong while a child is started or waited for: nothing is left behind, and nothing hangs.

The ordinary end of a child is in test_exit.py.
"""

import asyncio
import errno
import gc
import os
import resource
import signal
import sys
import threading
import time

import pytest

from support.children import DEVNULL, PIPE, Recorder, all_gone, has_children, lowest_fd, python, run, shell, start
from support.peers import noting, on_asyncio

pytestmark = pytest.mark.usefixtures("no_child_left")


def skip_on_asyncio(why):
    if on_asyncio():
        pytest.skip(why)


# --- cancelled ---


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("stdin", [PIPE, DEVNULL])
async def test_cancelled_while_it_starts(turns, stdin):
    """The start is cancelled in any turn. The child is killed and reaped before the caller goes on."""
    before = await lowest_fd()
    task = asyncio.create_task(asyncio.create_subprocess_exec("sleep", "100", stdin=stdin, stdout=PIPE, stderr=PIPE))
    for _ in range(turns):
        await asyncio.sleep(0)
    cancelled = task.cancel()
    try:
        process = await task
    except asyncio.CancelledError:
        assert cancelled
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
    else:
        assert not cancelled
        process.kill()
        await process.wait()
        await process.communicate()
    assert await lowest_fd() == before


async def test_told_of_a_cancelled_start():
    """The protocol is told of the whole life of the child, however short."""
    made = []

    task = asyncio.create_task(start(["cat"], noting(made, Recorder)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (protocol,) = made
    await protocol.lost
    assert protocol.calls[0] == "connection_made" and protocol.calls[-1] == "connection_lost"
    assert sorted(protocol.calls[1:-1]) == ["lost 0", "lost 1", "lost 2", "process_exited"]
    assert protocol.transport.get_returncode() == -signal.SIGKILL
    assert protocol.transport.is_closing()


async def test_cancelled_while_a_grandchild_has_the_pipes():
    """A grandchild that has the pipes may live on, and the loop does not wait for it."""
    skip_on_asyncio("waits for the grandchild, or leaves its pipes open meanwhile")
    reader, writer = os.pipe()
    before = await lowest_fd()
    # The grandchild has the child's three pipes as well. It reads this pipe until it is closed below.
    source = f"import os\nif os.fork() == 0: os.close({writer}); os.read({reader}, 1)\nelse: os.read(0, 1)"
    task = asyncio.create_task(start(python(source), pass_fds=[reader, writer]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await lowest_fd() == before
    os.close(writer)
    os.close(reader)


async def test_cancelled_twice():
    """After a second cancel the loop still reaps the child."""
    before = await lowest_fd()
    task = asyncio.create_task(start(["cat"]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await all_gone(before)


async def test_start_for_which_there_is_no_time():
    before = await lowest_fd()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.create_subprocess_exec("cat", stdin=PIPE), 0)
    await all_gone(before)


async def test_cancelled_communicate():
    """Cancelling communicate() does not touch the child, which is the caller's."""
    process = await asyncio.create_subprocess_exec("sleep", "100", stdin=PIPE, stdout=PIPE)
    task = asyncio.create_task(process.communicate(bytes(1 << 20)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert process.returncode is None
    process.kill()
    assert await process.wait() == -signal.SIGKILL


# --- protocols that fail ---


async def test_factory_that_raises():
    def factory():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await start(["/no/such/program"], factory)


async def test_connection_made_that_raises(loop_errors):
    error = ZeroDivisionError("why")

    class Raising(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise error

    transport, protocol = await start(["cat"], Raising)
    transport.get_pipe_transport(0).close()
    await protocol.lost
    transport.close()
    (context,) = loop_errors
    assert context["exception"] is error
    loop_errors.clear()


async def test_what_is_no_protocol():
    """The factory returns an object without connection_made. When the caller gets the error, the child is gone."""
    if on_asyncio() and sys.version_info < (3, 14):
        pytest.skip("hangs")
    before = await lowest_fd()

    class NoProtocol:
        def process_exited(self):
            pass

        def pipe_connection_lost(self, fd, exc):
            pass

    with pytest.raises(AttributeError, match="connection_made"):
        await start(["cat"], NoProtocol)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert await lowest_fd() == before


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("method", ["process_exited", "connection_lost"])
def test_exit_out_of_a_protocol(loop, method, error):
    def call(self, *args):
        getattr(Recorder, method)(self, *args)
        raise error("now")

    leaving = type("Leaving", (Recorder,), {method: call})
    task = loop.create_task(start(["cat"], leaving, stdout=DEVNULL, stderr=DEVNULL))
    transport, protocol = loop.run_until_complete(task)
    transport.get_pipe_transport(0).close()
    with pytest.raises(error, match="now"):
        loop.run_forever()
    loop.run_until_complete(protocol.lost)
    assert transport.get_returncode() == 0
    transport.close()


# --- where there is no pidfd ---


@pytest.fixture
def no_pidfd(monkeypatch):
    def pidfd_open(pid, flags=0):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)


async def test_without_pidfd(no_pidfd):
    skip_on_asyncio("decides once how it waits for children")
    codes = await asyncio.gather(*(run(shell('exit "$1"', str(code))) for code in range(10)))
    assert [code for code, _, _ in codes] == list(range(10))
    transport, protocol = await start(["cat"])
    transport.kill()
    assert await protocol.exited == -signal.SIGKILL
    await protocol.lost
    transport.close()


async def test_without_pidfd_and_reaped_by_somebody_else(no_pidfd, caplog):
    skip_on_asyncio("decides once how it waits for children")
    transport, protocol = await start(["cat"])
    pid = transport.get_pid()
    os.kill(pid, signal.SIGTERM)
    assert os.waitpid(pid, 0)[0] == pid
    assert await protocol.exited == 255
    await protocol.lost
    transport.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"child process pid {pid} exit status already read:  will report returncode 255"
    ]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_without_pidfd_on_a_loop_that_is_closed(no_pidfd, loop_factory, caplog):
    """There is no pidfd and the loop is closed. The thread that waits for the child reaps it."""
    loop = loop_factory()
    if type(loop).__module__.startswith("asyncio."):
        loop.close()
        pytest.skip("decides once how it waits for children")
    transport, protocol = loop.run_until_complete(start(["cat"]))
    loop.close()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("rloop-waitpid-")]
    transport.close()
    for thread in threads:
        thread.join()
    assert not has_children()
    # In debug mode, asyncio's log has the transport.
    caplog.clear()
    del transport, protocol
    gc.collect()


async def test_without_pidfd_or_thread(no_pidfd, monkeypatch, caplog):
    skip_on_asyncio("decides once how it waits for children")

    def fail(self):
        raise RuntimeError("can't start new thread")

    before = await lowest_fd()
    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        await start(["cat"])
    caplog.clear()
    assert not has_children()
    assert await lowest_fd() == before


async def test_poll_that_reports_a_running_child():
    """The loop goes on, and waits for the child as before."""
    skip_on_asyncio("has no such callback")
    transport, protocol = await start(["sleep", "60"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    loop = asyncio.get_running_loop()
    [pidfd] = loop._children
    loop._child_exited(pidfd, transport)
    assert transport.get_returncode() is None
    transport.kill()
    assert await protocol.exited == -signal.SIGKILL
    await protocol.lost
    transport.close()


async def test_too_many_open_files():
    """No file is left for some call of the start. Either that is an error and nothing is left behind, or the child
    runs.
    """
    skip_on_asyncio("loses the child if it is the last step")
    before = await lowest_fd()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcomes: list[object] = []
    for spare in range(14):
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + spare, limits[1]))
        try:
            outcomes.append((await run(["/bin/echo", "x"]))[:2])
        except OSError as error:
            outcomes.append(error.errno)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert await lowest_fd() == before
    failed = outcomes.count(errno.EMFILE)
    assert 0 < failed < len(outcomes)
    assert outcomes == [errno.EMFILE] * failed + [(0, b"x\n")] * (len(outcomes) - failed)


# --- the end of everything ---


def test_child_that_outlives_its_loop(child, loop_name):
    """A child outlives its loop. Nobody waits for it, and the only warning is that the transport was not closed."""
    if loop_name == "asyncio":
        pytest.skip("complains of a closed loop, by version")
    result = child(
        """
        import os, signal

        async def main():
            process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
            return process

        loop = new_event_loop()
        process = loop.run_until_complete(main())
        loop.close()
        print(process.pid, process.returncode)
        """
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split()[1:] == ["None"]
