"""SystemExit and KeyboardInterrupt out of a protocol's methods: they leave the loop, which can be used again.

Protocol methods that raise anything else are in test_errors.py.
"""

import asyncio
import gc
import logging
import os
import socket
from typing import Any

import pytest

from support.datagrams import Datagrams, receive, unix_socket_pair
from support.peers import (
    HOST,
    BufferedRecorder,
    Peer,
    Recorder,
    arrived,
    raising,
    read_exactly,
    released,
    settle,
    socket_pair,
)
from support.pipe_peers import FarEnd, WriteRecorder, make_ends
from support.turns import turn_until

# --- protocol methods that leave the loop ---


pytestmark = pytest.mark.time_limit(10)

LEAVING = pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])


@LEAVING
@pytest.mark.parametrize(
    ("method", "base"),
    [("data_received", Recorder), ("buffer_updated", BufferedRecorder), ("connection_made", Recorder)],
)
def test_exit_keeps_the_connection(loop, method, base: Any, error):
    """run_forever raises the exception. Afterwards loop and connection can be used again."""
    made = []

    class Leaving(base):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(transport)

    protocol = None

    def factory():
        nonlocal protocol
        protocol = raising(method, error("now"), Leaving)()
        return protocol

    near, far = socket_pair()
    with Peer(far) as peer:
        peer.send(b"one")
        task = loop.create_task(loop.create_connection(factory, sock=near))
        with pytest.raises(error, match="now"):
            loop.run_forever()
        assert not loop.is_running()
        transport, _ = loop.run_until_complete(task)
        assert made == [transport]
        setattr(protocol, method, lambda *args: getattr(base, method)(protocol, *args))
        assert loop.run_until_complete(protocol.read(3)) == b"one"
        peer.send(b"two")
        assert loop.run_until_complete(protocol.read(6)) == b"onetwo"
        assert not transport.is_closing()
        transport.write(b"six")
        assert loop.run_until_complete(peer.read(3)) == b"six"
        transport.close()
        loop.run_until_complete(released(transport))
        assert protocol.calls.count("connection_lost") == 1


@LEAVING
@pytest.mark.parametrize(("method", "base"), [("data_received", Recorder), ("buffer_updated", BufferedRecorder)])
def test_exit_leaves_nothing_unread_or_unsent(loop, method, base, error):
    """After the exit, data that the kernel holds is still received, though the poll does not report it again."""
    near, far = socket_pair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    data = bytes(range(256)) * 4096  # more than the kernel holds
    with Peer(far) as peer:
        transport, protocol = loop.run_until_complete(make(loop, raising(method, error("now"), base), near))
        transport.write(data)
        unsent = transport.get_write_buffer_size()
        assert unsent > 0
        received = read_exactly(peer.sock, len(data) - unsent)
        peer.send(data[:200_000])
        with pytest.raises(error, match="now"):
            loop.run_forever()
        assert 0 < len(protocol.data) < 200_000
        setattr(protocol, method, lambda *args: getattr(base, method)(protocol, *args))
        assert loop.run_until_complete(protocol.read(200_000)) == data[:200_000]
        assert received + loop.run_until_complete(peer.read(unsent)) == data
        transport.close()
        loop.run_until_complete(released(transport))


@LEAVING
def test_exit_in_connection_lost(loop, error):
    near, far = socket_pair()
    with Peer(far):
        factory = raising("connection_lost", error("now"))
        transport, protocol = loop.run_until_complete(make(loop, factory, near))
        transport.close()
        with pytest.raises(error, match="now"):
            loop.run_forever()
        assert transport.get_extra_info("socket").fileno() == -1
        assert far.recv(1) == b""
        loop.run_until_complete(asyncio.sleep(0))
        assert protocol.calls == ["connection_made", "connection_lost"]


@LEAVING
def test_exit_in_eof_received(loop, error):
    near, far = socket_pair()
    with Peer(far) as peer:
        transport, protocol = loop.run_until_complete(make(loop, raising("eof_received", error("now")), near))
        peer.send_eof()
        with pytest.raises(error, match="now"):
            loop.run_forever()
        assert not transport.is_closing()
        transport.abort()
        loop.run_until_complete(released(transport))
        assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]


