"""create_connection: where it connects to, from where, what it refuses and what it leaves behind.

What the transport does once it is there is in test_transport.py.
"""

import asyncio
import errno
import gc
import socket
import ssl
import sys
from typing import Any

import pytest

from support.loops import open_files
from support.peers import (
    HOST,
    Recorder,
    has_ipv6,
    noting,
    refusing_port,
    released,
    serving,
    silent_address,
    socket_pair,
)

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no ::1 here")


def addresses(*pairs):
    """An answer of getaddrinfo with these (host, port) pairs, in this order."""
    infos: list[Any] = []
    for host, port in pairs:
        if ":" in host:
            infos.append((socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0)))
        else:
            infos.append((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)))
    return infos


def resolve_to(loop, infos):
    """Makes every host name of this loop stand for `infos`, as a program with its own resolver does."""

    async def getaddrinfo(host, port, *, family=0, type=0, proto=0, flags=0):
        return infos

    loop.getaddrinfo = getaddrinfo


async def drop(transport):
    transport.abort()
    await released(transport)


@pytest.mark.parametrize("as_port", [int, str])
async def test_host_and_port(as_port):
    loop = asyncio.get_running_loop()
    async with serving(asyncio.Protocol) as (_, address):
        made = []

        factory = noting(made)

        transport, protocol = await loop.create_connection(factory, HOST, as_port(address[1]))
        assert made == [protocol]
        assert protocol.calls == ["connection_made"]  # called before create_connection returns
        assert protocol.transport is transport
        assert transport.get_extra_info("peername") == address
        await drop(transport)


async def test_port_alone_means_this_machine():
    loop = asyncio.get_running_loop()
    async with serving(asyncio.Protocol) as (_, address):
        transport, _ = await loop.create_connection(Recorder, None, address[1], family=socket.AF_INET)  # type: ignore[call-overload]
        assert transport.get_extra_info("peername") == address
        await drop(transport)


async def test_host_name():
    loop = asyncio.get_running_loop()
    async with serving(asyncio.Protocol) as (_, address):
        transport, _ = await loop.create_connection(Recorder, "localhost", address[1], family=socket.AF_INET)
        assert transport.get_extra_info("peername") == address
        await drop(transport)


@needs_ipv6
async def test_ipv6():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "::1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await loop.create_connection(Recorder, "::1", port)
    assert transport.get_extra_info("peername") == ("::1", port, 0, 0)
    await drop(transport)
    server.close()


async def test_connected_socket():
    loop = asyncio.get_running_loop()
    near, far = socket_pair()
    with far:
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        assert near.gettimeout() == 0
        assert transport.get_extra_info("peername") == far.getsockname()
        far.sendall(b"hello")
        assert await protocol.read(5) == b"hello"
        await drop(transport)


async def test_connected_unix_socket():
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with far:
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        far.sendall(b"hello")
        assert await protocol.read(5) == b"hello"
        await drop(transport)


async def test_nagle_is_off():
    loop = asyncio.get_running_loop()
    accepted = loop.create_future()

    class Accepted(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            accepted.set_result(transport)

    async with serving(Accepted) as (_, address):
        transport, _ = await loop.create_connection(Recorder, *address)
        for end in (transport, await accepted):
            assert end.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            await drop(end)


# --- from where ---


async def test_local_addr():
    loop = asyncio.get_running_loop()
    async with serving(asyncio.Protocol) as (_, address):
        transport, _ = await loop.create_connection(Recorder, *address, local_addr=("127.0.0.2", 0))
        assert transport.get_extra_info("sockname")[0] == "127.0.0.2"
        await drop(transport)


async def test_local_addr_in_use():
    loop = asyncio.get_running_loop()
    async with serving(asyncio.Protocol) as (_, address):
        with refusing_port() as taken, pytest.raises(OSError) as info:
            await loop.create_connection(Recorder, *address, local_addr=(HOST, taken))
    assert info.value.errno == errno.EADDRINUSE
    assert f"error while attempting to bind on address ('{HOST}', {taken}): " in str(info.value)
    assert str(info.value).endswith("address already in use")


async def test_local_addr_of_another_family():
    loop = asyncio.get_running_loop()
    async with serving(asyncio.Protocol) as (_, address):
        with pytest.raises(OSError, match=r"^no matching local address with family=.* found$"):
            await loop.create_connection(Recorder, *address, local_addr=("::1", 0))


# --- several addresses ---


async def test_first_address_refuses():
    loop = asyncio.get_running_loop()
    async with serving(asyncio.Protocol) as (_, address):
        with refusing_port() as closed:
            resolve_to(loop, addresses((HOST, closed), address))
            transport, _ = await loop.create_connection(Recorder, "two.example", 1)
        assert transport.get_extra_info("peername") == address
        await drop(transport)


@needs_ipv6
@pytest.mark.parametrize("options", [{}, {"happy_eyeballs_delay": 5}, {"interleave": 1}])
async def test_ipv4_refuses_and_ipv6_answers(options):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "::1", 0)
    port = server.sockets[0].getsockname()[1]
    with refusing_port() as closed:
        resolve_to(loop, addresses((HOST, closed), ("::1", port)))
        transport, _ = await loop.create_connection(Recorder, "both.example", 1, **options)
    assert transport.get_extra_info("peername")[:2] == ("::1", port)
    await drop(transport)
    server.close()


