"""create_datagram_endpoint: where it binds and connects, its options, what it refuses.

What it makes is in test_transport.py, what goes through it in test_round_trips.py.
"""

import asyncio
import errno
import gc
import logging
import os
import pathlib
import socket
import stat
import sys

import pytest

from support.datagrams import Datagrams, bound, endpoint, receive, udp_socket, unix_socket
from support.loops import open_files
from support.peers import HOST, has_ipv6, noting, released

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no ::1 here")


async def create(factory=Datagrams, **kwargs):
    return await asyncio.get_running_loop().create_datagram_endpoint(factory, **kwargs)


def resolve_to(loop, *addresses):
    """Makes every host name of this loop stand for these addresses."""

    async def getaddrinfo(host, port, *, family=0, type=0, proto=0, flags=0):
        families = [socket.AF_INET6 if ":" in address[0] else socket.AF_INET for address in addresses]
        return [
            (family, type, socket.IPPROTO_UDP, "", address) for family, address in zip(families, addresses, strict=True)
        ]

    loop.getaddrinfo = getaddrinfo


# --- where ---


async def test_connection_made_comes_first():
    made = []

    factory = noting(made, Datagrams)

    async with endpoint(factory, local_addr=(HOST, 0)) as (transport, protocol):
        assert made == [protocol]
        assert protocol.calls == ["connection_made"]
        assert protocol.transport is transport


@pytest.mark.parametrize("name", ["localhost", "127.1", b"127.0.0.1"])
async def test_local_host_name(name):
    async with endpoint(local_addr=(name, 0), family=socket.AF_INET) as (transport, _):
        assert transport.get_extra_info("sockname")[0] == HOST


async def test_remote_host_name():
    """The host name is resolved once. Its address is then the endpoint's remote address."""
    with udp_socket() as peer:
        address = peer.getsockname()
        where = {"remote_addr": ("localhost", address[1]), "family": socket.AF_INET}
        async with endpoint(**where) as (transport, _):
            assert transport.get_extra_info("peername") == address
            transport.sendto(b"hello")
            transport.sendto(b"again", address)
            assert [data for data, _ in await receive(peer, 2)] == [b"hello", b"again"]
            with pytest.raises(ValueError):
                transport.sendto(b"hello", ("localhost", address[1]))


@needs_ipv6
async def test_family_is_one_that_both_addresses_have():
    loop = asyncio.get_running_loop()
    with udp_socket() as peer:
        resolve_to(loop, ("::1", peer.getsockname()[1], 0, 0), peer.getsockname())
        remote = ("two.example", 1)
        async with endpoint(remote_addr=remote) as (transport, _):
            assert transport.get_extra_info("peername")[0] == "::1"
        async with endpoint(remote_addr=remote, local_addr=(HOST, 0)) as (transport, _):
            assert transport.get_extra_info("peername") == peer.getsockname()


@needs_ipv6
async def test_first_address_cannot_be_bound():
    loop = asyncio.get_running_loop()
    with udp_socket("::1") as taken:
        resolve_to(loop, taken.getsockname(), (HOST, 0))
        async with endpoint(local_addr=("two.example", 1)) as (transport, _):
            assert transport.get_extra_info("sockname")[0] == HOST


async def test_port_in_use():
    with udp_socket() as taken:
        with pytest.raises(OSError) as info:
            await create(local_addr=taken.getsockname())
    assert info.value.errno == errno.EADDRINUSE
    assert str(info.value) == f"[Errno {errno.EADDRINUSE}] Address already in use"


async def test_address_of_another_machine():
    with pytest.raises(OSError) as info:
        await create(local_addr=("192.0.2.1", 0))
    assert info.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("family", [socket.AF_INET, pytest.param(socket.AF_INET6, marks=needs_ipv6)])
async def test_family_only(family):
    async with endpoint(family=family) as (transport, _):
        assert transport.get_extra_info("socket").family == family
        assert transport.get_extra_info("peername") is None


async def test_protocol_number():
    async with endpoint(family=socket.AF_INET, proto=socket.IPPROTO_UDP) as (transport, _):
        assert transport.get_extra_info("socket").proto == socket.IPPROTO_UDP


async def test_flags():
    with pytest.raises(socket.gaierror):
        await create(local_addr=("localhost", 0), flags=socket.AI_NUMERICHOST)


# --- a socket ---


