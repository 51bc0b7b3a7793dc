"""sendfile over a stream transport: what is refused, what goes wrong, and calls that are cancelled.

What is sent is in test_sendfile_native.py.
"""

import asyncio
import io
import os

import pytest

from support.peers import connection, on_asyncio, settle
from support.sendfile import BUFFERS, DATA, PLENTY, SMALL, sendfile, sending

# --- refusals ---


async def test_no_fallback():
    async with connection() as (transport, protocol, peer):
        with pytest.raises(asyncio.SendfileNotAvailableError) as info:
            await sendfile(transport, io.BytesIO(SMALL), fallback=False)
        assert str(info.value) == "not a regular file"
        assert transport.is_reading()
        transport.write(b"!")
        assert await peer.read(1) == b"!"


async def test_file_in_text_mode(tmp_path):
    (tmp_path / "text").write_text("text")
    async with connection() as (transport, _, peer):
        with open(tmp_path / "text") as file:
            with pytest.raises(ValueError) as info:
                await sendfile(transport, file)
        assert str(info.value) == "file should be opened in binary mode"
        assert transport.is_reading()
        transport.write(b"!")
        assert await peer.read(1) == b"!"


ARGUMENTS = [
    ({"count": 0}, ValueError, "count must be a positive integer (got 0)"),
    ({"count": "1"}, TypeError, "count must be a positive integer (got '1')"),
    ({"offset": -1}, ValueError, "offset must be a non-negative integer (got -1)"),
    ({"offset": None}, TypeError, "offset must be a non-negative integer (got None)"),
]


@pytest.mark.parametrize(("arguments", "error", "text"), ARGUMENTS, ids=str)
async def test_wrong_arguments(arguments, error, text, small_file):
    async with connection() as (transport, _, peer):
        with pytest.raises(error) as info:
            await sendfile(transport, small_file, **arguments)
        assert type(info.value) is error
        assert str(info.value) == text
        assert transport.is_reading()
        transport.write(b"!")
        assert await peer.read(1) == b"!"


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_closing_transport(end, small_file):
    async with connection() as (transport, protocol, _):
        getattr(transport, end)()
        for _ in range(2):
            with pytest.raises(RuntimeError) as info:
                await sendfile(transport, small_file)
            assert str(info.value) == "Transport is closing"
            await protocol.lost


# --- what can go wrong ---


@pytest.mark.parametrize("native", [True, False])
async def test_peer_goes_away(native, data_path):
    with open(data_path, "rb") if native else io.BytesIO(DATA) as file:
        async with connection(buffers=BUFFERS) as (transport, protocol, peer):
            task = await sending(transport, file, fallback=not native)
            peer.close()  # with bytes unread in it
            with pytest.raises(ConnectionError):
                await task
            # The transport finds out by itself.
            await protocol.lost
            await settle()
            assert protocol.calls.count("connection_lost") == 1
            assert transport.is_closing()


async def test_peer_goes_away_before_the_file_has_its_turn(data_file, loop_errors):
    async with connection(buffers=BUFFERS) as (transport, protocol, peer):
        transport.write(PLENTY)
        task = await sending(transport, data_file)
        peer.reset()
        with pytest.raises(ConnectionError):
            await task
        assert isinstance(await protocol.lost, ConnectionError)
        assert data_file.tell() == 0
        await settle()
        assert protocol.calls.count("connection_lost") == 1
        if on_asyncio():
            loop_errors.clear()  # it sets the result of one future twice


@pytest.mark.parametrize("queued", [b"", PLENTY], ids=["at once", "queued"])
async def test_cancel(queued, data_file):
    """What was sent before the cancel stays sent, and the transport goes on."""
    if on_asyncio() and queued:
        pytest.skip("asyncio never reads again, and refuses every write")
    async with connection(buffers=BUFFERS) as (transport, protocol, peer):
        transport.write(queued)
        task = await sending(transport, data_file)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert transport.is_reading()
        transport.write(b"end")
        transport.close()
        received = await peer.read_until_eof()
        assert received.startswith(queued)
        assert received.endswith(b"end")
        part = received[len(queued) : -3]
        assert len(part) < len(DATA)
        assert part == DATA[: len(part)]
        assert await protocol.lost is None


async def test_cancel_at_once(small_file):
    async with connection() as (transport, _, peer):
        task = asyncio.create_task(sendfile(transport, small_file))
        task.cancel()
        await asyncio.wait([task])
        transport.write(b"!")
        assert await peer.read(1) == b"!"
        assert transport.is_reading()


async def test_cancel_and_again(data_path):
    async with connection(buffers=BUFFERS) as (transport, _, peer):
        reading = asyncio.create_task(peer.read_until_eof())
        total = 0
        for turns in range(20):
            with open(data_path, "rb") as file:
                task = asyncio.create_task(sendfile(transport, file))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                total += 0 if task.cancelled() else task.result()
        with open(data_path, "rb") as file:
            assert await sendfile(transport, file) == len(DATA)
        transport.close()
        received = await reading
        assert received.endswith(DATA)
        assert len(received) >= total + len(DATA)


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_end_meanwhile(end, data_file):
    """Both the call and the connection end, in any order."""
    if on_asyncio():
        pytest.skip("asyncio closes the file under the call, which waits for ever")
    async with connection(buffers=BUFFERS) as (transport, protocol, peer):
        task = await sending(transport, data_file)
        getattr(transport, end)()
        received = await peer.read_until_eof()
        try:
            assert await task == len(received) == len(DATA)
        except (ConnectionError, OSError):
            assert len(received) < len(DATA)
        assert received == DATA[: len(received)]
        await protocol.lost
        await settle()
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_file_that_fails():
    class Failing:
        def readinto(self, buffer):
            raise ZeroDivisionError("unreadable")

    async with connection() as (transport, protocol, peer):
        with pytest.raises(ZeroDivisionError, match="unreadable"):
            await sendfile(transport, Failing())
        assert transport.get_protocol() is protocol
        assert transport.is_reading()
        transport.write(b"!")
        assert await peer.read(1) == b"!"


async def test_pipe_as_a_file():
    """A pipe has the size 0, so that nothing is sent. With a count asyncio calls sendfile(2), which refuses."""
    reader, writer = map(os.fdopen, os.pipe(), ("rb", "wb"))
    async with connection() as (transport, _, peer):
        with reader, writer:
            writer.write(b"hello")
            writer.flush()
            assert await sendfile(transport, reader) == 0
        transport.write(b"!")
        assert await peer.read(1) == b"!"
