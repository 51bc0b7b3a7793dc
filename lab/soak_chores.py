"""What the program of soak_server.py does by itself while it serves: child processes, signals, threads, forks, timers,
pipes, and clients of its own servers.

Each chore is an async method of `Chores` that does one thing from start to end, and checks it. Its name is in `CHORES`.
"""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import aiohttp

from support import certificates

STEP_LIMIT = 30  # seconds for one chore
HOST = "127.0.0.1"


class Wrong(Exception):
    """A chore has found something that is not as it should be."""


def check(condition, *told):
    if not condition:
        raise Wrong(*told)


class Chores:
    def __init__(self, targets, errors, random, loop_factory, threads):
        self.targets = targets
        self.errors = errors
        self.random = random
        self.loop_factory = loop_factory
        self.threads = threads
        self.tls = certificates.client_context()
        self.running = []
        self.going = False
        self.done: Counter[str] = Counter()

    async def warm_up(self):
        """Starts all threads of the executor, so that none of them starts later."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(self.threads))
        barrier = threading.Barrier(self.threads)
        await asyncio.gather(*(loop.run_in_executor(None, barrier.wait) for _ in range(self.threads)))
        loop.add_signal_handler(signal.SIGUSR1, self.on_signal)
        self.signalled = asyncio.Event()

    def go(self):
        self.going = True
        self.running = [asyncio.create_task(self.repeat(*chore)) for chore in CHORES.items()]
        return {}

    async def pause(self):
        """Waits until each chore has done what it is at. Returns how often each was done."""
        self.going = False
        await asyncio.gather(*self.running)
        self.running = []
        done, self.done = self.done, Counter()
        return done

    async def repeat(self, name, pause):
        while self.going:
            try:
                async with asyncio.timeout(STEP_LIMIT):
                    await getattr(self, name)()
                self.done[name] += 1
            except Exception as error:
                self.errors.add(f"chore {name}", error)
            await asyncio.sleep(self.random.uniform(0, pause))

    def chance(self, one_in):
        return self.random.randrange(one_in) == 0

    # --- processes and signals ---

    async def child(self):
        """A child that echoes, and one that is killed."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)
        if self.chance(3):
            process.kill()
            await process.communicate()
            check(process.returncode == -signal.SIGKILL, process.returncode)
        else:
            out, _ = await process.communicate(b"to the child" * 1000)
            check((process.returncode, out) == (0, b"to the child" * 1000), process.returncode)

    def on_signal(self):
        self.signalled.set()

    async def signal(self):
        """A signal, sent by this thread or another one, calls its handler."""
        self.signalled.clear()
        if self.chance(2):
            os.kill(os.getpid(), signal.SIGUSR1)
        else:
            await asyncio.get_running_loop().run_in_executor(None, os.kill, os.getpid(), signal.SIGUSR1)
        await self.signalled.wait()

    async def fork(self):
        """A fork: the child exits at once, or uses a loop of its own, or becomes another program."""
        way = self.random.randrange(3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads
            pid = os.fork()
        if not pid:
            self.in_child(way)
        status = await asyncio.get_running_loop().run_in_executor(None, os.waitpid, pid, 0)
        check(os.waitstatus_to_exitcode(status[1]) == 0, way, status)

    def in_child(self, way):
        try:
            signal.alarm(STEP_LIMIT)
            # A storm of the parent's is not the child's.
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            if way == 0:
                os._exit(0)
            if way == 1:
                os.execvp("true", ["true"])
            with asyncio.Runner(loop_factory=self.loop_factory) as runner:
                runner.run(asyncio.sleep(0.001))
            os._exit(0)
        finally:
            os._exit(5)

    # --- threads and timers ---

    async def threads_post(self):
        """What other threads post arrives, all of it, and in order."""
        loop = asyncio.get_running_loop()
        got: list[int] = []
        all_posted = loop.create_future()

        def post():
            for number in range(200):
                loop.call_soon_threadsafe(got.append, number)
            loop.call_soon_threadsafe(all_posted.set_result, None)

        await asyncio.gather(loop.run_in_executor(None, post), all_posted)
        check(got == list(range(200)), got)

    async def thread(self):
        """A thread of its own, which is over at the end."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, 1))
        thread.start()
        await future
        await loop.run_in_executor(None, thread.join)

    async def timers(self):
        """Timers run once their time has come, and not if they were cancelled."""
        loop = asyncio.get_running_loop()
        ran: list[int] = []
        handles = [loop.call_later(self.random.uniform(0, 0.05), ran.append, number) for number in range(100)]
        for handle in handles[::2]:
            handle.cancel()
        await asyncio.sleep(0.06)
        check(sorted(ran) == list(range(1, 100, 2)), ran)

    # --- clients, pipes, sockets ---

    async def request(self, reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nchore")
        await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(5)
        check(body == b"chore", body)

    async def stream_client(self):
        reader, writer = await asyncio.open_connection(HOST, self.targets["streams"])
        for _ in range(3):
            await self.request(reader, writer)
        if self.chance(3):
            writer.transport.abort()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def cancelled_client(self):
        """A connection whose task is cancelled while it connects, shakes hands or reads."""

        async def talk():
            reader, writer = await asyncio.open_connection(
                HOST, self.targets["tls"], ssl=self.tls, server_hostname=certificates.HOSTNAME
            )
            try:
                await reader.read()
            finally:
                writer.close()

        task = asyncio.create_task(talk())
        await asyncio.sleep(self.random.uniform(0, 0.02))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def tls_client(self):
        reader, writer = await asyncio.open_connection(
            HOST, self.targets["tls"], ssl=self.tls, server_hostname=certificates.HOSTNAME
        )
        writer.write(b"bye\n" if self.chance(2) else b"over TLS\n")
        line = await reader.readline()
        check(line in (b"bye\n", b"over TLS\n"), line)
        writer.close()
        await writer.wait_closed()

    async def aiohttp_client(self):
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{HOST}:{self.targets['aiohttp']}/", data=b"body" * 500) as response,
        ):
            body = await response.read()
            check((response.status, body) == (200, b"body" * 500), response.status)

    async def refused(self):
        """A connection that is refused."""
        with socket.socket() as sock:
            sock.bind((HOST, 0))
            try:
                await asyncio.open_connection(*sock.getsockname())
            except ConnectionRefusedError:
                return
        raise Wrong("not refused")

    async def refused_datagram(self):
        """The error of a datagram that nobody takes is told to the protocol."""
        loop = asyncio.get_running_loop()
        told = loop.create_future()

        class Refused(asyncio.DatagramProtocol):
            def error_received(self, exc):
                if not told.done():
                    told.set_result(exc)

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            # Connected to itself, it takes nothing from others, and nobody else can have its port meanwhile.
            sock.bind((HOST, 0))
            sock.connect(sock.getsockname())
            endpoint, _ = await loop.create_datagram_endpoint(Refused, remote_addr=sock.getsockname())
            try:
                endpoint.sendto(b"x")
                error = await told
            finally:
                endpoint.close()
        check(isinstance(error, ConnectionRefusedError), error)

    async def pipes(self):
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        with open(reading, "rb", 0) as read_end, open(writing, "wb", 0) as write_end:
            reader = asyncio.StreamReader()
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), read_end)
            sender, _ = await loop.connect_write_pipe(asyncio.Protocol, write_end)
            sender.write(bytes(100_000))
            sender.close()
            data = await reader.read()
            check(len(data) == 100_000, len(data))
            transport.close()

    async def raw_sockets(self):
        """The sock_ methods, and a wait that is cancelled."""
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)
            waiting = asyncio.create_task(loop.sock_recv(right, 10))
            await asyncio.sleep(0)
            waiting.cancel()
            sending = asyncio.create_task(loop.sock_sendall(left, bytes(300_000)))
            got = 0
            while got < 300_000:
                got += len(await loop.sock_recv(right, 100_000))
            await sending

    async def watched_file(self):
        """A reader that is called as long as there is something to read."""
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        with left, right:
            right.send(b"abc")
            got = asyncio.Event()
            calls = []

            def read():
                calls.append(left.recv(1))
                if len(calls) == 3:
                    got.set()

            loop.add_reader(left, read)
            try:
                await got.wait()
            finally:
                loop.remove_reader(left)
            check(calls == [b"a", b"b", b"c"], calls)

    async def blocking(self):
        """A callback that holds the loop up for a moment, so that much is ready in the next poll."""
        time.sleep(self.random.uniform(0, 0.01))


# The chores, and how many seconds at most there are between two of a kind.
CHORES = {
    "child": 0.1,
    "signal": 0.02,
    "fork": 0.4,
    "threads_post": 0.05,
    "thread": 0.1,
    "timers": 0.1,
    "stream_client": 0.02,
    "cancelled_client": 0.1,
    "tls_client": 0.1,
    "aiohttp_client": 0.1,
    "refused": 0.1,
    "refused_datagram": 0.1,
    "pipes": 0.1,
    "raw_sockets": 0.05,
    "watched_file": 0.05,
    "blocking": 0.2,
}