async def test_happy_eyeballs_overtakes_a_silent_address():
    loop = asyncio.get_running_loop()
    with silent_address() as silent:
        async with serving(asyncio.Protocol) as (_, address):
            resolve_to(loop, addresses(silent, address))
            transport, _ = await loop.create_connection(Recorder, "two.example", 1, happy_eyeballs_delay=0.01)
            assert transport.get_extra_info("peername") == address
            await drop(transport)


@needs_ipv6
@pytest.mark.parametrize(
    ("interleave", "order"),
    [
        (None, ["::1", "::1", "127.0.0.1", "127.0.0.2"]),
        (1, ["::1", "127.0.0.1", "::1", "127.0.0.2"]),
        (2, ["::1", "::1", "127.0.0.1", "127.0.0.2"]),
    ],
)
async def test_interleave(interleave, order):
    loop = asyncio.get_running_loop()
    # There are two ports so that all errors differ: asyncio lists them all then, in the order of the attempts.
    with refusing_port("::1", socket.AF_INET6) as one, refusing_port("127.0.0.2") as two:
        resolve_to(loop, addresses(("::1", one), ("::1", two), ("127.0.0.1", one), ("127.0.0.2", two)))
        with pytest.raises(OSError) as info:
            await loop.create_connection(Recorder, "many.example", 1, interleave=interleave)
    attempts = str(info.value).removeprefix("Multiple exceptions: ").split("Connect call failed ('")[1:]
    assert [attempt.split("'")[0] for attempt in attempts] == order


# --- refused ---


async def test_connection_refused():
    with refusing_port() as port, pytest.raises(ConnectionRefusedError) as info:
        await asyncio.get_running_loop().create_connection(Recorder, HOST, port)
    assert info.value.errno == errno.ECONNREFUSED
    assert str(info.value) == f"[Errno {errno.ECONNREFUSED}] Connect call failed ('{HOST}', {port})"


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("options", [{}, {"local_addr": (HOST, 0)}])
async def test_refusal_is_in_no_list(debug, options):
    """The traceback refers to no list with the exception. That would be a cycle, freed only by a collection."""
    loop = asyncio.get_running_loop()
    loop.set_debug(debug)
    with refusing_port() as port, pytest.raises(ConnectionRefusedError) as info:
        await loop.create_connection(asyncio.Protocol, HOST, port, **options)
    assert [refers for refers in gc.get_referrers(info.value) if type(refers) is list] == []


async def test_connection_refused_by_all():
    loop = asyncio.get_running_loop()
    with refusing_port() as one, refusing_port() as two:
        resolve_to(loop, addresses((HOST, one), (HOST, two)))
        with pytest.raises(OSError) as info:
            await loop.create_connection(Recorder, "two.example", 1)
    assert type(info.value) is OSError
    assert str(info.value) == (
        f"Multiple exceptions: [Errno {errno.ECONNREFUSED}] Connect call failed ('{HOST}', {one}), "
        f"[Errno {errno.ECONNREFUSED}] Connect call failed ('{HOST}', {two})"
    )


@pytest.mark.skipif(sys.version_info < (3, 12), reason="all_errors is new in 3.12")
async def test_all_errors():
    loop = asyncio.get_running_loop()
    with refusing_port() as one, refusing_port() as two:
        resolve_to(loop, addresses((HOST, one), (HOST, two)))
        with pytest.raises(ExceptionGroup) as info:
            await loop.create_connection(Recorder, "two.example", 1, all_errors=True)  # type: ignore[call-overload]
    assert info.value.message == "create_connection failed"
    assert [type(exc) for exc in info.value.exceptions] == [ConnectionRefusedError] * 2


async def test_name_without_address():
    loop = asyncio.get_running_loop()
    resolve_to(loop, [])
    with pytest.raises(OSError, match=r"^getaddrinfo\(\) returned empty list$"):
        await loop.create_connection(Recorder, "none.example", 1)


async def test_resolver_error_reaches_the_caller():
    loop = asyncio.get_running_loop()

    async def getaddrinfo(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]
    with pytest.raises(socket.gaierror, match="no such name"):
        await loop.create_connection(Recorder, "none.example", 1)


