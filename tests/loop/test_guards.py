"""Guards that tests and servers put in the place of Python's functions: pytest-socket's, which lets nothing connect,
and blockbuster's, which finds calls that block.
"""

import asyncio
import os
import socket
import ssl
import sys
import types

import pytest

from support.sock_peers import receive_exactly


class Refused(Exception):
    pass


# --- pytest-socket: `allow_hosts` replaces the method of the class ---


async def serve(reader, writer):
    writer.write(b"hello")
    writer.close()


@pytest.fixture
def no_connections(monkeypatch):
    """Refuses every connection until the end of the block."""

    def guarded(sock, address):
        raise Refused(address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    yield monkeypatch


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("encrypted", [False, True])
async def test_guarded_connect(no_connections, host, encrypted):
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    context = ssl.create_default_context() if encrypted else None
    with pytest.raises(Refused):
        await asyncio.open_connection(host, port, ssl=context, family=socket.AF_INET)
    no_connections.undo()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await reader.read() == b"hello"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_guarded_class(monkeypatch):
    """pytest-socket's `disable_socket` replaces the class: no socket can be made."""

    class Guarded(socket.socket):
        def __new__(cls, *args, **kwargs):
            raise Refused

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", Guarded)
        with pytest.raises(Refused):
            await asyncio.open_connection("127.0.0.1", port)
    server.close()
    await server.wait_closed()


# --- blockbuster: functions that block are refused where a loop runs, but for asyncio's own calls of them ---


# The functions in which blockbuster allows a call that can block.
ASYNCIO_BLOCKS = {
    ("base_events.py", "sendfile"),
    ("base_events.py", "subprocess_exec"),
    ("unix_events.py", "_sock_sendfile_native_impl"),
    ("unix_events.py", "create_unix_server"),
    ("unix_events.py", "_stop_serving"),
}


@pytest.fixture
def no_blocking(monkeypatch):
    def guard(name):
        original = getattr(os, name)

        def guarded(*args, **kwargs):
            if asyncio._get_running_loop() is None:
                return original(*args, **kwargs)
            frame: types.FrameType | None = sys._getframe(1)
            while frame is not None:
                name = os.path.basename(frame.f_code.co_filename), frame.f_code.co_name
                if name in ASYNCIO_BLOCKS:
                    return original(*args, **kwargs)
                frame = frame.f_back
            raise Refused(name)

        monkeypatch.setattr(os, name, guarded)

    for name in "stat", "remove", "unlink", "sendfile", "listdir", "access", "readlink":
        guard(name)


async def test_guarded_unix_server(tmp_path, no_blocking):
    path = str(tmp_path / "socket")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()
    server = await asyncio.start_unix_server(serve, path)
    reader, writer = await asyncio.open_unix_connection(path)
    assert await reader.read() == b"hello"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_guarded_sendfile(tmp_path, no_blocking):
    loop = asyncio.get_running_loop()
    (tmp_path / "file").write_bytes(bytes(1000))
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right, open(tmp_path / "file", "rb") as file:
        assert await loop.sock_sendfile(left, file) == 1000
        assert await receive_exactly(right, 1000) == bytes(1000)
        reader, writer = await asyncio.open_connection(sock=left)
        assert await loop.sendfile(writer.transport, file) == 1000
        assert await receive_exactly(right, 1000) == bytes(1000)
        writer.close()
        await writer.wait_closed()


async def test_guarded_children(no_blocking):
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(1)", stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0] == b"1\n"
