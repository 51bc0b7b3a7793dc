"""The stream transport as a reader: the order of its calls, what it tells about itself, set_protocol.

pause_reading is in test_pause_reading.py, writing in test_write.py, errors in
test_errors.py.
"""

import asyncio
import gc
import socket
import weakref
from asyncio import trsock
from typing import Any

import pytest

from support.peers import (
    BufferedRecorder,
    Peer,
    Recorder,
    arrived,
    connection,
    released,
    serving,
    settle,
    socket_pair,
)

KINDS = pytest.mark.parametrize(
    ("factory", "receive"), [(Recorder, "data_received"), (BufferedRecorder, "buffer_updated")]
)


# --- the order of the calls ---


@KINDS
async def test_order_of_calls(factory, receive):
    async with connection(factory) as (transport, protocol, peer):
        assert protocol.calls == ["connection_made"]
        assert protocol.transport is transport
        for number in range(3):
            peer.send(b"x")
            await protocol.read(number + 1)
        peer.send_eof()
        assert await protocol.lost is None
        assert protocol.calls == ["connection_made"] + [receive] * 3 + ["eof_received", "connection_lost"]


@KINDS
async def test_accepted_connection(factory, receive):
    loop = asyncio.get_running_loop()
    accepted = loop.create_future()

    def make():
        accepted.set_result(factory())
        return accepted.result()

    async with serving(make) as (_, address):
        with Peer(socket.create_connection(address)) as peer:
            peer.send(b"x")
            protocol = await accepted
            await protocol.read(1)
            peer.send_eof()
            assert await protocol.lost is None
        assert protocol.calls == ["connection_made", receive, "eof_received", "connection_lost"]


async def test_data_waits_for_create_connection_to_return():
    """The program can set another protocol before the first byte is delivered."""
    near, far = socket_pair()
    with far:
        far.sendall(b"early")
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=near)
        assert protocol.calls == ["connection_made"]
        assert await protocol.read(5) == b"early"
        transport.abort()
        await released(transport)


async def test_data_is_bytes():
    types = []

    class Typed(Recorder):
        def data_received(self, data):
            types.append(type(data))
            super().data_received(data)

    async with connection(Typed) as (_, protocol, peer):
        await peer.send_all(bytes(300_000))
        await protocol.read(300_000)
    assert set(types) == {bytes}


async def test_received_bytes_stay_as_they_were():
    """Each piece is an object of its own, not a view of a buffer that is used again."""

    class Pieces(Recorder):
        pieces: tuple[bytes, ...] = ()

        def data_received(self, data):
            self.pieces += (data,)
            super().data_received(data)

    async with connection(Pieces) as (_, protocol, peer):
        sent = [b"%03d" % number for number in range(100)]
        for number, piece in enumerate(sent):
            peer.send(piece)
            await protocol.read(3 * (number + 1))
        assert list(protocol.pieces) == sent


# --- what it tells about itself ---


async def test_extra_info():
    async with connection() as (transport, _, peer):
        sock = transport.get_extra_info("socket")
        assert isinstance(sock, trsock.TransportSocket)
        assert transport.get_extra_info("socket") is sock
        assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
        assert sock.getsockname() == transport.get_extra_info("sockname") == peer.sock.getpeername()
        assert sock.getpeername() == transport.get_extra_info("peername") == peer.sock.getsockname()
        assert sock.gettimeout() == 0
        assert not hasattr(sock, "close")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert transport.get_extra_info("sslcontext") is None
        assert transport.get_extra_info("nonsense") is None
        assert transport.get_extra_info("nonsense", 42) == 42
        assert transport.get_extra_info("peername", 42) == peer.sock.getsockname()


async def test_extra_info_after_the_end():
    async with connection() as (transport, protocol, peer):
        peername, sock = transport.get_extra_info("peername"), transport.get_extra_info("socket")
        transport.close()
        await protocol.lost
        await released(transport)
        assert transport.get_extra_info("peername") == peername
        assert transport.get_extra_info("socket") is sock
        assert sock.fileno() == -1
        assert await peer.read_until_eof() == b""


async def test_isinstance():
    async with connection() as (transport, _, _):
        for kind in (asyncio.Transport, asyncio.ReadTransport, asyncio.WriteTransport, asyncio.BaseTransport):
            assert isinstance(transport, kind)
        assert not isinstance(transport, asyncio.DatagramTransport)
        assert not isinstance(transport, asyncio.SubprocessTransport)


async def test_repr():
    async with connection() as (transport, protocol, _):
        fileno = transport.get_extra_info("socket").fileno()
        assert f"fd={fileno}" in repr(transport)
        assert "clos" not in repr(transport)
        transport.close()
        assert "closing" in repr(transport)
        await protocol.lost
        await released(transport)
        assert "closed" in repr(transport)
        assert f"fd={fileno}" in repr(transport)


async def test_identity():
    async with connection() as (transport, _, _), connection() as (other, _, _):
        assert transport == transport
        assert transport != other
        assert len({transport, other, transport}) == 2


