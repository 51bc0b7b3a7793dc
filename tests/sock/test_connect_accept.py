"""sock_connect and sock_accept over TCP, UDP and AF_UNIX.

Calls that are cancelled are in test_cancel.py, wrong sockets in test_misuse.py.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Awaitable
from typing import Any

import pytest

from support.peers import HOST, has_ipv6, refusing_port, settle, silent_address
from support.sock_peers import cancelled, registered, waiting

KINDS = ["tcp", "tcp6", "unix", "abstract"]
LISTENERS = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tcp6" or has_ipv6()])
FAMILIES = {
    "tcp": socket.AF_INET,
    "tcp6": socket.AF_INET6,
    "unix": socket.AF_UNIX,
    "abstract": socket.AF_UNIX,
}


@contextlib.contextmanager
def listening(kind, folder):
    """A non-blocking listener."""
    with socket.socket(FAMILIES[kind]) as sock:
        address = {"tcp": (HOST, 0), "tcp6": ("::1", 0), "unix": os.path.join(folder, "path"), "abstract": ""}
        sock.bind(address[kind])  # type: ignore[arg-type]
        sock.listen()
        sock.setblocking(False)
        yield sock


@contextlib.contextmanager
def fresh(family=socket.AF_INET, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as sock:
        sock.setblocking(False)
        yield sock


# --- sock_connect ---


@LISTENERS
async def test_connect(kind, tmp_path):
    loop = asyncio.get_running_loop()
    with listening(kind, tmp_path) as listener, fresh(FAMILIES[kind]) as sock:
        assert await loop.sock_connect(sock, listener.getsockname()) is None
        assert sock.getpeername() == listener.getsockname()
        assert not registered(sock)
        far, _ = listener.accept()
        with far:
            far.send(b"hello")
            assert await loop.sock_recv(sock, 5) == b"hello"
            await loop.sock_sendall(sock, b"bye")
            assert far.recv(5) == b"bye"


async def test_connect_returns_a_coroutine(tmp_path):
    loop = asyncio.get_running_loop()
    with listening("tcp", tmp_path) as listener, fresh() as sock:
        call = loop.sock_connect(sock, listener.getsockname())
        assert asyncio.iscoroutine(call)
        call.close()
        with pytest.raises(BlockingIOError):
            listener.accept()
        await loop.sock_connect(sock, listener.getsockname())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", b"127.0.0.1", "127.1", ""], ids=repr)
async def test_host(host, tmp_path):
    """A host name is looked up for the socket's family."""
    loop = asyncio.get_running_loop()
    with listening("tcp", tmp_path) as listener, fresh() as sock:
        address = (host, listener.getsockname()[1])
        if host == "":
            with pytest.raises(OSError):
                await loop.sock_connect(sock, address)
        else:
            await loop.sock_connect(sock, address)
            assert sock.getpeername() == listener.getsockname()


@pytest.mark.parametrize("convert", [str, lambda port: str(port).encode(), list])
async def test_port(convert, tmp_path):
    loop = asyncio.get_running_loop()
    with listening("tcp", tmp_path) as listener, fresh() as sock:
        host, port = listener.getsockname()
        await loop.sock_connect(sock, [host, port] if convert is list else (host, convert(port)))  # type: ignore[arg-type]
        assert sock.getpeername() == (host, port)


async def test_address_of_ipv6(tmp_path):
    if not has_ipv6():
        pytest.skip("no IPv6 here")
    loop = asyncio.get_running_loop()
    with listening("tcp6", tmp_path) as listener:
        _, port, _, _ = listener.getsockname()
        for address in [("::1", port), ("::1", port, 0, 0), ("::1", port, 0), ("0:0:0:0:0:0:0:1", port)]:
            with fresh(socket.AF_INET6) as sock:
                await loop.sock_connect(sock, address)
                assert sock.getpeername() == ("::1", port, 0, 0)


