"""One case of forks.py: `python lab/forks_cases.py LOOP PLACE ACT SEED` forks at the place; the child does the act.

It exits with 0 and says nothing if all is well. `PLACES` are methods of `Case`, `ACTS` are functions of the child.
"""

import asyncio
import gc
import importlib
import os
import random
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from typing import Any

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests"))

from support import certificates
from support.loops import open_files

LIMIT = 30  # seconds for the child, and for each wait of the parent
PLENTY = random.Random(1).randbytes(4 << 20)  # more than the kernel takes at once
HOST = "127.0.0.1"


# --- what the child does; it exits with 0 by itself, or returns ---


def leave(case):
    """Ends at once."""


def leave_by_exit(case):
    """sys.exit(), which runs everything that the program runs at its end."""
    case.loop = case.transport = None
    sys.exit(0)


def new_loop(case):
    """A loop of its own, which does a bit of everything."""

    async def main():
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(echo, HOST, 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"child\n")
        assert await reader.readline() == b"child\n"
        writer.close()
        server.close()
        assert await asyncio.to_thread(int, "7") == 7
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
        handled = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR2, handled.set)
        os.kill(os.getpid(), signal.SIGUSR2)
        await handled.wait()

    async def echo(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    with asyncio.Runner(loop_factory=case.factory) as runner:
        runner.run(main())


def become(case):
    os.execvp("true", ["true"])


def drop(case):
    """Everything is thrown away, and the finalizers run."""
    case.transport = case.loop = None
    gc.collect()


def close(case):
    """Closes the loop, unless the fork was made by a callback of it."""
    if not case.loop.is_running():
        case.loop.close()


def abort(case):
    """Ends the transport that it has inherited, and lets the loop run for that if it can."""
    if case.transport is not None:
        case.transport.abort()
    if not case.loop.is_running() and not case.loop.is_closed():
        case.loop.run_until_complete(asyncio.sleep(0.001))
        case.loop.close()


def go_on(case):
    """Uses the loop that it has inherited."""
    if case.loop.is_running() or case.loop.is_closed():
        return
    left, right = socket.socketpair()
    got = []

    def read():
        got.append(left.recv(1))
        case.loop.stop()

    case.loop.add_reader(left, read)
    case.loop.call_later(0.001, right.send, b"z")
    case.loop.run_forever()
    assert got == [b"z"], got
    case.loop.remove_reader(left)


ACTS = {act.__name__: act for act in (leave, leave_by_exit, new_loop, become, drop, close, abort, go_on)}
# On asyncio these change what the parent has registered, because both have the same epoll file.
ONLY_RLOOP = {"leave_by_exit", "drop", "close", "abort", "go_on"}


class Silent(asyncio.Protocol):
    """Its subclass forks in one of its methods."""

    def __init__(self, case):
        self.case = case
        self.data = b""
        self.lost = case.loop.create_future()

    def connection_made(self, transport):
        self.transport = self.case.transport = transport

    def data_received(self, data):
        self.data += data

    def connection_lost(self, exc):
        if not self.lost.done():
            self.lost.set_result(exc)


class Case:
    def __init__(self, factory, act, seed):
        self.factory = factory
        self.act = act
        self.random = random.Random(seed)
        self.loop: Any = factory()
        self.transport: Any = None
        self.children: list[int] = []
        self.main_thread = threading.main_thread()

    def fork(self, *args):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
            pid = os.fork()
        if not pid:
            self.child()
        self.children.append(pid)

    def child(self):
        # Not even SystemExit gets out of here: the parent's code is above.
        code = 3
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LIMIT)
            warnings.simplefilter("ignore")
            assert asyncio._get_running_loop() is None
            self.act(self)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 4
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def reap(self):
        """The child has ended well, while the loop was not looking."""
        for pid in self.children:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert status == 0, f"the child's exit status is {status}"
        assert self.children, "no fork was made"

    # --- a parent's loop with everything: it is checked before and after the fork ---

    async def watch(self):
        """Registrations that the fork must leave alone."""
        loop = self.loop
        self.near, self.far, ours, self.peer = (sock for _ in range(2) for sock in socket.socketpair())
        for sock in (self.near, self.far, ours, self.peer):
            sock.setblocking(False)
        self.got: list[bytes] = []
        loop.add_reader(self.near, lambda: self.got.append(self.near.recv(10)))
        self.signals: list[int] = []
        loop.add_signal_handler(signal.SIGUSR1, self.signals.append, 1)
        self.watching, self.watched = await loop.create_connection(lambda: Silent(self), sock=ours)
        self.transport = None
        self.ticks: list[float] = []
        self.tick = loop.call_later(0.01, self.again)

    def again(self):
        self.ticks.append(time.monotonic())
        self.tick = self.loop.call_later(0.01, self.again)

    async def still_works(self):
        """Each registration still tells its owner, once."""
        loop = self.loop
        self.got.clear()
        self.watched.data = b""
        ticks = len(self.ticks)
        self.far.send(b"x")
        self.peer.send(b"y")
        self.watching.write(b"z")
        os.kill(os.getpid(), signal.SIGUSR1)
        posted = loop.create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(posted.set_result, None))
        thread.start()
        await posted
        thread.join()
        assert await loop.run_in_executor(None, int, "5") == 5
        await until(lambda: self.got and self.watched.data and self.signals and len(self.ticks) > ticks)
        assert (self.got, self.watched.data, self.signals) == ([b"x"], b"y", [1])
        assert await loop.sock_recv(self.peer, 10) == b"z"
        self.signals.clear()

    async def unwatch(self):
        self.tick.cancel()
        self.loop.remove_reader(self.near)
        self.loop.remove_signal_handler(signal.SIGUSR1)
        self.watching.close()
        await self.watched.lost
        for sock in (self.near, self.far, self.peer):
            sock.close()

    def run(self, place):
        """The whole case."""
        loop = self.loop
        loop.run_until_complete(self.watch())
        outside = place in OUTSIDE
        if outside:
            OUTSIDE[place](self)
        else:
            loop.run_until_complete(asyncio.wait_for(PLACES[place](self), LIMIT))
        self.reap()
        if not loop.is_closed():
            loop.run_until_complete(asyncio.wait_for(self.still_works(), LIMIT))
            loop.run_until_complete(self.unwatch())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    # --- the places ---

    async def callback(self):
        self.loop.call_soon(self.fork)
        await until(lambda: self.children)

    async def timer(self):
        self.loop.call_later(self.random.uniform(0, 0.01), self.fork)
        await until(lambda: self.children)

    async def task(self):
        self.fork()
        await asyncio.sleep(0)

    async def reader(self):
        left, right = socket.socketpair()
        with left, right:
            right.send(b"x")
            self.loop.add_reader(left, lambda: (left.recv(1), self.fork()))
            await until(lambda: self.children)
            self.loop.remove_reader(left)

    async def signal_handler(self):
        self.loop.add_signal_handler(signal.SIGUSR2, self.fork)
        os.kill(os.getpid(), signal.SIGUSR2)
        await until(lambda: self.children)
        self.loop.remove_signal_handler(signal.SIGUSR2)

    async def posted(self):
        threading.Thread(target=self.loop.call_soon_threadsafe, args=(self.fork,)).start()
        await until(lambda: self.children)

    async def thread_while_it_polls(self):
        """The loop waits in its poll, or is busy, while another thread forks."""

        def fork():
            time.sleep(self.random.uniform(0, 0.01))
            self.fork()

        thread = threading.Thread(target=fork)
        thread.start()
        await asyncio.sleep(0.05)
        await until(lambda: self.children)
        thread.join()

    async def executor(self):
        await self.loop.run_in_executor(None, self.fork)

    async def serve(self, method, **tls):
        """A server whose protocol forks in that method, and a connection to it that sends and ends."""
        sent = b"hello"
        accepted = []

        def factory():
            protocol = forking(method)(self)
            accepted.append(protocol)
            return protocol

        server = await self.loop.create_server(factory, HOST, 0, ssl=tls.get("server"))
        options = {"ssl": tls["client"], "server_hostname": certificates.HOSTNAME} if tls else {}
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), **options)
        writer.write(sent)
        await until(lambda: accepted and accepted[0].data == sent)
        accepted[0].transport.write(b"answer")
        assert await reader.readexactly(6) == b"answer"
        if not tls:
            writer.write_eof()
        else:
            writer.close()
        assert await accepted[0].lost is None
        assert await reader.read() == b""
        assert accepted[0].data == sent, accepted[0].data
        writer.close()
        server.close()
        self.transport = None

    async def connection_made(self):
        await self.serve("connection_made")

    async def data_received(self):
        await self.serve("data_received")

    async def eof_received(self):
        await self.serve("eof_received")

    async def connection_lost(self):
        await self.serve("connection_lost")

    def tls_sides(self):
        return {"server": certificates.server_context(), "client": certificates.client_context()}

    async def tls_handshake(self):
        sides = self.tls_sides()
        sides["server"].sni_callback = self.fork
        await self.serve(None, **sides)

    async def tls_connection_made(self):
        await self.serve("connection_made", **self.tls_sides())

    async def tls_data_received(self):
        await self.serve("data_received", **self.tls_sides())

    async def queued_writes(self, **tls):
        """More is written than the kernel takes. All of it arrives, once."""
        near, far = socket.socketpair()
        accepting = asyncio.ensure_future(
            self.loop.connect_accepted_socket(lambda: Silent(self), near, ssl=tls.get("server"))
        )
        options = {"ssl": tls["client"], "server_hostname": certificates.HOSTNAME} if tls else {}
        reader, writer = await asyncio.open_connection(sock=far, limit=1 << 16, **options)
        transport, protocol = await accepting
        transport.write(PLENTY)
        self.fork()
        transport.write(b"end")
        transport.close()
        data = await reader.read()
        assert data == PLENTY + b"end", len(data)
        writer.close()
        await protocol.lost
        self.transport = None

    async def tls_queued_writes(self):
        await self.queued_writes(**self.tls_sides())

    async def pieces(self):
        """Small writes of one turn, which rloop may send together at its end."""
        near, far = socket.socketpair()
        transport, protocol = await self.loop.create_connection(lambda: Silent(self), sock=near)
        reader, writer = await asyncio.open_connection(sock=far)
        sent = b""
        for number in range(200):
            for part in range(3):
                piece = b"%d.%d," % (number, part)
                transport.write(piece)
                sent += piece
            if number == 150:
                self.fork()
            await asyncio.sleep(0)
        transport.close()
        assert await reader.read() == sent
        writer.close()
        await protocol.lost
        self.transport = None

    async def datagrams(self):
        """A fork in datagram_received, with datagrams on their way in and out."""
        case = self
        got = []

        class Endpoint(asyncio.DatagramProtocol):
            def datagram_received(self, data, addr):
                got.append(data)
                if len(got) == 10:
                    case.fork()

        endpoint, _ = await self.loop.create_datagram_endpoint(Endpoint, (HOST, 0))
        for number in range(20):
            endpoint.sendto(b"%d" % number, endpoint.get_extra_info("sockname"))
        await until(lambda: len(got) == 20)
        await asyncio.sleep(0.01)
        assert got == [b"%d" % number for number in range(20)], got
        endpoint.close()

    async def pipe_writes(self):
        reading, writing = os.pipe()
        reader = asyncio.StreamReader()
        incoming, _ = await self.loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), open(reading, "rb", 0)
        )
        outgoing, _ = await self.loop.connect_write_pipe(asyncio.Protocol, open(writing, "wb", 0))
        outgoing.write(PLENTY)
        self.fork()
        outgoing.close()
        data = await reader.read()
        assert data == PLENTY, len(data)
        incoming.close()

    async def raw_send(self):
        """A fork by another thread in the middle of sock_sendall."""
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)
            sending = asyncio.ensure_future(self.loop.sock_sendall(left, PLENTY))
            await asyncio.sleep(0)
            self.fork()
            data = b""
            while len(data) < len(PLENTY):
                data += await self.loop.sock_recv(right, 1 << 20)
            await sending
            assert data == PLENTY

    async def child_processes(self):
        """Children that run during the fork end for the parent, with their output and status."""
        pipe = asyncio.subprocess.PIPE
        processes = [
            await asyncio.create_subprocess_exec("sh", "-c", f"cat; exit {code}", stdin=pipe, stdout=pipe)
            for code in range(3)
        ]
        self.fork()
        # A child of the fork's may hold the pipes open for as long as it lives, as on any system.
        for code, process in enumerate(processes):
            out, _ = await process.communicate(b"to the child")
            assert (process.returncode, out) == (code, b"to the child"), (process.returncode, out)

    async def exception_handler(self):
        self.loop.set_exception_handler(lambda loop, context: self.fork())
        self.loop.call_soon(lambda: 1 / 0)
        await until(lambda: self.children)
        self.loop.set_exception_handler(None)

    # --- places where the loop does not run ---

    def stopped(self):
        self.fork()

    def stopped_with_much_to_do(self):
        """Callbacks, timers and threads have scheduled something that has not run yet. It runs once, in the parent."""
        ran: list[int] = []
        self.loop.call_soon(ran.append, 1)
        self.loop.call_later(0.001, ran.append, 2)
        self.loop.call_soon_threadsafe(ran.append, 3)
        self.fork()
        self.loop.run_until_complete(asyncio.sleep(0.05))
        assert sorted(ran) == [1, 2, 3], ran

    def closed(self):
        self.loop.run_until_complete(self.unwatch())
        self.loop.close()
        self.fork()


