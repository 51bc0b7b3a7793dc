"""create_unix_connection: how a path is named, what it refuses and what it leaves behind.

What the transport does once it is there is in test_streams.py, the server in test_server.py.
"""

import asyncio
import contextlib
import errno
import os
import pathlib
import socket
import struct
from asyncio import trsock

import pytest

from support.loops import open_files
from support.peers import Peer, Recorder, released, result_or_error
from support.unix_peers import abstract_name


@contextlib.contextmanager
def listening(path):
    """A listener that no loop touches."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(10)
        listener.bind(path)
        listener.listen()
        yield listener


def accept(listener):
    return Peer(listener.accept()[0])


async def drop(transport):
    transport.abort()
    await released(transport)


async def exchange(protocol, peer):
    peer.send(b"hello")
    assert await protocol.read(5) == b"hello"
    protocol.transport.write(b"answer")
    assert await peer.read(6) == b"answer"


# --- how a path is named ---


@pytest.mark.parametrize("name", [str, os.fsencode, pathlib.Path])
async def test_path(path, name):
    loop = asyncio.get_running_loop()
    with listening(path) as listener:
        transport, protocol = await loop.create_unix_connection(Recorder, name(path))
        assert protocol.calls == ["connection_made"]  # called before create_unix_connection returns
        assert protocol.transport is transport
        with accept(listener) as peer:
            await exchange(protocol, peer)
            await drop(transport)
            assert await peer.read_until_eof() == b""


async def test_path_by_keyword(path):
    loop = asyncio.get_running_loop()
    with listening(path) as listener:
        transport, protocol = await loop.create_unix_connection(protocol_factory=Recorder, path=path)
        with accept(listener) as peer:
            await exchange(protocol, peer)
            await drop(transport)


@pytest.mark.parametrize("decode", [bytes, bytes.decode])
async def test_abstract_name(decode):
    loop = asyncio.get_running_loop()
    name = abstract_name()
    with listening(name) as listener:
        transport, protocol = await loop.create_unix_connection(Recorder, decode(name))
        assert transport.get_extra_info("peername") == name
        with accept(listener) as peer:
            await exchange(protocol, peer)
            await drop(transport)


async def test_abstract_name_is_binary():
    """NUL bytes in the middle and at the end belong to the name, and so do bytes that are no text."""
    loop = asyncio.get_running_loop()
    name = abstract_name() + b"\0\xff\0"
    with listening(name) as listener:
        transport, _ = await loop.create_unix_connection(Recorder, name)  # type: ignore[arg-type]
        assert transport.get_extra_info("peername") == name
        accept(listener).close()
        await drop(transport)
        with pytest.raises(ConnectionRefusedError):
            await loop.create_unix_connection(Recorder, name[:-1])  # type: ignore[arg-type]


async def test_path_that_is_no_text(tmp_path):
    loop = asyncio.get_running_loop()
    path = os.fsencode(tmp_path) + b"/\xff\xfe"
    with listening(path) as listener:
        transport, protocol = await loop.create_unix_connection(Recorder, path)  # type: ignore[arg-type]
        assert transport.get_extra_info("peername") == os.fsdecode(path)
        with accept(listener) as peer:
            await exchange(protocol, peer)
        await drop(transport)


async def test_path_through_a_link_and_relative(path, tmp_path, monkeypatch):
    loop = asyncio.get_running_loop()
    (tmp_path / "link").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    with listening(path) as listener:
        for name in (str(tmp_path / "link"), "link", "socket"):
            transport, protocol = await loop.create_unix_connection(Recorder, name)
            assert transport.get_extra_info("peername") == path  # as the listener named it
            with accept(listener) as peer:
                await exchange(protocol, peer)
            await drop(transport)


# --- what is known of the connection ---


async def test_extra_info(path):
    loop = asyncio.get_running_loop()
    with listening(path) as listener:
        transport, _ = await loop.create_unix_connection(Recorder, path)
        with accept(listener):
            assert isinstance(transport, asyncio.Transport)
            assert transport.get_extra_info("peername") == path
            assert transport.get_extra_info("sockname") == ""
            assert transport.get_extra_info("sslcontext") is None
            assert transport.get_extra_info("nothing", "default") == "default"
            sock = transport.get_extra_info("socket")
            assert isinstance(sock, trsock.TransportSocket)
            assert (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
            assert sock.getpeername() == path
            await drop(transport)


async def test_credentials_of_the_peer(path):
    """Programs ask like this who is at the other end."""
    loop = asyncio.get_running_loop()
    with listening(path) as listener:
        transport, _ = await loop.create_unix_connection(Recorder, path)
        with accept(listener):
            sock = transport.get_extra_info("socket")
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            assert struct.unpack("3i", credentials) == (os.getpid(), os.getuid(), os.getgid())
            await drop(transport)


# --- a socket instead of a path ---


async def test_socket():
    near, far = socket.socketpair()
    with Peer(far) as peer:
        near.setblocking(True)
        transport, protocol = await asyncio.get_running_loop().create_unix_connection(Recorder, sock=near)
        assert near.gettimeout() == 0
        assert transport.get_extra_info("socket").fileno() == near.fileno()
        assert transport.get_extra_info("peername") == ""
        assert transport.get_extra_info("sockname") == ""
        await exchange(protocol, peer)
        await drop(transport)
        assert near.fileno() == -1


async def test_socket_with_a_name(path, tmp_path):
    loop = asyncio.get_running_loop()
    own = str(tmp_path / "own")
    with listening(path) as listener:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(own)
        sock.connect(path)
        transport, _ = await loop.create_unix_connection(Recorder, sock=sock)
        assert transport.get_extra_info("sockname") == own
        assert transport.get_extra_info("peername") == path
        accept(listener).close()
        await drop(transport)


# --- refused ---


@pytest.mark.parametrize("debug", [False, True])
async def test_nobody_listens(path, debug):
    loop = asyncio.get_running_loop()
    loop.set_debug(debug)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)
    with pytest.raises(ConnectionRefusedError) as info:
        await loop.create_unix_connection(Recorder, path)
    assert info.value.errno == errno.ECONNREFUSED
    assert str(info.value) == f"[Errno {errno.ECONNREFUSED}] Connection refused"


@pytest.mark.parametrize(
    "name", ["missing", "file", "file/below", ".", "x" * 200, "datagrams", "", "\0nobody"], ids=repr
)
async def test_errors_are_those_of_connect(tmp_path, monkeypatch, name):
    """The errors have the type, number and text of connect(): no file, no socket, too long, another type, empty."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, socket.socket(socket.AF_UNIX) as sock:
        other.bind("datagrams")
        with pytest.raises(OSError) as expected:
            sock.connect(name)
        with pytest.raises(OSError) as info:
            await asyncio.get_running_loop().create_unix_connection(Recorder, name)
    assert type(info.value) is type(expected.value)
    assert info.value.errno == expected.value.errno
    assert str(info.value) == str(expected.value)


