"""Wrong arguments of add_reader and its like, and files that are closed without telling the loop."""

import asyncio
import os
import re
import socket
import tempfile

import pytest

from support.turns import turn

ADD = ["add_reader", "add_writer"]
REMOVE = ["remove_reader", "remove_writer"]


class WithFileno:
    def __init__(self, number):
        self.number = number

    def fileno(self):
        return self.number


def call(loop, method, file):
    return getattr(loop, method)(file, *([print] if method in ADD else []))


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@pytest.mark.parametrize("method", ADD + REMOVE)
@pytest.mark.parametrize(
    "file",
    [None, "text", b"bytes", 1.5, [], object(), WithFileno("text"), WithFileno(None)],
    ids=lambda file: type(file).__name__,
)
def test_what_is_no_file(loop, method, file):
    with pytest.raises(ValueError, match=f"^Invalid file object: {re.escape(repr(file))}$"):
        call(loop, method, file)


@pytest.mark.parametrize("method", ADD + REMOVE)
@pytest.mark.parametrize("file", [-1, -5, WithFileno(-1)], ids=["-1", "-5", "object"])
def test_negative_number(loop, method, file):
    with pytest.raises(ValueError, match="^Invalid file descriptor: -"):
        call(loop, method, file)


@pytest.mark.parametrize("method", ADD + REMOVE)
def test_closed_file_object(loop, method):
    sock = socket.socket()
    sock.close()
    with pytest.raises(ValueError, match="^Invalid file descriptor: -1$"):
        call(loop, method, sock)


@pytest.mark.parametrize("method", ADD)
def test_closed_number(loop, method):
    sock = socket.socket()
    number = sock.fileno()
    sock.close()
    with pytest.raises(OSError) as raised:
        call(loop, method, number)
    assert raised.value.strerror == os.strerror(raised.value.errno) == "Bad file descriptor"  # type: ignore[arg-type]
    assert call(loop, method.replace("add", "remove"), number) is False


@pytest.mark.parametrize("method", ADD)
@pytest.mark.parametrize("number", [2**31, 2**64])
def test_number_too_large(loop, method, number):
    with pytest.raises((OverflowError, ValueError)):
        call(loop, method, number)


@pytest.mark.parametrize("method", ADD)
def test_regular_file(loop, method):
    with tempfile.TemporaryFile() as file:
        for named in file, file.fileno():
            with pytest.raises(PermissionError, match="Operation not permitted"):
                call(loop, method, named)
            assert call(loop, method.replace("add", "remove"), named) is False


@pytest.mark.parametrize("method", REMOVE)
def test_nothing_to_remove(loop, method, pair):
    assert call(loop, method, pair[0]) is False
    assert call(loop, method, 12345) is False


@pytest.mark.parametrize("method", ADD)
@pytest.mark.parametrize("args", [(), (0,)])
def test_missing_arguments(loop, method, args):
    with pytest.raises(TypeError):
        getattr(loop, method)(*args)


@pytest.mark.parametrize("method", ADD)
def test_closed_loop(loop, method, pair):
    loop.close()
    with pytest.raises(RuntimeError, match="^Event loop is closed$"):
        call(loop, method, pair[0])
    assert call(loop, method.replace("add", "remove"), pair[0]) is False


@pytest.mark.parametrize("method", ADD)
def test_loop_closed_with_a_callback_left(loop, method, pair):
    call(loop, method, pair[0])
    loop.close()


def test_what_cannot_be_called(loop, loop_errors, pair):
    loop.add_writer(pair[0], 42)
    turn(loop)
    assert loop.remove_writer(pair[0]) is True
    assert isinstance(loop_errors.pop()["exception"], TypeError)


