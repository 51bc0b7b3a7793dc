"""loop.sock_* calls that are cancelled at any moment: no byte and no connection is lost, and nothing stays
registered.

asyncio itself loses what it has received when the cancel comes before the task has run again. Where a test
can come upon this, it says so.
"""

import asyncio
import contextlib
import os
import random
import socket

import pytest

from support.peers import HOST, Peer, Recorder, on_asyncio, released, settle, silent_address, socket_pair
from support.sock_peers import STREAMS, cancelled, fill, receive, registered, streams, waiting

RECEIVING = ["sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into"]
METHODS = pytest.mark.parametrize("method", RECEIVING)
KINDS = pytest.mark.parametrize("kind", STREAMS)

PLENTY = bytes(range(256)) * 4096
BUFFERS = 65536  # this is less than PLENTY


def polled_files():
    """The file descriptors that epoll instances of this process watch, according to the kernel."""
    numbers = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":
                with open(f"/proc/self/fdinfo/{name}") as info:
                    numbers += [int(line.split()[1]) for line in info if line.startswith("tfd:")]
    return sorted(numbers)


# --- while it waits ---


@KINDS
@METHODS
async def test_nothing_is_received(method, kind):
    with streams(kind) as (sock, peer):
        for _ in range(3):
            task = await waiting(receive(method, sock, 100))
            assert await cancelled(task)
            assert not registered(sock)
            peer.send(b"hello")
            await settle()
            assert sock.recv(100) == b"hello"
            task = await waiting(receive(method, sock, 100))
            peer.send(b"world")
            assert await task == b"world"


@METHODS
async def test_data_comes_before_the_cancel_is_seen(method):
    """The task is cancelled, and data comes before it runs."""
    with streams() as (sock, peer):
        task = await waiting(receive(method, sock, 100))
        task.cancel()
        peer.send(b"hello")
        await asyncio.wait([task])
        assert task.cancelled()
        await settle()
        assert sock.recv(100) == b"hello"
        assert not registered(sock)


@METHODS
async def test_cancel_at_once(method):
    """The task is cancelled before it has run at all."""
    with streams() as (sock, peer):
        peer.send(b"hello")
        task = asyncio.create_task(receive(method, sock, 100))
        assert await cancelled(task)
        assert sock.recv(100) == b"hello"


@METHODS
@pytest.mark.parametrize("turns", range(6))
async def test_cancel_around_the_moment_of_the_data(method, turns):
    """Either the call returns the data, or the data is still there."""
    if on_asyncio() and turns >= 2:
        pytest.skip("asyncio loses what it has received")
    with streams() as (sock, peer):
        for _ in range(20):
            task = await waiting(receive(method, sock, 100))
            peer.send(b"hello")
            for _ in range(turns):
                await asyncio.sleep(0)
            received = sock.recv(100) if await cancelled(task) else task.result()
            assert received == b"hello"
        assert not registered(sock)


@METHODS
async def test_cancel_by_another_callback_of_the_same_turn(method):
    """Two calls are ready in one turn, and the first to run cancels the other."""
    if on_asyncio():
        pytest.skip("asyncio loses what it has received")
    for _ in range(20):
        with streams() as (one, first), streams() as (two, second):
            tasks = {}

            async def run(own, sock, other, tasks=tasks):
                data = await receive(method, sock, 100)
                tasks[other].cancel()
                return data

            tasks["one"] = await waiting(run("one", one, "two"))
            tasks["two"] = await waiting(run("two", two, "one"))
            first.send(b"1")
            second.send(b"2")
            await asyncio.wait(tasks.values())
            received = [
                sock.recv(1) if task.cancelled() else task.result()
                for task, sock in zip(tasks.values(), (one, two), strict=True)
            ]
            assert received == [b"1", b"2"]
            assert any(task.cancelled() for task in tasks.values())


async def test_timeout():
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await loop.sock_recv(sock, 100)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_recv(sock, 100), 0.001)
        assert not registered(sock)
        peer.send(b"hello")
        assert await asyncio.wait_for(loop.sock_recv(sock, 100), 10) == b"hello"


# --- what the socket can be used for afterwards ---


CALLS = {
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 100),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(100)),
    "sock_recvfrom": lambda loop, sock: loop.sock_recvfrom(sock, 100),
    "sock_recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(100)),
    "sock_sendall": lambda loop, sock: loop.sock_sendall(sock, PLENTY),
}


@pytest.mark.parametrize("call", CALLS)
async def test_transport_afterwards(call):
    loop = asyncio.get_running_loop()
    near, far = socket_pair(buffers=BUFFERS)
    near.setblocking(False)
    with Peer(far) as peer:
        if call == "sock_sendall":
            filled = fill(near)
        assert await cancelled(await waiting(CALLS[call](loop, near)))
        if call == "sock_sendall":
            await peer.read(filled)
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        transport.write(b"bye")
        assert await peer.read(3) == b"bye"
        transport.close()
        await released(transport)


