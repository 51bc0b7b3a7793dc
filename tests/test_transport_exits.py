"""SystemExit and KeyboardInterrupt out of a protocol's methods: they leave the loop, which can be used again.

Protocol methods that raise anything else are in test_transport_errors.py.
"""

import asyncio
import gc
import socket

import pytest

from peers import (
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

# --- protocol methods that leave the loop ---


LEAVING = pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])


@LEAVING
@pytest.mark.parametrize(
    ("method", "base"),
    [("data_received", Recorder), ("buffer_updated", BufferedRecorder), ("connection_made", Recorder)],
)
def test_exit_keeps_the_connection(loop, method, base, error):
    """It is raised by run_forever; loop and connection can be used again."""
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
    """What the kernel still holds is no news, and yet not forgotten."""
    near, far = socket_pair()
    data = bytes(range(256)) * 65536  # more than the kernel holds
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
    """The server goes on when the loop does."""
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
    """Events of the same turn that the exit cut short are not forgotten."""

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

    # Sent and known to have arrived before the loop looks: all are told of in one turn, or in two.
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
