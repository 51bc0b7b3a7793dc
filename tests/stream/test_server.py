"""create_server and connect_accepted_socket: what they bind, what they accept, what they refuse.

The Server object's own methods are in test_server_object.py, running out of files in test_accept_emfile.py.
"""

import asyncio
import contextlib
import errno
import gc
import socket
import struct
import sys

import pytest

from support.peers import HOST, Echo, Peer, Recorder, has_ipv6, released, serving, settle, socket_pair

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no ::1 here")


def names(server):
    return sorted(sock.getsockname()[0] for sock in server.sockets)


async def echo(address, data=b"hello"):
    """One connection to an echo server, there and back."""
    with Peer(socket.create_connection(address)) as peer:
        peer.send(data)
        answer = await peer.read(len(data))
    return answer


def listen_backlog(sock):
    # struct tcp_info: eight bytes, then 32-bit fields. For a listener the sixth is the size of its queue.
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return struct.unpack_from("8x6I", info)[5]


# --- where it listens ---


async def test_echo():
    async with serving(Echo) as (server, address):
        assert names(server) == [HOST]
        assert address[1] != 0
        assert await echo(address) == b"hello"


async def test_host_list():
    loop = asyncio.get_running_loop()
    async with await loop.create_server(Echo, [HOST, "127.0.0.2"], 0) as server:
        assert names(server) == [HOST, "127.0.0.2"]
        for sock in server.sockets:
            assert await echo(sock.getsockname()) == b"hello"


async def test_host_named_twice_is_bound_once():
    loop = asyncio.get_running_loop()
    async with await loop.create_server(Echo, (HOST, HOST), 0) as server:
        assert names(server) == [HOST]


@pytest.mark.parametrize("host", [None, ""])
async def test_flags_and_family_choose_the_address(host):
    loop = asyncio.get_running_loop()
    # Without AI_PASSIVE, no host means localhost and not every interface.
    async with await loop.create_server(Echo, host, 0, flags=0, family=socket.AF_INET) as server:
        assert names(server) == [HOST]


@needs_ipv6
async def test_both_families_on_one_port():
    loop = asyncio.get_running_loop()
    async with serving(Echo) as (_, (_, port)):
        # An IPv6 listener does not take the same port of IPv4.
        async with await loop.create_server(Echo, "::1", port) as server:
            sock = server.sockets[0]
            assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
            assert await echo(("::1", port)) == b"hello"


async def test_socket():
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.bind((HOST, 0))
    address = sock.getsockname()
    async with await loop.create_server(Echo, sock=sock) as server:
        assert [s.fileno() for s in server.sockets] == [sock.fileno()]
        assert sock.gettimeout() == 0
        assert await echo(address) == b"hello"
    assert sock.fileno() == -1


@pytest.mark.parametrize("backlog", [1, 7, 100])
async def test_backlog(backlog):
    async with serving(Echo, backlog=backlog) as (server, address):
        assert listen_backlog(server.sockets[0]) == backlog
        assert await echo(address) == b"hello"


async def test_default_backlog():
    async with serving(Echo) as (server, _):
        assert listen_backlog(server.sockets[0]) == 100


OPTIONS = [
    ({}, socket.SO_REUSEADDR, 1),
    ({"reuse_address": True}, socket.SO_REUSEADDR, 1),
    ({"reuse_address": False}, socket.SO_REUSEADDR, 0),
    ({}, socket.SO_REUSEPORT, 0),
    ({"reuse_port": True}, socket.SO_REUSEPORT, 1),
    ({}, socket.SO_KEEPALIVE, 0),
]
if sys.version_info >= (3, 13):
    OPTIONS += [
        ({"keep_alive": True}, socket.SO_KEEPALIVE, 1),
        ({"keep_alive": False}, socket.SO_KEEPALIVE, 0),
    ]


@pytest.mark.parametrize(("keywords", "option", "value"), OPTIONS)
async def test_socket_options(keywords, option, value):
    async with serving(Echo, **keywords) as (server, _):
        assert server.sockets[0].getsockopt(socket.SOL_SOCKET, option) == value


