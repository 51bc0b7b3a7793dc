"""Datagrams through an endpoint, there and back, one and many, in all families.

How an endpoint is made is in test_endpoint.py, the data in test_data.py, the addresses in
test_address.py, errors in test_errors.py, full buffers in test_flow.py, the end in
test_end.py.
"""

import asyncio
import os
import random
import socket
import struct
import sys
import threading

import pytest

from support.datagrams import (
    Datagrams,
    Echo,
    bound,
    endpoint,
    pair,
    receive,
    receive_waiting,
    udp_socket,
    unix_socket,
)
from support.peers import HOST, PATIENCE, has_ipv6, on_asyncio, settle

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no ::1 here")

HOSTS = pytest.mark.parametrize("host", [HOST, pytest.param("::1", marks=needs_ipv6)])


# --- there and back ---


@HOSTS
@pytest.mark.parametrize("debug", [False, True])
async def test_unconnected(host, debug):
    asyncio.get_running_loop().set_debug(debug)
    async with bound(host=host) as (transport, protocol):
        with udp_socket(host) as peer:
            own, address = transport.get_extra_info("sockname"), peer.getsockname()
            assert transport.sendto(b"question", address) is None
            assert await receive(peer) == [(b"question", own)]
            peer.sendto(b"answer", own)
            await protocol.read(1)
            assert protocol.received == [(b"answer", address)]
            assert protocol.calls == ["connection_made", "datagram_received"]


@HOSTS
async def test_connected(host):
    with udp_socket(host) as peer, udp_socket(host) as stranger:
        address = peer.getsockname()
        async with endpoint(remote_addr=address[:2]) as (transport, protocol):
            own = transport.get_extra_info("sockname")
            transport.sendto(b"question")
            transport.sendto(b"again", None)
            transport.sendto(b"by address", address)
            assert await receive(peer, 3) == [(b"question", own), (b"again", own), (b"by address", own)]
            stranger.sendto(b"not for you", own)
            peer.sendto(b"answer", own)
            await protocol.read(1)
            assert protocol.received == [(b"answer", address)]


async def test_bound_and_connected():
    with udp_socket() as peer:
        where = {"local_addr": ("127.0.0.2", 0), "remote_addr": peer.getsockname()}
        async with endpoint(**where) as (transport, protocol):
            transport.sendto(b"question")
            ((_, source),) = await receive(peer)
            assert source == transport.get_extra_info("sockname")
            assert source[0] == "127.0.0.2"
            peer.sendto(b"answer", source)
            assert await protocol.read(1) == [b"answer"]


async def test_neither_bound_nor_connected():
    """The kernel gives such an endpoint a port when it sends for the first time."""
    async with endpoint(family=socket.AF_INET) as (transport, protocol):
        assert transport.get_extra_info("sockname") == ("0.0.0.0", 0)
        with udp_socket() as peer:
            transport.sendto(b"question", peer.getsockname())
            ((_, source),) = await receive(peer)
            assert source == (HOST, transport.get_extra_info("socket").getsockname()[1])
            peer.sendto(b"answer", source)
            assert await protocol.read(1) == [b"answer"]


async def test_unix_paths(tmp_path):
    own, path = str(tmp_path / "own"), str(tmp_path / "peer")
    async with endpoint(local_addr=own, family=socket.AF_UNIX) as (transport, protocol):
        with unix_socket(path) as peer:
            transport.sendto(b"by str", path)
            transport.sendto(b"by bytes", os.fsencode(path))
            assert await receive(peer, 2) == [(b"by str", own), (b"by bytes", own)]
            peer.sendto(b"answer", own)
            await protocol.read(1)
            assert protocol.received == [(b"answer", path)]


async def test_unix_connected(tmp_path):
    own, path = str(tmp_path / "own"), str(tmp_path / "peer")
    with unix_socket(path) as peer:
        where = {"local_addr": own, "remote_addr": path, "family": socket.AF_UNIX}
        async with endpoint(**where) as (transport, protocol):
            transport.sendto(b"question")
            transport.sendto(b"by address", path)
            assert await receive(peer, 2) == [(b"question", own), (b"by address", own)]
            peer.sendto(b"answer", own)
            await protocol.read(1)
            assert protocol.received == [(b"answer", path)]