# asyncio leaves behind what the garbage collector must find: the accepted socket, and a task that failed.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@LEAVING
def test_exit_in_a_server_factory(loop, error, loop_errors):
    """The server goes on when the loop runs again."""
    made = []
    good = False

    def factory():
        if not good:
            raise error("now")
        made.append(Recorder())
        return made[-1]

    server = loop.run_until_complete(loop.create_server(factory, "127.0.0.1", 0))
    with socket.create_connection(server.sockets[0].getsockname()):
        with pytest.raises(error, match="now"):
            loop.run_forever()
    gc.collect()
    loop_errors.clear()
    good = True
    with Peer(socket.create_connection(server.sockets[0].getsockname())) as peer:
        peer.send(b"hello")
        loop.run_until_complete(settle())
        (protocol,) = made
        assert loop.run_until_complete(protocol.read(5)) == b"hello"
        protocol.transport.close()
        loop.run_until_complete(released(protocol.transport))
    server.close()
    loop.run_until_complete(settle())


async def make(loop, factory, sock):
    return await loop.create_connection(factory, sock=sock)


@LEAVING
def test_others_are_served_after_an_exit(loop, error):
    """The exit ends a turn early. Other events of that turn are not lost."""

    async def connect(factory):
        near, far = socket_pair()
        transport, protocol = await loop.create_connection(factory, sock=near)
        return transport, protocol, Peer(far)

    async def connect_all():
        connections = [await connect(Recorder), await connect(raising("data_received", error("now")))]
        connections.append(await connect(Recorder))
        for transport, _, peer in connections:
            peer.send(b"hello")
            await arrived(transport, 5)
        return connections

    # All data has arrived before the loop looks, so that it is reported in one turn, or in two.
    task = loop.create_task(connect_all())
    with pytest.raises(error, match="now"):
        loop.run_forever()
    connections = loop.run_until_complete(task)
    for _, protocol, _ in connections:
        assert loop.run_until_complete(protocol.read(5)) == b"hello"
    for transport, _, peer in connections:
        transport.abort()
        loop.run_until_complete(released(transport))
        peer.close()
    loop.run_until_complete(settle())


@LEAVING
def test_end_after_an_exit_in_eof_received(loop, error):
    """eof_received is called once more, and then the connection ends."""

    class Leaving(Recorder):
        def eof_received(self):
            super().eof_received()
            if self.calls.count("eof_received") == 1:
                raise error("now")

    near, far = socket_pair()
    with Peer(far) as peer:
        _, protocol = loop.run_until_complete(make(loop, Leaving, near))
        peer.send(b"last words")
        peer.send_eof()
        with pytest.raises(error, match="now"):
            loop.run_forever()
        assert loop.run_until_complete(protocol.lost) is None
        loop.run_until_complete(settle())
        assert near.fileno() == -1
        assert protocol.data == b"last words"
        assert protocol.calls[-3:] == ["eof_received", "eof_received", "connection_lost"]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_end_after_an_exit_of_the_logger(loop, level):
    """In debug mode the end of a connection or pipe is logged before connection_lost is called."""

    def leave(record):
        if "received EOF" in record.msg or "closed by peer" in record.msg:
            logger.removeFilter(leave)
            raise SystemExit("now")
        return True

    async def connect():
        if level == logging.DEBUG:
            return await loop.create_connection(Recorder, sock=near)
        return await loop.connect_read_pipe(Recorder, near)

    if level == logging.DEBUG:
        near, far = socket_pair()
    else:
        near, far = (open(fd, mode, 0) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True))  # type: ignore[assignment]
    logger = logging.getLogger("asyncio")
    logger.setLevel(level)
    loop.set_debug(True)
    try:
        with far:
            _, protocol = loop.run_until_complete(connect())
            logger.addFilter(leave)
        with pytest.raises(SystemExit, match="now"):
            loop.run_forever()
        assert loop.run_until_complete(protocol.lost) is None
        loop.run_until_complete(settle())
        assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]
    finally:
        logger.removeFilter(leave)
        logger.setLevel(logging.NOTSET)


def leaving_once(loop):
    """An exception handler that leaves the loop the first time it is called."""
    reported = []

    def handler(loop, context):
        reported.append(context["message"])
        if len(reported) == 1:
            raise SystemExit("now")

    loop.set_exception_handler(handler)
    return reported


