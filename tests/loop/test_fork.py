"""Forks: the child has no running loop, can make a new one, and never disturbs the loop of its parent."""

import asyncio
import contextlib
import contextvars
import gc
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from typing import Any

import pytest

from support import certificates
from support.datagrams import Datagrams, endpoint, receive, udp_socket
from support.peers import HOST, socket_pair
from support.turns import turn

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Recorder(asyncio.Protocol):
    def __init__(self):
        self.data = b""
        self.lost = []

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data

    def connection_lost(self, exc):
        self.lost.append(exc)


def in_child(function, *args):
    """Runs `function(*args)` in a fork of this process, and returns once it has ended well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
            warnings.simplefilter("ignore")
            function(*args)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def check_new_loop(loop_factory):
    """Checks in this process that a new loop works in every way."""

    async def main():
        left, right = socket.socketpair()
        right.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=left)
        asyncio.get_running_loop().call_later(0.001, right.send, b"x")
        assert await reader.readexactly(1) == b"x"
        assert await asyncio.to_thread(int, "7") == 7
        handled = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, handled.set)
        threading.Timer(0.001, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        await handled.wait()
        writer.close()
        right.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def check_no_running_loop():
    assert asyncio._get_running_loop() is None
    with pytest.raises(RuntimeError, match="^no running event loop$"):
        asyncio.get_running_loop()


def test_no_running_loop_in_the_child(loop):
    loop.call_soon(in_child, check_no_running_loop)
    turn(loop)
    assert not loop.is_running()


@pytest.mark.parametrize("running", [True, False])
def test_new_loop_in_the_child(loop, loop_factory, running):
    if running:
        loop.call_soon(in_child, check_new_loop, loop_factory)
        turn(loop)
    else:
        turn(loop)
        in_child(check_new_loop, loop_factory)
    check_new_loop(loop_factory)


def test_multiprocessing(loop, loop_factory):
    turn(loop)
    process = multiprocessing.get_context("fork").Process(target=check_new_loop, args=(loop_factory,))
    process.start()
    process.join()
    assert process.exitcode == 0
    process.close()


def test_of_another_thread_while_the_loop_waits(loop, loop_factory):
    """Another thread forks while the loop waits. The child has only the thread that forked."""

    def fork():
        try:
            in_child(check_new_loop, loop_factory)
        finally:
            loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=fork)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


# --- the parent's loop ---


@contextlib.contextmanager
def watching(loop):
    """The loop watches a reader, a transport and another thread. After the block the test checks that it still does."""
    left, right = socket.socketpair()
    transport_end, peer = socket.socketpair()
    for sock in (left, right, transport_end, peer):
        sock.setblocking(False)
    got = []
    loop.add_reader(left, lambda: got.append(left.recv(10)))

    async def connect():
        return await loop.create_connection(Recorder, sock=transport_end)

    transport, protocol = loop.run_until_complete(connect())
    try:
        yield protocol
        right.send(b"x")
        peer.send(b"y")

        async def arrives():
            while not (got and protocol.data):
                await asyncio.sleep(0.001)

        loop.run_until_complete(asyncio.wait_for(arrives(), 10))
        assert (got, protocol.data) == ([b"x"], b"y")
        thread = threading.Timer(0.01, loop.call_soon_threadsafe, (loop.stop,))
        thread.start()
        loop.run_forever()
        thread.join()
    finally:
        loop.remove_reader(left)
        transport.close()
        turn(loop)
        turn(loop)
        for sock in (left, right, peer):
            sock.close()


@pytest.fixture
def rloop_only(loop_name):
    if loop_name == "asyncio":
        pytest.skip("on asyncio the child ends registrations of its parent's, and takes what is meant for it")


@pytest.fixture
def resets_wake_up_fd(loop_name):
    if loop_name == "asyncio" and sys.version_info < (3, 12):
        pytest.skip("until Python 3.11 a child's signals reach its parent")


@pytest.mark.usefixtures("rloop_only")
def test_close_in_the_child(loop):
    with watching(loop):
        in_child(loop.close)


@pytest.mark.usefixtures("rloop_only")
def test_drop_in_the_child(loop_factory):
    loops = [loop_factory()]

    def drop():
        loops.clear()
        gc.collect()

    with watching(loops[0]):
        in_child(drop)
    loops.pop().close()


@pytest.mark.usefixtures("resets_wake_up_fd")
def test_remove_signal_handler_in_the_child(loop):
    got = []
    loop.add_signal_handler(signal.SIGUSR1, got.append, 1)

    def use_and_remove():
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.remove_signal_handler(signal.SIGUSR1)

    turn(loop)
    in_child(use_and_remove)
    turn(loop)
    turn(loop)
    assert got == []
    signal.raise_signal(signal.SIGUSR1)
    turn(loop)
    turn(loop)
    turn(loop)
    assert got == [1]


@pytest.mark.usefixtures("resets_wake_up_fd")
def test_signal_of_a_child_of_the_running_loop(loop):
    """Neither what the child's handlers do nor the wake-up fd reaches the parent."""
    got = []
    loop.add_signal_handler(signal.SIGUSR1, got.append, "parent")

    def child():
        arrived = []
        signal.signal(signal.SIGUSR2, lambda *args: arrived.append(args[0]))
        for _ in range(10):
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR2)
        assert set(arrived) == {signal.SIGUSR2}

    def fork():
        in_child(child)
        loop.call_later(0.05, loop.stop)

    loop.call_soon(fork)
    loop.run_forever()
    assert got == []


