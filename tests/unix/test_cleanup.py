"""The file of a UNIX server after the server, with the differences between Python's versions.

How the file is made is tested in test_server.py.
"""

import logging
import os
import pathlib
import sys

import pytest

from support.unix_peers import bound, connect, serve

# Since 3.13 the file goes with the server.
CLEANS = sys.version_info >= (3, 13)

since_3_13 = pytest.mark.skipif(not CLEANS, reason="cleanup_socket is new in 3.13")


async def test_file_after_the_server(path):
    server = await serve(path)
    server.close()
    assert os.path.exists(path) is not CLEANS
    await server.wait_closed()
    server.close()


@since_3_13
@pytest.mark.parametrize("cleanup", [True, False])
@pytest.mark.parametrize("serving", [True, False])
@pytest.mark.parametrize("by", ["path", "socket"])
async def test_cleanup_socket(path, cleanup, serving, by):
    where = {"path": path} if by == "path" else {"sock": bound(path)}
    server = await serve(**where, cleanup_socket=cleanup, start_serving=serving)
    server.close()
    assert os.path.exists(path) is not cleanup


@pytest.mark.skipif(CLEANS, reason="before 3.13")
async def test_cleanup_socket_is_unknown(path):
    with pytest.raises(TypeError, match="unexpected keyword argument 'cleanup_socket'"):
        await serve(path, cleanup_socket=True)
    assert not os.path.exists(path)


@since_3_13
async def test_cleanup_spares_another_file(path):
    server = await serve(path)
    os.rename(path, path + " moved")
    pathlib.Path(path).write_bytes(b"precious")
    server.close()
    assert pathlib.Path(path).read_bytes() == b"precious"
    assert os.path.exists(path + " moved")


@since_3_13
async def test_cleanup_of_a_file_that_has_gone(path, caplog):
    server = await serve(path)
    os.unlink(path)
    server.close()
    await server.wait_closed()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@since_3_13
async def test_cleanup_that_fails(tmp_path, caplog):
    """The error is logged, and the server is closed all the same."""
    directory = tmp_path / "directory"
    directory.mkdir()
    path = str(directory / "socket")
    server = await serve(path)
    os.unlink(path)
    directory.rmdir()
    directory.touch()
    server.close()
    assert server.sockets == ()
    await server.wait_closed()
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (record.name, record.levelno) == ("asyncio", logging.ERROR)
    assert record.getMessage().startswith(f"Unable to clean up listening UNIX socket {path!r}: NotADirectory")


@since_3_13
async def test_cleanup_keeps_connections(path):
    server = await serve(path)
    with connect(path) as peer:
        peer.send(b"hello")
        assert await peer.read(5) == b"hello"
        server.close()
        assert not os.path.exists(path)
        peer.send(b"still")
        assert await peer.read(5) == b"still"


async def test_many_servers_on_one_path(path):
    """Many servers use one path, one after the other, whether the file was left behind or not."""
    for _ in range(50):
        server = await serve(path)
        with connect(path) as peer:
            peer.send(b"hello")
            assert await peer.read(5) == b"hello"
        server.close()