@pytest.mark.parametrize("address", [(HOST,), None, 42, (HOST, "no such service"), ("no\0name", 80), ("::1", 80)])
async def test_wrong_address(address):
    """A wrong address raises, and the socket can still be connected."""
    loop = asyncio.get_running_loop()
    with fresh() as sock:
        with pytest.raises((TypeError, ValueError, OSError)):
            await loop.sock_connect(sock, address)
        with pytest.raises(OSError) as info:
            sock.getpeername()
        assert info.value.errno == errno.ENOTCONN
        assert not registered(sock)


async def test_refused():
    loop = asyncio.get_running_loop()
    with refusing_port() as port, fresh() as sock:
        with pytest.raises(ConnectionRefusedError) as info:
            await loop.sock_connect(sock, (HOST, port))
        assert info.value.errno == errno.ECONNREFUSED
        assert str(info.value) == f"[Errno {errno.ECONNREFUSED}] Connect call failed ('{HOST}', {port})"
        assert not registered(sock)


async def test_already_connected(tmp_path):
    loop = asyncio.get_running_loop()
    with listening("tcp", tmp_path) as listener, socket.create_connection(listener.getsockname()) as sock:
        sock.setblocking(False)
        with pytest.raises(OSError) as info:
            await loop.sock_connect(sock, listener.getsockname())
        assert info.value.errno == errno.EISCONN
        assert not registered(sock)


async def test_waits_for_the_answer():
    loop = asyncio.get_running_loop()
    with silent_address() as address, fresh() as sock:
        task = await waiting(loop.sock_connect(sock, address))
        assert await cancelled(task)
        assert not registered(sock)


async def test_many_at_a_time(tmp_path):
    loop = asyncio.get_running_loop()
    with listening("tcp", tmp_path) as listener, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(fresh()) for _ in range(50)]
        await asyncio.gather(*(loop.sock_connect(sock, listener.getsockname()) for sock in socks))
        for _ in socks:
            conn, _ = await loop.sock_accept(listener)
            conn.close()


async def test_connect_of_udp():
    """Connecting a UDP socket only sets its address, so that it need not wait."""
    loop = asyncio.get_running_loop()
    with fresh(kind=socket.SOCK_DGRAM) as sock, fresh(kind=socket.SOCK_DGRAM) as other:
        other.bind((HOST, 0))
        await loop.sock_connect(sock, other.getsockname())
        await loop.sock_sendall(sock, b"hello")
        assert await loop.sock_recvfrom(other, 10) == (b"hello", sock.getsockname())


async def test_path_as_bytes(tmp_path):
    loop = asyncio.get_running_loop()
    with listening("unix", tmp_path) as listener, fresh(socket.AF_UNIX) as sock:
        await loop.sock_connect(sock, os.fsencode(listener.getsockname()))
        assert sock.getpeername() == listener.getsockname()


async def test_errors_of_a_path(tmp_path):
    """The errors of a path are those of the kernel, and come at once."""
    loop = asyncio.get_running_loop()
    stale = str(tmp_path / "stale")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(stale)
    for path, error in [
        (str(tmp_path / "none"), FileNotFoundError),
        (stale, ConnectionRefusedError),
        (str(tmp_path), ConnectionRefusedError),
        ("x" * 200, OSError),
        (42, TypeError),
    ]:
        with fresh(socket.AF_UNIX) as sock:
            with pytest.raises(error) as expected:
                sock.connect(path)
            with pytest.raises(error) as info:
                await loop.sock_connect(sock, path)  # type: ignore[arg-type]
            assert type(info.value) is type(expected.value)
            assert info.value.args == expected.value.args


# --- sock_accept ---


@LISTENERS
@pytest.mark.parametrize("late", [False, True])
async def test_accept(kind, late, tmp_path):
    loop = asyncio.get_running_loop()
    with listening(kind, tmp_path) as listener, socket.socket(FAMILIES[kind]) as far:
        task: Awaitable[Any]
        if late:
            task = await waiting(loop.sock_accept(listener))
            far.connect(listener.getsockname())
        else:
            far.connect(listener.getsockname())
            task = loop.sock_accept(listener)
        result = await task
        assert type(result) is tuple
        conn, address = result
        with conn:
            assert type(conn) is socket.socket
            assert conn.gettimeout() == 0
            assert not os.get_blocking(conn.fileno())
            assert not conn.get_inheritable()
            assert (conn.family, conn.type, conn.proto) == (listener.family, listener.type, listener.proto)
            assert address == far.getsockname()
            far.send(b"hello")
            assert await loop.sock_recv(conn, 5) == b"hello"
        assert not registered(listener)


