"""A busy loop, interrupted at random instants: what was accepted is done, once, and in order.

`python lab/interrupts_ledger.py LOOP SEED COUNT SECONDS` is started by interrupts.py. Callbacks schedule each other,
timers come due or are cancelled, threads post, transports send and receive, a reader is called for each byte. Each
accepted thing has a number. Its callback is `list.append` of that number, which is written in C: no interrupt can come
between the loop's call and its effect. The numbers are given out by callbacks in Python, which interrupts do hit: a
number whose `call_soon` was cut short by an interrupt may be done or not, but not twice.
"""

import asyncio
import functools
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from typing import Any

from interrupts_alarm import Lost, play

SHORT = 0.002  # seconds
THREADS = 2
POSTS = 20  # what a thread posts in one phase
PHASE = 40  # interrupts, behind which everything that was accepted is awaited and compared
NUMBER = 8  # bytes


class Account:
    """Numbers that one kind of call has given out, and those that came back."""

    def __init__(self, name):
        self.name = name
        self.last = 0
        self.tried: set[int] = set()
        self.accepted: set[int] = set()
        self.cancelled: set[int] = set()
        self.done: list[int] = []

    def new(self):
        """A number for a call that is about to be made. `accepted` gets it when the call has returned."""
        self.last = number = self.last + 1
        self.tried.add(number)
        return number

    def clear(self):
        """Before another phase. A number that was only tried may still come back in a later one."""
        for numbers in (self.accepted, self.cancelled, self.done):
            numbers.clear()

    def missing(self):
        return self.accepted - self.cancelled - set(self.done)

    def wrong(self, in_order):
        done = Counter(self.done)
        if missing := self.missing():
            yield f"{self.name}: accepted and never done: {sorted(missing)[:10]}"
        if twice := [number for number, times in done.items() if times > 1]:
            yield f"{self.name}: done more than once: {twice[:10]}"
        if unknown := set(done) - self.tried:
            yield f"{self.name}: done and never asked for: {sorted(unknown)[:10]}"
        if in_order and self.done != sorted(self.done):
            yield f"{self.name}: in the wrong order"


class Receiver(asyncio.Protocol):
    def __init__(self: Any, chunks):
        self.data_received = chunks.append


class Busy:
    def __init__(self, loop, seed):
        self.loop = loop
        self.random = random.Random(seed)
        names = ("call_soon", "call_later", "write", "incoming", *(f"thread {number}" for number in range(THREADS)))
        self.accounts = {name: Account(name) for name in names}
        self.begin = [threading.Semaphore(0) for _ in range(THREADS)]
        self.all_posted = threading.Semaphore(0)
        for number in range(THREADS):
            threading.Thread(target=self.post, args=(number,), daemon=True).start()
        self.incoming: list[bytes] = []
        self.chain = 0
        self.socks = [sock for _ in range(2) for sock in socket.socketpair()]
        for sock in self.socks:
            sock.setblocking(False)
        ours, self.peer, self.watched, self.watched_peer = self.socks
        self.transport = loop.run_until_complete(self.open(ours))
        # One byte a call: as long as there is one, the reader is called.
        loop.add_reader(self.watched, functools.partial(os.readv, self.watched.fileno(), [bytearray(1)]))

    async def open(self, sock):
        transport, _ = await self.loop.create_connection(lambda: Receiver(self.incoming), sock=sock)
        return transport

    def post(self, number):
        """Another thread, which no signal interrupts."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        account = self.accounts[f"thread {number}"]
        while True:
            self.begin[number].acquire()
            for _ in range(POSTS):
                one = account.new()
                self.loop.call_soon_threadsafe(account.done.append, one)
                account.accepted.add(one)
                time.sleep(0.0002)
            self.all_posted.release()

    # --- what gives out numbers: callbacks, which interrupts cut short ---

    def step(self, chain):
        """One link of a chain: gives out some of everything, and schedules the next link."""
        if chain != self.chain:
            return
        soon = self.accounts["call_soon"]
        number = soon.new()
        self.loop.call_soon(soon.done.append, number)
        soon.accepted.add(number)
        if self.random.randrange(3) == 0:
            self.timers()
        if self.random.randrange(3) == 0:
            write = self.accounts["write"]
            number = write.new()
            self.transport.write(number.to_bytes(NUMBER, "big"))
            write.accepted.add(number)
        if self.random.randrange(2):
            self.loop.call_soon(self.step, chain)
        else:
            self.loop.call_later(0.0003, self.step, chain)

    def timers(self):
        later = self.accounts["call_later"]
        number = later.new()
        handle = self.loop.call_later(self.random.uniform(0, SHORT), later.done.append, number)
        if self.random.randrange(3) == 0:
            later.cancelled.add(number)
            handle.cancel()
        later.accepted.add(number)

    # --- a phase ---

    def phase(self, alarm):
        """Many interrupts, then a calm run in which everything that was accepted must be done."""
        for account in self.accounts.values():
            account.clear()
        self.incoming.clear()
        for begin in self.begin:
            begin.release()
        self.feed()
        for _ in range(PHASE):
            # The last chain may have been cut by the interrupt. If not, it ends.
            self.chain += 1
            self.loop.call_soon(self.step, self.chain)
            alarm.run(self.loop.run_forever, self.random.uniform(0.00001, SHORT))
        self.chain += 1
        self.calm(alarm)
        return [text for account in self.accounts.values() for text in account.wrong(account.name != "call_later")]

    def feed(self):
        """What comes in from outside: numbers for the transport, bytes for the reader."""
        incoming = self.accounts["incoming"]
        for _ in range(50):
            number = incoming.new()
            self.peer.send(number.to_bytes(NUMBER, "big"))
            incoming.accepted.add(number)
        self.watched_peer.send(bytes(100))

    def calm(self, alarm):
        for _ in range(THREADS):
            self.all_posted.acquire()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            self.loop.call_later(0.001, self.loop.stop)
            alarm.run_to_the_end(self.loop.run_forever)
            self.collect()
            if not any(account.missing() for account in self.accounts.values()) and not self.unread():
                return
        if self.unread():
            raise Lost("the reader is not called any more")

    def unread(self):
        try:
            return self.watched.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return b""

    def collect(self):
        """What has come over the transport, in both directions."""
        self.accounts["incoming"].done[:] = numbers(b"".join(self.incoming))
        try:
            while data := self.peer.recv(1 << 20):
                self.accounts["write"].done += numbers(data)
        except BlockingIOError:
            pass


def numbers(data):
    """A transport that has lost or doubled a byte tells numbers that nobody gave out."""
    return [int.from_bytes(data[start : start + NUMBER], "big") for start in range(0, len(data), NUMBER)]


def step(busy, alarm, seen):
    """One phase; returns what was wrong."""
    try:
        wrong = busy.phase(alarm)
    except Lost as error:
        wrong = [f"the loop hangs, {error}"]
    for name, account in busy.accounts.items():
        seen[name.partition(" ")[0]] += len(account.accepted)
    return wrong


if __name__ == "__main__":
    play(Busy, step, *sys.argv[1:])
