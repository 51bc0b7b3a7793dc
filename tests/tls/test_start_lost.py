"""loop.start_tls() whose connection ends while the handshake is under way, or right behind it: it returns None or a
transport, or raises ConnectionError, by the moment; aiohttp, for one, asks for None.
"""

import asyncio
import socket
import ssl
import struct

import pytest

from support import certificates
from support.certificates import TLS_1_2, TLS_1_3
from support.peers import Recorder, on_asyncio, socket_pair
from support.tls_peers import TlsPeer, gone, in_clear, start_tls

VERSIONS = pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])


@pytest.mark.parametrize("method", ["close", "abort"])
@pytest.mark.parametrize("server_side", [False, True])
async def test_closed_by_the_program(method, server_side):
    async with in_clear(server_side=server_side) as (transport, protocol, _):
        starting = asyncio.create_task(start_tls(transport, protocol, server_side=server_side))
        await asyncio.sleep(0.01)
        getattr(transport, method)()
        assert await asyncio.wait_for(starting, 10) is None


@pytest.mark.parametrize("method", ["close", "abort"])
async def test_closed_just_before(method):
    async with in_clear() as (transport, protocol, _):
        getattr(transport, method)()
        assert await start_tls(transport, protocol) is None
        await protocol.lost
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_lost_before():
    if on_asyncio():
        pytest.skip("asyncio waits until the handshake takes too long")
    async with in_clear() as (transport, protocol, _):
        transport.close()
        await protocol.lost
        with pytest.raises(ConnectionError):
            await start_tls(transport, protocol)


async def test_after_write_eof():
    if on_asyncio():
        pytest.skip("asyncio reports a RuntimeError, and waits until the peer answers or the handshake takes too long")
    async with in_clear() as (transport, protocol, _):
        transport.write_eof()
        with pytest.raises(BrokenPipeError):
            await start_tls(transport, protocol)


@pytest.mark.parametrize("server_side", [False, True])
async def test_closed_by_the_peer(server_side):
    async with in_clear(server_side=server_side) as (transport, protocol, peer):
        starting = asyncio.create_task(start_tls(transport, protocol, server_side=server_side))
        await asyncio.sleep(0.01)
        peer.close()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(starting, 10)


@VERSIONS
@pytest.mark.parametrize("end", ["eof", "close_notify", "reset"])
@pytest.mark.parametrize("server_side", [False, True])
async def test_peer_that_closes_right_behind_the_handshake(server_side, end, version):
    loop = asyncio.get_running_loop()
    make = certificates.client_context if server_side else certificates.server_context
    for delay in [0, 0.0001, 0.001]:
        near, far = socket_pair()
        with TlsPeer(far, make(version=version), server_side=not server_side) as peer:
            transport, protocol = await loop.create_connection(Recorder, sock=near)
            # Otherwise the protocol could get the first message of the handshake before TLS begins.
            transport.pause_reading()

            def handshake(peer=peer, delay=delay):
                try:
                    peer.blocking_handshake()
                    if end == "close_notify":
                        peer.sock.sendall(peer.close_notify())
                except (OSError, ssl.SSLError):
                    pass
                if end == "reset":
                    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()

            shaking = loop.run_in_executor(None, handshake)
            try:
                new = await asyncio.wait_for(start_tls(transport, protocol, server_side=server_side), 10)
            except ConnectionError:
                new = None
            await shaking
            if new is not None:
                await protocol.lost
                new.abort()
            transport.abort()
            await gone(near)


async def test_aborted_by_a_callback_of_the_context(loop_errors):
    """A callback of the context aborts the transport in the middle of OpenSSL's last step."""
    if on_asyncio():
        pytest.skip("asyncio tells of a state that it cannot get into")
    context = certificates.server_context()
    async with in_clear(server_side=True) as (transport, protocol, peer):
        context.sni_callback = lambda *_: transport.abort()
        starting = asyncio.create_task(start_tls(transport, protocol, server_side=True, context=context))
        await asyncio.sleep(0)
        shaking = asyncio.get_running_loop().run_in_executor(None, peer.blocking_handshake)
        assert await asyncio.wait_for(starting, 10) is None
        with pytest.raises((OSError, ssl.SSLError)):
            await shaking
    assert not loop_errors