async def test_refused_connections_leave_nothing(path):
    loop = asyncio.get_running_loop()
    files = len(open_files())
    for _ in range(200):
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_connection(asyncio.Protocol, path)
    assert len(open_files()) == files


# --- misuse ---


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "no path and sock were specified"),
        ({"ssl": True, "path": "x"}, "you have to pass server_hostname when using ssl"),
        ({"path": "x", "server_hostname": "x"}, "server_hostname is only meaningful with ssl"),
        ({"path": "x", "ssl_handshake_timeout": 1.0}, "ssl_handshake_timeout is only meaningful with ssl"),
        ({"path": "x", "ssl_shutdown_timeout": 1.0}, "ssl_shutdown_timeout is only meaningful with ssl"),
    ],
)
async def test_argument_errors(kwargs, message):
    with pytest.raises(ValueError) as info:
        await asyncio.get_running_loop().create_unix_connection(Recorder, **kwargs)
    assert str(info.value) == message


async def test_path_and_socket():
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ValueError) as info:
        await asyncio.get_running_loop().create_unix_connection(Recorder, "x", sock=sock)
    assert str(info.value) == "path and sock can not be specified at the same time"


@pytest.mark.parametrize(
    ("family", "kind"),
    [(socket.AF_INET, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_DGRAM)],
)
async def test_another_kind_of_socket(family, kind):
    with socket.socket(family, kind) as sock:
        with pytest.raises(ValueError) as info:
            await asyncio.get_running_loop().create_unix_connection(Recorder, sock=sock)
        assert str(info.value) == f"A UNIX Domain Stream Socket was expected, got {sock!r}"


async def test_path_of_a_wrong_type():
    with pytest.raises(TypeError) as info:
        await asyncio.get_running_loop().create_unix_connection(Recorder, 5)  # type: ignore[arg-type]
    assert str(info.value) == "expected str, bytes or os.PathLike object, not int"


async def test_unknown_keyword():
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        await asyncio.get_running_loop().create_unix_connection(Recorder, "x", nonsense=True)  # type: ignore[call-arg]


# Before 3.14 asyncio does not close the socket; its finalizer does.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_protocol_factory_that_raises(path):
    def factory():
        raise ZeroDivisionError("no protocol")

    with listening(path) as listener:
        with pytest.raises(ZeroDivisionError, match="no protocol"):
            await asyncio.get_running_loop().create_unix_connection(factory, path)
        with accept(listener) as peer:
            assert await peer.read_until_eof() == b""


# --- cancelled ---


async def test_cancel_once_connected_closes_the_transport(path):
    loop = asyncio.get_running_loop()
    made = []

    class Cancelling(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            task.cancel()  # the task waits for this call to return
            made.append(self)

    with listening(path) as listener:
        task = asyncio.create_task(loop.create_unix_connection(Cancelling, path))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await made[0].lost is None
        assert made[0].calls == ["connection_made", "connection_lost"]
        await released(made[0].transport)
        with accept(listener) as peer:
            assert await peer.read_until_eof() == b""


@pytest.mark.parametrize("turns", range(4))
async def test_cancel_after_some_turns(path, turns):
    """The call is cancelled at any point. Either there is a connection, or nothing is left of it."""
    loop = asyncio.get_running_loop()
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    with listening(path):
        files = len(open_files())
        task = asyncio.create_task(loop.create_unix_connection(factory, path))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        outcome = await result_or_error(task)
        if isinstance(outcome, tuple):
            await drop(outcome[0])
        else:
            assert type(outcome) is asyncio.CancelledError
        for protocol in protocols:
            if protocol.transport is not None:
                await protocol.lost
                await released(protocol.transport)
                assert protocol.calls == ["connection_made", "connection_lost"]
        assert len(open_files()) == files
