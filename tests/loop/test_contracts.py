"""Promises that nobody wrote down, and that real programs rely on.

Each test names who does. What has a file of its own is tested there: `isinstance` and attributes of
transports in stream/test_transport.py, Server in stream/test_server_object.py, names in project/test_names.py.
"""

import asyncio
import asyncio.base_events
import io
import os
import time

import pytest

from support.peers import Recorder, connection


def test_run_until_complete_adds_asyncio_s_callback(loop):
    """anyio finds the task that run_until_complete waits for by this very object."""
    added = []

    class Watched(asyncio.Future):
        def add_done_callback(self, callback, *, context=None):
            added.append(callback)
            return super().add_done_callback(callback, context=context)

    future = Watched(loop=loop)
    loop.call_soon(future.set_result, 1)
    assert loop.run_until_complete(future) == 1
    assert added == [asyncio.base_events._run_until_complete_cb]  # type: ignore[attr-defined]


def test_time_is_monotonic_time(loop):
    """Programs compare loop.time() with time.monotonic(), and tests set deadlines by either."""
    for _ in range(1000):
        before = time.monotonic()
        now = loop.time()
        assert before <= now <= time.monotonic()
    assert type(now) is float


async def test_time_moves_within_a_callback():
    """loop.time() reads the clock. It does not give the time at which the turn began."""
    loop = asyncio.get_running_loop()
    start, wall = loop.time(), time.monotonic()
    while time.monotonic() - wall < 0.002:
        pass
    assert loop.time() - start >= 0.002


async def test_protocol_upgrade():
    """uvicorn upgrades to WebSocket so: a new protocol gets the transport, and the data behind the request."""

    class WebSocket(Recorder):
        def __init__(self, transport):
            super().__init__()
            self.connection_made(transport)

        def data_received(self, data):
            super().data_received(data)
            self.transport.write(b"echo " + data)

    class Http(Recorder):
        def data_received(self, data):
            super().data_received(data)
            head, _, rest = bytes(self.data).partition(b"\r\n\r\n")
            self.upgraded = WebSocket(self.transport)
            self.transport.set_protocol(self.upgraded)
            self.transport.write(b"101\r\n\r\n")
            if rest:
                self.upgraded.data_received(rest)

    async with connection(Http) as (transport, protocol, peer):
        peer.send(b"GET / HTTP/1.1\r\n\r\nfirst")
        assert await peer.read(17) == b"101\r\n\r\necho first"
        peer.send(b"second")
        assert await peer.read(11) == b"echo second"
        assert bytes(protocol.upgraded.data) == b"firstsecond"
        peer.send_eof()
        assert await protocol.upgraded.lost is None
        assert protocol.calls == ["connection_made", "data_received"]


async def test_head_and_body_in_one_turn():
    """Servers write the head and the body of a response apart, and expect them to leave in order."""
    async with connection() as (transport, _, peer):
        for _ in range(100):
            transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
            transport.write(b"ok")
            assert await peer.read(40) == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_close_in_the_done_callback_of_a_task():
    """aiohttp closes the transport in the done callback of the task that handled the connection."""
    async with connection() as (transport, protocol, peer):

        async def handler():
            transport.write(b"answer")

        asyncio.create_task(handler()).add_done_callback(lambda _: transport.close())
        assert await peer.read_until_eof() == b"answer"
        assert await protocol.lost is None


# --- sendfile ---


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 4096)
    with path.open("rb") as file:
        yield file


@pytest.mark.parametrize(
    ("offset", "count"), [(0, None), (100, None), (0, 5000), (100, 5000), (1 << 20, None), (1 << 21, None)]
)
async def test_sendfile(file, offset, count):
    loop = asyncio.get_running_loop()
    expected = (bytes(range(256)) * 4096)[offset:][:count]
    async with connection() as (transport, _, peer):
        transport.write(b"before")
        reading = asyncio.create_task(peer.read_until_eof())
        assert await loop.sendfile(transport, file, offset, count) == len(expected)
        transport.write(b"after")
        transport.close()
        assert await reading == b"before" + expected + b"after"
        if expected:
            assert file.tell() == offset + len(expected)


async def test_sendfile_of_what_the_kernel_cannot_send():
    loop = asyncio.get_running_loop()
    async with connection() as (transport, _, peer):
        assert await loop.sendfile(transport, io.BytesIO(b"x" * 50_000)) == 50_000
        assert await peer.read(50_000) == b"x" * 50_000


async def test_reading_goes_on_after_sendfile(file):
    loop = asyncio.get_running_loop()
    async with connection() as (transport, protocol, peer):
        reading = asyncio.create_task(peer.read(1 << 20))
        peer.send(b"hello")
        await loop.sendfile(transport, file)
        await reading
        assert await protocol.read(5) == b"hello"
        peer.send(b"again")
        assert await protocol.read(10) == b"helloagain"
        assert transport.get_protocol() is protocol


async def test_sendfile_to_a_slow_peer(file):
    loop = asyncio.get_running_loop()
    async with connection(buffers=65536) as (transport, _, peer):
        sending = asyncio.create_task(loop.sendfile(transport, file))
        received = bytearray()
        while len(received) < 1 << 20:
            received += await peer.read(1 << 16)
        assert await sending == 1 << 20
        assert received == bytes(range(256)) * 4096


async def test_sendfile_misused(file):
    loop = asyncio.get_running_loop()
    async with connection() as (transport, protocol, _):
        with open(file.name) as text, pytest.raises(ValueError, match="binary mode"):
            await loop.sendfile(transport, text)  # type: ignore[arg-type]
        for offset, count in ((-1, None), (0, -1), (0, 0)):
            with pytest.raises(ValueError):
                await loop.sendfile(transport, file, offset, count)
        transport.close()
        with pytest.raises(RuntimeError, match="^Transport is closing$"):
            await loop.sendfile(transport, file)
        assert await protocol.lost is None


async def test_sendfile_when_the_peer_goes(file):
    loop = asyncio.get_running_loop()
    async with connection(buffers=65536) as (transport, protocol, peer):
        sending = asyncio.create_task(loop.sendfile(transport, file))
        await peer.read(1000)
        peer.reset()
        with pytest.raises(ConnectionError):
            await sending
        await protocol.lost


async def test_file_descriptors_are_not_inheritable():
    """PEP 446: no child process inherits a file of the loop."""
    async with connection() as (transport, _, _):
        assert os.get_inheritable(transport.get_extra_info("socket").fileno()) is False
    accepted = asyncio.get_running_loop().create_future()

    class Accepted(asyncio.Protocol):
        def connection_made(self, transport):
            accepted.set_result(transport)

    server = await asyncio.get_running_loop().create_server(Accepted, "127.0.0.1", 0)
    async with server:
        assert os.get_inheritable(server.sockets[0].fileno()) is False
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        transport = await accepted
        assert os.get_inheritable(transport.get_extra_info("socket").fileno()) is False
        writer.close()
        await writer.wait_closed()
        transport.abort()
