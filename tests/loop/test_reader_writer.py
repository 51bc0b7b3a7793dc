"""add_reader, add_writer, remove_reader and remove_writer: who is called when.

Kinds of files are in test_reader_writer_files.py, wrong arguments in test_fd_errors.py.
"""

import contextlib
import socket
import struct

import pytest

from support.turns import turn, turn_until


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


def fill(sock):
    """Sends until the kernel takes no more. Returns how much it took."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(bytes(65536))
    return sent


def drain(sock):
    with contextlib.suppress(BlockingIOError):
        while sock.recv(65536):
            pass


# --- readers ---


def test_called_with_arguments_when_readable(loop, pair):
    left, right = pair
    calls = []
    assert loop.add_reader(left, lambda *args: calls.append(args), 1, "two") is None
    turn(loop)
    assert calls == []
    right.send(b"x")
    turn(loop)
    assert calls == [(1, "two")]
    assert loop.remove_reader(left) is True


def test_wakes_a_waiting_loop(loop, pair):
    left, right = pair
    loop.add_reader(left, loop.stop)
    loop.call_later(0.001, right.send, b"x")
    loop.run_forever()
    loop.remove_reader(left)


def test_called_again_until_everything_is_read(loop, pair):
    left, right = pair
    got = []
    loop.add_reader(left, lambda: got.append(left.recv(1)))
    right.send(b"abc")
    for _ in range(5):
        turn(loop)
    assert got == [b"a", b"b", b"c"]
    right.send(b"d")
    turn(loop)
    assert got[3:] == [b"d"]
    loop.remove_reader(left)


def test_called_once_a_turn_while_nothing_is_read(loop, pair):
    left, right = pair
    calls = []
    loop.add_reader(left, calls.append, 1)
    right.send(b"x")
    for count in range(1, 6):
        turn(loop)
        assert len(calls) == count
    left.recv(1)
    turn(loop)
    assert len(calls) == 5
    loop.remove_reader(left)


def test_waiting_loop_calls_again_without_a_new_event(loop, pair):
    """An edge-triggered poll reports data only once. The loop must remember that some is left."""
    left, right = pair
    got = []

    def read():
        got.append(left.recv(1))
        if len(got) == 1000:
            loop.stop()

    loop.add_reader(left, read)
    right.send(b"x" * 1000)
    loop.run_forever()
    assert got == [b"x"] * 1000
    loop.remove_reader(left)


def test_data_that_was_there_before(loop, pair):
    left, right = pair
    right.send(b"x")
    turn(loop)
    loop.add_reader(left, loop.stop)
    loop.run_forever()
    loop.remove_reader(left)


def test_end_of_file(loop, pair):
    left, right = pair
    got = []
    loop.add_reader(left, lambda: got.append(left.recv(10)))
    right.send(b"last")
    right.close()
    turn_until(loop, lambda: len(got) == 3)
    assert got == [b"last", b"", b""]
    loop.remove_reader(left)


def test_half_closed(loop, pair):
    left, right = pair
    got = []
    loop.add_reader(left, lambda: got.append(left.recv(10)))
    right.shutdown(socket.SHUT_WR)
    turn_until(loop, lambda: got)
    assert got[0] == b""
    loop.remove_reader(left)


def test_many_files_in_one_turn(loop):
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(300)]
        for left, right in pairs:
            stack.enter_context(left)
            stack.enter_context(right)
        got = []
        for number, (left, _) in enumerate(pairs):
            loop.add_reader(left, lambda number=number, left=left: got.append((number, left.recv(10))))
        for number, (_, right) in enumerate(pairs):
            if number % 2:
                right.send(str(number).encode())
        turn_until(loop, lambda: len(got) == 150)
        turn(loop)
        assert sorted(got) == [(number, str(number).encode()) for number in range(1, 300, 2)]
        for left, _ in pairs:
            assert loop.remove_reader(left) is True


# --- writers ---


def test_called_when_writable(loop, pair):
    left, _ = pair
    calls = []
    assert loop.add_writer(left, lambda *args: calls.append(args), 1, "two") is None
    turn(loop)
    turn(loop)
    assert calls == [(1, "two")] * 2
    assert loop.remove_writer(left) is True


def test_called_once_there_is_room(loop, pair):
    left, right = pair
    fill(left)
    calls = []
    loop.add_writer(left, calls.append, 1)
    turn(loop)
    turn(loop)
    assert calls == []
    drain(right)
    turn(loop)
    assert calls == [1]
    loop.remove_writer(left)


def test_all_of_it_arrives(loop, pair):
    left, right = pair
    data = bytes(range(256)) * 8192
    sent, got = 0, bytearray()

    def write():
        nonlocal sent
        sent += left.send(data[sent : sent + 100_000])
        if sent == len(data):
            loop.remove_writer(left)

    def read():
        got.extend(right.recv(70_000))
        if len(got) == len(data):
            loop.stop()

    loop.add_writer(left, write)
    loop.add_reader(right, read)
    loop.run_forever()
    assert got == data
    loop.remove_reader(right)


def test_writer_of_a_closed_peer(loop, pair):
    left, right = pair
    fill(left)
    right.close()
    loop.add_writer(left, loop.stop)
    loop.run_forever()
    loop.remove_writer(left)


# --- both at once ---


def test_directions_are_independent(loop, pair):
    left, right = pair
    calls = []
    loop.add_reader(left, calls.append, "read")
    loop.add_writer(left, calls.append, "write")
    turn(loop)
    assert calls == ["write"]
    right.send(b"x")
    turn(loop)
    assert sorted(calls[1:]) == ["read", "write"]

    assert loop.remove_writer(left) is True
    assert loop.remove_writer(left) is False
    calls.clear()
    turn(loop)
    assert calls == ["read"]

    loop.add_writer(left, calls.append, "write")
    assert loop.remove_reader(left) is True
    assert loop.remove_reader(left) is False
    calls.clear()
    turn(loop)
    assert calls == ["write"]
    assert loop.remove_writer(left) is True


@pytest.mark.parametrize("how", ["close", "reset"])
def test_end_of_the_peer_wakes_both_directions(loop, how):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        near.setblocking(False)
        fill(near)
        calls = set()
        loop.add_reader(near, calls.add, "read")
        loop.add_writer(near, calls.add, "write")
        if how == "reset":
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()  # in both cases this sends a reset, because data is left unread
        turn_until(loop, lambda: len(calls) == 2)
        loop.remove_reader(near)
        loop.remove_writer(near)


# --- changes ---


def test_replaced_callback(loop, pair):
    left, right = pair
    right.send(b"x")
    calls = []
    for method in loop.add_reader, loop.add_writer:
        method(left, calls.append, "old")
        method(left, calls.append, "new")
    turn(loop)
    assert calls == ["new", "new"]
    loop.remove_reader(left)
    loop.remove_writer(left)
    turn(loop)
    assert calls == ["new", "new"]


def test_replaced_after_it_was_found_ready(loop, pair):
    """Another callback of the same turn reads the data, and sets a new reader: that one must not be called for it."""
    left, right = pair
    calls = []

    def take():
        assert left.recv(10) == b"x"
        loop.add_reader(left, calls.append, "new")

    loop.add_reader(left, calls.append, "old")
    right.send(b"x")
    loop.call_soon(take)
    turn(loop)
    turn(loop)
    assert calls == []
    right.send(b"y")
    turn(loop)
    assert calls == ["new"]
    loop.remove_reader(left)


def test_replaced_while_the_data_is_still_there(loop, pair):
    left, right = pair
    calls = []
    loop.add_reader(left, calls.append, "old")
    loop.add_writer(left, calls.append, "writer")
    right.send(b"x")
    loop.call_soon(loop.add_reader, left, calls.append, "new")
    turn(loop)
    assert calls == ["writer"]
    loop.remove_writer(left)
    turn(loop)
    assert calls == ["writer", "new"]
    loop.remove_reader(left)


def test_replaced_inside_the_callback(loop, pair):
    left, right = pair
    right.send(b"x")
    calls = []

    def old():
        calls.append("old")
        loop.add_reader(left, calls.append, "new")

    loop.add_reader(left, old)
    turn(loop)
    turn(loop)
    assert calls == ["old", "new"]
    loop.remove_reader(left)


def test_removed_inside_own_callback(loop, pair):
    left, right = pair
    right.send(b"x")
    calls = []
    loop.add_reader(left, lambda: calls.append(loop.remove_reader(left)))
    turn(loop)
    turn(loop)
    assert calls == [True]


def test_removed_by_another_callback_of_the_turn(loop):
    """Both readers are ready. The first that is called removes the other, which must not be called any more."""
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(2)]
        for sock in pairs[0] + pairs[1]:
            stack.enter_context(sock)
        calls = []

        def callback(own, other):
            calls.append(own)
            loop.remove_reader(pairs[other][0])

        loop.add_reader(pairs[0][0], callback, 0, 1)
        loop.add_reader(pairs[1][0], callback, 1, 0)
        for _, right in pairs:
            right.send(b"x")
        turn(loop)
        turn(loop)
        assert calls in ([0, 0], [1, 1])
        assert loop.remove_reader(pairs[calls[0]][0]) is True


def test_removed_and_added_again_in_its_callback(loop, pair):
    left, right = pair
    right.send(b"x")
    calls = []

    def callback():
        calls.append(1)
        loop.remove_reader(left)
        loop.add_reader(left, callback)

    loop.add_reader(left, callback)
    for _ in range(3):
        turn(loop)
    assert calls == [1, 1, 1]
    loop.remove_reader(left)


def test_removed_before_a_ready_callback_closes_it(loop, pair):
    left, right = pair
    right.send(b"x")
    calls = []
    loop.add_reader(left, calls.append, 1)
    loop.call_soon(lambda: (loop.remove_reader(left), left.close()))
    turn(loop)
    turn(loop)
    assert calls == []


def test_failing_callback_stays(loop, loop_errors, pair):
    left, right = pair
    right.send(b"x")
    loop.add_reader(left, lambda: 1 / 0)
    turn(loop)
    turn(loop)
    assert [type(context["exception"]) for context in loop_errors] == [ZeroDivisionError] * 2
    loop_errors.clear()
    assert loop.remove_reader(left) is True


def test_nobody_is_called_after_removal(loop, pair):
    left, right = pair
    calls = []
    loop.add_reader(left, calls.append, 1)
    loop.add_writer(left, calls.append, 1)
    loop.remove_reader(left)
    loop.remove_writer(left)
    right.send(b"x")
    turn(loop)
    right.close()
    turn(loop)
    assert calls == []


def test_from_within_a_running_loop(loop, pair):
    left, right = pair
    right.send(b"x")
    loop.call_soon(loop.add_reader, left, loop.stop)
    loop.run_forever()
    loop.remove_reader(left)