@pytest.mark.parametrize(
    "name",
    [lambda sock: sock, lambda sock: sock.fileno(), lambda sock: WithFileno(sock.fileno())],
    ids=["socket", "int", "object"],
)
def test_all_names_of_one_file(loop, pair, name):
    """A file can be named by its number or an object. Both mean the same registration."""
    left, _ = pair
    calls = []
    loop.add_writer(left, calls.append, "old")
    loop.add_writer(name(left), calls.append, "new")
    turn(loop)
    assert calls == ["new"]
    assert loop.remove_writer(name(left)) is True
    assert loop.remove_writer(left) is False


async def test_file_of_a_transport(pair):
    loop = asyncio.get_running_loop()
    left, _ = pair
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
    named = transport.get_extra_info("socket")
    for file in named, named.fileno():
        message = f"File descriptor {re.escape(repr(file))} is used by transport {re.escape(repr(transport))}"
        for method in ADD + REMOVE:
            with pytest.raises(RuntimeError, match=f"^{message}$"):
                call(loop, method, file)
    transport.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


# --- files closed or replaced behind the loop's back ---


def test_closed_without_removal(loop, pair):
    left, right = pair
    calls = []
    loop.add_reader(left, calls.append, 1)
    right.send(b"x")
    number = left.fileno()
    left.close()
    turn(loop)
    assert calls == []
    assert loop.remove_reader(number) is True
    assert loop.remove_reader(number) is False


def test_number_used_again_after_removal(loop, pair):
    left, right = pair
    calls = []
    loop.add_reader(left, calls.append, "old")
    number = left.fileno()
    new_left, new_right = socket.socketpair()
    loop.remove_reader(number)
    left.close()
    with new_left, new_right:
        os.dup2(new_left.fileno(), number)
        loop.add_reader(number, calls.append, "new")
        turn(loop)
        assert calls == []
        new_right.send(b"x")
        turn(loop)
        assert calls == ["new"]
        assert loop.remove_reader(number) is True
    os.close(number)


def test_number_used_again_without_removal(loop, pair):
    """A callback for a closed file must not be called for a new file with the same number."""
    left, right = pair
    calls = []
    loop.add_reader(left, calls.append, "old")
    number = left.fileno()
    new_left, new_right = socket.socketpair()
    left.close()
    with new_left, new_right:
        os.dup2(new_left.fileno(), number)
        new_right.send(b"x")
        turn(loop)
        turn(loop)
        assert calls == []
        loop.remove_reader(number)
    os.close(number)


def test_closed_by_a_callback_of_the_turn(loop, pair):
    """A file is ready, but it is closed and its number used again before its callback is called."""
    left, right = pair
    calls = []
    number = left.fileno()
    new_left, new_right = socket.socketpair()

    def replace():
        loop.remove_reader(left)
        left.close()
        os.dup2(new_left.fileno(), number)
        loop.add_reader(number, calls.append, "new")

    with new_left, new_right:
        loop.add_reader(left, calls.append, "old")
        right.send(b"x")
        loop.call_soon(replace)
        turn(loop)
        turn(loop)
        assert calls == []
        new_right.send(b"x")
        turn(loop)
        assert calls == ["new"]
        loop.remove_reader(number)
    os.close(number)


def test_duplicate_of_a_file(loop, pair):
    """For a loop, two numbers of one open file are two files."""
    left, right = pair
    calls = []
    with left.dup() as duplicate:
        loop.add_reader(left, calls.append, "left")
        loop.add_reader(duplicate, calls.append, "duplicate")
        right.send(b"x")
        turn(loop)
        assert sorted(calls) == ["duplicate", "left"]
        loop.remove_reader(left)
        turn(loop)
        assert calls[2:] == ["duplicate"]
        loop.remove_reader(duplicate)


@pytest.mark.time_limit(60)
def test_numbers_used_again_and_again(loop):
    for number in range(2000):
        left, right = socket.socketpair()
        with left, right:
            calls = []
            loop.add_reader(left, calls.append, number)
            right.send(b"x")
            turn(loop)
            assert calls == [number]
            assert loop.remove_reader(left) is True