@pytest.mark.usefixtures("rloop_only")
def test_registrations_ended_in_the_child(loop):
    with watching(loop) as protocol:

        def end():
            protocol.transport.abort()
            turn(loop)
            turn(loop)
            assert protocol.lost == [None]

        in_child(end)


@pytest.mark.usefixtures("rloop_only")
def test_child_goes_on_with_the_loop(loop):
    """A loop that was made before the fork works in the child as in the parent."""
    with watching(loop):

        def go_on():
            left, right = socket.socketpair()
            got = []
            loop.add_reader(left, lambda: (got.append(left.recv(1)), loop.stop()))
            loop.call_later(0.001, right.send, b"z")
            loop.run_forever()
            assert got == [b"z"]
            loop.add_signal_handler(signal.SIGUSR1, loop.stop)
            threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            loop.run_forever()
            assert loop.run_until_complete(asyncio.wait_for(loop.run_in_executor(None, int), 10)) == 0
            loop.close()

        in_child(go_on)


@pytest.mark.usefixtures("rloop_only")
def test_child_leaves_the_running_loop(child):
    """sys.exit() in a child runs what `asyncio.run` does at the end; the parent misses nothing, and what was written
    before the fork is sent once."""
    result = child(
        """
        import os, socket, sys

        class Echo(asyncio.Protocol):
            data = b""
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                self.data += data

        async def main():
            loop = asyncio.get_running_loop()
            left, right = socket.socketpair()
            left.setblocking(False), right.setblocking(False)
            transport, protocol = await loop.create_connection(Echo, sock=left)
            forked = loop.create_future()
            def fork():
                transport.write(b"once")
                pid = os.fork()
                if pid == 0:
                    sys.exit(5)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
                forked.set_result(None)
            loop.call_soon(fork)
            await forked
            await asyncio.sleep(0)
            assert right.recv(100) == b"once"
            right.send(b"answer")
            await asyncio.sleep(0.05)
            assert protocol.data == b"answer", protocol.data
            transport.close()
            right.close()

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
        """,
        "-Wignore",
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.usefixtures("rloop_only")
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="counts the times that a thread was woken")
def test_child_does_not_wake_its_parent(loop):
    """call_soon_threadsafe in the child does not wake the parent, which waits meanwhile."""

    def switches():
        with open(f"/proc/self/task/{threading.main_thread().native_id}/status") as file:
            return int(next(line for line in file if line.startswith("voluntary")).split()[1])

    woken = []

    def fork():
        try:
            time.sleep(0.05)
            before = switches()
            in_child(lambda: [loop.call_soon_threadsafe(int) for _ in range(100)])
            woken.append(switches() - before)
        finally:
            loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=fork)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert woken == [0]


if sys.version_info < (3, 12):
    # asyncio's own hook does so since then.
    def test_wake_up_fd_of_others_is_left_alone_in_the_child(loop):
        left, right = socket.socketpair()
        right.setblocking(False)
        signal.set_wakeup_fd(right.fileno())
        try:
            in_child(check_wake_up_fd, right.fileno())
        finally:
            signal.set_wakeup_fd(-1)
            left.close()
            right.close()


def check_wake_up_fd(fd):
    assert signal.set_wakeup_fd(-1) == fd


# --- a fork in the middle of a protocol's method ---


def fork(in_context=None):
    pid = os.fork() if in_context is None else in_context.run(os.fork)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


PLENTY = bytes(range(256)) * (1 << 15)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in the transport's context", "in a copy of it"])
@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
async def test_fork_behind_a_large_write_in_data_received(kind, elsewhere):
    """All that was written arrives: what the kernel does not take at once follows, and the writer is resumed."""
    variable = contextvars.ContextVar("variable")

    class Forking(Recorder):
        flow = []

        def data_received(self, data):
            variable.set("set")
            self.transport.write(PLENTY)
            fork(contextvars.copy_context() if elsewhere else None)

        def pause_writing(self):
            self.flow.append(("pause", variable.get(None)))

        def resume_writing(self):
            self.flow.append(("resume", variable.get(None)))

    server_side: dict[str, Any] = {}
    client_side: dict[str, Any] = {}
    if kind == "tls":
        server_side = {"ssl": certificates.server_context()}
        client_side = {"ssl": certificates.client_context(), "server_hostname": certificates.HOSTNAME}
    near, far = socket.socketpair() if kind == "unix" else socket_pair()
    loop = asyncio.get_running_loop()
    accepting = asyncio.create_task(loop.connect_accepted_socket(Forking, near, **server_side))
    reader, writer = await asyncio.open_connection(sock=far, **client_side)
    transport, protocol = await accepting
    writer.write(b"x")
    assert await reader.readexactly(len(PLENTY)) == PLENTY
    if kind != "tls":
        assert protocol.flow == [("pause", "set"), ("resume", "set")]
    transport.abort()
    writer.transport.abort()
    while not protocol.lost:
        await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_fork_behind_a_refused_datagram():
    """The error is told, and the endpoint sends on."""

    class Forking(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            self.transport.sendto(b"refused", (HOST, 0))
            fork()
            self.transport.sendto(b"answer", addr)

    async with endpoint(Forking, local_addr=(HOST, 0)) as (transport, protocol):
        with udp_socket() as far:
            far.sendto(b"question", transport.get_extra_info("sockname"))
            assert [data for data, _ in await receive(far)] == [b"answer"]
        assert [type(error) for error in protocol.errors] == [OSError]
