"""Key updates of TLS 1.3 (RFC 8446, 4.6.3) by a peer that asks for new keys again and again, and reads no answer.

OpenSSL answers each request by itself. The peer asks by OpenSSL's own `SSL_key_update`, which Python's ssl module does
not offer. Key updates of OpenSSL's own programs are in test_openssl.py.
"""

import asyncio
import ctypes
import sys

import pytest

from support.peers import Recorder, on_asyncio
from support.tls_peers import BufferedRecorder, tls_connection

SIDES = pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
REQUESTED = 1  # SSL_KEY_UPDATE_REQUESTED
AT_ONCE = 200
# Seconds between attempts to send, and how many in a row have to fail while answers wait for the peer. An attempt also
# fails while the kernel has not told the peer yet that there is room again, which can take some tenths of a second.
PAUSE, FULL = 0.002, 50
# What the peer asks for at most, in bytes, and how many bytes of answers may wait for it. asyncio has no bound.
MOST, BOUND = 2 << 20, 512 << 10
MOST_ON_ASYNCIO = 128 << 10


def pointer_of(tls):
    """The `SSL*` inside an `ssl.SSLObject`. In CPython it stands in front of the object's context."""
    address, context = (ctypes.c_void_p.from_address(id(tls._sslobj) + offset).value for offset in (24, 32))
    if context != id(tls.context):
        pytest.skip("this Python keeps the SSL* somewhere else")
    return ctypes.c_void_p(address)


def asking(peer):
    """Returns a function that gives the records of so many requests for new keys."""
    library = ctypes.CDLL(getattr(sys.modules["_ssl"], "__file__", None))
    if not hasattr(library, "SSL_key_update"):
        pytest.skip("OpenSSL's functions cannot be found")
    ssl = pointer_of(peer.tls)

    def ask(count):
        for _ in range(count):
            assert library.SSL_key_update(ssl, REQUESTED) == 1
            assert library.SSL_do_handshake(ssl) == 1
        return peer.pending()

    return ask


async def ask_and_never_read(transport, peer, most):
    """Sends requests until the transport takes no more of them, or until `most` bytes are sent. Returns what is left to
    send and how many bytes were sent."""
    ask, rest, sent, full = asking(peer), b"", 0, 0
    patience = peer.sock.gettimeout()
    peer.sock.setblocking(False)
    while sent < most and full < FULL:
        rest = rest or ask(AT_ONCE)
        try:
            count = peer.sock.send(rest)
        except BlockingIOError:
            full = full + 1 if transport.get_write_buffer_size() else 0
        else:
            rest, sent, full = rest[count:], sent + count, 0
        await asyncio.sleep(PAUSE)
    peer.sock.settimeout(patience)
    return rest, sent


@SIDES
@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
@pytest.mark.time_limit(60)
async def test_answers_that_nobody_reads(factory, server_side):
    """The answers are bounded on rloop. Once the peer reads, the connection goes on, with data both ways."""
    async with tls_connection(factory, server_side=server_side, buffers=16384) as (transport, protocol, peer):
        rest, sent = await ask_and_never_read(transport, peer, MOST_ON_ASYNCIO if on_asyncio() else MOST)
        if not on_asyncio():
            assert sent < MOST
            assert 0 < transport.get_write_buffer_size() < BOUND
        rest += peer.encrypt(b"heard")
        reading = asyncio.create_task(peer.read(4))
        await asyncio.to_thread(peer.sock.sendall, rest)
        assert await protocol.read(5) == b"heard"
        transport.write(b"done")
        assert await reading == b"done"


@SIDES
async def test_abort_with_answers_that_nobody_reads(server_side):
    async with tls_connection(server_side=server_side, buffers=16384) as (transport, protocol, peer):
        await ask_and_never_read(transport, peer, MOST_ON_ASYNCIO if on_asyncio() else MOST)
        transport.abort()
        assert await protocol.lost is None
        assert protocol.calls == ["connection_made", "connection_lost"]
