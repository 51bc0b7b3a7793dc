"""Exceptions that leave `run_forever` between a poll and what it has found, and finalizers that run just before one:
nobody's event is lost, and nothing waits for somebody else's.

Exceptions out of a transport's protocol are in stream/test_exits.py and its like.
"""

import asyncio
import contextlib
import contextvars
import ctypes
import importlib
import os
import signal
import socket
import sys
import threading
import time
import weakref
from typing import Any

import pytest

from support.datagrams import Datagrams, unix_socket_pair
from support.peers import HOST, Peer, Recorder, socket_pair
from support.pipe_peers import FarEnd, make_ends
from support.turns import turn

# If something is lost, the loop waits for ever.
pytestmark = pytest.mark.time_limit(10)

# The Python handler is called by whoever looks for signals next, which is the loop in its poll.
# `signal.raise_signal` would look itself.
raise_signal = ctypes.CDLL(None)["raise"]


class Alarm(KeyboardInterrupt):
    pass


@pytest.fixture
def alarm():
    """A signal handler that raises Alarm on SIGUSR1."""

    def handler(signum, frame):
        raise Alarm

    previous = signal.signal(signal.SIGUSR1, handler)
    yield
    signal.signal(signal.SIGUSR1, previous)


def interrupted_poll(loop, make_ready):
    """In one poll, the loop finds what `make_ready` makes ready and a signal whose handler raises an exception."""
    loop.call_soon(make_ready)
    loop.call_soon(raise_signal, signal.SIGUSR1)
    with pytest.raises(Alarm):
        loop.run_forever()


def stopping(base: Any):
    """A protocol that stops the loop when data has come. Nothing else can wake the loop until then."""

    class Stopping(base):
        def data_received(self, data):
            super().data_received(data)
            asyncio.get_running_loop().stop()

        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            asyncio.get_running_loop().stop()

    return Stopping


@pytest.mark.usefixtures("alarm")
def test_signal_in_the_poll_that_finds_a_reader_ready(loop):
    near, far = socket.socketpair()
    with near, far:
        loop.add_reader(near, lambda: (near.recv(1), loop.stop()))
        turn(loop)
        interrupted_poll(loop, lambda: far.send(b"x"))
        loop.run_forever()
        loop.remove_reader(near)


@pytest.mark.usefixtures("alarm")
def test_signal_in_the_poll_that_finds_a_reader_still_ready(loop):
    near, far = socket.socketpair()
    near.setblocking(False)
    other, other_far = socket.socketpair()
    got = []

    def read():
        with contextlib.suppress(BlockingIOError):  # asyncio may tell of the same event twice
            got.append(near.recv(1))
        if len(got) == 2:
            loop.stop()

    with near, far, other, other_far:
        far.send(b"xy")
        other_far.send(b"z")
        loop.add_reader(near, read)
        loop.add_reader(other, raise_signal, signal.SIGUSR1)
        with pytest.raises(Alarm):
            loop.run_forever()
        assert got == [b"x"]
        loop.remove_reader(other)
        loop.run_forever()
        assert got == [b"x", b"y"]
        loop.remove_reader(near)


@pytest.mark.usefixtures("alarm")
def test_signal_in_the_poll_that_ends_a_wait_for_a_socket(loop):
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        task = loop.create_task(loop.sock_recv(near, 10))
        turn(loop)
        interrupted_poll(loop, lambda: far.send(b"x"))
        assert loop.run_until_complete(task) == b"x"


@pytest.mark.usefixtures("alarm")
def test_signal_in_the_poll_that_finds_data_of_a_connection(loop):
    near, far = socket_pair()
    with Peer(far) as peer:

        async def connect():
            return await loop.create_connection(stopping(Recorder), sock=near)

        transport, protocol = loop.run_until_complete(connect())
        interrupted_poll(loop, lambda: peer.send(b"x"))
        loop.run_forever()
        assert protocol.calls[1:] == ["data_received"]
        transport.abort()
        loop.run_until_complete(protocol.lost)
        turn(loop)


@pytest.mark.usefixtures("alarm")
def test_signal_in_the_poll_that_finds_a_datagram(loop):
    near, far = unix_socket_pair()

    async def create():
        return await loop.create_datagram_endpoint(stopping(Datagrams), sock=near)

    with far:
        transport, protocol = loop.run_until_complete(create())
        interrupted_poll(loop, lambda: far.send(b"x"))
        loop.run_forever()
        assert protocol.calls[1:] == ["datagram_received"]
        transport.abort()
        loop.run_until_complete(protocol.lost)
        turn(loop)


@pytest.mark.usefixtures("alarm")
def test_signal_in_the_poll_that_finds_data_in_a_pipe(loop):
    near, far = make_ends("pipe", near_reads=True)

    async def connect():
        return await loop.connect_read_pipe(stopping(Recorder), near)

    with FarEnd(far) as far_end:
        transport, protocol = loop.run_until_complete(connect())
        interrupted_poll(loop, lambda: far_end.send(b"x"))
        loop.run_forever()
        assert protocol.calls[1:] == ["data_received"]
        transport.close()
        loop.run_until_complete(protocol.lost)
        turn(loop)