async def test_attributes_can_be_set():
    async with connection() as (transport, protocol, peer):
        written = []
        transport.write = written.append
        writer = asyncio.StreamWriter(transport, protocol, None, asyncio.get_running_loop())
        writer.write(b"to the double")
        assert written == [b"to the double"]
        del transport.write
        writer.write(b"to the peer")
        assert await peer.read(11) == b"to the peer"
        transport.note = "x"
        assert transport.note == "x"
        assert "note" in vars(transport)
        with pytest.raises(AttributeError):
            transport.nonsense  # noqa: B018


async def test_weak_reference():
    async with connection() as (transport, protocol, _):
        reference = weakref.ref(transport)
        assert reference() is transport
        transport.close()
        await protocol.lost
        await released(transport)
        protocol.transport = None
    del transport
    gc.collect()
    assert reference() is None


async def test_is_closing():
    async with connection() as (transport, protocol, _):
        assert transport.is_closing() is False
        transport.close()
        assert transport.is_closing() is True
        transport.close()
        assert await protocol.lost is None
        assert transport.is_closing() is True
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_its_file_belongs_to_it():
    """The loop refuses add_reader and its like for the file of an open transport."""
    loop = asyncio.get_running_loop()
    async with connection() as (transport, protocol, _):
        fileno = transport.get_extra_info("socket").fileno()
        for add in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError) as info:
                add(fileno, print)
            assert str(info.value) == f"File descriptor {fileno} is used by transport {transport!r}"
        for remove in (loop.remove_reader, loop.remove_writer):
            with pytest.raises(RuntimeError):
                remove(fileno)
        transport.close()
        await protocol.lost


# --- set_protocol ---


@pytest.mark.parametrize("first", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("second", [Recorder, BufferedRecorder])
async def test_set_protocol(first, second):
    async with connection(first) as (transport, protocol, peer):
        assert transport.get_protocol() is protocol
        peer.send(b"one")
        assert await protocol.read(3) == b"one"
        successor = second()
        assert transport.set_protocol(successor) is None
        assert transport.get_protocol() is successor
        peer.send(b"two")
        assert await successor.read(3) == b"two"
        # The same the other way round.
        transport.set_protocol(protocol)
        peer.send(b"six")
        assert await protocol.read(6) == b"onesix"
        transport.set_protocol(successor)
        peer.send_eof()
        assert await successor.lost is None
        assert successor.calls[-2:] == ["eof_received", "connection_lost"]
        assert "connection_made" not in successor.calls
        assert "connection_lost" not in protocol.calls


@pytest.mark.parametrize("first", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("second", [Recorder, BufferedRecorder])
async def test_set_protocol_while_data_is_received(first: Any, second):
    """A protocol sets another one while it receives data, as for an upgrade. Later data goes to the new one."""
    successor = second()

    class Upgrading(first):
        def received(self, data):
            super().received(data)
            self.transport.set_protocol(successor)

    async with connection(Upgrading) as (transport, protocol, peer):
        peer.send(b"GET")
        await protocol.read(3)
        await peer.send_all(bytes(200_000))
        assert len(await successor.read(200_000)) == 200_000
        assert bytes(protocol.data) == b"GET"
        peer.send_eof()
        assert await successor.lost is None
        assert protocol.calls[-1] != "connection_lost"


@pytest.mark.parametrize("second", [Recorder, BufferedRecorder])
async def test_set_protocol_in_connection_made(second):
    class Handing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            self.successor = second()
            transport.set_protocol(self.successor)

    async with connection(Handing) as (_, protocol, peer):
        peer.send(b"hello")
        assert await protocol.successor.read(5) == b"hello"
        assert protocol.calls == ["connection_made"]


async def test_set_protocol_while_connection_lost_is_due():
    async with connection() as (transport, protocol, _):
        transport.close()
        successor = Recorder()
        transport.set_protocol(successor)
        assert await successor.lost is None
        assert successor.calls == ["connection_lost"]
        assert protocol.calls == ["connection_made"]


async def test_methods_are_found_on_the_instance():
    """A protocol is any object with the methods, which may be replaced on the instance."""
    async with connection() as (_, protocol, peer):
        peer.send(b"one")
        await protocol.read(3)
        taken = asyncio.get_running_loop().create_future()
        protocol.data_received = taken.set_result
        peer.send(b"two")
        # asyncio looks the method up for each call.
        assert await taken == b"two"
        del protocol.data_received
        peer.send(b"six")
        assert await protocol.read(6) == b"onesix"


async def test_protocol_without_a_base_class():
    class Bare:
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data.upper())

        def eof_received(self):
            pass

        def connection_lost(self, exc):
            lost.set_result(exc)

    lost = asyncio.get_running_loop().create_future()
    async with connection(Bare) as (_, _, peer):
        peer.send(b"hello")
        assert await peer.read(5) == b"HELLO"
        peer.send_eof()
        assert await lost is None


async def test_nothing_is_received_after_close():
    async with connection() as (transport, protocol, peer):
        peer.send(b"unread")
        await arrived(transport, 6)
        transport.close()
        assert await protocol.lost is None
        await settle()
        assert protocol.calls == ["connection_made", "connection_lost"]