async def test_socket():
    sock = udp_socket()
    async with endpoint(sock=sock) as (transport, _):
        assert sock.gettimeout() == 0
        assert transport.get_extra_info("socket").fileno() == sock.fileno()
        assert transport.get_extra_info("sockname") == sock.getsockname()
        assert transport.get_extra_info("peername") is None
    assert sock.fileno() == -1


async def test_connected_socket():
    """A connected socket ignores the address in sendto: the kernel knows where to send."""
    with udp_socket() as peer, udp_socket() as other:
        sock = udp_socket()
        sock.connect(peer.getsockname())
        async with endpoint(sock=sock) as (transport, _):
            assert transport.get_extra_info("peername") == peer.getsockname()
            transport.sendto(b"one")
            transport.sendto(b"two", peer.getsockname())
            transport.sendto(b"three", other.getsockname())
            assert [data for data, _ in await receive(peer, 3)] == [b"one", b"two", b"three"]


async def test_stream_socket():
    with socket.socket() as sock:
        with pytest.raises(ValueError) as info:
            await create(sock=sock)
        wanted = "A datagram socket" if sys.version_info >= (3, 13) else "A UDP Socket"
        assert str(info.value) == f"{wanted} was expected, got {sock!r}"


@pytest.mark.parametrize(
    "options",
    [
        {"local_addr": (HOST, 1)},
        {"remote_addr": (HOST, 1)},
        {"family": 1},
        {"proto": 1},
        {"flags": 1},
        {"reuse_port": True},
        {"allow_broadcast": True},
        {"local_addr": (HOST, 1), "proto": 2, "allow_broadcast": 1},
    ],
    ids=str,
)
async def test_socket_and_options(options):
    with udp_socket() as sock, pytest.raises(ValueError) as info:
        await create(sock=sock, **options)
    shown = ", ".join(f"{name}={value}" for name, value in options.items())
    assert str(info.value) == (f"socket modifier keyword arguments can not be used when sock is specified. ({shown})")


async def test_socket_and_options_that_say_nothing():
    options = {"family": 0, "reuse_port": False, "allow_broadcast": None}
    async with endpoint(sock=udp_socket(), **options) as (transport, _):
        assert transport.get_extra_info("peername") is None


# --- misuse ---


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({}, ValueError, "unexpected address family"),
        ({"local_addr": HOST}, TypeError, "2-tuple is expected"),
        ({"local_addr": [HOST, 0]}, TypeError, "2-tuple is expected"),
        ({"remote_addr": (HOST, 1, 2)}, TypeError, "2-tuple is expected"),
        ({"remote_addr": ("::1", 1, 0, 0)}, TypeError, "2-tuple is expected"),
        ({"local_addr": b"x", "family": socket.AF_UNIX}, TypeError, "string is expected"),
        ({"remote_addr": pathlib.Path("x"), "family": socket.AF_UNIX}, TypeError, "string is expected"),
        ({"local_addr": (HOST, 0), "remote_addr": ("::1", 1)}, ValueError, "can not get address information"),
    ],
    ids=str,
)
async def test_argument_errors(kwargs, error, message):
    with pytest.raises(error) as info:
        await create(**kwargs)
    assert str(info.value) == message


async def test_name_without_address():
    resolve_to(asyncio.get_running_loop())
    with pytest.raises(OSError, match=r"^getaddrinfo\(\) returned empty list$"):
        await create(remote_addr=("none.example", 1))