async def test_accept_is_tried_first(tmp_path):
    loop = asyncio.get_running_loop()
    with listening("tcp", tmp_path) as listener, socket.create_connection(listener.getsockname()):
        turns = []
        loop.call_soon(turns.append, 1)
        conn, _ = await loop.sock_accept(listener)
        conn.close()
        assert turns == []


async def test_nothing_is_accepted_before_it_is_awaited(tmp_path):
    loop = asyncio.get_running_loop()
    with listening("tcp", tmp_path) as listener, socket.create_connection(listener.getsockname()):
        call = loop.sock_accept(listener)
        assert asyncio.iscoroutine(call)
        call.close()
        conn, _ = listener.accept()
        conn.close()


async def test_accept_with_a_default_timeout(tmp_path):
    """socket.setdefaulttimeout() does not matter for the accepted socket."""
    loop = asyncio.get_running_loop()
    with listening("tcp", tmp_path) as listener, socket.create_connection(listener.getsockname()):
        socket.setdefaulttimeout(5)
        try:
            conn, _ = await loop.sock_accept(listener)
        finally:
            socket.setdefaulttimeout(None)
        with conn:
            assert conn.gettimeout() == 0


async def test_accept_in_order(tmp_path):
    loop = asyncio.get_running_loop()
    with listening("tcp", tmp_path) as listener, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(20)]
        for client in clients:
            conn, address = await loop.sock_accept(listener)
            stack.enter_context(conn)
            assert address == client.getsockname()
        task = await waiting(loop.sock_accept(listener))
        assert await cancelled(task)


async def test_accept_by_two_callers(tmp_path):
    """The later call replaces the earlier one, as for every sock_* call."""
    loop = asyncio.get_running_loop()
    with listening("tcp", tmp_path) as listener:
        first = await waiting(loop.sock_accept(listener))
        second = await waiting(loop.sock_accept(listener))
        with socket.create_connection(listener.getsockname()) as far:
            conn, address = await second
            with conn:
                assert address == far.getsockname()
            await settle()
            assert not first.done()
            assert await cancelled(first)
            assert not registered(listener)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_accept_without_a_listener(kind):
    """The program gets the kernel's own error."""
    loop = asyncio.get_running_loop()
    with fresh(kind=kind) as sock:
        with pytest.raises(OSError) as expected:
            sock.accept()
        with pytest.raises(type(expected.value)) as info:
            await loop.sock_accept(sock)
        assert info.value.args == expected.value.args


async def test_listener_that_is_shut_down(tmp_path):
    loop = asyncio.get_running_loop()
    with listening("tcp", tmp_path) as listener:
        task = await waiting(loop.sock_accept(listener))
        listener.shutdown(socket.SHUT_RD)
        with pytest.raises(OSError) as info:
            await task
        assert info.value.errno == errno.EINVAL
        assert not registered(listener)


async def test_subclass_with_a_method_of_its_own(tmp_path):
    """The loop calls the object's methods, as asyncio does. They may do more than the kernel."""
    calls = []

    class Special(socket.socket):
        def accept(self):
            calls.append("accept")
            return super().accept()

        def connect(self, address):
            calls.append("connect")
            return super().connect(address)

    loop = asyncio.get_running_loop()
    with listening("tcp", tmp_path) as plain, Special(fileno=plain.detach()) as listener, Special() as sock:
        sock.setblocking(False)
        task = await waiting(loop.sock_accept(listener))
        await loop.sock_connect(sock, listener.getsockname())
        conn, _ = await task
        conn.close()
    assert calls[0] == "accept"
    assert "connect" in calls
    assert calls.count("accept") >= 2
