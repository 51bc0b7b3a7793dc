"""One wait at a time, interrupted at random instants and taken up again: its wake-up must come.

`python lab/interrupts_waits.py LOOP SEED COUNT SECONDS` is started by interrupts.py. Each kind of `KINDS` prepares one
thing that ends a future: a timer, a thread, a reader, data of a transport, a signal... Nothing else can wake the loop
then. What ends the future is `future.cancel`, which is written in C and may be called more than once: no interrupt can
come between the loop's call and its effect. Files, transports and handlers stay registered through thousands of
interrupts.
"""

import asyncio
import contextlib
import functools
import os
import queue
import random
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from interrupts_alarm import LOST, Lost, frames, play

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))

from support import certificates

SHORT = 0.002  # seconds that a wait takes at most, without interrupts


class Later:
    """Another thread, which does what it is given after so many seconds. Half of the time it interrupts the loop just
    before or after, so that one poll of the loop finds both."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.queue: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGUSR1})
        while True:
            seconds, action = self.queue.get()
            time.sleep(seconds)
            when = self.random.randrange(4)
            if when == 0:
                os.kill(os.getpid(), signal.SIGALRM)
            action()
            if when == 1:
                os.kill(os.getpid(), signal.SIGALRM)


def quiet(base: Any) -> Any:
    """A protocol that is only told of data, by a function in C."""

    class Quiet(base):
        def __init__(self, told):
            self.data_received = self.datagram_received = told

    return Quiet


Stream, Datagrams = quiet(asyncio.Protocol), quiet(asyncio.DatagramProtocol)


class Waits:
    def __init__(self, loop, seed):
        self.loop = loop
        self.random = random.Random(seed)
        self.later = Later(seed)
        self.executor = ThreadPoolExecutor(1)
        self.stack = contextlib.ExitStack()
        self.left, self.right = self.pair()
        self.writable, self.unread = self.pair()
        self.awaited, self.sender = self.pair()
        loop.run_until_complete(self.open())

    def pair(self):
        socks = socket.socketpair()
        for sock in socks:
            sock.setblocking(False)
            self.stack.enter_context(sock)
        return socks

    async def open(self):
        """Everything that stays registered."""
        ours, self.stream_peer = self.pair()
        self.stream, _ = await self.loop.create_connection(lambda: Stream(int), sock=ours)
        near, far = self.pair()
        server = self.loop.connect_accepted_socket(asyncio.Protocol, near, ssl=certificates.server_context())
        client = self.loop.create_connection(
            lambda: Stream(int), sock=far, ssl=certificates.client_context(), server_hostname=certificates.HOSTNAME
        )
        (self.tls_peer, _), (self.tls, _) = await asyncio.gather(server, client)
        self.endpoint, _ = await self.loop.create_datagram_endpoint(lambda: Datagrams(int), ("127.0.0.1", 0))
        self.datagrams = self.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.datagrams.connect(self.endpoint.get_extra_info("sockname"))
        reading, self.pipe_end = os.pipe()
        self.pipe, _ = await self.loop.connect_read_pipe(lambda: Stream(int), open(reading, "rb", 0))
        self.address = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def after_a_while(self, action, *args):
        self.later.queue.put((self.random.uniform(0, SHORT), functools.partial(action, *args)))

    # --- the kinds: each prepares what cancels the future, and returns what is to be done behind the wait, or None ---

    def timer(self, future):
        self.loop.call_later(self.random.uniform(0, SHORT), future.cancel)

    def callback(self, future):
        self.loop.call_soon(future.cancel)

    def thread(self, future):
        self.after_a_while(self.loop.call_soon_threadsafe, future.cancel)

    def reader(self, future):
        self.loop.add_reader(self.left, future.cancel)
        self.after_a_while(self.right.send, b"x")
        return lambda: self.left.recv(10)

    def kept_reader(self, future):
        """The callback is replaced while there is something to read."""
        self.right.send(b"x")
        self.loop.add_reader(self.left, int)
        self.loop.call_later(self.random.uniform(0, SHORT), self.loop.add_reader, self.left, future.cancel)
        return lambda: self.left.recv(10)

    def writer(self, future):
        """The other side makes room after a while."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.writable.send(bytes(100_000))
        self.loop.add_writer(self.writable, future.cancel)
        self.after_a_while(self.drain, self.unread)
        return lambda: self.loop.remove_writer(self.writable)

    def drain(self, sock):
        with contextlib.suppress(BlockingIOError):
            while sock.recv(1_000_000):
                pass

    def signal(self, future):
        """Between a signal and its handler there is Python code, on both loops."""
        self.loop.add_signal_handler(signal.SIGUSR1, future.cancel)
        self.after_a_while(os.kill, os.getpid(), signal.SIGUSR1)

    def data(self, future):
        self.stream.set_protocol(Stream(future.cancel))
        self.after_a_while(self.stream_peer.send, b"x")

    def tls_data(self, future):
        self.tls.set_protocol(Stream(future.cancel))
        self.loop.call_later(self.random.uniform(0, SHORT), self.tls_peer.write, b"x")

    def datagram(self, future):
        # `min` is called with the data and the address, and calls `cancel` with each of them.
        self.endpoint.set_protocol(Datagrams(functools.partial(min, key=future.cancel)))
        self.after_a_while(self.datagrams.send, b"x")

    def pipe_data(self, future):
        self.pipe.set_protocol(Stream(future.cancel))
        self.after_a_while(os.write, self.pipe_end, b"x")

    def paused(self, future):
        """Data that came while reading was paused is told when it is resumed."""
        self.stream.pause_reading()
        self.stream.set_protocol(Stream(future.cancel))
        self.stream_peer.send(b"x")
        self.loop.call_later(self.random.uniform(0, SHORT), self.stream.resume_reading)


