"""The end of a datagram endpoint: close and abort at any moment, connection_lost exactly once, what becomes
of what is queued, what a transport does when it is over.

When connection_lost is called, and how often, is in stream/test_end.py; what is left of thousands is in
test_lifetime.py.
"""

import asyncio
import gc
import socket
import weakref

import pytest

from support.datagrams import (
    Datagrams,
    bound,
    endpoint,
    pair,
    receive,
    receive_waiting,
    udp_socket,
    unix_socket,
)
from support.loops import logged
from support.peers import HOST, on_asyncio, released, settle, still

ENDS = pytest.mark.parametrize("end", ["close", "abort"])

BUFFER = 4096


# --- connection_lost ---


@ENDS
@pytest.mark.parametrize("method", ["connection_made", "datagram_received", "error_received", "connection_lost"])
async def test_end_inside_a_callback(method, end):
    class Ending(Datagrams):
        pass

    def call(self, *args):
        getattr(Datagrams, method)(self, *args)
        getattr(self.transport, end)()
        self.calls.append("returned")

    setattr(Ending, method, call)
    async with pair(Ending) as (transport, protocol, far):
        if method == "datagram_received":
            far.send(b"x")
        if method == "error_received":
            transport.sendto(bytes(1 << 20))
        if method == "connection_lost":
            transport.close()
        assert await protocol.lost is None
        await still(protocol)
        assert protocol.calls[protocol.calls.index(method) + 1] == "returned"
        assert protocol.calls.count("connection_lost") == 1


