"""Datagrams that leave and arrive many at once: order, limits, and what happens in the middle.

rloop sends what a turn has queued, and receives what has come, in batches. A program must not notice, so each
test is of something that a batch could get wrong.
"""

import asyncio
import errno
import os
import socket

import pytest

from support.datagrams import (
    Datagrams,
    Echo,
    bound,
    endpoint,
    pair,
    receive,
    receive_waiting,
    refusing_socket,
    udp_socket,
    unix_socket,
    unix_socket_pair,
)
from support.peers import HOST, on_asyncio, released, settle


def numbered(count):
    return [b"%d" % number for number in range(count)]


# --- sending ---


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 63, 64, 65, 128, 129, 200])
async def test_batch_sizes(count):
    async with bound() as (transport, protocol):
        with udp_socket() as peer:
            for data in numbered(count):
                transport.sendto(data, peer.getsockname())
            assert [data for data, _ in await receive(peer, count)] == numbered(count)
            await settle()
            assert receive_waiting(peer) == []
            assert protocol.errors == []
            assert transport.get_write_buffer_size() == 0


@pytest.mark.parametrize("name", ["localhost", "127.1", b"127.0.0.1"], ids=repr)
async def test_names_among_literals_keep_their_place(name):
    """A host name is resolved in the call of sendto. What was queued before it is sent before it."""
    async with bound() as (transport, protocol):
        with udp_socket() as peer:
            port = peer.getsockname()[1]
            for number in range(60):
                transport.sendto(b"%d" % number, (name if number % 3 == 1 else HOST, port))
            assert [data for data, _ in await receive(peer, 60)] == numbered(60)
            assert protocol.errors == []


async def test_names_among_literals_keep_their_place_in_a_full_queue(tmp_path, monkeypatch):
    """The path is a relative one, which only the socket itself can resolve."""
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "peer")
    with unix_socket(path) as peer:
        async with endpoint(local_addr=str(tmp_path / "own"), family=socket.AF_UNIX) as (transport, protocol):
            for number in range(100):
                transport.sendto(b"%d" % number, "peer" if number % 3 == 1 else path)
            assert transport.get_write_buffer_size() > 0
            assert [data for data, _ in await receive(peer, 100)] == numbered(100)
            await settle()
            assert protocol.errors == []
            assert receive_waiting(peer) == []


async def test_a_relative_path_means_what_it_meant(tmp_path, monkeypatch):
    """A relative path is resolved in the call, although the working directory is another one at the end of the turn."""
    monkeypatch.chdir(tmp_path)
    with unix_socket("peer") as peer:
        async with endpoint(local_addr=str(tmp_path / "own"), family=socket.AF_UNIX) as (transport, protocol):
            transport.sendto(b"hello", "peer")
            os.mkdir("elsewhere")
            os.chdir("elsewhere")
            assert [data for data, _ in await receive(peer)] == [b"hello"]
            assert protocol.errors == []


async def test_errors_come_in_order_and_everything_else_leaves():
    kinds = [bytes(70_000), b"to nobody", b"small"]
    async with bound() as (transport, protocol):
        with udp_socket() as peer:
            address = peer.getsockname()
            for number in range(90):
                transport.sendto(kinds[number % 3], (HOST, 0) if number % 3 == 1 else address)
            await protocol.fail(60)
            assert [error.errno for error in protocol.errors] == [errno.EMSGSIZE, errno.EINVAL] * 30
            assert [data for data, _ in await receive(peer, 30)] == [b"small"] * 30
            await settle()
            assert len(protocol.errors) == 60


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_end_in_error_received(end):
    """The endpoint ends in the middle of a batch. What was given to sendto is sent, as on asyncio."""

    class Ending(Datagrams):
        def error_received(self, exc):
            super().error_received(exc)
            getattr(self.transport, end)()

    async with bound(Ending) as (transport, protocol):
        with udp_socket() as peer:
            for number in range(40):
                data = bytes(70_000) if number == 20 else b"%d" % number
                transport.sendto(data, peer.getsockname())
            assert await protocol.lost is None
            expected = numbered(40)
            del expected[20]
            assert [data for data, _ in await receive(peer, 39)] == expected
            assert protocol.calls == ["connection_made", "error_received", "connection_lost"]


async def test_sendto_in_error_received():
    class Insisting(Datagrams):
        def error_received(self, exc):
            super().error_received(exc)
            self.transport.sendto(b"instead", address)

    with udp_socket() as peer:
        address = peer.getsockname()
        async with bound(Insisting) as (transport, protocol):
            for data in [b"before", bytes(70_000), b"after"]:
                transport.sendto(data, address)
            assert sorted(data for data, _ in await receive(peer, 3)) == [b"after", b"before", b"instead"]
            assert len(protocol.errors) == 1