async def test_unix_abstract():
    with unix_socket("") as peer:
        name = peer.getsockname()
        assert name[0] == 0
        own = (name + b" own").decode()
        async with endpoint(local_addr=own, family=socket.AF_UNIX) as (transport, protocol):
            assert transport.get_extra_info("sockname") == own.encode()
            transport.sendto(b"by bytes", name)
            transport.sendto(b"by str", name.decode())
            assert await receive(peer, 2) == [(b"by bytes", own.encode()), (b"by str", own.encode())]
            peer.sendto(b"answer", own)
            await protocol.read(1)
            assert protocol.received == [(b"answer", name)]


async def test_unix_sender_without_a_name(tmp_path):
    own = str(tmp_path / "own")
    async with endpoint(local_addr=own, family=socket.AF_UNIX) as (_, protocol):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.sendto(b"anonymous", own)
            await protocol.read(1)
            assert protocol.received == [(b"anonymous", None)]


async def test_unix_pair():
    async with pair() as (transport, protocol, far):
        transport.sendto(b"question")
        assert await receive(far) == [(b"question", transport.get_extra_info("sockname"))]
        far.send(b"answer")
        await protocol.read(1)
        assert protocol.received == [(b"answer", far.getsockname())]


async def test_unix_pair_without_names():
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with far:
        far.settimeout(PATIENCE)
        async with endpoint(sock=near) as (transport, protocol):
            far.send(b"question")
            await protocol.read(1)
            assert protocol.received == [(b"question", None)]
            if on_asyncio():
                pytest.skip("asyncio takes a peer without a name for none, and wants an address")
            transport.sendto(b"answer")
            assert await receive(far) == [(b"answer", None)]


async def test_netlink():
    """Every family with datagrams works. With netlink the kernel itself answers, and addresses have another form."""
    noop, request_and_ack = 1, 5
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
    sock.bind((0, 0))
    async with endpoint(sock=sock) as (transport, protocol):
        assert transport.get_extra_info("sockname") == sock.getsockname()
        transport.sendto(struct.pack("IHHII", 16, noop, request_and_ack, 7, 0), (0, 0))
        await protocol.read(1)
        ((data, address),) = protocol.received
        assert address == (0, 0)
        assert struct.unpack_from("IHHII", data)[3] == 7


@pytest.mark.skipif(sys.version_info < (3, 13), reason="refused before 3.13")
async def test_sequenced_packets():
    near = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind("")  # asyncio takes a peer without a name for no peer
        listener.listen()
        near.connect(listener.getsockname())
        far, _ = listener.accept()
    with far:
        far.settimeout(PATIENCE)
        async with endpoint(sock=near) as (transport, protocol):
            for data in (b"one", b"two", b"three"):
                transport.sendto(data)
                far.send(data.upper())
            assert [data for data, _ in await receive(far, 3)] == [b"one", b"two", b"three"]
            assert await protocol.read(3) == [b"ONE", b"TWO", b"THREE"]


# --- many ---


def mixed(count):
    """Datagrams of several sizes, each with its number."""
    chance = random.Random(count)
    sizes = [0, 1, 100, 1400, 3000]
    return [b"%d " % number + chance.randbytes(chance.choice(sizes)) for number in range(count)]


async def test_thousand_sent_in_one_turn():
    sent = mixed(1000)
    async with pair() as (transport, protocol, far):
        reading = asyncio.create_task(receive(far, 1000))
        await asyncio.sleep(0)
        for data in sent:
            transport.sendto(data)
        assert [data for data, _ in await reading] == sent
        await settle()
        assert receive_waiting(far) == []
        assert protocol.errors == []
        assert transport.get_write_buffer_size() == 0 or (on_asyncio() and sys.version_info[:2] == (3, 13))


