"""create_unix_server: what it binds, what it does about a file that is there already, what it refuses.

What becomes of the file is in test_cleanup.py, the connections are in test_streams.py. The Server
object is the same as TCP's: stream/test_server_object.py.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import pathlib
import socket
import stat
import sys
from asyncio import trsock

import pytest

from support.loops import open_files
from support.peers import Echo, Peer, Recorder, released, settle
from support.unix_peers import abstract_name, bound, connect, serve

# Since 3.13 the file goes with the server.
CLEANS = sys.version_info >= (3, 13)


async def echo(path):
    with connect(path) as peer:
        peer.send(b"hello")
        assert await peer.read(5) == b"hello"


# --- where it listens ---


@pytest.mark.parametrize("name", [str, os.fsencode, pathlib.Path])
async def test_path(path, name):
    async with await serve(name(path)) as server:
        assert server.is_serving()
        (sock,) = server.sockets
        assert isinstance(sock, trsock.TransportSocket)
        assert (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        assert sock.getsockname() == path
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        await echo(path)
        await echo(path)


async def test_path_that_is_no_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe"
    async with await serve(path) as server:
        assert server.sockets[0].getsockname() == os.fsdecode(path)
        await echo(path)
    assert os.path.exists(path) is not CLEANS


@pytest.mark.parametrize("decode", [bytes, bytes.decode])
async def test_abstract_name(decode):
    name = abstract_name()
    async with await serve(decode(name)) as server:
        assert server.sockets[0].getsockname() == name
        await echo(name)
    with pytest.raises(ConnectionRefusedError):
        connect(name)
    # The path can be bound again.
    async with await serve(decode(name)):
        await echo(name)


async def test_socket(path):
    sock = bound(path)
    async with await serve(sock=sock) as server:
        assert [s.fileno() for s in server.sockets] == [sock.fileno()]
        assert sock.gettimeout() == 0
        await echo(path)
    assert sock.fileno() == -1


@pytest.mark.parametrize("backlog", [1, 7])
async def test_backlog(path, backlog):
    async with await serve(path, backlog=backlog):
        with contextlib.ExitStack() as stack:
            # The kernel lets one more wait than it was asked for. Nobody accepts, because the loop has no turn.
            for _ in range(backlog + 1):
                stack.enter_context(connect(path))
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            assert sock.connect_ex(path) == errno.EAGAIN
        await settle()
        await echo(path)


async def test_not_serving_until_told(path):
    server = await serve(path, start_serving=False)
    assert server.is_serving() is False
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    await server.start_serving()
    await echo(path)
    server.close()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o117])
async def test_permissions(path, umask):
    """The umask decides on the permissions, as for every file."""
    before = os.umask(umask)
    try:
        server = await serve(path)
    finally:
        os.umask(before)
    async with server:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o777 & ~umask
        os.chmod(path, 0o600)
        await echo(path)


# --- what is there already ---


async def test_stale_file_is_replaced(path):
    bound(path).close()
    stale = os.stat(path)
    os.link(path, path + " kept")  # so that its number is not used again
    async with await serve(path):
        assert os.stat(path).st_ino != stale.st_ino
        await echo(path)


async def test_stale_file_by_a_pathlike_of_bytes(path):
    class Named:
        def __fspath__(self):
            return os.fsencode(path)

    bound(path).close()
    async with await serve(Named()):
        await echo(path)


@pytest.mark.parametrize("serving", [True, False])
async def test_the_file_of_a_living_server_is_taken_over(path, serving):
    """A second server takes the path of the first one, which keeps its connections."""
    async with await serve(path, start_serving=serving) as first:
        with contextlib.ExitStack() as stack:
            if serving:
                peer = stack.enter_context(connect(path))
                peer.send(b"first")
                assert await peer.read(5) == b"first"
            async with await serve(path) as second:
                await echo(path)
                first.close()
                # The file is not the one that the first server made.
                assert stat.S_ISSOCK(os.stat(path).st_mode)
                await echo(path)
                assert second.is_serving()
                if serving:
                    peer.send(b"again")
                    assert await peer.read(5) == b"again"
    assert os.path.exists(path) is not CLEANS


@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_path_in_use(path, kind):
    if kind == "file":
        pathlib.Path(path).write_bytes(b"precious")
    else:
        os.mkdir(path)
    with pytest.raises(OSError) as info:
        await serve(path)
    assert info.value.errno == errno.EADDRINUSE
    assert str(info.value) == f"[Errno {errno.EADDRINUSE}] Address {path!r} is already in use"
    assert info.value.__suppress_context__
    if kind == "file":
        assert pathlib.Path(path).read_bytes() == b"precious"


@pytest.mark.parametrize("decode", [bytes, bytes.decode])
async def test_abstract_name_in_use(decode):
    name = decode(abstract_name())
    async with await serve(name):
        with pytest.raises(OSError) as info:
            await serve(name)
        assert info.value.errno == errno.EADDRINUSE
        assert str(info.value) == f"[Errno {errno.EADDRINUSE}] Address {name!r} is already in use"
        await echo(name)


@pytest.mark.parametrize("name", [lambda path: path, os.fsencode, pathlib.Path], ids=["str", "bytes", "PathLike"])
async def test_path_that_cannot_be_looked_at(path, name, caplog):
    """The loop cannot find out whether there is a stale file. bind() decides."""
    pathlib.Path(path).touch()
    below = path + "/below"
    with pytest.raises(NotADirectoryError) as info:
        await serve(name(below))
    assert str(info.value) == f"[Errno {errno.ENOTDIR}] Not a directory"
    (record,) = [record for record in caplog.records if record.name == "asyncio"]
    assert record.levelno == logging.ERROR
    shown = os.fsencode(below) if name is os.fsencode else below
    assert record.getMessage().startswith(f"Unable to check or remove stale UNIX socket {shown!r}: NotADir")


@pytest.mark.parametrize("name", ["missing/socket", "x" * 200])
async def test_errors_are_those_of_bind(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError) as expected:
        sock.bind(name)
    files = len(open_files())
    with pytest.raises(OSError) as info:
        await serve(name)
    assert type(info.value) is type(expected.value)
    assert str(info.value) == str(expected.value)
    assert len(open_files()) == files


# --- what it accepts ---


async def test_names_of_an_accepted_connection(path, tmp_path):
    arrivals = asyncio.Queue()

    class Arriving(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            arrivals.put_nowait(self)

    own = str(tmp_path / "own")
    name = abstract_name()
    async with await asyncio.get_running_loop().create_unix_server(Arriving, path):
        for client, expected in ((None, ""), (own, own), (name, name)):
            with socket.socket(socket.AF_UNIX) as sock:
                if client is not None:
                    sock.bind(client)
                sock.connect(path)
                protocol = await arrivals.get()
                assert isinstance(protocol.transport, asyncio.Transport)
                assert protocol.transport.get_extra_info("peername") == expected
                assert protocol.transport.get_extra_info("sockname") == path
            assert await protocol.lost is None
            await released(protocol.transport)


async def test_server_that_nobody_keeps(path):
    sock = bound(path)
    await serve(sock=sock)
    gc.collect()
    for _ in range(3):
        await echo(path)
        gc.collect()
    # Nothing but the loop refers to the server any more.
    asyncio.get_running_loop().remove_reader(sock.fileno())
    sock.close()


async def test_connect_accepted_socket():
    near, far = socket.socketpair()
    with Peer(far) as peer:
        transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(Echo, near)
        assert protocol.calls == ["connection_made"]
        peer.send(b"hello")
        assert await peer.read(5) == b"hello"
        transport.close()
        await released(transport)


# --- misuse ---


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({}, ValueError, "path was not specified, and no sock specified"),
        ({"path": "x", "ssl": True}, TypeError, "ssl argument must be an SSLContext or None"),
        ({"path": "x", "ssl": False}, TypeError, "ssl argument must be an SSLContext or None"),
        (
            {"path": "x", "ssl_handshake_timeout": 1.0},
            ValueError,
            "ssl_handshake_timeout is only meaningful with ssl",
        ),
        (
            {"path": "x", "ssl_shutdown_timeout": 1.0},
            ValueError,
            "ssl_shutdown_timeout is only meaningful with ssl",
        ),
        ({"path": 5}, TypeError, "expected str, bytes or os.PathLike object, not int"),
    ],
)
async def test_argument_errors(kwargs, error, message):
    with pytest.raises(error) as info:
        await serve(**kwargs)
    assert str(info.value) == message


async def test_path_and_socket():
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ValueError) as info:
        await serve("x", sock=sock)
    assert str(info.value) == "path and sock can not be specified at the same time"


@pytest.mark.parametrize(
    ("family", "kind"),
    [(socket.AF_INET, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_DGRAM)],
)
async def test_another_kind_of_socket(family, kind):
    with socket.socket(family, kind) as sock:
        with pytest.raises(ValueError) as info:
            await serve(sock=sock)
        assert str(info.value) == f"A UNIX Domain Stream Socket was expected, got {sock!r}"


async def test_unknown_keyword():
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        await serve("x", nonsense=True)
