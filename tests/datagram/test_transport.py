"""What a datagram transport is: its class, its extra info, its attributes, its protocol.

How it is made is in test_endpoint.py, what it sends and receives in test_round_trips.py.
"""

import asyncio
import socket
import sys
import weakref
from asyncio import trsock

import pytest

from support.datagrams import Datagrams, bound, endpoint, pair, udp_socket
from support.peers import on_asyncio, released


async def test_class():
    async with bound() as (transport, _):
        if on_asyncio() and sys.version_info < (3, 12):
            pytest.skip("asyncio's transport is none before 3.12")
        assert isinstance(transport, asyncio.DatagramTransport)
        assert isinstance(transport, asyncio.BaseTransport)


async def test_extra_info():
    with udp_socket() as peer:
        async with endpoint(remote_addr=peer.getsockname()) as (transport, _):
            sock = transport.get_extra_info("socket")
            assert isinstance(sock, trsock.TransportSocket)
            assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_DGRAM)
            assert transport.get_extra_info("sockname") == sock.getsockname()
            assert transport.get_extra_info("peername") == peer.getsockname()
            assert transport.get_extra_info("sslcontext") is None
            assert transport.get_extra_info("nothing", "default") == "default"


async def test_extra_info_after_the_end():
    async with bound() as (transport, protocol):
        name = transport.get_extra_info("sockname")
        transport.close()
        await protocol.lost
        await released(transport)
        assert transport.get_extra_info("sockname") == name
        assert transport.get_extra_info("socket").fileno() == -1


async def test_attributes():
    """A program may keep things in it, replace its methods, and refer to it weakly."""
    async with bound() as (transport, _):
        transport.note = "mine"
        sent = []
        transport.sendto = lambda *args: sent.append(args)
        transport.sendto(b"x", ("a", 1))
        assert (transport.note, sent) == ("mine", [(b"x", ("a", 1))])
        assert weakref.ref(transport)() is transport
        assert f"fd={transport.get_extra_info('socket').fileno()}" in repr(transport)


async def test_set_protocol():
    async with pair() as (transport, protocol, far):
        far.send(b"one")
        await protocol.read(1)
        successor = Datagrams()
        transport.set_protocol(successor)
        assert transport.get_protocol() is successor
        far.send(b"two")
        await successor.read(1)
        transport.close()
        assert await successor.lost is None
        assert protocol.calls == ["connection_made", "datagram_received"]
        assert successor.calls == ["datagram_received", "connection_lost"]


async def test_set_protocol_between_two_datagrams():
    """The protocol is changed between two datagrams, both of which have arrived."""

    class Handing(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            self.transport.set_protocol(successor)

    successor = Datagrams()
    async with pair(Handing) as (_, protocol, far):
        for data in (b"one", b"two", b"three"):
            far.send(data)
        assert await successor.read(2) == [b"two", b"three"]
        assert protocol.data == [b"one"]


async def test_method_replaced_on_the_protocol():
    """The loop calls the method that the protocol has when a datagram comes."""
    async with pair() as (_, protocol, far):
        other = Datagrams()
        far.send(b"one")
        await protocol.read(1)
        protocol.datagram_received = other.datagram_received
        far.send(b"two")
        assert await other.read(1) == [b"two"]
        assert protocol.data == [b"one"]
