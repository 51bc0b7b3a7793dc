"""loop.sendfile over TLS. The kernel does not encrypt, so that the file is read and written, if fallback is allowed."""

import asyncio
import sys

import pytest

from support.peers import on_asyncio
from support.tls_peers import tls_connection

DATA = bytes(range(256)) * 4096


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        yield file


@pytest.mark.parametrize("server_side", [False, True])
async def test_whole_file(file, server_side):
    async with tls_connection(server_side=server_side, buffers=65536) as (transport, protocol, peer):
        transport.write(b"before ")
        sending = asyncio.create_task(asyncio.get_running_loop().sendfile(transport, file))
        assert await peer.read(7 + len(DATA)) == b"before " + DATA
        assert await sending == len(DATA)
        assert file.tell() == len(DATA)
        transport.write(b" after")
        assert await peer.read(6) == b" after"
        peer.send(b"heard")
        assert await protocol.read(5) == b"heard"


@pytest.mark.parametrize(("offset", "count"), [(0, 1), (100, 1000), (len(DATA) - 5, None), (len(DATA), None)])
async def test_part(file, offset, count):
    expected = DATA[offset:][:count]
    async with tls_connection() as (transport, _, peer):
        sent = await asyncio.get_running_loop().sendfile(transport, file, offset, count)
        assert sent == len(expected)
        assert await peer.read(sent) == expected


@pytest.mark.parametrize("count", [None, 1000])
async def test_from_the_start_of_a_file_that_was_read(file, count):
    if on_asyncio() and sys.version_info < (3, 14, 5):
        pytest.skip("begins where the file is (gh-150107)")
    file.seek(777)
    async with tls_connection() as (transport, _, peer):
        sending = asyncio.create_task(asyncio.get_running_loop().sendfile(transport, file, 0, count))
        expected = DATA[:count]
        assert await peer.read(len(expected)) == expected
        assert await sending == file.tell() == len(expected)


async def test_not_natively(file):
    async with tls_connection() as (transport, _, peer):
        with pytest.raises(RuntimeError, match="^fallback is disabled and native sendfile is not supported"):
            await asyncio.get_running_loop().sendfile(transport, file, fallback=False)
        transport.write(b"still there")
        assert await peer.read(11) == b"still there"


async def test_closing(file):
    async with tls_connection(ssl_shutdown_timeout=0.1) as (transport, protocol, _):
        transport.close()
        with pytest.raises(RuntimeError) as info:
            await asyncio.get_running_loop().sendfile(transport, file)
        assert str(info.value) == "Transport is closing"
        await protocol.lost


async def test_peer_that_leaves(file):
    async with tls_connection(buffers=4096) as (transport, protocol, peer):
        sending = asyncio.create_task(asyncio.get_running_loop().sendfile(transport, file))
        await peer.read(1000)
        peer.reset()
        with pytest.raises(ConnectionError):
            await sending
