"""Transports that the program has dropped, with reading paused and nothing left to send: nobody can hear of them any
more, so that they are collected, warned about and closed. Whoever still waits for something is kept.
"""

import asyncio
import gc
import os
import socket
import weakref

import pytest

from support.datagrams import Datagrams
from support.peers import Peer, Recorder, on_asyncio, recorded_warnings, settle, socket_pair
from support.tls_peers import TlsPeer
from support.tls_peers import connect as connect_tls

PAIRS = pytest.mark.parametrize("pair", [socket_pair, socket.socketpair], ids=["tcp", "unix"])


async def collected(*references):
    """Whether the objects are freed."""
    await settle()
    gc.collect()
    return [reference() for reference in references] == [None] * len(references)


async def connect(pair, factory=asyncio.Protocol):
    near, far = pair()
    transport, protocol = await asyncio.get_running_loop().create_connection(factory, sock=near)
    return transport, protocol, Peer(far)


@PAIRS
@pytest.mark.parametrize("written", [b"", b"hello"])
async def test_stream(pair, written):
    with recorded_warnings() as warned:
        transport, _, peer = await connect(pair)
        with peer:
            transport.pause_reading()
            transport.write(written)
            reference = weakref.ref(transport)
            del transport
            assert await collected(reference)
            assert await peer.read_until_eof() == written
    assert any(text.startswith("unclosed transport <") for text in warned)


async def test_streams():
    """A StreamReader that is full has paused its transport."""
    with recorded_warnings() as warned:
        near, far = socket_pair()
        with Peer(far) as peer:
            reader, writer = await asyncio.open_connection(sock=near, limit=1)
            peer.send(b"more than two")
            while writer.transport.is_reading():  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            reference = weakref.ref(writer.transport)
            del reader, writer
            assert await collected(reference)
    assert any("unclosed transport <" in text or "StreamWriter" in text for text in warned)


@PAIRS
async def test_peer_that_has_finished(pair):
    class KeepsOpen(asyncio.Protocol):
        def eof_received(self):
            ended.set()
            return True

    ended = asyncio.Event()
    with recorded_warnings() as warned:
        transport, _, peer = await connect(pair, KeepsOpen)
        with peer:
            peer.send_eof()
            await ended.wait()
            reference = weakref.ref(transport)
            del transport
            assert await collected(reference)
            assert await peer.read_until_eof() == b""
    assert any(text.startswith("unclosed transport <") for text in warned)


@pytest.mark.parametrize("server_side", [False, True])
async def test_tls(server_side):
    if on_asyncio():
        pytest.skip("asyncio keeps it, by version")
    near, far = socket_pair()
    with recorded_warnings() as warned, TlsPeer(far, server_side=not server_side) as peer:
        shaking = asyncio.create_task(peer.handshake())
        transport, protocol = await connect_tls(asyncio.Protocol, near, server_side=server_side)
        await shaking
        transport.write(b"hello")
        assert await peer.read(5) == b"hello"
        transport.pause_reading()
        references = [weakref.ref(transport), weakref.ref(transport._ssl_protocol._transport)]
        del transport, protocol
        assert await collected(*references)
        assert near.fileno() == -1
        assert await peer.read_raw_until_eof() == b""
    assert sum(text.startswith("unclosed transport <") for text in warned) == 2


async def test_datagrams():
    if on_asyncio():
        pytest.skip("asyncio closes the socket of one that it keeps")
    with recorded_warnings() as warned:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        transport.pause_reading()  # type: ignore[attr-defined]
        reference = weakref.ref(transport)
        del transport
        assert await collected(reference)
    assert any(text.startswith("unclosed transport <") for text in warned)


async def test_reading_end():
    if on_asyncio():
        pytest.skip("asyncio keeps it, by version")
    with recorded_warnings() as warned:
        read_end, write_end = os.pipe()
        with open(write_end, "wb", 0) as file:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(asyncio.Protocol, open(read_end, "rb", 0))
            await settle()
            transport.pause_reading()
            reference = weakref.ref(transport)
            del transport
            assert await collected(reference)
            with pytest.raises(BrokenPipeError):
                file.write(b"x")
    assert any(text.startswith("unclosed transport <") for text in warned)


# --- those that something is still to be told of ---


@PAIRS
async def test_one_that_reads(pair):
    transport, protocol, peer = await connect(pair, Recorder)
    reference = weakref.ref(transport)
    with peer:
        protocol.transport = None
        del transport
        assert not await collected(reference)
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        peer.close()
        await protocol.lost
    del protocol
    assert await collected(reference)


@PAIRS
async def test_one_that_is_resumed(pair):
    transport, protocol, peer = await connect(pair, Recorder)
    with peer:
        for number in range(1, 4):
            transport.pause_reading()
            peer.send(b"hello")
            await settle()
            gc.collect()
            transport.resume_reading()
            assert await protocol.read(5 * number) == b"hello" * number
        transport.pause_reading()
        transport.resume_reading()
        reference = weakref.ref(transport)
        protocol.transport = None
        del transport
        assert not await collected(reference)
        peer.close()
        await protocol.lost


@PAIRS
async def test_one_that_writes(pair):
    data = bytes(16 * 1024 * 1024)
    with recorded_warnings() as warned:
        transport, _, peer = await connect(pair)
        with peer:
            transport.pause_reading()
            transport.write(data)
            reference = weakref.ref(transport)
            del transport
            assert not await collected(reference)
            assert len(await peer.read(len(data))) == len(data)
            # Now the transport has nothing to do any more.
            while not await collected(reference):
                pass
    assert any(text.startswith("unclosed transport <") for text in warned)


async def test_datagrams_that_wait():
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
    reference = weakref.ref(transport)
    protocol.transport = None
    address = transport.get_extra_info("sockname")
    del transport
    assert not await collected(reference)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"hello", address)
        await protocol.until(lambda: protocol.received)
    reference().close()
    await protocol.lost