# The kinds that wait for a future of the loop's own. There is Python code in these, of asyncio and of rloop.
def sock_recv(waits):
    task = waits.loop.create_task(waits.loop.sock_recv(waits.awaited, 10))
    waits.after_a_while(waits.sender.send, b"x")
    return task


def executor_job(waits):
    return waits.loop.run_in_executor(waits.executor, time.sleep, waits.random.uniform(0, SHORT))


def child(waits):
    """The child starts without an interrupt: asyncio's own code for that is Python. Its end is waited for."""
    seconds = f"{waits.random.uniform(0, 0.01):.3f}"
    starting = waits.loop.subprocess_exec(asyncio.SubprocessProtocol, "sleep", seconds, stdin=None, stdout=None)
    transport, _ = waits.loop.run_until_complete(starting)
    return waits.loop.create_task(ended(transport))


async def ended(transport):
    await transport._wait()
    transport.close()


KINDS = (
    *(Waits.timer, Waits.callback, Waits.thread, Waits.reader, Waits.kept_reader, Waits.writer, Waits.signal),
    *(Waits.data, Waits.tls_data, Waits.datagram, Waits.pipe_data, Waits.paused),
)
FUTURES = (sock_recv, executor_job, child)


def wait(alarm, waits, future, in_python):
    """Runs the loop until the future is done, through many interrupts. If callbacks of this kind are written in Python,
    an interrupt in one of them ends the wait."""
    deadline = time.monotonic() + LOST
    while not future.done():
        if time.monotonic() > deadline:
            raise Lost
        # Some instants are drawn from the whole wait, and some from its beginning.
        most = waits.random.choice((SHORT, SHORT / 10))
        error = alarm.run(lambda: run(waits.loop, future), waits.random.uniform(0.00001, most))
        if error is not None and in_python and any(frame.f_code.co_name not in RUNNING for frame in frames(error)):
            future.cancel()
            return
        if not future.done() and waits.random.randrange(5) == 0:
            alarm.run_to_the_end(lambda: run(waits.loop, future))


# The functions from `wait` to the loop, and the signal handler.
RUNNING = {"run", "wait", "<lambda>", "run_until_complete", "run_forever", "_run_once", "fire"}


def run(loop, future):
    """What the future has to tell is not wanted."""
    try:
        loop.run_until_complete(future)
    except asyncio.CancelledError:
        pass
    except RuntimeError as error:
        # The callback that ends the run of a future may be left over by the run before.
        if "stopped before Future completed" not in str(error):
            raise


def one(alarm, waits, kind):
    """One wait of a kind, from its preparation to what is behind it."""
    # The callback that ends the run of a future may be left over by the wait before.
    for _ in range(2):
        waits.loop.call_soon(waits.loop.stop)
        alarm.run_to_the_end(waits.loop.run_forever)
    if kind in FUTURES:
        wait(alarm, waits, kind(waits), in_python=True)
        return
    future = waits.loop.create_future()
    behind = kind(waits, future)
    wait(alarm, waits, future, in_python=kind is Waits.signal)
    if behind is not None:
        behind()


def step(waits, alarm, seen):
    """One wait; returns what was wrong."""
    kind = waits.random.choice(KINDS + FUTURES)
    seen[f"waits for {kind.__name__}"] += 1
    try:
        one(alarm, waits, kind)
    except Lost:
        return [f"{kind.__name__}: the wait never ended, after {alarm.interrupts} interrupts"]
    return []


if __name__ == "__main__":
    play(Waits, step, *sys.argv[1:])
