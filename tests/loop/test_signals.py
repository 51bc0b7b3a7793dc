"""add_signal_handler and remove_signal_handler; the wake-up fd; signals while a loop waits."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import weakref

import pytest

from support.idle import sleeps_between_timers
from support.turns import turn

KINDS = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM, signal.SIGWINCH]


@pytest.fixture(autouse=True)
def dispositions():
    """After a test every signal must be handled as before, and no wake-up fd may be set."""
    # Whoever started the tests may ignore this signal, as nohup does. A loop restores the default.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    before = {sig: signal.getsignal(sig) for sig in [*KINDS, signal.SIGINT, signal.SIGRTMIN]}
    yield
    left = {sig: handler for sig, handler in before.items() if signal.getsignal(sig) != handler}
    for sig, handler in left.items():
        signal.signal(sig, handler)
    assert not left
    assert signal.set_wakeup_fd(-1) == -1


@contextlib.contextmanager
def handling(sig, handler):
    previous = signal.signal(sig, handler)
    try:
        yield
    finally:
        signal.signal(sig, previous)


@pytest.fixture
def wake_up_fd():
    """A wake-up fd that does not belong to the loop: (the socket to read from, the one that is set)."""
    receiver, sender = socket.socketpair()
    receiver.setblocking(False)
    sender.setblocking(False)
    assert signal.set_wakeup_fd(sender.fileno()) == -1
    with receiver, sender:
        yield receiver, sender
        signal.set_wakeup_fd(-1)


def turns(loop, count=4):
    for _ in range(count):
        turn(loop)


def killer(sig, delay=0.02):
    """A thread that sends the signal, by the process's id, as another process would."""
    return threading.Timer(delay, os.kill, (os.getpid(), sig))


def kill_later(sig):
    thread = killer(sig)
    thread.start()
    return thread


# --- the rules ---


WRONG: list[tuple[object, type[Exception], str]] = [
    *((sig, TypeError, f"sig must be an int, not {sig!r}") for sig in ("1", None, 1.0, "SIGUSR1")),
    *((sig, ValueError, f"invalid signal number {sig}") for sig in (0, -1, 1000, signal.NSIG)),
]


@pytest.mark.parametrize(("sig", "error", "text"), WRONG)
def test_what_is_no_signal(loop, sig, error, text):
    for call in (lambda: loop.add_signal_handler(sig, print), lambda: loop.remove_signal_handler(sig)):
        with pytest.raises(error) as raised:
            call()
        assert str(raised.value) == text


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSTOP])
def test_what_cannot_be_caught(loop, sig):
    with pytest.raises(RuntimeError) as raised:
        loop.add_signal_handler(sig, print)
    assert str(raised.value) == f"sig {sig} cannot be caught"
    assert raised.value.__cause__ is None
    assert loop.remove_signal_handler(sig) is False


async def coroutine_function():
    pass


def test_coroutines_are_refused(loop):
    coroutine = coroutine_function()
    for callback in (coroutine_function, coroutine):
        with pytest.raises(TypeError, match=r"^coroutines cannot be used with add_signal_handler\(\)$"):
            loop.add_signal_handler(signal.SIGUSR1, callback)
    coroutine.close()


def test_closed_loop(loop):
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        loop.add_signal_handler(signal.SIGUSR1, print)
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


@pytest.mark.parametrize("sig", [signal.SIGUSR1, signal.SIGKILL])
def test_another_thread_cannot_add(loop, sig):
    errors = []

    def add():
        try:
            loop.add_signal_handler(sig, print)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=add)
    thread.start()
    thread.join()
    assert errors == ["set_wakeup_fd only works in main thread of the main interpreter"]
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


def test_close_in_another_thread(loop):
    """Another thread cannot restore the signals. The loop is closed all the same."""
    loop.add_signal_handler(signal.SIGUSR1, print)
    errors = []

    def close():
        try:
            loop.close()
        except ValueError as error:
            errors.append(str(error))

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert errors == ["signal only works in main thread of the main interpreter"]
    assert loop.is_closed()
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)