@ENDS
async def test_end_inside_datagram_received_is_the_end_of_data(end):
    """Nothing is received after an end in datagram_received, though other datagrams have come."""

    class Ending(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if data == b"two":
                getattr(self.transport, end)()

    async with pair(Ending) as (_, protocol, far):
        for data in (b"one", b"two", b"three", b"four"):
            far.send(data)
        assert await protocol.lost is None
        await still(protocol)
        assert protocol.data == [b"one", b"two"]


@ENDS
async def test_nothing_is_received_after_the_end(end):
    async with pair() as (transport, protocol, far):
        far.send(b"too late")
        getattr(transport, end)()
        assert await protocol.lost is None
        await still(protocol)
        assert protocol.calls == ["connection_made", "connection_lost"]


@ENDS
async def test_file_is_closed_by_the_loop(end):
    """The file is closed right after connection_lost. Its number and its port can be used again."""
    async with bound() as (transport, protocol):
        address = transport.get_extra_info("sockname")
        sock = transport.get_extra_info("socket")
        number = sock.fileno()
        getattr(transport, end)()
        assert sock.fileno() == number
        await protocol.lost
        await released(transport)
        async with endpoint(local_addr=address) as (again, other):
            assert again.get_extra_info("socket").fileno() == number
            with udp_socket() as peer:
                peer.sendto(b"hello", address)
                assert await other.read(1) == [b"hello"]
        assert protocol.calls == ["connection_made", "connection_lost"]


# --- what becomes of what is queued ---


@ENDS
@pytest.mark.parametrize("connected", [False, True])
async def test_end_right_after_sendto(end, connected):
    """A datagram that was sent just before the end is sent, as on asyncio."""
    with udp_socket() as peer:
        address = peer.getsockname()
        where = {"remote_addr": address} if connected else {"local_addr": (HOST, 0)}
        async with endpoint(**where) as (transport, protocol):
            sent = [b"%d" % number for number in range(50)]
            for data in sent:
                transport.sendto(data, address)
            getattr(transport, end)()
            assert [data for data, _ in await receive(peer, 50)] == sent
            assert await protocol.lost is None


@ENDS
async def test_answer_and_end(end):
    class Answering(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            self.transport.sendto(b"goodbye", addr)
            getattr(self.transport, end)()

    async with bound(Answering) as (transport, protocol):
        with udp_socket() as peer:
            peer.sendto(b"hello", transport.get_extra_info("sockname"))
            assert [data for data, _ in await receive(peer)] == [b"goodbye"]
            assert await protocol.lost is None


async def test_close_sends_what_is_queued():
    async with pair(buffer=BUFFER) as (transport, protocol, far):
        sent = [b"%d" % number for number in range(200)]
        for data in sent:
            transport.sendto(data)
        transport.close()
        assert transport.get_write_buffer_size() > 0
        await settle()
        assert protocol.calls == ["connection_made"]
        far.send(b"not received any more")
        assert [data for data, _ in await receive(far, 200)] == sent
        assert await protocol.lost is None
        await still(protocol)
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_abort_drops_what_is_queued():
    async with pair(buffer=BUFFER) as (transport, protocol, far):
        for number in range(200):
            transport.sendto(b"%d" % number)
        assert transport.get_write_buffer_size() > 0
        transport.abort()
        assert await protocol.lost is None
        await released(transport)
        received = receive_waiting(far)
        assert received == [b"%d" % number for number in range(len(received))]
        assert 0 < len(received) < 200
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_abort_while_flushing():
    async with pair(buffer=BUFFER) as (transport, protocol, far):
        for number in range(200):
            transport.sendto(b"%d" % number)
        transport.close()
        await settle()
        transport.abort()
        assert await protocol.lost is None
        await released(transport)
        assert len(receive_waiting(far)) < 200
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_peer_that_goes_while_flushing(tmp_path):
    """Datagrams that cannot be sent do not keep the endpoint from ending."""
    path = str(tmp_path / "peer")
    with unix_socket(path) as peer:
        async with endpoint(remote_addr=path, family=socket.AF_UNIX) as (transport, protocol):
            for number in range(200):
                transport.sendto(b"%d" % number)
            transport.close()
            assert transport.get_write_buffer_size() > 0
            peer.close()
            assert await protocol.lost is None
            assert protocol.calls[-1] == "connection_lost"


async def test_queued_data_is_let_go():
    class Data(bytearray):
        pass

    async with pair(buffer=BUFFER) as (transport, protocol, _):
        for _ in range(50):
            transport.sendto(bytes(100))
        data = Data(100)
        reference = weakref.ref(data)
        transport.sendto(data)
        del data
        transport.abort()
        await protocol.lost
        await released(transport)
        gc.collect()
        assert reference() is None


async def test_last_words():
    """Until connection_lost, an endpoint that is not connected can still send, as on asyncio."""

    class Polite(Datagrams):
        def connection_lost(self, exc):
            self.transport.sendto(b"in connection_lost", address)
            super().connection_lost(exc)

    with udp_socket() as peer:
        address = peer.getsockname()
        async with bound(Polite) as (transport, protocol):
            transport.close()
            transport.sendto(b"after close", address)
            assert await protocol.lost is None
            assert [data for data, _ in await receive(peer, 2)] == [b"after close", b"in connection_lost"]


# --- when it is over ---


@ENDS
async def test_sendto_after_the_end(end, caplog):
    """Datagrams after the end are dropped. The fifth and every later one is logged as a warning."""
    with udp_socket() as peer:
        async with endpoint(remote_addr=peer.getsockname()) as (transport, protocol):
            getattr(transport, end)()
            for _ in range(4):
                transport.sendto(b"dropped")
            await protocol.lost
            await released(transport)
            messages = logged(caplog)
            assert "socket.send() raised exception." not in messages
            for _ in range(6):
                transport.sendto(b"dropped")
            messages = logged(caplog)
            assert messages.count("socket.send() raised exception.") == 6
            assert receive_waiting(peer) == []
            await still(protocol)
            assert protocol.calls == ["connection_made", "connection_lost"]


async def test_sendto_after_the_end_unconnected():
    if on_asyncio():
        pytest.skip("asyncio raises AttributeError, as the transport has no socket any more")
    with udp_socket() as peer:
        async with bound() as (transport, protocol):
            transport.close()
            await protocol.lost
            await released(transport)
            transport.sendto(b"dropped", peer.getsockname())
            await still(protocol)
            assert receive_waiting(peer) == []


async def test_misuse_after_the_end():
    """Arguments that are wrong raise after the end as before."""
    with udp_socket() as peer:
        async with endpoint(remote_addr=peer.getsockname()) as (transport, protocol):
            transport.close()
            await protocol.lost
            await released(transport)
            with pytest.raises(TypeError, match="^data argument must be a bytes-like object, not 'str'$"):
                transport.sendto("text")
            with pytest.raises(ValueError, match="^Invalid address: must be None or "):
                transport.sendto(b"x", (HOST, 1))


async def test_methods_after_the_end():
    async with bound() as (transport, protocol):
        transport.close()
        await protocol.lost
        await released(transport)
        transport.close()
        transport.abort()
        assert transport.is_closing() is True
        assert transport.get_write_buffer_size() == 0
        assert transport.get_write_buffer_limits() == (16384, 65536)
        assert "closed" in repr(transport)
        await still(protocol)


# --- where no loop runs ---


def test_sendto_while_the_loop_does_not_run(loop):
    """While the loop does not run, sendto sends at once, because there is no turn that would."""
    with udp_socket() as peer:
        create = loop.create_datagram_endpoint(lambda: protocol, local_addr=(HOST, 0))  # type: ignore[has-type]
        protocol = asyncio.DatagramProtocol()
        transport, _ = loop.run_until_complete(create)
        transport.sendto(b"hello", peer.getsockname())
        assert peer.recv(100) == b"hello"
        transport.close()
        loop.run_until_complete(released(transport))


def test_sendto_and_stop(loop):
    with udp_socket() as peer:
        create = loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(HOST, 0))
        transport, _ = loop.run_until_complete(create)

        def send_and_stop():
            transport.sendto(b"hello", peer.getsockname())
            loop.stop()

        loop.call_soon(send_and_stop)
        loop.run_forever()
        assert peer.recv(100) == b"hello"
        transport.close()
        loop.run_until_complete(released(transport))