async def test_sendto_that_fails_in_error_received():
    """error_received calls sendto, which fails again, and so on. Others get their turn, and the stack does not
    overflow.
    """

    class Stubborn(Datagrams):
        def error_received(self, exc):
            super().error_received(exc)
            if len(self.errors) < 5000:
                later(self.transport.sendto, bytes(70_000), (HOST, 9))

    loop = asyncio.get_running_loop()
    later = loop.call_soon if on_asyncio() else lambda call, *args: call(*args)
    async with bound(Stubborn) as (transport, protocol):
        transport.sendto(bytes(70_000), (HOST, 9))
        turns = 0
        while len(protocol.errors) < 5000:
            await asyncio.sleep(0)
            turns += 1
        assert turns > 1000
        assert not transport.is_closing()


async def test_error_received_that_raises_while_sending(loop_errors):
    error = ZeroDivisionError("why")

    class Raising(Datagrams):
        def error_received(self, exc):
            super().error_received(exc)
            raise error

    if on_asyncio():
        pytest.skip("asyncio calls it inside sendto, which raises")
    async with bound(Raising) as (transport, protocol):
        with udp_socket() as peer:
            for data in [b"one", bytes(70_000), b"two"]:
                transport.sendto(data, peer.getsockname())
            assert [data for data, _ in await receive(peer, 2)] == [b"one", b"two"]
            (context,) = loop_errors
            assert context["exception"] is error
            assert context["message"].startswith("Exception in callback ")
            loop_errors.clear()
            assert not transport.is_closing()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exit_in_error_received_while_sending(loop, kind):
    """The exit leaves the loop after everything was sent."""

    class Leaving(Datagrams):
        def error_received(self, exc):
            super().error_received(exc)
            raise kind("now")

    async def create():
        return await loop.create_datagram_endpoint(Leaving, local_addr=(HOST, 0))

    def send():
        for data in [b"one", b"two", bytes(70_000)]:
            transport.sendto(data, peer.getsockname())

    with udp_socket() as peer:
        transport, _ = loop.run_until_complete(create())
        loop.call_soon(send)
        with pytest.raises(kind, match="now"):
            loop.run_forever()
        assert [peer.recv(10), peer.recv(10)] == [b"one", b"two"]
        transport.sendto(b"three", peer.getsockname())
        assert peer.recv(10) == b"three"
        transport.close()
        loop.run_until_complete(released(transport))


async def test_refused_datagrams_do_not_keep_others(loop_errors):
    """Two endpoints send in one turn. The port that one of them sends to is closed, the other's is not."""
    with refusing_socket() as closed, udp_socket() as peer:
        async with (
            endpoint(remote_addr=closed.getsockname()) as (one, unlucky),
            endpoint(remote_addr=peer.getsockname()) as (two, lucky),
        ):
            for data in numbered(50):
                one.sendto(data)
                two.sendto(data)
            assert [data for data, _ in await receive(peer, 50)] == numbered(50)
            await unlucky.fail()
            assert lucky.errors == []


async def test_a_queue_that_others_have_filled(tmp_path):
    """The queue of the peer is full of what somebody else has sent, which the kernel does not report."""
    path = str(tmp_path / "peer")
    with unix_socket(path) as peer, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        filled = 0
        with pytest.raises(BlockingIOError):
            while True:
                other.sendto(b"x", path)
                filled += 1
        async with endpoint(local_addr=str(tmp_path / "own"), family=socket.AF_UNIX) as (transport, protocol):
            transport.sendto(b"hello", path)
            await settle()
            assert transport.get_write_buffer_size() > 0
            assert [data for data, _ in await receive(peer, filled)] == [b"x"] * filled
            assert [data for data, _ in await receive(peer)] == [b"hello"]
            assert protocol.errors == []


# --- receiving ---


@pytest.mark.parametrize("count", [1, 15, 16, 17, 32, 33, 60])
async def test_all_that_waits_is_received(count):
    """All datagrams that wait are received, whether or not they fill a batch, and those that come afterwards, too."""
    near, far = udp_socket(), udp_socket()
    with far:
        for _ in range(3):
            for data in numbered(count):
                far.sendto(data, near.getsockname())
        async with endpoint(sock=near) as (_, protocol):
            assert await protocol.read(3 * count) == numbered(count) * 3
            far.sendto(b"one more", near.getsockname())
            await protocol.read(3 * count + 1)
            assert protocol.received[-1] == (b"one more", far.getsockname())