@pytest.mark.skipif(sys.version_info < (3, 13), reason="keep_alive is new in 3.13")
async def test_keep_alive_is_inherited():
    loop = asyncio.get_running_loop()
    accepted = loop.create_future()

    class Accepted(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            accepted.set_result(transport)

    async with serving(Accepted, keep_alive=True) as (_, address):
        with socket.create_connection(address):
            transport = await accepted
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            transport.abort()
            await released(transport)


async def test_two_servers_share_a_port():
    loop = asyncio.get_running_loop()
    async with serving(Echo, reuse_port=True) as (_, address):
        async with await loop.create_server(Echo, *address, reuse_port=True) as server:
            assert server.sockets[0].getsockname() == address


# --- what it refuses ---


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({}, ValueError, "Neither host/port nor sock were specified"),
        ({"host": HOST, "port": 0, "ssl": True}, TypeError, "ssl argument must be an SSLContext or None"),
        (
            {"host": HOST, "port": 0, "ssl_handshake_timeout": 1.0},
            ValueError,
            "ssl_handshake_timeout is only meaningful with ssl",
        ),
        (
            {"host": HOST, "port": 0, "ssl_shutdown_timeout": 1.0},
            ValueError,
            "ssl_shutdown_timeout is only meaningful with ssl",
        ),
    ],
)
async def test_argument_errors(kwargs, error, message):
    with pytest.raises(error) as info:
        await asyncio.get_running_loop().create_server(Echo, **kwargs)
    assert str(info.value) == message


@pytest.mark.parametrize("where", [{"host": HOST}, {"port": 0}])
async def test_address_and_socket(where):
    with socket.socket() as sock, pytest.raises(ValueError) as info:
        await asyncio.get_running_loop().create_server(Echo, sock=sock, **where)
    assert str(info.value) == "host/port and sock can not be specified at the same time"


async def test_datagram_socket():
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError) as info:
            await asyncio.get_running_loop().create_server(Echo, sock=sock)
        assert str(info.value) == f"A Stream Socket was expected, got {sock!r}"


async def test_address_in_use():
    loop = asyncio.get_running_loop()
    async with serving(Echo) as (_, (_, port)):
        with pytest.raises(OSError) as info:
            # The first address can be bound, because no other test uses it: a test that runs at the same time may
            # hold this port on another one. Its socket must not stay open when the second address is in use.
            await loop.create_server(Echo, ["127.77.0.1", HOST], port)
    assert info.value.errno == errno.EADDRINUSE
    assert f"error while attempting to bind on address ('{HOST}', {port}): " in str(info.value)
    assert str(info.value).endswith("address already in use")


async def test_unknown_keyword():
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        await asyncio.get_running_loop().create_server(Echo, HOST, 0, nonsense=True)  # type: ignore[call-overload]


# --- what it accepts ---


