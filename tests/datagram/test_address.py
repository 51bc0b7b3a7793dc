"""Addresses in sendto: the forms that asyncio takes, host names, scopes of IPv6, what is no address.

asyncio passes them to socket.sendto, so that its answers are those of a socket. What a plain one does with the
same address is looked up in the test.
"""

import contextlib
import enum
import socket
from typing import NamedTuple

import pytest

from support.datagrams import bound, endpoint, receive, udp_socket, unix_socket
from support.peers import HOST, PATIENCE, has_ipv6, released

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no ::1 here")


class Named(NamedTuple):
    host: str
    port: int


# --- forms ---


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", HOST, "127.1", "2130706433", "0x7f.1", "", b"127.0.0.1", bytearray(b"127.1")],
    ids=repr,
)
async def test_hosts(host):
    """Names and all notations of addresses are resolved in the call of sendto."""
    async with bound() as (transport, protocol):
        with udp_socket() as peer:
            address = (host, peer.getsockname()[1])
            for number in range(3):  # the second time the loop may know it already
                transport.sendto(b"%d" % number, address)
            assert [data for data, _ in await receive(peer, 3)] == [b"0", b"1", b"2"]
            assert protocol.errors == []


async def test_kinds_of_tuples_and_numbers():
    async with bound() as (transport, _):
        with udp_socket() as peer:
            host, port = peer.getsockname()
            port_enum = enum.IntEnum("Port", {"PEER": port})  # type: ignore[misc]
            for address in [Named(host, port), (host, port_enum.PEER)]:
                transport.sendto(b"hello", address)
                assert [data for data, _ in await receive(peer)] == [b"hello"]


async def test_equal_hosts_with_other_ports():
    """A loop may remember resolved addresses, but must not mix up their ports."""
    async with bound() as (transport, _):
        peers = [udp_socket("127.0.0.2"), udp_socket("127.0.0.2"), udp_socket("127.0.0.3")]
        for round_ in range(3):
            for number, peer in enumerate(peers):
                transport.sendto(b"%d %d" % (number, round_), peer.getsockname())
        for number, peer in enumerate(peers):
            with peer:
                received = [data for data, _ in await receive(peer, 3)]
                assert received == [b"%d %d" % (number, round_) for round_ in range(3)]


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "localhost", "0:0:0:0:0:0:0:1"])
async def test_ipv6_hosts(host):
    resolved = {info[4][0] for info in socket.getaddrinfo("localhost", 1)}
    if host == "localhost" and "::1" not in resolved:
        pytest.skip("localhost is not ::1 here")
    async with bound(host="::1") as (transport, protocol):
        with udp_socket("::1") as peer:
            transport.sendto(b"hello", (host, peer.getsockname()[1]))
            assert await receive(peer) == [(b"hello", transport.get_extra_info("sockname"))]
            assert protocol.errors == []


@needs_ipv6
async def test_ipv6_address_forms():
    """Flow and scope may be left out, and have no effect for ::1."""
    async with bound(host="::1") as (transport, _):
        with udp_socket("::1") as peer:
            port = peer.getsockname()[1]
            for address in [("::1", port), ("::1", port, 0), ("::1", port, 0, 0), ("0::1", port, 0, 1)]:
                transport.sendto(b"hello", address)
                assert await receive(peer) == [(b"hello", transport.get_extra_info("sockname"))]