@pytest.mark.usefixtures("alarm")
def test_signal_in_the_poll_that_finds_a_connection_to_accept(loop):
    made = []

    class Stopping(asyncio.Protocol):
        def connection_made(self, transport):
            made.append(transport)
            loop.stop()

    server = loop.run_until_complete(loop.create_server(Stopping, HOST, 0))
    with socket.socket() as client:
        interrupted_poll(loop, lambda: client.connect(server.sockets[0].getsockname()))
        loop.run_forever()
        made[0].abort()
        server.close()
        turn(loop)
        turn(loop)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exit_of_a_reader_and_the_writer_of_the_same_event(loop, error):
    near, far = socket.socketpair()
    written = []

    def read():
        near.recv(1)
        raise error("now")

    with near, far:
        far.send(b"x")
        loop.add_reader(near, read)
        loop.add_writer(near, lambda: (written.append(1), loop.remove_writer(near), loop.stop()))
        with pytest.raises(error, match="now"):
            loop.run_forever()
        assert not written
        loop.run_forever()
        assert written == [1]
        loop.remove_reader(near)


def test_exit_in_a_select_that_the_program_has_replaced(loop):
    """looptime and nest_asyncio replace the select. Events that the loop's own select has found are not lost."""
    near, far = socket.socketpair()
    select, armed = loop._selector.select, []

    def replaced(timeout=None):
        events = select(timeout)
        if armed:
            raise armed.pop()
        return events

    with near, far:
        loop.add_reader(near, lambda: (near.recv(1), loop.stop()))
        turn(loop)
        loop._selector.select = replaced
        far.send(b"x")
        armed.append(Alarm())
        with pytest.raises(Alarm):
            loop.run_forever()
        loop._selector.select = select
        loop.run_forever()
        loop.remove_reader(near)


# --- of rloop's own ---


@pytest.fixture
def only_rloop(loop_name):
    if loop_name == "asyncio":
        pytest.skip("asyncio is different inside")


@pytest.mark.usefixtures("only_rloop")
def test_exit_of_one_waiter_and_the_other_of_the_same_event(loop_name):
    """One event wakes both the call that waits to receive and the call that waits to send. It comes only once."""
    armed = []

    base: Any = importlib.import_module(loop_name).Loop

    class Leaving(base):
        def call_soon(self, callback, *args, context=None):
            if armed:
                raise armed.pop()
            return super().call_soon(callback, *args, context=context)

    loop = Leaving()
    near, far = socket.socketpair()
    near.setblocking(False)
    with contextlib.closing(loop), near, far:
        waiters = [loop._wait(near, False), loop._wait(near, True)]
        for waiter in waiters:
            # Completing the future calls call_soon.
            waiter.add_done_callback(lambda waiter: None)
        far.send(b"x")
        loop.call_soon(armed.append, SystemExit("now"))
        with pytest.raises(SystemExit, match="now"):
            loop.run_forever()
        assert [waiter.done() for waiter in waiters] == [True, True]


@pytest.mark.usefixtures("only_rloop")
def test_exit_while_debug_mode_takes_notes(loop_name):
    base: Any = importlib.import_module(loop_name).Loop

    class Leaving(base):
        def __setattr__(self, name, value):
            if name == "_current_handle" and armed:
                raise armed.pop()
            super().__setattr__(name, value)

    armed, ran = [], []
    loop = Leaving()
    with contextlib.closing(loop):
        loop.set_debug(True)
        loop.call_soon(ran.append, 1)
        armed.append(SystemExit("now"))
        with pytest.raises(SystemExit, match="now"):
            loop.run_forever()
        turn(loop)
        assert ran == [1]


# --- finalizers ---


def test_callback_of_a_finalizer_of_a_socket(loop):
    """Before the loop waits, it drops a socket that nobody waits for. Its finalizer schedules a callback."""
    ran = []

    def finalized():
        loop.call_soon(lambda: (ran.append(1), loop.stop()))

    async def use():
        near, far = socket.socketpair()
        near.setblocking(False)
        weakref.finalize(near, finalized)
        loop.call_later(0.001, far.send, b"x")
        assert await loop.sock_recv(near, 10) == b"x"
        near.close()
        far.close()

    loop.run_until_complete(use())
    if not ran:
        loop.run_forever()
    assert len(ran) == 1