async def test_peername_of_accepted_connection():
    loop = asyncio.get_running_loop()
    accepted = loop.create_future()

    class Accepted(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            accepted.set_result(self)

    async with serving(Accepted) as (_, address):
        with socket.create_connection(address) as sock:
            protocol = await accepted
            assert protocol.transport.get_extra_info("peername") == sock.getsockname()
            assert protocol.transport.get_extra_info("sockname") == address
        assert await protocol.lost is None


@pytest.mark.parametrize("backlog", [1000, 20])
async def test_many_connections_at_once(backlog):
    """Many connections wait in the listener's queue before the loop looks. A short queue is filled many times."""
    async with serving(Echo, backlog=backlog) as (_, address):
        waiting = min(backlog, 300)
        for _ in range(300 // waiting):
            with contextlib.ExitStack() as stack:
                peers = [stack.enter_context(Peer(socket.create_connection(address))) for _ in range(waiting)]
                for number, peer in enumerate(peers):
                    peer.send(b"%04d" % number)
                for number, peer in enumerate(peers):
                    assert await peer.read(4) == b"%04d" % number


async def test_server_that_nobody_keeps():
    loop = asyncio.get_running_loop()
    sock = socket.create_server((HOST, 0))
    address = sock.getsockname()
    await loop.create_server(Echo, sock=sock)
    gc.collect()
    for _ in range(3):
        assert await echo(address) == b"hello"
        gc.collect()
    # Nothing but the loop refers to the server any more.
    assert loop.remove_reader(sock.fileno())
    sock.close()


# --- the reader of a listening socket, which the program may remove and replace ---


def kept_in(made):
    """A factory of protocols, which are kept in the list."""

    def make():
        made.append(Echo())
        return made[-1]

    return make


async def test_listening_socket_without_its_reader():
    """The server accepts nothing more, and can be closed."""
    made = []
    async with serving(kept_in(made)) as (server, address):
        loop, fd = asyncio.get_running_loop(), server.sockets[0].fileno()
        assert await echo(address) == b"hello"
        assert not loop.remove_writer(fd)
        assert loop.remove_reader(fd)
        assert not loop.remove_reader(fd)
        with socket.create_connection(address):
            await settle()
        assert len(made) == 1


async def test_another_reader_of_a_listening_socket():
    """The program's callback takes the server's place."""
    made = []
    async with serving(kept_in(made)) as (server, address):
        loop, fd = asyncio.get_running_loop(), server.sockets[0].fileno()
        ready = asyncio.Event()
        loop.add_reader(fd, ready.set)
        with socket.create_connection(address):
            await ready.wait()
            await settle()
        assert loop.remove_reader(fd)
        assert not loop.remove_reader(fd)
        assert not made


async def test_accept_on_a_listening_socket_of_a_server():
    """`sock_accept` takes the server's place as well."""
    loop = asyncio.get_running_loop()
    with socket.create_server((HOST, 0)) as sock:
        sock.setblocking(False)
        server = await loop.create_server(Echo, sock=sock)
        accepting = asyncio.create_task(loop.sock_accept(sock))
        await settle()
        with Peer(socket.create_connection(sock.getsockname())) as peer:
            accepted, _ = await accepting
            with accepted:
                accepted.sendall(b"by hand")
                assert await peer.read(7) == b"by hand"
        server.close()


# asyncio does not close the accepted socket; its finalizer does, once nobody keeps the exception.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize("debug", [False, True])
async def test_protocol_factory_that_raises(debug, loop_errors):
    loop = asyncio.get_running_loop()
    loop.set_debug(debug)
    called = loop.create_future()

    def refuse():
        called.set_result(None)
        raise ZeroDivisionError("no protocol")

    factory = refuse
    async with serving(lambda: factory()) as (_, address):
        with Peer(socket.create_connection(address)) as peer:
            await called
            await asyncio.sleep(0)
            if debug:
                context = loop_errors.pop()
                assert context["message"] == "Error on transport creation for incoming connection"
                assert repr(context["exception"]) == "ZeroDivisionError('no protocol')"
                del context
                gc.collect()  # asyncio has the socket in a cycle with the exception
            assert loop_errors == []  # otherwise silent, as in asyncio
            assert await peer.read_until_eof() == b""
        factory = Echo
        assert await echo(address) == b"hello"


# --- connect_accepted_socket ---


async def test_connect_accepted_socket():
    loop = asyncio.get_running_loop()
    near, far = socket_pair()
    with Peer(far) as peer:
        transport, protocol = await loop.connect_accepted_socket(Echo, near)
        assert isinstance(protocol, Echo)
        assert protocol.calls == ["connection_made"]
        assert transport.get_extra_info("peername") == far.getsockname()
        assert near.gettimeout() == 0
        peer.send(b"hello")
        assert await peer.read(5) == b"hello"
        transport.close()
        await released(transport)


async def test_connect_accepted_socket_misused():
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError) as info:
            await loop.connect_accepted_socket(Echo, sock)
        assert str(info.value) == f"A Stream Socket was expected, got {sock!r}"
    with socket.socket() as sock:
        with pytest.raises(ValueError, match="^ssl_handshake_timeout is only meaningful with ssl$"):
            await loop.connect_accepted_socket(Echo, sock, ssl_handshake_timeout=1.0)


async def test_connect_accepted_socket_with_a_factory_that_raises():
    def factory():
        raise ZeroDivisionError("no protocol")

    near, far = socket_pair()
    with near, far, pytest.raises(ZeroDivisionError, match="no protocol"):
        await asyncio.get_running_loop().connect_accepted_socket(factory, near)