def test_exit_of_the_exception_handler_and_a_protocol_that_failed(loop, loop_name):
    """The protocol fails, and the exception handler leaves the loop. The connection ends all the same."""
    if loop_name == "asyncio":
        pytest.skip("asyncio goes on with such a connection")
    near, far = socket_pair()
    with Peer(far) as peer:
        failed = ZeroDivisionError("why")
        _, protocol = loop.run_until_complete(make(loop, raising("data_received", failed), near))
        reported = leaving_once(loop)
        peer.send(b"x")
        with pytest.raises(SystemExit, match="now"):
            loop.run_forever()
        assert loop.run_until_complete(protocol.lost) is failed
        assert reported == ["Fatal error: protocol.data_received() call failed."]
        loop.run_until_complete(settle())


# --- listeners ---


def backlog(server, count):
    """Clients that wait to be accepted."""
    return [socket.create_connection(server.sockets[0].getsockname()) for _ in range(count)]


# As above.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@LEAVING
def test_backlog_after_an_exit_in_a_server_factory(loop, error, loop_errors):
    """Connections behind the one whose factory raised are accepted, even if no further one causes an event."""
    made = []
    left = False

    def factory():
        nonlocal left
        if not left:
            left = True
            raise error("now")
        made.append(Recorder())
        return made[-1]

    server = loop.run_until_complete(loop.create_server(factory, HOST, 0))
    clients = backlog(server, 6)
    with pytest.raises(error, match="now"):
        loop.run_forever()
    gc.collect()
    loop_errors.clear()
    turn_until(loop, lambda: len(made) == 5 and all(protocol.transport for protocol in made))
    server.close()
    for client in clients:
        client.close()
    for protocol in made:
        loop.run_until_complete(protocol.lost)
    loop.run_until_complete(settle())


# --- the end behind an exit out of resume_writing ---


PLENTY = bytes(1 << 22)


def leaving_in_resume_writing(base: Any, error):
    class Leaving(base):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.set_write_buffer_limits(0)  # the send that takes the last byte calls resume_writing

        def resume_writing(self):
            super().resume_writing()
            raise error("now")

    return Leaving


@LEAVING
@pytest.mark.parametrize("how", ["close", "write_eof"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_end_after_an_exit_in_resume_writing(loop, loop_name, kind, how, error):
    """resume_writing left the loop. The connection, or its sending side, ends because the queue is empty now."""
    if loop_name == "asyncio":
        pytest.skip("asyncio fails an assertion then")
    near, far = socket_pair() if kind == "tcp" else socket.socketpair()
    with Peer(far) as peer:
        transport, protocol = loop.run_until_complete(make(loop, leaving_in_resume_writing(Recorder, error), near))
        transport.write(PLENTY)
        getattr(transport, how)()
        reading = loop.create_task(peer.read(len(PLENTY)))
        with pytest.raises(error, match="now"):
            loop.run_forever()
        assert loop.run_until_complete(reading) == PLENTY
        assert loop.run_until_complete(peer.read_until_eof()) == b""
        transport.close()
        assert loop.run_until_complete(protocol.lost) is None
        loop.run_until_complete(settle())
        assert near.fileno() == -1


@LEAVING
def test_end_of_a_pipe_after_an_exit_in_resume_writing(loop, loop_name, error):
    if loop_name == "asyncio":
        pytest.skip("as above")
    near, far = make_ends("pipe", near_reads=False)

    async def connect():
        return await loop.connect_write_pipe(leaving_in_resume_writing(WriteRecorder, error), near)

    with FarEnd(far) as far_end:
        transport, protocol = loop.run_until_complete(connect())
        transport.write(PLENTY)
        transport.close()
        reading = loop.create_task(far_end.read(len(PLENTY)))
        with pytest.raises(error, match="now"):
            loop.run_forever()
        assert loop.run_until_complete(reading) == PLENTY
        assert loop.run_until_complete(protocol.lost) is None
        assert loop.run_until_complete(far_end.read_until_eof()) == b""
        loop.run_until_complete(settle())


@LEAVING
def test_end_of_an_endpoint_after_an_exit_in_resume_writing(loop, loop_name, error):
    if loop_name == "asyncio":
        pytest.skip("as above")
    near, far = unix_socket_pair()
    count = 1000

    async def create():
        factory = leaving_in_resume_writing(Datagrams, error)
        return await loop.create_datagram_endpoint(factory, sock=near)

    with far:
        transport, protocol = loop.run_until_complete(create())
        for _ in range(count):
            transport.sendto(bytes(1000))
        transport.close()
        reading = loop.create_task(receive(far, count))
        with pytest.raises(error, match="now"):
            loop.run_forever()
        assert len(loop.run_until_complete(reading)) == count
        assert loop.run_until_complete(protocol.lost) is None
        loop.run_until_complete(settle())
