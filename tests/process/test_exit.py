"""The end of a child: its return code, who is told in which order, signals, and who else may reap it.

Cancellation and what goes wrong on the way are in test_cancel.py.
"""

import asyncio
import gc
import os
import re
import signal
import sys
import threading
import time
import warnings

import pytest

from support.children import DEVNULL, PIPE, Recorder, is_alive, python, run, shell, start
from support.peers import on_asyncio

pytestmark = pytest.mark.usefixtures("no_child_left")

NO_PIPES = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}


# --- return codes ---


@pytest.mark.parametrize("code", [0, 1, 2, 127, 255])
async def test_exit_code(code):
    assert (await run(shell(f"exit {code}")))[0] == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1, signal.SIGRTMIN + 3])
async def test_killed_by_a_signal(number):
    assert (await run(shell(f"kill -{int(number)} $$")))[0] == -number


async def test_core_dump():
    assert (await run(shell("ulimit -c 0; kill -SEGV $$")))[0] == -signal.SIGSEGV


async def test_stopped_is_not_ended():
    transport, protocol = await start(shell("kill -STOP $$; exit 3"), **NO_PIPES)
    pid = transport.get_pid()
    while (await state(pid)) != "T":
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    assert transport.get_returncode() is None
    transport.send_signal(signal.SIGCONT)
    assert await protocol.exited == 3
    await protocol.lost
    transport.close()


async def state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


async def test_process():
    process = await asyncio.create_subprocess_exec(*shell("read x; exit 7"), stdin=PIPE)
    assert process.returncode is None
    assert is_alive(process.pid)
    process.stdin.write(b"\n")
    assert await process.wait() == 7
    assert process.returncode == 7
    assert await process.wait() == 7
    assert not is_alive(process.pid)


async def test_many_wait():
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
    waiting = [asyncio.create_task(process.wait()) for _ in range(10)]
    await asyncio.sleep(0)
    waiting[3].cancel()
    process.stdin.close()
    codes = await asyncio.gather(*waiting, return_exceptions=True)
    assert type(codes.pop(3)) is asyncio.CancelledError
    assert codes == [0] * 9


async def test_wait_for_a_time():
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(process.wait(), 0.02)
    assert process.returncode is None
    process.kill()
    assert await process.wait() == -signal.SIGKILL


# --- who is told in which order ---


async def test_order_with_pipes():
    transport, protocol = await start(shell("echo out; echo error >&2; exit 2"))
    await protocol.lost
    calls = protocol.calls
    assert calls[0] == "connection_made" and calls[-1] == "connection_lost"
    assert sorted(calls[1:-1]) == ["data 1", "data 2", "lost 0", "lost 1", "lost 2", "process_exited"]
    assert calls.index("data 1") < calls.index("lost 1")
    assert calls.index("data 2") < calls.index("lost 2")
    assert transport.get_returncode() == 2
    transport.close()


async def test_order_without_pipes():
    for _ in range(20):
        transport, protocol = await start(["/bin/true"], **NO_PIPES)
        assert protocol.calls[:1] == ["connection_made"]
        await protocol.lost
        assert protocol.calls == ["connection_made", "process_exited", "connection_lost"]
        transport.close()