def test_add_call_remove(loop):
    got = []
    assert loop.add_signal_handler(signal.SIGUSR1, got.append, 1) is None
    signal.raise_signal(signal.SIGUSR1)
    assert got == []
    turns(loop)
    assert got == [1]
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_sigint_is_given_back_to_python(loop):
    with handling(signal.SIGINT, signal.default_int_handler):
        got = []
        loop.add_signal_handler(signal.SIGINT, got.append, 1)
        signal.raise_signal(signal.SIGINT)
        turns(loop)
        assert got == [1]
        loop.remove_signal_handler(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_later_handler_counts(loop):
    got = []
    loop.add_signal_handler(signal.SIGUSR1, got.append, "first")
    loop.add_signal_handler(signal.SIGUSR1, got.append, "second")
    signal.raise_signal(signal.SIGUSR1)
    turns(loop)
    assert got == ["second"]


def test_handler_removed_before_it_is_called(loop):
    got = []
    loop.add_signal_handler(signal.SIGUSR1, got.append, 1)
    loop.add_signal_handler(signal.SIGUSR2, got.append, 2)
    signal.raise_signal(signal.SIGUSR1)
    loop.remove_signal_handler(signal.SIGUSR1)
    turns(loop)
    assert got == []


def test_close_removes_the_handlers(loop):
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.add_signal_handler(signal.SIGINT, print)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_system_calls_elsewhere_go_on(loop):
    """A signal with a handler on the loop interrupts no system call of another thread (SA_RESTART)."""
    loop.add_signal_handler(signal.SIGUSR1, lambda: None)
    with open("/proc/self/status") as file:
        caught = next(line for line in file if line.startswith("SigCgt:"))
    assert int(caught.split()[1], 16) & 1 << signal.SIGUSR1 - 1


def test_exception_reaches_the_handler(loop, loop_errors):
    loop.add_signal_handler(signal.SIGUSR1, int, "x")
    signal.raise_signal(signal.SIGUSR1)
    turns(loop)
    assert isinstance(loop_errors.pop()["exception"], ValueError)


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_dropped_loop_gives_its_signals_back(loop_factory):
    """A signal handler does not keep its loop alive."""
    loop = loop_factory()
    loop.add_signal_handler(signal.SIGUSR1, print)
    turn(loop)
    dropped = weakref.ref(loop)
    del loop
    gc.collect()
    assert dropped() is None
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


# --- a loop that waits ---


@pytest.fixture
def ticking(loop, loop_name):
    """asyncio sleeps on if a signal without a handler on the loop comes just before it goes to sleep, so that a timer
    wakes it.
    """

    def tick():
        loop.call_later(0.01, tick)

    if loop_name == "asyncio":
        loop.call_soon(tick)


def test_wakes_a_waiting_loop(loop):
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    thread = kill_later(signal.SIGUSR1)
    loop.run_forever()
    thread.join()


@pytest.mark.usefixtures("ticking")
def test_interrupt_ends_an_idle_loop(loop):
    """The signal ends the wait. The loop does not wake up now and then to look for signals: it would go to sleep too
    often.
    """

    async def sleep_until(thread):
        # Not before the loop runs: on a machine with much to do, the signal may come before `start` has returned.
        thread.start()
        await asyncio.sleep(3600)

    with handling(signal.SIGINT, signal.default_int_handler):
        assert loop.run_until_complete(sleeps_between_timers())
        for _ in range(10):
            thread = killer(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                loop.run_until_complete(sleep_until(thread))
            thread.join()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            turns(loop)


@pytest.mark.usefixtures("ticking")
def test_plain_handlers_run_while_the_loop_waits(loop):
    def handler(sig, frame):
        handled.append(sig)
        loop.call_soon_threadsafe(loop.stop)

    for sig in KINDS:
        handled = []
        with handling(sig, handler):
            thread = kill_later(sig)
            loop.run_forever()
            thread.join()
        assert handled == [sig]


@pytest.mark.parametrize("busy", [False, True])
def test_storm_loses_no_kind(loop, loop_name, busy):
    """For every kind of signal, the last one is answered, however many others came before it."""
    if loop_name == "asyncio":
        pytest.skip("asyncio's buffer for signals holds 278 of them, and the others are lost")
    last, answered = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)

    def answer(sig):
        answered[sig] = last[sig]

    def send():
        for count in range(1, 301):
            for sig in KINDS:
                last[sig] = count
                os.kill(os.getpid(), sig)
        loop.call_soon_threadsafe(loop.call_later, 0.05, loop.stop)

    def spin():
        if busy:
            loop.call_soon(spin)

    for sig in KINDS:
        loop.add_signal_handler(sig, answer, sig)
    thread = threading.Thread(target=send)
    thread.start()
    loop.call_soon(spin)
    loop.run_forever()
    thread.join()
    assert answered == dict.fromkeys(KINDS, 300)


def test_none_is_answered_twice(loop):
    got = []
    loop.add_signal_handler(signal.SIGUSR1, got.append, 1)
    for count in range(1, 200):
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        turns(loop)
        assert len(got) == count


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs pthread_sigmask")
@pytest.mark.parametrize("count", [1, 2, 5, 600])
def test_every_real_time_signal_is_answered(loop, loop_name, count):
    """The kernel queues these; CPython calls a handler once for all that come at the same time."""
    if loop_name == "asyncio" and count > 278:
        pytest.skip("asyncio's buffer for signals holds 278 of them, and the others are lost")
    got = []
    loop.add_signal_handler(signal.SIGRTMIN, got.append, 1)

    def send():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
        for _ in range(min(count, 200)):
            # Sent to this thread. If a thread is left from an earlier test, the kernel could choose that one.
            signal.pthread_kill(threading.get_ident(), signal.SIGRTMIN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGRTMIN])

    loop.call_soon(send)
    if count > 200:
        loop.call_soon(send)
        loop.call_soon(send)
    turns(loop, 5)
    assert len(got) == count


