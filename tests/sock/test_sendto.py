"""sock_sendto, and sock_sendall over sockets that send datagrams.

Streams are in test_send.py, wrong sockets in test_misuse.py.
"""

import asyncio
import errno
import os
import socket

import pytest

from support.peers import HOST, settle
from support.sock_peers import DATAGRAMS, available, cancelled, datagrams, fill, registered, waiting

KINDS = pytest.mark.parametrize("kind", available(DATAGRAMS))


@KINDS
async def test_one_datagram_each(kind, tmp_path):
    """The call is tried first, so that no turn of the loop passes."""
    loop = asyncio.get_running_loop()
    with datagrams(kind, tmp_path) as (sock, address, peer, to):
        turns = []
        loop.call_soon(turns.append, 1)
        for data in (b"hello", b"", bytearray(b"array"), memoryview(b"-view-")[1:5], bytes(1400)):
            assert await loop.sock_sendto(sock, data, to) == len(data)
            assert peer.sock.recvfrom(2000) == (bytes(data), address)
        assert turns == []
        assert not registered(sock)


async def test_two_item_address_of_ipv6(tmp_path):
    if "udp6" not in available(DATAGRAMS):
        pytest.skip("no IPv6 here")
    loop = asyncio.get_running_loop()
    with datagrams("udp6", tmp_path) as (sock, address, peer, to):
        assert await loop.sock_sendto(sock, b"hello", to[:2]) == 5
        assert peer.sock.recvfrom(10) == (b"hello", address)


async def test_host_name(tmp_path):
    """The socket module looks the name up, as for socket.sendto()."""
    loop = asyncio.get_running_loop()
    with datagrams("udp", tmp_path) as (sock, _, peer, to):
        assert await loop.sock_sendto(sock, b"hello", ("localhost", to[1])) == 5
        assert peer.sock.recv(10) == b"hello"


async def test_path_as_bytes(tmp_path):
    loop = asyncio.get_running_loop()
    with datagrams("unix", tmp_path) as (sock, _, peer, to):
        assert await loop.sock_sendto(sock, b"hello", os.fsencode(to)) == 5
        assert peer.sock.recv(10) == b"hello"


@pytest.mark.parametrize(
    "address",
    [
        None,
        42,
        "text",
        (),
        (HOST,),
        (HOST, 80, 0),
        (HOST, "80"),
        (HOST, 65536),
        (HOST, -1),
        ("256.1.1.1.", 80),
    ],
    ids=repr,
)
async def test_wrong_address(address, tmp_path):
    """The program gets the error of the socket's own method."""
    if address == ("256.1.1.1.", 80):
        address = (HOST + "\0", 80)
    loop = asyncio.get_running_loop()
    with datagrams("udp", tmp_path) as (sock, _, peer, to):
        with pytest.raises(Exception) as expected:
            sock.sendto(b"x", address)
        with pytest.raises(type(expected.value)) as info:
            await loop.sock_sendto(sock, b"x", address)
        assert info.value.args == expected.value.args
        await loop.sock_sendto(sock, b"y", to)
        assert peer.sock.recv(10) == b"y"


@pytest.mark.parametrize("data", ["text", 42, None, memoryview(b"abcdef")[::2]], ids=repr)
async def test_what_is_no_buffer(data, tmp_path):
    loop = asyncio.get_running_loop()
    with datagrams("udp", tmp_path) as (sock, _, _, to):
        with pytest.raises((TypeError, BufferError)) as expected:
            sock.sendto(data, to)
        with pytest.raises(type(expected.value)) as info:
            await loop.sock_sendto(sock, data, to)
        assert info.value.args == expected.value.args


async def test_too_large(tmp_path):
    loop = asyncio.get_running_loop()
    with datagrams("udp", tmp_path) as (sock, _, peer, to):
        with pytest.raises(OSError) as info:
            await loop.sock_sendto(sock, bytes(70_000), to)
        assert info.value.errno == errno.EMSGSIZE
        await loop.sock_sendto(sock, b"small", to)
        assert peer.sock.recv(10) == b"small"


