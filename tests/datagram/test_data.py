"""What a datagram may contain: sizes from nothing to the largest, and the kinds of buffers that are sent.

Whom it goes to is in test_address.py, what is refused as too large in test_errors.py.
"""

import random
import socket
import sys

import pytest

from support.datagrams import Echo, bound, endpoint, pair, receive, udp_socket
from support.peers import HOST, has_ipv6, on_asyncio

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no ::1 here")

HOSTS = pytest.mark.parametrize("host", [HOST, pytest.param("::1", marks=needs_ipv6)])

LARGEST_UDP = {HOST: 65507, "::1": 65527}


# --- sizes ---


@HOSTS
async def test_largest(host):
    data = random.Random(1).randbytes(LARGEST_UDP[host])
    async with bound(Echo, host=host) as (transport, protocol):
        with udp_socket(host) as peer:
            peer.sendto(data, transport.get_extra_info("sockname"))
            ((answer, _),) = await receive(peer)
            assert answer == data
            assert protocol.data == [data]


@pytest.mark.parametrize("size", [65_508, 131_072, 200_000, 262_144])
async def test_larger_than_udp_allows(size):
    """A datagram that is too large is among small ones."""
    data = random.Random(size).randbytes(size)
    async with pair(buffer=1 << 20) as (transport, protocol, far):
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        # The kernel counts up to twice the size.
        if far.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < 4 * size:
            pytest.skip("this system has no such buffers")
        for part in (b"before", data, b"after"):
            far.send(part)
            transport.sendto(part)
        assert await protocol.read(3) == [b"before", data, b"after"]
        assert [data for data, _ in await receive(far, 3)] == [b"before", data, b"after"]


@HOSTS
async def test_empty_datagrams_are_received(host):
    """Empty datagrams come between others, and first and last."""
    sent = [b"", b"a", b"", b"", b"b", b""]
    async with bound(host=host) as (transport, protocol):
        with udp_socket(host) as peer:
            for data in sent:
                peer.sendto(data, transport.get_extra_info("sockname"))
            assert await protocol.read(len(sent)) == sent
            assert {address for _, address in protocol.received} == {peer.getsockname()}
            assert all(type(data) is bytes for data in protocol.data)


@HOSTS
@pytest.mark.parametrize("connected", [False, True])
async def test_empty_datagrams_are_sent(host, connected):
    if on_asyncio() and sys.version_info < (3, 13):
        pytest.skip("asyncio sends no empty datagram before 3.13")
    sent = [b"", b"a", bytearray(), memoryview(b""), b"b", b""]
    with udp_socket(host) as peer:
        address = peer.getsockname()
        where = {"remote_addr": address[:2]} if connected else {"local_addr": (host, 0)}
        async with endpoint(**where) as (transport, _):
            for data in sent:
                transport.sendto(data, None if connected else address)
            assert [data for data, _ in await receive(peer, len(sent))] == [bytes(data) for data in sent]


# --- buffers ---


async def test_max_size():
    """max_size limits how much of a datagram is received. asyncio does not document it, but its transport has it."""
    async with pair() as (transport, protocol, far):
        assert transport.max_size == 256 * 1024
        transport.max_size = 4
        for data in (b"123", b"1234", b"12345"):
            far.send(data)
        assert await protocol.read(3) == [b"123", b"1234", b"1234"]


async def test_received_data_is_the_receiver_s():
    """The data that a protocol has received does not change when the next datagram comes."""
    async with pair() as (_, protocol, far):
        for number in range(200):
            far.send(bytes([number]) * 1000)
            if number % 7 == 0:
                await protocol.read(number + 1)
        assert await protocol.read(200) == [bytes([number]) * 1000 for number in range(200)]


@pytest.mark.parametrize("convert", [bytes, bytearray, memoryview], ids=lambda convert: convert.__name__)
async def test_kinds_of_data(convert):
    async with pair() as (transport, _, far):
        transport.sendto(convert(b"hello"))
        assert [data for data, _ in await receive(far)] == [b"hello"]


async def test_views():
    data = bytearray(b"0123456789abcdef")
    async with pair() as (transport, _, far):
        transport.sendto(memoryview(data)[4:10])
        transport.sendto(memoryview(data).cast("I"))
        transport.sendto(memoryview(data).cast("B", (4, 4)))
        assert [data for data, _ in await receive(far, 3)] == [b"456789", bytes(data), bytes(data)]


async def test_data_may_be_changed_afterwards():
    data = bytearray(b"original")
    view = memoryview(bytearray(b"a view"))
    async with pair() as (transport, _, far):
        transport.sendto(data)
        transport.sendto(view)
        data[:4] = b"ORIG"
        data.extend(b" and more")  # a bytearray that somebody views could not be resized
        view[:] = b"A VIEW"
        view.release()
        assert [data for data, _ in await receive(far, 2)] == [b"original", b"a view"]


async def test_data_may_be_changed_while_it_is_queued():
    async with pair(buffer=4096) as (transport, _, far):
        data = bytearray(b"%06d" % 0)
        for number in range(200):
            data[:] = b"%06d" % number
            transport.sendto(data)
        assert transport.get_write_buffer_size() > 0
        data.clear()
        assert [data for data, _ in await receive(far, 200)] == [b"%06d" % number for number in range(200)]


@pytest.mark.parametrize("data", ["text", None, 5, [b"x"]], ids=repr)
@pytest.mark.parametrize("connected", [False, True])
async def test_what_is_no_data(data, connected):
    with udp_socket() as peer:
        where = {"remote_addr": peer.getsockname()} if connected else {"local_addr": (HOST, 0)}
        async with endpoint(**where) as (transport, protocol):
            with pytest.raises(TypeError) as info:
                transport.sendto(data, peer.getsockname())
            kind = type(data).__name__
            assert str(info.value) == f"data argument must be a bytes-like object, not {kind!r}"
            transport.sendto(b"data", peer.getsockname())
            assert [data for data, _ in await receive(peer)] == [b"data"]
            assert protocol.calls == ["connection_made"]


async def test_arguments_of_sendto():
    with udp_socket() as peer:
        async with bound() as (transport, _):
            transport.sendto(data=b"one", addr=peer.getsockname())
            transport.sendto(b"two", addr=peer.getsockname())
            for arguments in [(), (b"x", None, None)]:
                with pytest.raises(TypeError):
                    transport.sendto(*arguments)
            with pytest.raises(TypeError):
                transport.sendto(b"x", address=peer.getsockname())
            assert [data for data, _ in await receive(peer, 2)] == [b"one", b"two"]