def forking(method):
    """A protocol that forks in this method."""

    class Forking(Silent):
        pass

    def fork(self, *args):
        result = getattr(super(Forking, self), method)(*args)
        if not self.case.children:
            self.case.fork()
        return result

    if method is not None:
        setattr(Forking, method, fork)
    return Forking


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


OUTSIDE = {place.__name__: place for place in (Case.stopped, Case.stopped_with_much_to_do, Case.closed)}
PLACES = {
    place.__name__: place
    for place in (
        *(Case.callback, Case.timer, Case.task, Case.reader, Case.signal_handler, Case.posted, Case.executor),
        *(Case.thread_while_it_polls, Case.connection_made, Case.data_received, Case.eof_received),
        *(Case.connection_lost, Case.tls_handshake, Case.tls_connection_made, Case.tls_data_received),
        *(Case.queued_writes, Case.tls_queued_writes, Case.pieces, Case.datagrams, Case.pipe_writes, Case.raw_send),
        *(Case.child_processes, Case.exception_handler, *OUTSIDE.values()),
    )
}


def fits(loop_name, place, act):
    return loop_name == "rloop" or act not in ONLY_RLOOP


def main(loop_name, place, act, seed):
    # The certificates' folder goes with the process.
    warnings.filterwarnings("ignore", "Implicitly cleaning up", ResourceWarning)
    if place.startswith("tls"):
        # Whatever they keep open is there before the files are counted.
        certificates.server_context(), certificates.client_context()
    files = open_files()
    case = Case(importlib.import_module(loop_name).new_event_loop, ACTS[act], int(seed))
    case.run(place)
    case.transport = case.loop = None
    gc.collect()
    left = open_files() - files
    assert not left, f"left open: {sorted(left)}"


if __name__ == "__main__":
    main(*sys.argv[1:])