def test_signals_between_two_runs(loop):
    got = []
    loop.add_signal_handler(signal.SIGUSR1, got.append, 1)
    for count in range(1, 5):
        turn(loop)
        signal.raise_signal(signal.SIGUSR1)
        turns(loop)
        assert len(got) == count


def test_two_loops_one_after_the_other(loop_factory):
    got = []

    def run(number):
        def handle():
            got.append(number)
            loop.stop()

        loop = loop_factory()
        loop.add_signal_handler(signal.SIGUSR1, handle)
        thread = kill_later(signal.SIGUSR1)
        loop.run_forever()
        thread.join()
        loop.close()

    for number in range(3):
        run(number)
    assert got == [0, 1, 2]


def test_loop_inside_a_callback_of_another(loop, loop_factory, loop_name):
    """nest_asyncio does this. The inner loop hears of its signal while it runs, the outer one afterwards."""
    got = []

    def inner():
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        other = loop_factory()
        other.add_signal_handler(signal.SIGUSR2, lambda: (got.append("inner"), other.stop()))
        thread = kill_later(signal.SIGUSR2)
        other.run_forever()
        thread.join()
        other.close()
        asyncio._set_running_loop(outer)
        threads.append(kill_later(signal.SIGUSR1))

    threads = []
    loop.add_signal_handler(signal.SIGUSR1, lambda: (got.append("outer"), loop.stop()))
    loop.call_soon(inner)
    if loop_name == "asyncio":
        # The inner loop sets its own wake-up fd, and does not restore the other one.
        loop.call_later(0.2, loop.stop)
    loop.run_forever()
    threads[0].join()
    assert got == (["inner", "outer"] if loop_name == "rloop" else ["inner"])


def test_loops_in_other_threads_leave_signals_alone(loop, loop_factory):
    got = []

    def other():
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(asyncio.sleep(0.05))

    loop.add_signal_handler(signal.SIGUSR1, got.append, 1)
    threads = [threading.Thread(target=other) for _ in range(3)]
    for thread in threads:
        thread.start()
    loop.call_later(0.01, os.kill, os.getpid(), signal.SIGUSR1)
    loop.call_later(0.1, loop.stop)
    loop.run_forever()
    for thread in threads:
        thread.join()
    assert got == [1]


# --- the wake-up fd of somebody else ---


def test_wake_up_fd_is_given_back(loop, wake_up_fd):
    turn(loop)
    assert signal.set_wakeup_fd(-1) == wake_up_fd[1].fileno()


@pytest.mark.usefixtures("ticking")
def test_owner_of_the_wake_up_fd_is_told_while_the_loop_runs(loop, wake_up_fd):
    receiver, sender = wake_up_fd

    def handler(sig, frame):
        loop.call_later(0.01, loop.stop)

    with handling(signal.SIGUSR1, handler):
        thread = kill_later(signal.SIGUSR1)
        loop.run_forever()
        thread.join()
    assert receiver.recv(100) == bytes([signal.SIGUSR1])
    with pytest.raises(BlockingIOError):
        receiver.recv(100)


def test_told_in_the_last_turn(loop, wake_up_fd):
    with handling(signal.SIGUSR1, lambda *args: None):
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        turn(loop)
    assert wake_up_fd[0].recv(100) == bytes([signal.SIGUSR1])


def test_wake_up_fd_set_while_the_loop_runs_stays(loop):
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    loop.call_soon(signal.set_wakeup_fd, sender.fileno())
    turn(loop)
    assert signal.set_wakeup_fd(-1) == sender.fileno()
    receiver.close()
    sender.close()


def test_wake_up_fd_closed_while_the_loop_runs(loop):
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.fileno())
    loop.call_soon(receiver.close)
    loop.call_soon(sender.close)
    loop.call_soon(signal.raise_signal, signal.SIGWINCH)
    turn(loop)
    signal.set_wakeup_fd(-1)


def test_wake_up_fd_restored_too_late(loop):
    """After close, the wake-up fd must not be one that the loop has closed."""
    saved = []
    loop.call_soon(lambda: saved.append(signal.set_wakeup_fd(-1)))
    turn(loop)
    if saved[0] != -1:
        signal.set_wakeup_fd(saved[0], warn_on_full_buffer=False)
    turn(loop)
    loop.close()
    assert signal.set_wakeup_fd(-1) == -1


def test_no_fd_is_left_in_a_thread_that_gets_no_signals(loop_factory):
    def run():
        loop = loop_factory()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_default_action_of_a_signal_is_kept(child):
    result = child(
        """
        import os, signal
        loop = new_event_loop()
        loop.call_soon(os.kill, os.getpid(), signal.SIGTERM)
        loop.run_forever()
        """
    )
    assert result.returncode == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="a thread's own signals")
def test_signal_that_another_thread_receives(loop):
    """The kernel delivers the signal to another thread, and the main thread's loop hears of it."""
    loop.add_signal_handler(signal.SIGUSR1, loop.stop)
    thread = threading.Timer(0.02, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
    thread.start()
    loop.run_forever()
    thread.join()