@pytest.mark.parametrize("name", ["nonsense", "reuse_address"])
async def test_unknown_keyword(name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        await create(local_addr=(HOST, 0), **{name: True})


# asyncio does not close the socket; its finalizer does.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_protocol_factory_that_raises():
    def factory():
        raise ZeroDivisionError("no protocol")

    with pytest.raises(ZeroDivisionError, match="no protocol"):
        await create(factory, local_addr=(HOST, 0))
    gc.collect()


async def test_cancelled():
    made = []

    class Cancelling(Datagrams):
        def connection_made(self, transport):
            super().connection_made(transport)
            made.append(self)
            task.cancel()  # the task waits for this call to return

    task = asyncio.create_task(create(Cancelling, local_addr=(HOST, 0)))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await made[0].lost is None
    await released(made[0].transport)
    assert made[0].calls == ["connection_made", "connection_lost"]


# --- UNIX paths ---


@pytest.mark.parametrize("cleaned", [False, True])
async def test_unix_path(tmp_path, cleaned):
    """The loop does not remove the file of a UNIX path. That is the program's task."""
    path = str(tmp_path / "socket")
    async with endpoint(local_addr=path, family=socket.AF_UNIX) as (transport, _):
        assert transport.get_extra_info("sockname") == path
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        if cleaned:
            os.unlink(path)
    assert os.path.exists(path) is not cleaned


async def test_unix_stale_file_is_replaced(tmp_path):
    path = str(tmp_path / "socket")
    unix_socket(path).close()
    async with endpoint(local_addr=path, family=socket.AF_UNIX) as (_, protocol):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.sendto(b"hello", path)
        assert await protocol.read(1) == [b"hello"]


async def test_unix_path_in_use(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"precious")
    with pytest.raises(OSError) as info:
        await create(local_addr=str(path), family=socket.AF_UNIX)
    assert info.value.errno == errno.EADDRINUSE
    assert path.read_bytes() == b"precious"


async def test_unix_path_that_cannot_be_looked_at(tmp_path, caplog):
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "socket")
    with pytest.raises(NotADirectoryError):
        await create(local_addr=path, family=socket.AF_UNIX)
    (record,) = [record for record in caplog.records if record.name == "asyncio"]
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"Unable to check or remove stale UNIX socket {path!r}: NotADir")


async def test_unix_peer_that_is_not_there(tmp_path):
    files = len(open_files())
    with pytest.raises(FileNotFoundError):
        await create(remote_addr=str(tmp_path / "missing"), family=socket.AF_UNIX)
    assert len(open_files()) == files


# --- options ---


@pytest.mark.parametrize(
    ("keywords", "option", "value"),
    [
        ({}, socket.SO_REUSEADDR, 0),
        ({}, socket.SO_REUSEPORT, 0),
        ({"reuse_port": True}, socket.SO_REUSEPORT, 1),
        ({}, socket.SO_BROADCAST, 0),
        ({"allow_broadcast": True}, socket.SO_BROADCAST, 1),
    ],
)
async def test_socket_options(keywords, option, value):
    async with endpoint(local_addr=(HOST, 0), **keywords) as (transport, _):
        sock = transport.get_extra_info("socket")
        assert bool(sock.getsockopt(socket.SOL_SOCKET, option)) == value


async def test_reuse_port():
    async with endpoint(local_addr=(HOST, 0), reuse_port=True) as (one, first):
        address = one.get_extra_info("sockname")
        async with endpoint(local_addr=address, reuse_port=True) as (two, second):
            assert two.get_extra_info("sockname") == address
            # The kernel gives each datagram to one of the endpoints.
            for _ in range(20):
                with udp_socket() as peer:
                    peer.sendto(b"hello", address)
            while len(first.received) + len(second.received) < 20:
                await asyncio.sleep(0)


async def test_broadcast():
    """Sends to the broadcast address of the loopback interface."""
    with udp_socket("127.255.255.255") as peer:
        async with endpoint(local_addr=(HOST, 0), allow_broadcast=True) as (transport, _):
            transport.sendto(b"to all", peer.getsockname())
            assert await receive(peer) == [(b"to all", transport.get_extra_info("sockname"))]
        async with bound() as (transport, protocol):
            transport.sendto(b"to all", peer.getsockname())
            (error,) = await protocol.fail()
            assert type(error) is PermissionError


async def test_broadcast_to_one_address_hears_others():
    """An endpoint for broadcasts has a remote address, but its socket is not connected."""
    with udp_socket("127.255.255.255") as peer, udp_socket() as other:
        address = peer.getsockname()
        where = {"remote_addr": address, "allow_broadcast": True}
        async with endpoint(**where) as (transport, protocol):
            assert transport.get_extra_info("peername") is None
            transport.sendto(b"one")
            transport.sendto(b"two", address)
            with pytest.raises(ValueError) as info:
                transport.sendto(b"three", other.getsockname())
            assert str(info.value) == f"Invalid address: must be None or {address}"
            assert [data for data, _ in await receive(peer, 2)] == [b"one", b"two"]
            port = transport.get_extra_info("socket").getsockname()[1]
            other.sendto(b"from another", (HOST, port))
            await protocol.read(1)
            assert protocol.received == [(b"from another", other.getsockname())]
