"""SystemExit and KeyboardInterrupt out of a protocol's methods over TLS: they leave the loop, and when it runs again
the connection goes on where it was.

Protocol methods that raise anything else are in test_outcomes_protocol.py.
"""

import contextlib
import ssl
from typing import Any

import pytest

from support.peers import Recorder, settle
from support.tls_peers import BufferedRecorder, gone, tls_connection

pytestmark = pytest.mark.time_limit(10)

LEAVING = pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])

BASES = {"data_received": Recorder, "buffer_updated": BufferedRecorder, "get_buffer": BufferedRecorder}

DATA = bytes(range(256)) * 399


@pytest.fixture
def only_rloop(loop_name):
    if loop_name == "asyncio":
        pytest.skip("asyncio's connection is stuck, or loses what is left")


def leaving(base, method, error):
    """A protocol that notes each call of `method`, and raises in the first `left` of them."""

    def call(self, *args):
        result = getattr(base, method)(self, *args)
        if self.left:
            self.left -= 1
            raise error("now")
        return result

    return type("Leaving", (base,), {method: call, "left": 0, "size": 1000})


@contextlib.contextmanager
def connected(loop, factory, **kwargs):
    """A TLS connection as (transport, protocol, peer). The test runs the loop itself."""
    context = tls_connection(factory, **kwargs)
    connection = loop.run_until_complete(context.__aenter__())
    try:
        yield connection
    finally:
        loop.run_until_complete(context.__aexit__(None, None, None))


def leave(loop, error):
    with pytest.raises(error, match="now"):
        loop.run_forever()


def finish(loop, protocol, sock):
    """Ends the connection, and checks that connection_lost is called once."""
    assert loop.run_until_complete(protocol.lost) is None
    loop.run_until_complete(gone(sock))
    assert protocol.calls.count("connection_lost") == 1


@LEAVING
@pytest.mark.parametrize("server_side", [False, True])
@pytest.mark.parametrize("method", BASES)
@pytest.mark.parametrize("times", [1, 3])
def test_exit_leaves_nothing_unread(loop, loop_name, method, server_side, times, error):
    """Neither the data in the TLS layer nor the data that waits in the socket makes a new event."""
    if loop_name == "asyncio" and method == "get_buffer":
        pytest.skip("asyncio's connection is stuck until the peer sends more")
    factory = leaving(BASES[method], method, error)
    with connected(loop, factory, server_side=server_side) as (transport, protocol, peer):
        sock = transport.get_extra_info("socket")
        protocol.left = times
        piece = len(DATA) // times
        for number in range(times):
            peer.send(DATA[number * piece : (number + 1) * piece])
            leave(loop, error)
        assert loop.run_until_complete(protocol.read(len(DATA))) == DATA
        peer.send(b"more")
        assert loop.run_until_complete(protocol.read(len(DATA) + 4)) == DATA + b"more"
        transport.write(b"answer")
        assert loop.run_until_complete(peer.read(6)) == b"answer"
        peer.send_close_notify()
        finish(loop, protocol, sock)
        assert protocol.calls.count("eof_received") == 1


@pytest.mark.usefixtures("only_rloop")
@LEAVING
@pytest.mark.parametrize("method", ["data_received", "buffer_updated"])
@pytest.mark.parametrize("end", ["close_notify", "eof", "both"])
def test_exit_and_the_end_behind_the_data(loop, method, end, error):
    """Data and end are received together. All data is delivered before the end."""
    with connected(loop, leaving(BASES[method], method, error)) as (transport, protocol, peer):
        sock = transport.get_extra_info("socket")
        protocol.left = 1
        last = peer.encrypt(DATA[:10_000])
        if end in ("close_notify", "both"):
            last += peer.close_notify()
        peer.send_raw(last)
        if end in ("eof", "both"):
            peer.send_eof()
        leave(loop, error)
        assert loop.run_until_complete(protocol.read(10_000)) == DATA[:10_000]
        finish(loop, protocol, sock)
        assert protocol.calls.count("eof_received") == 1


@pytest.mark.usefixtures("only_rloop")
@LEAVING
def test_exit_and_an_error_behind_the_data(loop, error):
    """A record that cannot be decrypted ends the connection, after the data in front of it was delivered."""
    with connected(loop, leaving(Recorder, "data_received", error)) as (transport, protocol, peer):
        protocol.left = 1
        records = bytearray(peer.encrypt(b"good") + peer.encrypt(b"forged"))
        records[-1] ^= 1
        peer.send_raw(records)
        leave(loop, error)
        assert isinstance(loop.run_until_complete(protocol.lost), ssl.SSLError)
        assert protocol.data == b"good"


@pytest.mark.usefixtures("only_rloop")
@LEAVING
@pytest.mark.parametrize("end", ["close_notify", "eof"])
@pytest.mark.parametrize("server_side", [False, True])
def test_exit_in_eof_received(loop, end, server_side, error):
    factory = leaving(Recorder, "eof_received", error)
    with connected(loop, factory, server_side=server_side) as (transport, protocol, peer):
        sock = transport.get_extra_info("socket")
        protocol.left = 1
        peer.send(b"last words")
        if end == "eof":
            peer.send_eof()
        else:
            peer.send_close_notify()
        leave(loop, error)
        finish(loop, protocol, sock)
        assert protocol.data == b"last words"


@pytest.mark.usefixtures("only_rloop")
@LEAVING
@pytest.mark.parametrize("server_side", [False, True])
def test_exit_in_connection_made(loop, server_side, error):
    """The program that connects gets the connection, and the data behind the handshake is delivered."""
    made = []

    class Leaving(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(self)
            raise error("now")

    async def connect():
        async with tls_connection(Leaving, server_side=server_side) as (transport, protocol, peer):
            assert made == [protocol]
            peer.send(b"hello")
            assert await protocol.read(5) == b"hello"
            transport.write(b"answer")
            assert await peer.read(6) == b"answer"

    task = loop.create_task(connect())
    leave(loop, error)
    loop.run_until_complete(task)


@LEAVING
def test_exit_when_reading_is_resumed(loop, error):
    """After the exit, the transport below goes on reading, too."""

    base: Any = leaving(BufferedRecorder, "buffer_updated", error)

    class Pausing(base):
        def buffer_updated(self, nbytes):
            super().buffer_updated(nbytes)
            if len(self.data) == self.size:
                self.transport.pause_reading()

    with connected(loop, Pausing) as (transport, protocol, peer):
        peer.send(DATA)
        loop.run_until_complete(protocol.read(1))
        loop.run_until_complete(settle())
        assert len(protocol.data) == protocol.size
        protocol.left = 1
        transport.resume_reading()
        leave(loop, error)
        assert loop.run_until_complete(protocol.read(len(DATA))) == DATA
        peer.send(b"more")
        assert loop.run_until_complete(protocol.read(len(DATA) + 4)) == DATA + b"more"