@pytest.mark.parametrize("call", CALLS)
async def test_add_reader_and_writer_afterwards(call):
    loop = asyncio.get_running_loop()
    with streams(buffers=BUFFERS) as (sock, peer):
        fill(sock)
        assert await cancelled(await waiting(CALLS[call](loop, sock)))
        readable, writable = asyncio.Event(), asyncio.Event()
        loop.add_reader(sock, readable.set)
        loop.add_writer(sock, writable.set)
        await settle()
        assert not readable.is_set()
        assert not writable.is_set()
        peer.send(b"x")
        await readable.wait()
        reading = asyncio.create_task(peer.read(1 << 20))
        await writable.wait()
        assert loop.remove_reader(sock) is True
        assert loop.remove_writer(sock) is True
        sock.shutdown(socket.SHUT_WR)
        await reading


@pytest.mark.parametrize("call", CALLS)
async def test_close_afterwards(call):
    """After a cancel the socket's number is free, also for the loop."""
    loop = asyncio.get_running_loop()
    for _ in range(3):
        with streams(buffers=BUFFERS) as (sock, peer):
            fill(sock)
            assert await cancelled(await waiting(CALLS[call](loop, sock)))
            sock.close()
            with streams() as (again, other):
                other.send(b"x")
                assert await loop.sock_recv(again, 1) == b"x"
                task = await waiting(loop.sock_recv(again, 1))
                other.send(b"y")
                assert await task == b"y"


@pytest.mark.parametrize("call", CALLS)
async def test_closed_before_the_cancel(call):
    """A call for a socket that was closed is never woken, but it can be cancelled."""
    loop = asyncio.get_running_loop()
    with streams(buffers=BUFFERS) as (sock, peer):
        fill(sock)
        task = await waiting(CALLS[call](loop, sock))
        sock.close()
        await settle()
        if not task.done():
            assert await cancelled(task)
        elif not task.cancelled():
            assert isinstance(task.exception(), OSError)
    with streams() as (again, other):
        task = await waiting(loop.sock_recv(again, 1))
        other.send(b"y")
        assert await task == b"y"


# --- many, at random moments ---


class Sequence:
    """A stream of bytes in which every part differs from every other."""

    def __init__(self):
        self.sent = 0

    def take(self, count):
        start, self.sent = self.sent, self.sent + count
        return bytes(number % 251 for number in range(start, self.sent))


@pytest.mark.time_limit(120)
@METHODS
async def test_random_cancels_of_receiving(method):
    rng = random.Random(4)
    # One turn after the data came, asyncio has not received it yet. Later it has, and would lose it. TCP may take its
    # time to deliver.
    latest, kinds = (1, ["unix"]) if on_asyncio() else (4, STREAMS)
    before = polled_files()
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(streams(rng.choice(kinds))) for _ in range(20)]
        sequences = [Sequence() for _ in pairs]
        received = [bytearray() for _ in pairs]
        cancels = 0
        while cancels < 2_000:
            chosen = rng.sample(range(len(pairs)), rng.randrange(1, 6))
            tasks = [asyncio.create_task(receive(method, pairs[number][0], rng.randrange(1, 200))) for number in chosen]
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            for number in chosen:
                # Never more than the kernel surely takes.
                if rng.random() < 0.7 and sequences[number].sent - len(received[number]) < 2000:
                    pairs[number][1].send(sequences[number].take(rng.randrange(1, 300)))
            for _ in range(rng.randrange(latest + 1)):
                await asyncio.sleep(0)
            for task in tasks:
                cancels += task.cancel()
            await asyncio.wait(tasks)
            for number, task in zip(chosen, tasks, strict=True):
                if not task.cancelled():
                    received[number] += task.result()
        for (sock, peer), data, sequence in zip(pairs, received, sequences, strict=True):
            assert not registered(sock)
            peer.send_eof()
            while rest := await receive(method, sock, 65536):
                data += rest
            assert data == Sequence().take(sequence.sent)
        assert polled_files() == before