async def test_order_of_a_child_that_outruns_its_start():
    """The child has ended before its pipes are connected."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(start(["/bin/echo", "x"]))
    await asyncio.sleep(0)
    time.sleep(0.1)
    transport, protocol = await task
    await protocol.lost
    assert protocol.calls[0] == "connection_made" and protocol.calls[-1] == "connection_lost"
    assert protocol.data[1] == b"x\n"
    transport.close()
    assert loop.is_running()


async def test_connection_made_comes_before_the_caller_goes_on():
    order = []

    class Ordered(Recorder):
        def connection_made(self, transport):
            assert transport.get_pid() and transport.get_pipe_transport(1) is not None
            order.append("connection_made")
            super().connection_made(transport)

    transport, protocol = await start(["cat"], Ordered)
    order.append("started")
    assert order == ["connection_made", "started"]
    transport.close()
    await protocol.lost


# --- transports ---


async def test_transport():
    transport, protocol = await start(["cat"])
    proc = transport.get_extra_info("subprocess")
    assert isinstance(transport, asyncio.SubprocessTransport)
    assert transport.get_protocol() is protocol
    assert transport.get_pid() == proc.pid
    assert transport.get_returncode() is None
    assert transport.is_closing() is False
    assert re.fullmatch(rf"<\w+ pid={proc.pid} running stdin=<.*> stdout=<.*> stderr=<.*>>", repr(transport))
    transport.get_pipe_transport(0).close()
    await protocol.lost  # type: ignore[attr-defined]
    transport.close()
    transport.close()
    assert transport.is_closing() is True
    assert re.fullmatch(rf"<\w+ closed pid={proc.pid} returncode=0 stdin=.*>", repr(transport))


async def test_close_kills():
    transport, protocol = await start(["cat"])
    transport.close()
    assert transport.is_closing()
    assert await protocol.exited == -signal.SIGKILL
    await protocol.lost
    assert protocol.calls[0] == "connection_made"
    assert sorted(protocol.calls[1:-1]) == ["lost 0", "lost 1", "lost 2", "process_exited"]
    assert protocol.calls[-1] == "connection_lost"


async def test_close_of_a_child_that_has_ended_unnoticed():
    """The return code is right, although close() looks at the child before the loop knows of its end."""
    transport, protocol = await start(shell("exit 9"), **NO_PIPES)
    time.sleep(0.1)
    transport.close()
    code = await protocol.exited
    # asyncio has lost the return code by then.
    assert code == 9 or on_asyncio() and code == 255
    await protocol.lost


@pytest.mark.parametrize("where", ["connection_made", "process_exited", "connection_lost"])
async def test_close_in_a_callback(where):
    class Closing(Recorder):
        pass

    def call(self, *args):
        getattr(Recorder, where)(self, *args)
        self.transport.close()

    setattr(Closing, where, call)
    transport, protocol = await start(shell("exec sleep 0.01"), Closing)
    await protocol.lost
    assert protocol.calls.count("connection_lost") == 1
    assert transport.is_closing()
    transport.close()


async def test_unclosed():
    transport, protocol = await start(["/bin/true"], **NO_PIPES)
    pid = transport.get_pid()
    await protocol.lost
    protocol.transport = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport, protocol
        while not caught:
            gc.collect()
            # A thread of asyncio may refer to it a little longer.
            await asyncio.sleep(0.001)
    assert [str(warning.message) for warning in caught if f"pid={pid}" in str(warning.message)]


# --- signals ---


@pytest.mark.parametrize(("method", "number"), [("kill", signal.SIGKILL), ("terminate", signal.SIGTERM)])
async def test_kill(method, number):
    transport, protocol = await start(["cat"])
    assert getattr(transport, method)() is None
    assert await protocol.exited == -number
    await protocol.lost
    transport.close()


async def test_send_signal():
    # The test waits for the signal instead of handling it, because a Python handler could run too late.
    block = "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})"
    source = f"import sys, signal; {block}; print('ready', flush=True); sys.exit(signal.sigwait({{signal.SIGUSR1}}))"
    process = await asyncio.create_subprocess_exec(*python(source), stdout=PIPE)
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    assert await process.wait() == signal.SIGUSR1


@pytest.mark.parametrize("method", ["kill", "terminate", "send_signal"])
async def test_signal_after_the_end(method):
    args = [signal.SIGUSR1] if method == "send_signal" else []
    process = await asyncio.create_subprocess_exec("/bin/true")
    await process.wait()
    await asyncio.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        getattr(process, method)(*args)


@pytest.mark.parametrize("method", ["kill", "terminate"])
async def test_signal_to_a_child_that_has_ended_unnoticed(method):
    """A signal to a child that has ended is no error, and the return code is right."""
    transport, protocol = await start(shell("exit 9"), **NO_PIPES)
    time.sleep(0.1)
    getattr(transport, method)()
    code = await protocol.exited
    assert code == 9 or on_asyncio() and code == 255
    await protocol.lost
    transport.close()


def test_sigchld_is_the_users(loop):
    """A handler that the user has for SIGCHLD is called, and stays."""
    called = []

    def handler(number, frame):
        called.append(number)

    async def main():
        code, _, _ = await run(["/bin/true"])
        return code

    previous = signal.signal(signal.SIGCHLD, handler)
    try:
        assert loop.run_until_complete(main()) == 0
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, previous)
    assert called


async def test_add_signal_handler_for_sigchld():
    loop = asyncio.get_running_loop()
    seen = asyncio.Event()
    loop.add_signal_handler(signal.SIGCHLD, seen.set)
    assert (await run(shell("exit 3")))[0] == 3
    await seen.wait()
    assert loop.remove_signal_handler(signal.SIGCHLD)
    assert (await run(shell("exit 4")))[0] == 4


def test_sigchld_that_is_ignored(loop):
    """If SIGCHLD is ignored, the kernel reaps children by itself, so that nobody can know the return code."""
    if type(loop).__module__.startswith("asyncio."):
        pytest.skip("a child that has gone already makes asyncio fail")
    previous = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        code, out, _ = loop.run_until_complete(run(["/bin/echo", "x"]))
    finally:
        signal.signal(signal.SIGCHLD, previous)
    assert (code, out) == (255, b"x\n")


# --- somebody else reaps ---


async def test_reaped_by_somebody_else(caplog):
    if on_asyncio() and sys.version_info < (3, 12):
        pytest.skip("a thread of asyncio's may be faster")
    reader, writer = os.pipe()
    transport, protocol = await start(shell("read x; exit 5"), **{**NO_PIPES, "stdin": reader})
    os.close(reader)
    os.close(writer)
    pid = transport.get_pid()
    assert os.waitpid(pid, 0)[0] == pid
    assert await protocol.exited == 255
    await protocol.lost
    assert protocol.calls == ["connection_made", "process_exited", "connection_lost"]
    transport.close()
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "asyncio")
    text = f"child process pid {pid} exit status already read:  will report returncode 255"
    assert record.getMessage() == text


async def test_reaped_by_its_popen_object(caplog):
    """The program reaps the child by the Popen object, which then knows the return code."""
    reader, writer = os.pipe()
    transport, protocol = await start(shell("read x; exit 5"), **{**NO_PIPES, "stdin": reader})
    os.close(reader)
    os.close(writer)
    code = transport.get_extra_info("subprocess").wait()
    told = await protocol.exited
    await protocol.lost
    if not on_asyncio():
        assert (code, told) == (5, 5)
        assert caplog.records == []
    transport.close()


# --- threads and ends of loops ---


def test_loop_in_another_thread(loop_factory):
    """A loop in another thread needs neither a signal handler nor a child watcher."""
    outcomes = []

    def work():
        loop = loop_factory()
        try:
            outcomes.append(loop.run_until_complete(run(shell("cat; exit 8"))))
        finally:
            loop.close()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [(8, b"", b"")] * 5


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_loop_that_is_closed_before(loop_factory, caplog):
    """The loop is closed before the child ends. The child goes on, and the loop leaves no file open."""
    loop = loop_factory()
    if type(loop).__module__.startswith("asyncio."):
        loop.close()
        pytest.skip("asyncio's watcher keeps an fd or a thread")
    transport, protocol = loop.run_until_complete(start(["cat"], **{**NO_PIPES, "stdin": PIPE}))
    proc = transport.get_extra_info("subprocess")
    loop.close()
    assert is_alive(proc.pid)
    transport.close()
    assert proc.wait() == -signal.SIGKILL
    assert not protocol.exited.done()
    # The thread that waits for the child has a file open, or the transport.
    for thread in threading.enumerate():
        if thread.name.startswith("rloop-"):
            thread.join(25)
            assert not thread.is_alive()
    # In debug mode, asyncio's log has the transport.
    caplog.clear()
    del transport, protocol
    gc.collect()
