"""The private attributes of asyncio's transports that programs read."""

import asyncio
import os
import socket
import sys

import pytest

from support.turns import turn, turn_until


class Protocol(asyncio.Protocol):
    lost = False

    def connection_lost(self, exc):
        self.lost = True


@pytest.fixture
def stream(loop):
    left, right = socket.socketpair()
    with right:
        transport, protocol = loop.run_until_complete(loop.create_connection(Protocol, sock=left))
        yield transport, protocol, left, right
        transport.abort()
        turn_until(loop, lambda: protocol.lost)


def test_socket_of_a_stream(loop, stream):
    transport, protocol, sock, _ = stream
    number = sock.fileno()
    assert transport._sock is sock
    assert transport._sock_fd == number
    assert transport._protocol is protocol
    assert transport._conn_lost == 0
    extra = transport._extra
    assert isinstance(extra, dict)
    assert extra["socket"].fileno() == number
    assert {"sockname", "peername"} <= set(extra)
    extra["mine"] = "value"
    assert transport.get_extra_info("mine") == "value"
    transport.close()
    assert transport._conn_lost == 1
    assert transport._sock is sock
    turn_until(loop, lambda: protocol.lost)
    assert transport._sock is None
    assert transport._sock_fd == number
    assert transport._protocol is None


def test_socket_of_an_accepted_connection(loop):
    accepted = []

    class Server(Protocol):
        def connection_made(self, transport):
            accepted.append((transport, self))

    server = loop.run_until_complete(loop.create_server(Server, "127.0.0.1", 0))
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        turn_until(loop, lambda: accepted)
        [(transport, protocol)] = accepted
        assert isinstance(transport._sock, socket.socket)
        assert transport._sock.fileno() == transport._sock_fd == transport.get_extra_info("socket").fileno()
        assert transport._extra["peername"] == client.getsockname()
        assert transport._extra["sockname"] == client.getpeername()
        transport.close()
        turn_until(loop, lambda: protocol.lost)
    server.close()
    loop.run_until_complete(server.wait_closed())


def test_writes_after_a_stream_is_lost(loop, stream):
    transport, _, _, _ = stream
    transport.abort()
    assert transport._conn_lost == 1
    transport.write(b"x")
    transport.write(b"x")
    assert transport._conn_lost == 3


def test_protocol_is_replaced(loop, stream):
    transport, first, _, right = stream
    received = []

    class Other(asyncio.Protocol):
        data_received = received.append  # type: ignore[assignment]

    transport.set_protocol(Other())
    assert isinstance(transport._protocol, Other)
    right.send(b"x")
    turn_until(loop, lambda: received)
    transport.set_protocol(first)
    assert transport._protocol is first


def test_buffer_of_a_stream(loop, stream):
    transport, _, _, right = stream
    assert len(transport._buffer) == 0 and not transport._buffer
    transport.write(bytes(3_000_000))
    transport.write(b"end")
    queued = b"".join(transport._buffer) if sys.version_info >= (3, 12) else bytes(transport._buffer)
    assert len(queued) == transport.get_write_buffer_size() > 0
    assert queued.endswith(b"\0end")
    assert type(transport._buffer).__name__ == ("deque" if sys.version_info >= (3, 12) else "bytearray")
    transport.abort()
    assert len(transport._buffer) == 0


def test_water_marks(loop, stream):
    transport, _, _, _ = stream
    assert (transport._low_water, transport._high_water) == transport.get_write_buffer_limits()
    transport.set_write_buffer_limits(high=1000, low=10)
    assert (transport._low_water, transport._high_water) == (10, 1000)


def test_datagrams(loop):
    transport, protocol = loop.run_until_complete(
        loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
    )
    try:
        number = transport.get_extra_info("socket").fileno()
        assert isinstance(transport._sock, socket.socket)
        assert transport._sock.fileno() == transport._sock_fd == number
        assert transport._protocol is protocol
        assert transport._conn_lost == 0
        assert transport._extra["sockname"] == transport.get_extra_info("sockname")
        assert (transport._low_water, transport._high_water) == transport.get_write_buffer_limits()
        assert list(transport._buffer) == []
    finally:
        transport.close()
    assert transport._conn_lost == 1
    turn(loop)
    turn(loop)
    assert transport._sock is None and transport._protocol is None and transport._sock_fd == number


@pytest.mark.parametrize("connected", [False, True])
def test_buffer_of_datagrams(loop, tmp_path, connected):
    """Uses a UNIX socket, where a receiver that does not read makes the sender wait."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        path = str(tmp_path / "receiver")
        receiver.bind(path)
        transport, _ = loop.run_until_complete(
            loop.create_datagram_endpoint(
                asyncio.DatagramProtocol,
                str(tmp_path / "sender"),
                path if connected else None,
                family=socket.AF_UNIX,
            )
        )
        number = 0
        while not transport.get_write_buffer_size():
            transport.sendto(b"%d" % number, None if connected else path)
            number += 1
            assert number < 100_000
        transport.sendto(b"last", path)
        queued = list(transport._buffer)
        assert queued == [(b"%d" % (number - 1), path), (b"last", path)]
        transport.abort()
        turn(loop)
        turn(loop)


def test_ends_of_a_pipe(loop):
    read, write = os.pipe()
    reader, writer = os.fdopen(read, "rb", 0), os.fdopen(write, "wb", 0)
    receiving, read_protocol = loop.run_until_complete(loop.connect_read_pipe(Protocol, reader))
    sending, write_protocol = loop.run_until_complete(loop.connect_write_pipe(Protocol, writer))
    receiving.pause_reading()
    assert (receiving._pipe, sending._pipe) == (reader, writer)
    assert (receiving._fileno, sending._fileno) == (read, write)
    assert (receiving._protocol, sending._protocol) == (read_protocol, write_protocol)
    assert receiving._extra["pipe"] is reader and sending._extra["pipe"] is writer
    assert (sending._low_water, sending._high_water) == sending.get_write_buffer_limits()
    assert sending._buffer == bytearray() and sending._conn_lost == 0
    sending.write(bytes(1_000_000) + b"end")
    assert type(sending._buffer) is bytearray
    assert len(sending._buffer) == sending.get_write_buffer_size() > 0
    assert sending._buffer.endswith(b"\0end")
    sending._pipe = "mine"
    assert sending._pipe == "mine"
    sending._pipe = writer
    sending.abort()
    sending.write(b"dropped")
    assert sending._conn_lost == 1
    receiving.close()
    turn_until(loop, lambda: read_protocol.lost and write_protocol.lost)
    assert receiving._pipe is None
    assert receiving._fileno == read and sending._fileno == write