async def test_items_larger_than_bytes(tmp_path):
    loop = asyncio.get_running_loop()
    with datagrams("udp", tmp_path) as (sock, _, peer, to):
        assert await loop.sock_sendto(sock, memoryview(bytes(40)).cast("I"), to) == 40
        assert peer.sock.recv(100) == bytes(40)


async def test_no_such_path(tmp_path):
    loop = asyncio.get_running_loop()
    with datagrams("unix", tmp_path) as (sock, _, _, _):
        with pytest.raises(FileNotFoundError):
            await loop.sock_sendto(sock, b"x", str(tmp_path / "nobody"))


async def test_receiver_that_is_gone(tmp_path):
    loop = asyncio.get_running_loop()
    with datagrams("unix", tmp_path) as (sock, _, peer, to):
        peer.close()
        with pytest.raises(ConnectionRefusedError):
            await loop.sock_sendto(sock, b"x", to)


def overfill(sock, to):
    """Sends until the receiver's queue is full. Returns how many datagrams that took."""
    count = 0
    try:
        while True:
            sock.sendto(b"filler", to)
            count += 1
    except BlockingIOError:
        return count


@pytest.mark.parametrize("connect", [False, True])
async def test_receiver_that_is_slow(connect, tmp_path):
    """The receiver's queue is full. A poll of a sender that is not connected does not tell when it has room."""
    loop = asyncio.get_running_loop()
    with datagrams("unix", tmp_path) as (sock, _, peer, to):
        if connect:
            sock.connect(to)
        count = overfill(sock, to)
        task = await waiting(loop.sock_sendto(sock, b"at last", to))
        for _ in range(count):
            assert peer.sock.recv(100) == b"filler"
        assert await task == 7
        assert peer.sock.recv(100) == b"at last"
        assert not registered(sock)


async def test_receiver_that_goes_away_while_it_is_slow(tmp_path):
    loop = asyncio.get_running_loop()
    with datagrams("unix", tmp_path) as (sock, _, peer, to):
        overfill(sock, to)
        task = await waiting(loop.sock_sendto(sock, b"never", to))
        peer.close()
        with pytest.raises(ConnectionRefusedError):
            await task
        assert not registered(sock)


async def test_cancel_while_the_receiver_is_slow(tmp_path):
    loop = asyncio.get_running_loop()
    with datagrams("unix", tmp_path) as (sock, _, peer, to):
        count = overfill(sock, to)
        task = await waiting(loop.sock_sendto(sock, b"never", to))
        assert await cancelled(task)
        assert not registered(sock)
        assert [peer.sock.recv(100) for _ in range(count)] == [b"filler"] * count
        await settle()
        assert await loop.sock_sendto(sock, b"again", to) == 5
        assert peer.sock.recv(100) == b"again"


async def test_sendall_of_a_datagram():
    """Each call sends one datagram, even if it had to wait."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near.setblocking(False)
    with near, far:
        for data in (b"hello", b"world"):
            await loop.sock_sendall(near, data)
            assert far.recv(100) == data
        fill(near, b"filler")
        task = await waiting(loop.sock_sendall(near, b"at last"))
        while (received := far.recv(100)) == b"filler":
            await settle()
        assert received == b"at last"
        assert await task is None


async def test_subclass_with_a_method_of_its_own(tmp_path):
    """The loop calls the object's method, as asyncio does. It may do more than the kernel, such as add a proxy's
    header.
    """

    class Special(socket.socket):
        def sendto(self, data, *args):
            return super().sendto(b"header " + data, *args)

    loop = asyncio.get_running_loop()
    with datagrams("udp", tmp_path) as (plain, _, peer, to):
        with Special(fileno=plain.detach()) as sock:
            assert await loop.sock_sendto(sock, b"data", to) == 11
            assert peer.sock.recv(100) == b"header data"