# --- misuse ---


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "host and port was not specified and no sock specified"),
        ({"host": HOST, "port": 1, "server_hostname": "x"}, "server_hostname is only meaningful with ssl"),
        (
            {"host": HOST, "port": 1, "ssl_handshake_timeout": 1.0},
            "ssl_handshake_timeout is only meaningful with ssl",
        ),
        (
            {"host": HOST, "port": 1, "ssl_shutdown_timeout": 1.0},
            "ssl_shutdown_timeout is only meaningful with ssl",
        ),
        ({"ssl": True, "port": 1}, "You must set server_hostname when using ssl without a host"),
    ],
)
async def test_argument_errors(kwargs, message):
    with pytest.raises(ValueError) as info:
        await asyncio.get_running_loop().create_connection(Recorder, **kwargs)
    assert str(info.value) == message


@pytest.mark.parametrize("where", [{"host": HOST}, {"port": 1}, {"host": HOST, "port": 1}])
async def test_address_and_socket(where):
    with socket.socket() as sock, pytest.raises(ValueError) as info:
        await asyncio.get_running_loop().create_connection(Recorder, sock=sock, **where)
    assert str(info.value) == "host/port and sock can not be specified at the same time"


async def test_datagram_socket():
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError) as info:
            await asyncio.get_running_loop().create_connection(Recorder, sock=sock)
        assert str(info.value) == f"A Stream Socket was expected, got {sock!r}"


async def test_ssl_socket():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with context.wrap_socket(socket.socket(), server_side=True) as sock:
        with pytest.raises(TypeError, match="^Socket cannot be of type SSLSocket$"):
            await asyncio.get_running_loop().create_connection(Recorder, sock=sock)


async def test_unknown_keyword():
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        await asyncio.get_running_loop().create_connection(Recorder, HOST, 1, nonsense=True)  # type: ignore[call-overload]


# Before 3.14 asyncio does not close the socket; its finalizer does.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_protocol_factory_that_raises():
    loop = asyncio.get_running_loop()

    def factory():
        raise ZeroDivisionError("no protocol")

    async with serving(asyncio.Protocol) as (_, address):
        with pytest.raises(ZeroDivisionError, match="no protocol"):
            await loop.create_connection(factory, *address)


async def test_protocol_factory_that_raises_with_a_socket():
    def factory():
        raise ZeroDivisionError("no protocol")

    near, far = socket_pair()
    with near, far:
        with pytest.raises(ZeroDivisionError, match="no protocol"):
            await asyncio.get_running_loop().create_connection(factory, sock=near)
        if sys.version_info >= (3, 14):
            assert near.fileno() == -1


# --- cancelled ---


@pytest.mark.parametrize("options", [{}, {"happy_eyeballs_delay": 0.01}])
async def test_cancel_leaves_no_file(options):
    loop = asyncio.get_running_loop()
    with silent_address() as (host, port):
        before = len(open_files())
        task = asyncio.create_task(loop.create_connection(Recorder, host, port, **options))
        while len(open_files()) == before:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(open_files()) == before


async def test_cancel_once_connected_closes_the_transport():
    loop = asyncio.get_running_loop()
    near, far = socket_pair()
    with far:
        far.settimeout(10)
        made = []

        class Cancelling(Recorder):
            def connection_made(self, transport):
                super().connection_made(transport)
                task.cancel()  # the task waits for this call to return
                made.append(self)

        task = asyncio.create_task(loop.create_connection(Cancelling, sock=near))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await made[0].lost is None
        assert made[0].calls == ["connection_made", "connection_lost"]
        await released(made[0].transport)
        assert far.recv(1) == b""


async def test_connecting_is_audited():
    """PEP 578: the audit hook sees the address. A hook cannot be removed, so that this one is set in a child."""
    code = (
        "import asyncio, sys, socket\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, args: seen.append(args[1]) if event == 'socket.connect' else None)\n"
        "async def main():\n"
        "    server = await asyncio.start_server(lambda reader, writer: writer.close(), '127.0.0.1', 0)\n"
        "    address = server.sockets[0].getsockname()\n"
        "    _, writer = await asyncio.open_connection(*address)\n"
        "    writer.close()\n"
        "    server.close()\n"
        "    assert seen == [address], seen\n"
    )
    run = {
        "rloop": "import rloop; rloop.run(main())",
        "asyncio": "asyncio.run(main())",
    }["rloop" if type(asyncio.get_running_loop()).__module__.startswith("rloop") else "asyncio"]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code + run)
    assert await process.wait() == 0


async def test_sock_connect_of_a_subclass_is_called(monkeypatch):
    loop = asyncio.get_running_loop()
    connected = []

    async def sock_connect(sock, address):
        connected.append(address)
        await type(loop).sock_connect(loop, sock, address)

    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    server = await loop.create_server(asyncio.Protocol, HOST, 0)
    address = server.sockets[0].getsockname()
    transport, _ = await loop.create_connection(asyncio.Protocol, *address)
    assert connected == [address]
    transport.close()
    server.close()