async def test_thousand_received():
    """The peer sends as fast as the kernel allows."""
    sent = mixed(1000)
    async with pair() as (_, protocol, far):
        thread = threading.Thread(target=lambda: [far.send(data) for data in sent])
        thread.start()
        assert await protocol.read(1000) == sent
        thread.join()
        await settle()
        assert protocol.calls == ["connection_made"] + ["datagram_received"] * 1000


async def test_thousand_there_and_back():
    sent = mixed(1000)
    async with pair(Echo) as (_, _, far):
        thread = threading.Thread(target=lambda: [far.send(data) for data in sent])
        thread.start()
        assert [data for data, _ in await receive(far, 1000)] == sent
        thread.join()


@HOSTS
async def test_hundred_that_waited(host):
    """All datagrams are in the kernel's buffer before the loop looks."""
    async with bound(host=host) as (transport, protocol):
        with udp_socket(host) as peer:
            sent = [b"%d" % number for number in range(100)]
            for data in sent:
                peer.sendto(data, transport.get_extra_info("sockname"))
            assert await protocol.read(100) == sent
            await settle()
            assert len(protocol.received) == 100


@HOSTS
async def test_hundred_in_one_turn(host):
    async with bound(host=host) as (transport, protocol):
        with udp_socket(host) as peer:
            sent = [b"%d" % number for number in range(100)]
            for data in sent:
                transport.sendto(data, peer.getsockname())
            own = transport.get_extra_info("sockname")
            assert await receive(peer, 100) == [(data, own) for data in sent]
            await settle()
            assert receive_waiting(peer) == []
            assert protocol.errors == []


async def test_many_peers_in_one_turn():
    """Each datagram goes to the right peer, with others sent in the same turn."""
    async with bound() as (transport, _):
        peers = [udp_socket() for _ in range(64)]
        for round_ in range(5):
            for number, peer in enumerate(peers):
                transport.sendto(b"%d %d" % (number, round_), peer.getsockname())
        await settle()
        for number, peer in enumerate(peers):
            with peer:
                assert receive_waiting(peer) == [b"%d %d" % (number, round_) for round_ in range(5)]


async def test_many_peers_are_told_apart():
    """Each datagram comes with the address of its sender, whether or not the loop has seen that before."""
    async with bound() as (transport, protocol):
        own = transport.get_extra_info("sockname")
        peers = [udp_socket(f"127.0.{number % 3}.{number % 5 + 1}") for number in range(300)]
        for count, peer in enumerate(peers * 3, 1):
            peer.sendto(repr(peer.getsockname()).encode(), own)
            if count % 50 == 0:  # the kernel's buffer has room for this many
                await protocol.read(count)
        for peer in peers:
            peer.close()
        for data, address in protocol.received:
            assert repr(address).encode() == data
            assert (type(address), type(address[0]), type(address[1])) == (tuple, str, int)


async def test_families_in_turn(tmp_path):
    """Endpoints of several families send in the same turns."""
    own = str(tmp_path / "own")
    async with (
        bound(Echo) as (udp, _),
        endpoint(Echo, local_addr=own, family=socket.AF_UNIX),
        pair(Echo) as (_, _, far),
    ):
        with udp_socket() as peer, unix_socket(str(tmp_path / "peer")) as unix_peer:
            for number in range(10):
                data = b"%d" % number
                peer.sendto(data, udp.get_extra_info("sockname"))
                unix_peer.sendto(data, own)
                far.send(data)
                assert await receive(peer) == [(data, udp.get_extra_info("sockname"))]
                assert await receive(unix_peer) == [(data, own)]
                assert [data for data, _ in await receive(far)] == [data]


async def test_two_endpoints_of_one_loop():
    class Pong(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if data != b"1000":
                self.transport.sendto(b"%d" % (int(data) + 1), addr)

    async with bound(Pong) as (one, first), bound(Pong) as (two, second):
        one.sendto(b"1", two.get_extra_info("sockname"))
        await first.read(500)
        assert second.data == [b"%d" % number for number in range(1, 1000, 2)]
        assert first.data == [b"%d" % number for number in range(2, 1001, 2)]