@needs_ipv6
async def test_ipv4_mapped():
    """One IPv6 socket sends to both families."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    port = sock.getsockname()[1]
    async with endpoint(sock=sock) as (transport, protocol):
        with udp_socket() as old, udp_socket("::1") as new:
            transport.sendto(b"mapped", (f"::ffff:{HOST}", old.getsockname()[1]))
            transport.sendto(b"native", new.getsockname())
            assert await receive(old) == [(b"mapped", (HOST, port))]
            assert await receive(new) == [(b"native", ("::1", port, 0, 0))]
            old.sendto(b"mapped", (HOST, port))
            await protocol.read(1)
            new.sendto(b"native", ("::1", port))
            await protocol.read(2)
            assert protocol.received == [
                (b"mapped", (f"::ffff:{HOST}", old.getsockname()[1], 0, 0)),
                (b"native", new.getsockname()),
            ]


def link_local():
    """A link-local address of this machine as (address, interface), or None."""
    try:
        with open("/proc/net/if_inet6") as file:
            for line in file:
                digits, _, _, scope, flags, interface = line.split()
                if scope == "20" and not int(flags, 16) & 0x48:  # not tentative, no duplicate
                    return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits)), interface
    except OSError:
        pass
    return None


@pytest.mark.skipif(link_local() is None, reason="no link-local address here")
async def test_scope_ids():
    """The address is this machine's own, so that nothing leaves it. Its scope is given by name and by number."""
    host, interface = link_local()
    scope = socket.if_nametoindex(interface)
    async with endpoint(local_addr=(f"{host}%{interface}", 0)) as (transport, protocol):
        own = transport.get_extra_info("sockname")
        assert own == (host, own[1], 0, scope)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
            peer.settimeout(PATIENCE)
            peer.bind((host, 0, 0, scope))
            port = peer.getsockname()[1]
            addresses = [(host, port, 0, scope), (f"{host}%{interface}", port), (f"{host}%{scope}", port)]
            for address in addresses:
                transport.sendto(b"hello", address)
                assert await receive(peer) == [(b"hello", own)]
            peer.sendto(b"answer", own)
            await protocol.read(1)
            assert protocol.received == [(b"answer", (host, port, 0, scope))]
        async with endpoint(remote_addr=(f"{host}%{interface}", own[1])) as (other, _):
            assert other.get_extra_info("peername") == own
            other.sendto(b"connected")
            assert (await protocol.read(2))[1] == b"connected"


# --- not the address of a connected endpoint ---


async def test_another_address():
    with udp_socket() as peer:
        address = peer.getsockname()
        async with endpoint(remote_addr=address) as (transport, protocol):
            port = address[1]
            for wrong in [("127.0.0.2", port), (HOST, 1), ("localhost", port), list(address), "", ()]:
                with pytest.raises(ValueError) as info:
                    transport.sendto(b"x", wrong)
                assert str(info.value) == f"Invalid address: must be None or {address}"
            transport.sendto(b"x", Named(*address))
            assert [data for data, _ in await receive(peer)] == [b"x"]
            assert protocol.calls == ["connection_made"]


@needs_ipv6
async def test_another_form_of_the_address():
    """A connected endpoint compares an address with the one it was resolved to, in full."""
    with udp_socket("::1") as peer:
        address = peer.getsockname()
        async with endpoint(remote_addr=address[:2]) as (transport, _):
            with pytest.raises(ValueError) as info:
                transport.sendto(b"x", address[:2])
            assert str(info.value) == f"Invalid address: must be None or {address}"


async def test_another_unix_path(tmp_path):
    path = str(tmp_path / "peer")
    with unix_socket(path) as peer:
        async with endpoint(remote_addr=path, family=socket.AF_UNIX) as (transport, _):
            for wrong in [path + "2", path.encode(), b""]:
                with pytest.raises(ValueError) as info:
                    transport.sendto(b"x", wrong)
                assert str(info.value) == f"Invalid address: must be None or {path}"
            transport.sendto(b"x", path)
            assert await receive(peer) == [(b"x", None)]


# --- what is no address ---