@pytest.mark.time_limit(120)
async def test_a_hundred_thousand_cancels_on_a_hundred_sockets():
    """Each call is cancelled at a random moment: before it runs, while it waits, when its data comes, or later."""
    rng = random.Random(100_000)
    loop = asyncio.get_running_loop()
    # As above. asyncio gets less to do.
    latest, kinds, goal = (1, ["unix"], 20_000) if on_asyncio() else (4, STREAMS, 100_000)
    before, cancels = polled_files(), 0
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(streams(kind)) for kind in kinds * (100 // len(kinds))]
        sent, received = [0] * 100, [bytearray() for _ in pairs]
        pattern = Sequence().take(251 * 2)
        while cancels < goal:
            tasks = [asyncio.create_task(loop.sock_recv(sock, 200)) for sock, _ in pairs]
            waiting = rng.sample(tasks, len(tasks))

            def cancel_some(count, waiting=waiting):
                for task in waiting[:count]:
                    task.cancel()
                del waiting[:count]

            for _ in range(rng.randrange(3)):
                cancel_some(rng.randrange(20))
                await asyncio.sleep(0)
            for number in rng.sample(range(100), 30):
                start, count = sent[number] % 251, rng.randrange(1, 250)
                if sent[number] - len(received[number]) < 2000:
                    pairs[number][1].send(pattern[start : start + count])
                    sent[number] += count
            for _ in range(rng.randrange(latest + 1)):
                cancel_some(rng.randrange(50))
                await asyncio.sleep(0)
            cancel_some(len(tasks))
            await asyncio.wait(tasks)
            for data, task in zip(received, tasks, strict=True):
                cancels += task.cancelled()
                if not task.cancelled():
                    data += task.result()
        await asyncio.sleep(0.001)  # registrations may stay until the loop has nothing to do
        assert polled_files() == before
        assert not any(registered(sock) for sock, _ in pairs)
        for (sock, peer), data, count in zip(pairs, received, sent, strict=True):
            peer.send_eof()
            while rest := await loop.sock_recv(sock, 65536):
                data += rest
            assert data == Sequence().take(count)
    assert polled_files() == before


@pytest.mark.time_limit(120)
@pytest.mark.parametrize("seed", [4, 5])
@KINDS
async def test_random_cancels_of_sending(kind, seed):
    """From a cancelled call the first part of the data arrives, which may be all or nothing."""
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    before = polled_files()
    with streams(kind, buffers=4096) as (sock, peer):
        sent = []

        async def send():
            # Each value is used once. All data between two equal values might be lost, if the peer gets no time to
            # read.
            for number in range(250):
                data = bytes([number]) * rng.choice([10, 1000, 100_000])
                task = asyncio.create_task(loop.sock_sendall(sock, data))
                for _ in range(rng.randrange(6)):
                    await (asyncio.sleep(0) if rng.random() < 0.9 else settle())
                task.cancel()
                await asyncio.wait([task])
                sent.append((data, not task.cancelled()))
            assert not registered(sock)
            sock.shutdown(socket.SHUT_WR)

        _, received = await asyncio.gather(send(), peer.read_until_eof())
        assert polled_files() == before
    for data, complete in sent:
        count = len(data) if complete else len(received) - len(received.lstrip(data[:1]))
        assert received[:count] == data[:count]
        assert count <= len(data)
        received = received[count:]
    assert received == b""


@pytest.mark.time_limit(120)
async def test_random_cancels_of_accepting():
    rng = random.Random(4)
    # Until some releases of 2026, asyncio accepts a connection for a call that was cancelled in the same turn.
    latest = 0 if on_asyncio() else 4
    loop = asyncio.get_running_loop()
    before = polled_files()
    with socket.create_server((HOST, 0), backlog=200) as listener, contextlib.ExitStack() as stack:
        listener.setblocking(False)
        made, accepted = set(), []
        for _ in range(1000):
            task = asyncio.create_task(loop.sock_accept(listener))
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            if rng.random() < 0.2:
                client = stack.enter_context(socket.create_connection(listener.getsockname()))
                made.add(client.getsockname())
            for _ in range(rng.randrange(latest + 1)):
                await asyncio.sleep(0)
            if not await cancelled(task):
                accepted.append(task.result())
        assert not registered(listener)
        while len(accepted) < len(made):
            accepted.append(await loop.sock_accept(listener))
        for conn, _ in accepted:
            conn.close()
        assert {address for _, address in accepted} == made
        assert len(accepted) == len(made)
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert polled_files() == before


async def test_many_cancels_of_connecting():
    loop = asyncio.get_running_loop()
    before = polled_files()
    with silent_address() as address:
        for turns in range(50):
            with socket.socket() as sock:
                sock.setblocking(False)
                task = asyncio.create_task(loop.sock_connect(sock, address))
                for _ in range(turns % 5):
                    await asyncio.sleep(0)
                assert await cancelled(task)
                assert not registered(sock)
        assert polled_files() == before


# --- the loop ends before the call does ---


@pytest.mark.parametrize("call", CALLS)
def test_loop_closed_meanwhile(loop_factory, call):
    loop = loop_factory()
    loop.set_exception_handler(lambda loop, context: None)  # the report is about the task that never ends
    with streams(buffers=BUFFERS) as (sock, peer):
        fill(sock)
        task = loop.create_task(CALLS[call](loop, sock))
        loop.run_until_complete(asyncio.sleep(0))
        assert not task.done()
        loop.close()
        del task, loop
        peer.send(b"x")
        assert sock.recv(10) == b"x"