@pytest.mark.parametrize("then", ["resume", "close", "abort"])
async def test_pause_reading_in_datagram_received(then):
    """After a pause in datagram_received, the next datagram comes after resume_reading."""

    class Pausing(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if data == b"5":
                self.transport.pause_reading()

    async with pair(Pausing) as (transport, protocol, far):
        for data in numbered(10):
            far.send(data)
        assert await protocol.read(6) == numbered(6)
        await settle()
        assert protocol.data == numbered(6)
        assert transport.is_reading() is False
        if then == "resume":
            transport.resume_reading()
            assert transport.is_reading() is True
            assert await protocol.read(10) == numbered(10)
        else:
            getattr(transport, then)()
            assert await protocol.lost is None
            assert protocol.data == numbered(6)


async def test_answers_between_datagrams():
    """Each answer goes to the right peer, however many peers have sent datagrams of one batch."""

    near = udp_socket()
    address = near.getsockname()
    peers = [udp_socket() for _ in range(100)]
    for number, peer in enumerate(peers):
        peer.sendto(b"%d" % number, address)
    async with endpoint(Echo, sock=near):
        for number, peer in enumerate(peers):
            with peer:
                assert await receive(peer) == [(b"%d" % number, address)]


@pytest.mark.time_limit(60)
async def test_more_peers_than_anybody_remembers(tmp_path):
    """A loop may remember peers. There are more peers here, and each datagram has the right address."""
    count = 2500
    own = str(tmp_path / "own")
    async with endpoint(local_addr=own, family=socket.AF_UNIX) as (_, protocol):
        for number in [*range(count), *range(0, count, 100)]:
            path = str(tmp_path / f"{number}")
            with unix_socket(path) as peer:
                peer.sendto(path.encode(), own)
            os.unlink(path)
            before = len(protocol.received)
            await protocol.read(before + 1)
        assert all(data.decode() == address for data, address in protocol.received)
        assert len(protocol.received) == count + count // 100


async def test_a_known_peer_costs_no_new_address():
    if on_asyncio():
        pytest.skip("asyncio makes a new one for each datagram")
    async with bound() as (transport, protocol):
        with udp_socket() as peer:
            for count in range(1, 4):
                peer.sendto(b"hello", transport.get_extra_info("sockname"))
                await protocol.read(count)
            assert len({id(address) for _, address in protocol.received}) == 1


# --- sockets that are served by their own methods ---


class Counting(socket.socket):
    """A subclass of socket, such as one that goes through a proxy."""

    calls: tuple[str, ...] = ()

    def sendto(self, *args):
        self.calls += ("sendto",)
        return super().sendto(*args)

    def send(self, *args):
        self.calls += ("send",)
        return super().send(*args)

    def recvfrom(self, *args):
        self.calls += ("recvfrom",)
        return super().recvfrom(*args)


@pytest.mark.parametrize("connected", [False, True])
async def test_subclass_of_socket(connected):
    sock = Counting(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    with udp_socket() as peer:
        if connected:
            sock.connect(peer.getsockname())
        async with endpoint(sock=sock) as (transport, protocol):
            for data in numbered(40):
                transport.sendto(data, peer.getsockname())
            assert [data for data, _ in await receive(peer, 40)] == numbered(40)
            assert sock.calls == ("send" if connected else "sendto",) * 40
            for data in numbered(40):
                peer.sendto(data, sock.getsockname())
            assert await protocol.read(40) == numbered(40)
            assert {address for _, address in protocol.received} == {peer.getsockname()}
            assert sock.calls.count("recvfrom") >= 40


async def test_subclass_of_socket_with_a_full_queue():
    plain, far = unix_socket_pair()
    near = Counting(fileno=plain.detach())
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with far:
        async with endpoint(sock=near) as (transport, protocol):
            for data in numbered(200):
                transport.sendto(data)
            assert transport.get_write_buffer_size() > 0
            assert [data for data, _ in await receive(far, 200)] == numbered(200)
            await settle()
            assert protocol.errors == []
            assert receive_waiting(far) == []


async def test_subclass_of_socket_whose_methods_raise(loop_errors):
    """An exception that is no error of the network ends the endpoint."""

    class Raising(Counting):
        def recvfrom(self, *args):
            raise ZeroDivisionError("why")

    sock = Raising(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    with udp_socket() as peer:
        async with endpoint(sock=sock) as (_, protocol):
            peer.sendto(b"x", sock.getsockname())
            assert type(await protocol.lost) is ZeroDivisionError
            (context,) = loop_errors
            assert context["message"] == "Fatal read error on datagram transport"
            loop_errors.clear()
            assert protocol.calls == ["connection_made", "connection_lost"]