def answer_of_a_socket(family, address):
    """The exception that a plain socket's sendto raises for it."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        with pytest.raises(Exception) as info:
            sock.sendto(b"x", address)
    return info.value


@contextlib.asynccontextmanager
async def unconnected(family, tmp_path):
    if family == socket.AF_UNIX:
        async with endpoint(family=family, local_addr=str(tmp_path / "own")) as made:
            yield made
    else:
        async with endpoint(family=family) as made:
            yield made


# Names that the resolver refuses without asking a server.
UNREACHABLE = [
    (socket.AF_INET, ("a..b", 9)),
    (socket.AF_INET, ("::1", 9)),
    (socket.AF_INET, (HOST, 0)),
    (socket.AF_INET, ("<broadcast>", 9)),
    pytest.param(socket.AF_INET6, (HOST, 9), marks=needs_ipv6),
    pytest.param(socket.AF_INET6, ("::1%nosuch", 9), marks=needs_ipv6),
    (socket.AF_UNIX, "missing"),
    (socket.AF_UNIX, "missing/missing"),
    (socket.AF_UNIX, "\0 nobody has this name"),
    (socket.AF_UNIX, b"\0 nobody has this name"),
    (socket.AF_UNIX, "x" * 200),
    (socket.AF_UNIX, ""),
]


@pytest.mark.parametrize(("family", "address"), UNREACHABLE, ids=repr)
async def test_unreachable(family, address, tmp_path, monkeypatch):
    """An unreachable address is an error of the network. error_received gets it, and the endpoint goes on."""
    monkeypatch.chdir(tmp_path)
    expected = answer_of_a_socket(family, address)
    assert isinstance(expected, OSError)
    async with unconnected(family, tmp_path) as (transport, protocol):
        for count in (1, 2):
            transport.sendto(b"x", address)
            await protocol.fail(count)
        for error in protocol.errors:
            assert type(error) is type(expected)
            assert error.args == expected.args
        assert not transport.is_closing()
        with unix_socket("peer") if family == socket.AF_UNIX else udp_socket(local(family)) as peer:
            transport.sendto(b"hello", peer.getsockname())
            assert [data for data, _ in await receive(peer)] == [b"hello"]
        assert protocol.calls == ["connection_made", "error_received", "error_received"]


def local(family):
    return "::1" if family == socket.AF_INET6 else HOST


NO_ADDRESS = [
    (socket.AF_INET, None),
    (socket.AF_INET, ()),
    (socket.AF_INET, (HOST,)),
    (socket.AF_INET, (HOST, 9, 0)),
    (socket.AF_INET, [HOST, 9]),
    (socket.AF_INET, "127.0.0.1:9"),
    (socket.AF_INET, (HOST, "9")),
    (socket.AF_INET, (HOST, 9.0)),
    (socket.AF_INET, (HOST, None)),
    (socket.AF_INET, (HOST, -1)),
    (socket.AF_INET, (HOST, 65536)),
    (socket.AF_INET, (HOST, 2**40)),
    (socket.AF_INET, (5, 9)),
    (socket.AF_INET, (None, 9)),
    (socket.AF_INET, (f"{HOST}\0", 9)),
    pytest.param(socket.AF_INET6, None, marks=needs_ipv6),
    pytest.param(socket.AF_INET6, ("::1",), marks=needs_ipv6),
    pytest.param(socket.AF_INET6, ("::1", 9, 0, 0, 0), marks=needs_ipv6),
    pytest.param(socket.AF_INET6, ("::1", 65536), marks=needs_ipv6),
    pytest.param(socket.AF_INET6, ("::1", 9, 2**20), marks=needs_ipv6),
    pytest.param(socket.AF_INET6, ("::1", 9, -1), marks=needs_ipv6),
    pytest.param(socket.AF_INET6, ("::1", 9, 0, "lo"), marks=needs_ipv6),
    (socket.AF_UNIX, None),
    (socket.AF_UNIX, ()),
    (socket.AF_UNIX, 5),
    (socket.AF_UNIX, ("path", 9)),
]


@pytest.mark.parametrize(("family", "address"), NO_ADDRESS, ids=repr)
async def test_no_address(family, address, tmp_path, loop_errors):
    """An object that is no address is a mistake of the program. It is reported, and ends the endpoint."""
    expected = answer_of_a_socket(family, address)
    assert not isinstance(expected, OSError)
    async with unconnected(family, tmp_path) as (transport, protocol):
        transport.sendto(b"x", address)
        error = await protocol.lost
        assert type(error) is type(expected)
        assert str(error) == str(expected)
        assert loop_errors == [
            {
                "message": "Fatal write error on datagram transport",
                "exception": error,
                "transport": transport,
                "protocol": protocol,
            }
        ]
        loop_errors.clear()
        assert transport.is_closing()
        await released(transport)
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_no_address_after_good_ones(loop_errors):
    """Datagrams that were sent before the mistake are not lost with the endpoint."""
    async with bound() as (transport, protocol):
        with udp_socket() as peer:
            transport.sendto(b"one", peer.getsockname())
            transport.sendto(b"two", peer.getsockname())
            transport.sendto(b"three")
            assert type(await protocol.lost) is TypeError
            loop_errors.clear()
            assert [data for data, _ in await receive(peer, 2)] == [b"one", b"two"]


async def test_many_hosts_that_do_not_exist():
    """Hosts that do not exist are an error each. The other datagrams are sent, in order."""
    async with bound() as (transport, protocol):
        with udp_socket() as peer:
            for number in range(20):
                transport.sendto(b"%d" % number, peer.getsockname())
                transport.sendto(b"never", ("a..b", 9))
            await protocol.fail(20)
            assert [data for data, _ in await receive(peer, 20)] == [b"%d" % number for number in range(20)]
            assert {type(error) for error in protocol.errors} == {socket.gaierror}
