"""Data that was written before the loop stopped, or while it does not run, has been sent.

Writing while the loop runs is in test_write.py.
"""

import pytest

from support.peers import PATIENCE, Peer, Recorder, read_exactly, released, socket_pair

# --- what was written before the loop stopped has left ---


@pytest.fixture
def wire(loop):
    """(transport, peer's socket) of a connection whose loop the test starts and stops."""
    near, far = socket_pair(buffers=65536)
    far.settimeout(PATIENCE)
    transport, _ = loop.run_until_complete(loop.create_connection(Recorder, sock=near))
    yield transport, far
    transport.abort()
    loop.run_until_complete(released(transport))
    far.close()


def test_write_and_stop(loop, wire):
    transport, far = wire

    def last():
        transport.write(b"first, ")
        loop.stop()
        transport.write(b"second")

    loop.call_soon(last)
    loop.run_forever()
    assert read_exactly(far, 13) == b"first, second"


def test_write_when_the_coroutine_ends(loop, wire):
    transport, far = wire

    async def main():
        transport.write(b"hello")

    loop.run_until_complete(main())
    assert read_exactly(far, 5) == b"hello"


def test_write_while_the_loop_does_not_run(loop, wire):
    transport, far = wire
    transport.write(b"one")
    assert read_exactly(far, 3) == b"one"
    transport.write(b"two")
    transport.writelines([b"six", b"ten"])
    assert read_exactly(far, 9) == b"twosixten"
    assert transport.get_write_buffer_size() == 0


def test_large_write_while_the_loop_does_not_run(loop, wire):
    transport, far = wire
    data = bytes(range(256)) * 16384
    transport.write(data)
    assert transport.get_write_buffer_size() > 0
    assert read_exactly(far, 10_000) == data[:10_000]

    async def rest():
        return await Peer(far).read(len(data) - 10_000)

    assert loop.run_until_complete(rest()) == data[10_000:]


def test_write_and_close_while_the_loop_does_not_run(loop, wire):
    transport, far = wire
    transport.write(b"hello")
    transport.close()
    assert read_exactly(far, 5) == b"hello"
    loop.run_until_complete(released(transport))
    assert far.recv(1) == b""


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_write_and_leave(loop, wire, error):
    transport, far = wire

    def leave():
        transport.write(b"last words")
        raise error

    loop.call_soon(transport.write, b"before, ")
    loop.call_soon(leave)
    with pytest.raises(error):
        loop.run_forever()
    assert read_exactly(far, 18) == b"before, last words"


def test_write_before_somebody_else_leaves(loop, wire):
    transport, far = wire

    async def leave():
        raise SystemExit

    loop.call_soon(transport.write, b"hello")
    with pytest.raises(SystemExit):
        loop.run_until_complete(leave())
    assert read_exactly(far, 5) == b"hello"


def test_write_and_close_the_loop(loop_factory):
    near, far = socket_pair()
    far.settimeout(PATIENCE)
    loop = loop_factory()
    transport, protocol = loop.run_until_complete(loop.create_connection(Recorder, sock=near))
    loop.call_soon(loop.stop)
    loop.call_soon(transport.write, b"hello")
    loop.run_forever()
    # The transport is closed before the loop is, so that there is nothing to warn about.
    transport.close()
    loop.run_until_complete(released(transport))
    loop.close()
    with far:
        assert read_exactly(far, 6) == b"hello"


def test_more_than_a_turn_sends_and_stop(loop):
    """All that the kernel takes was sent, even if it is more than one turn may send."""
    near, far = socket_pair(buffers=1 << 20)
    far.settimeout(PATIENCE)
    transport, _ = loop.run_until_complete(loop.create_connection(Recorder, sock=near))

    async def main():
        transport.write(bytes(800_000))

    loop.run_until_complete(main())
    assert transport.get_write_buffer_size() == 0
    assert len(read_exactly(far, 800_000)) == 800_000
    transport.abort()
    loop.run_until_complete(released(transport))
    far.close()