@pytest.mark.usefixtures("only_rloop")
@pytest.mark.parametrize("how", ["call_soon", "call_later"])
def test_callback_of_a_finalizer_of_a_timer(loop, how):
    """The loop drops a cancelled timer once it is the next one, and its finalizer schedules a callback. asyncio keeps
    it longer.
    """
    variable = contextvars.ContextVar("variable")
    schedule = loop.call_soon if how == "call_soon" else lambda callback: loop.call_later(0.001, callback)

    class Finalized:
        def __del__(self):
            schedule(loop.stop)

    def make_timer():
        variable.set(Finalized())
        return loop.call_later(100, print)

    timer = contextvars.copy_context().run(make_timer)
    timer.cancel()
    del timer
    loop.run_forever()


# --- failing system calls ---


@pytest.mark.usefixtures("only_rloop")
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks for the fd that wakes the loop")
def test_wake_up_after_one_that_failed(loop_factory):
    """For a while, the fd by which threads wake the loop is replaced by one that cannot be written to."""

    def event_fds():
        fds = [int(name) for name in os.listdir("/proc/self/fd")]
        return {fd for fd in fds if link(fd) == "anon_inode:[eventfd]"}

    def link(fd):
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/self/fd/{fd}")

    before = event_fds()
    loop = loop_factory()
    (fd,) = event_fds() - before
    ran = []

    def post():
        kept = os.dup(fd)
        refusing = os.open(os.devnull, os.O_RDONLY)
        try:
            time.sleep(0.05)  # until the loop waits
            os.dup2(refusing, fd)
            loop.call_soon_threadsafe(ran.append, "first")
            os.dup2(kept, fd)
            loop.call_soon_threadsafe(ran.append, "second")
            loop.call_soon_threadsafe(loop.stop)
        finally:
            os.close(refusing)
            os.close(kept)

    with contextlib.closing(loop):
        thread = threading.Thread(target=post)
        thread.start()
        loop.run_forever()
        thread.join()
        assert ran == ["first", "second"]


# There are as many calls as bytes: each reader is called again until it has read all of its data.
READERS = """
    import os, resource, socket
    loop = new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))  # what a loop opens when it first runs
    pairs = [socket.socketpair() for _ in range({readers})]
    left = [3 * len(pairs)]

    def read(sock):
        sock.recv(1)
        left[0] -= 1
        if not left[0]:
            loop.stop()

    for near, far in pairs:
        near.setblocking(False)
        far.send(b"xyz")
        loop.add_reader(near, read, near)
    resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    loop.call_later(10, loop.stop)
    loop.run_forever()
    print(left[0])
    os._exit(0)  # nothing can be closed properly without fds
"""


@pytest.mark.parametrize(("readers", "limit"), [(40, 20), (1, 0)])
def test_more_readers_than_fds_are_allowed_now(child, readers, limit):
    """poll(2) refuses more fds than RLIMIT_NOFILE, which a sandbox may have lowered to 0."""
    result = child(READERS.format(readers=readers, limit=limit))
    assert (result.stdout, result.stderr) == ("0\n", "")


def test_pipe_where_no_fd_is_allowed_any_more(child):
    result = child(
        """
        import os, resource
        loop = new_event_loop()
        near, far = os.pipe()
        got = bytearray()

        class Protocol(asyncio.Protocol):
            def data_received(self, data):
                got.extend(data)
                if len(got) == 3:
                    loop.call_later(0.001, os.write, far, b"xyz")
                elif len(got) == 6:
                    loop.stop()

            def connection_made(self, transport):
                transport.max_size = 2  # there is more after the first read

        loop.run_until_complete(loop.connect_read_pipe(Protocol, open(near, "rb", 0)))
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        os.write(far, b"abc")
        loop.call_later(10, loop.stop)
        loop.run_forever()
        print(bytes(got))
        os._exit(0)
        """
    )
    assert (result.stdout, result.stderr) == ("b'abcxyz'\n", "")


# --- exits in the code around the turns ---


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("event", ["call", "c_return"])
def test_exit_wherever_a_run_calls_python(loop, loop_name, event):
    """An exception comes out of any call of Python code in a run, or right behind any call of C code, as from a signal
    handler. The loop can then be run again, and signals wake it.
    """
    if loop_name == "asyncio" and (sys.version_info >= (3, 12) or event == "c_return"):
        pytest.skip("asyncio's loop stays the running one if its cleanup is what is interrupted")
    loop.add_signal_handler(signal.SIGUSR1, int)
    ran = []

    def run(number):
        """Raises in the call with this number. False if there are fewer calls."""
        left = number

        def profile(frame, what, arg):
            nonlocal left
            if what == event and arg is not sys.setprofile:
                left -= 1
                if left == 0:
                    raise Alarm

        loop.call_soon(loop.stop)
        try:
            sys.setprofile(profile)
            loop.run_forever()
        except Alarm:
            return True
        finally:
            sys.setprofile(None)
        return False

    def look(number):
        fd = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        ran.append((number, fd != -1))

    number = 1
    while run(number):
        number += 1
        loop.call_soon(look, number)
        turn(loop)
        turn(loop)
        assert ran.pop() == (number, True)
        assert not loop.is_running()
    assert number > 3
