"""add_reader and add_writer with every kind of file. A file that nobody waits for must not keep the loop busy."""

import asyncio
import contextlib
import os
import select
import socket
import struct

import pytest

from support.idle import sleeps_between_timers
from support.turns import turn, turn_until


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    left.setblocking(False)
    with left, right:
        yield left, right


def fill(write):
    """Writes until the kernel takes no more."""
    with contextlib.suppress(BlockingIOError):
        while True:
            write(bytes(65536))


# --- no work for nothing ---


@pytest.mark.parametrize("state", ["data", "closed peer", "reset", "never read"])
def test_removed_reader_costs_nothing(loop, state):
    """Once the reader is removed, data and the end of the peer must not keep the loop busy."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        calls = []

        def callback():
            calls.append(1)
            loop.remove_reader(near)

        loop.add_reader(near, callback)
        if state != "never read":
            far.send(b"x")
            turn_until(loop, lambda: calls)
        else:
            loop.remove_reader(near)
            far.send(b"x")
        if state == "closed peer":
            far.close()
        elif state == "reset":
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            far.close()
        assert loop.run_until_complete(sleeps_between_timers())
        assert len(calls) <= 1


def test_writer_that_waits_beside_a_reader_costs_nothing(loop, pair):
    left, right = pair
    fill(left.send)
    calls = []
    loop.add_writer(left, calls.append, 1)
    loop.add_reader(left, left.recv, 10)
    right.send(b"x")
    assert loop.run_until_complete(sleeps_between_timers())
    assert calls == []
    loop.remove_reader(left)
    loop.remove_writer(left)


# --- kinds of files ---


def pipe():
    read, write = os.pipe()
    return read, write, lambda: os.write(write, b"x")


def terminal():
    read, write = os.openpty()
    return read, write, lambda: os.write(write, b"x\n")


def event_counter():
    number = os.eventfd(0, os.EFD_NONBLOCK)
    return number, None, lambda: os.eventfd_write(number, 1)


KINDS = [pipe, terminal]
if hasattr(os, "eventfd"):
    KINDS.append(event_counter)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_readers(loop, kind):
    read, write, make_ready = kind()
    calls = []
    try:
        loop.add_reader(read, lambda: (calls.append(os.read(read, 100)), loop.stop()))
        turn(loop)
        assert calls == []
        make_ready()
        loop.run_forever()  # a terminal takes a while
        assert len(calls) == 1
        assert loop.remove_reader(read) is True
    finally:
        os.close(read)
        if write is not None:
            os.close(write)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_writers(loop, kind):
    read, write, _ = kind()
    number = read if write is None else write
    calls = []
    try:
        loop.add_writer(number, lambda: (calls.append(1), loop.stop()))
        loop.run_forever()
        assert calls == [1]
        assert loop.remove_writer(number) is True
    finally:
        os.close(read)
        if write is not None:
            os.close(write)


def test_reader_of_a_broken_pipe(loop):
    read, write = os.pipe()
    loop.add_reader(read, loop.stop)
    loop.call_later(0.001, os.close, write)
    loop.run_forever()
    assert os.read(read, 1) == b""
    loop.remove_reader(read)
    os.close(read)


def test_writer_of_a_broken_pipe(loop):
    read, write = os.pipe()
    os.set_blocking(write, False)
    fill(lambda data: os.write(write, data))
    loop.add_writer(write, loop.stop)
    loop.call_later(0.001, os.close, read)
    loop.run_forever()
    loop.remove_writer(write)
    os.close(write)


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="needs Linux")
def test_loop_in_a_loop(loop):
    """An epoll object is a file like any other. It is readable when one of the files in it is ready."""
    left, right = socket.socketpair()
    with left, right, select.epoll() as poll:
        poll.register(left, select.EPOLLIN)
        loop.add_reader(poll, loop.stop)
        loop.call_later(0.001, right.send, b"x")
        loop.run_forever()
        assert poll.poll(0) == [(left.fileno(), select.EPOLLIN)]
        loop.remove_reader(poll)


# --- a number whose file is another one by now ---


def replaced(left, other):
    """Puts another file behind the number of `left`."""
    os.dup2(other.fileno(), left.fileno())
    os.set_blocking(left.fileno(), False)


# asyncio's add_writer() raises FileNotFoundError once, and forgets the reader.
@pytest.mark.parametrize("loop_name", ["rloop"], indirect=True)
@pytest.mark.parametrize("given", ["number", "object"])
@pytest.mark.parametrize("ready", ["before", "after"])
def test_other_direction_stays_when_the_file_was_replaced(loop, pair, given, ready):
    """libpq replaces the file of its socket like this when its first attempt to connect has failed."""
    left, _ = pair
    file = left.fileno() if given == "number" else left
    other, peer = socket.socketpair()
    calls = []
    with other, peer:
        loop.add_reader(file, lambda: calls.append(left.recv(10)))
        turn(loop)
        replaced(left, other)
        if ready == "before":
            peer.send(b"x")
        loop.add_writer(file, calls.append, "writer")
        turn(loop)
        assert loop.remove_writer(file)
        if ready == "after":
            peer.send(b"x")
        turn(loop)
        assert sorted(calls, key=str) == [b"x", "writer"]
        assert loop.remove_reader(file)


@pytest.mark.parametrize("loop_name", ["rloop"], indirect=True)
def test_waiting_coroutine_stays_when_the_file_was_replaced(loop, pair):
    left, _ = pair
    other, peer = socket.socketpair()

    async def main():
        received = asyncio.ensure_future(loop.sock_recv(left, 10))
        await asyncio.sleep(0)
        replaced(left, other)
        written = loop.create_future()
        loop.add_writer(left, lambda: written.done() or written.set_result(None))
        await written
        loop.remove_writer(left)
        peer.send(b"x")
        return await asyncio.wait_for(received, 10)

    with other, peer:
        assert loop.run_until_complete(main()) == b"x"


@pytest.mark.parametrize("loop_name", ["rloop"], indirect=True)
def test_callbacks_of_another_object_do_not_stay(loop):
    """The callback of a closed socket must not be called for a new socket with the same number."""
    old, old_peer = socket.socketpair()
    calls = []
    with old_peer:
        loop.add_reader(old, calls.append, "old")
        number = old.fileno()
        old.close()
        new, peer = socket.socketpair()
        with new, peer:
            assert new.fileno() == number
            peer.send(b"x")
            loop.add_writer(new, calls.append, "writer")
            turn(loop)
            turn(loop)
            assert set(calls) == {"writer"}
            loop.remove_writer(new)
