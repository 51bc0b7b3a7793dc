"""The methods of a TLS transport, one by one.

What write() does with its data is in test_write.py, get_extra_info in test_extra_info.py, the ends in
test_end.py.
"""

import asyncio
import gc
import weakref

import pytest

from support import certificates
from support.peers import Recorder, on_asyncio, settle, socket_pair
from support.tls_peers import BufferedRecorder, TlsPeer, connect, gone, tls_connection


async def test_classes():
    async with tls_connection() as (transport, _, _):
        for kind in (asyncio.Transport, asyncio.ReadTransport, asyncio.WriteTransport, asyncio.BaseTransport):
            assert isinstance(transport, kind)
        assert not isinstance(transport, asyncio.DatagramTransport)


async def test_can_be_assigned_to():
    """Attributes can be set: test suites replace methods of a transport."""
    async with tls_connection() as (transport, protocol, peer):
        written = []
        real = transport.write
        transport.write = written.append
        transport.anything = 5
        protocol.transport.write(b"mocked")
        assert (written, transport.anything) == ([b"mocked"], 5)
        assert transport.__dict__["anything"] == 5
        del transport.write
        real(b"hello")
        assert await peer.read(5) == b"hello"


async def test_weak_reference_and_hash():
    async with tls_connection() as (transport, _, _):
        assert weakref.ref(transport)() is transport
        assert {transport: 1}[transport] == 1
        assert transport == transport
        assert transport != object()


async def test_repr():
    async with tls_connection() as (transport, _, _):
        assert "Transport" in repr(transport)
        assert "closing" not in repr(transport)
        transport.close()
        # asyncio's repr shows only the class.
        assert ("closing" in repr(transport)) is not on_asyncio()


async def test_get_protocol():
    async with tls_connection() as (transport, protocol, _):
        assert transport.get_protocol() is protocol


async def test_is_closing():
    async with tls_connection() as (transport, protocol, peer):
        assert transport.is_closing() is False
        transport.close()
        assert transport.is_closing() is True
        await peer.read_until_end()
        await peer.unwrap()
        await protocol.lost
        assert transport.is_closing() is True


async def test_is_closing_after_the_peers_end():
    async with tls_connection() as (transport, protocol, peer):
        peer.send_close_notify()
        await protocol.lost
        assert transport.is_closing() is True


async def test_is_closing_in_connection_lost():
    seen = []

    class Looking(Recorder):
        def connection_lost(self, exc):
            seen.append(self.transport.is_closing())
            super().connection_lost(exc)

    async with tls_connection(Looking) as (_, protocol, peer):
        peer.send_eof()
        await protocol.lost
    assert seen == [True]


async def test_no_write_eof():
    """TLS cannot end only one direction."""
    async with tls_connection() as (transport, protocol, peer):
        assert transport.can_write_eof() is False
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        transport.write(b"still there")
        assert await peer.read(11) == b"still there"
        peer.send(b"so am I")
        assert await protocol.read(7) == b"so am I"


async def test_methods_return_nothing():
    async with tls_connection() as (transport, _, _):
        assert transport.write(b"x") is None
        assert transport.writelines([b"x"]) is None
        assert transport.pause_reading() is None
        assert transport.resume_reading() is None
        assert transport.set_write_buffer_limits() is None
        assert transport.set_protocol(transport.get_protocol()) is None
        assert transport.close() is None
        assert transport.abort() is None


async def test_is_reading():
    async with tls_connection() as (transport, _, _):
        assert transport.is_reading() is True
        transport.pause_reading()
        assert transport.is_reading() is False
        transport.resume_reading()
        assert transport.is_reading() is True


async def test_pause_and_resume_twice():
    """Pausing or resuming twice is no error."""
    async with tls_connection() as (transport, protocol, peer):
        transport.resume_reading()
        transport.pause_reading()
        transport.pause_reading()
        peer.send(b"hello")
        await settle()
        assert bytes(protocol.data) == b""
        transport.resume_reading()
        transport.resume_reading()
        assert await protocol.read(5) == b"hello"


# --- limits ---


async def test_default_limits():
    async with tls_connection() as (transport, _, _):
        assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
        assert transport.get_write_buffer_size() == 0


@pytest.mark.parametrize(
    ("kwargs", "limits"),
    [
        ({}, (128 * 1024, 512 * 1024)),
        ({"high": 4096}, (1024, 4096)),
        ({"high": 0}, (0, 0)),
        ({"low": 1000}, (1000, 4000)),
        ({"low": 0}, (0, 0)),
        ({"high": 10, "low": 10}, (10, 10)),
        ({"high": 100, "low": 1}, (1, 100)),
        ({"high": 4096.0}, (1024.0, 4096.0)),
    ],
)
async def test_limits(kwargs, limits):
    async with tls_connection() as (transport, protocol, _):
        transport.set_write_buffer_limits(**kwargs)
        assert transport.get_write_buffer_limits() == limits


@pytest.mark.parametrize("kwargs", [{"high": 1, "low": 2}, {"high": -1}, {"low": -1}, {"high": 0, "low": 1}])
async def test_limits_that_cannot_be(kwargs):
    async with tls_connection() as (transport, _, _):
        with pytest.raises(ValueError, match=r"^high \(.*\) must be >= low \(.*\) must be >= 0$"):
            transport.set_write_buffer_limits(**kwargs)
        assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)


async def test_limits_that_are_no_numbers():
    async with tls_connection() as (transport, _, _):
        with pytest.raises(TypeError):
            transport.set_write_buffer_limits(high="many")


async def test_read_limits():
    async with tls_connection() as (transport, protocol, peer):
        assert transport.get_read_buffer_limits() == (64 * 1024, 256 * 1024)
        assert transport.get_read_buffer_size() == 0
        transport.set_read_buffer_limits(high=4096)
        assert transport.get_read_buffer_limits() == (1024, 4096)
        transport.set_read_buffer_limits(high=100, low=10)
        assert transport.get_read_buffer_limits() == (10, 100)
        with pytest.raises(ValueError):
            transport.set_read_buffer_limits(high=1, low=2)
        peer.send(bytes(10_000))
        assert await protocol.read(10_000) == bytes(10_000)


# --- set_protocol ---


@pytest.mark.parametrize("first", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("second", [Recorder, BufferedRecorder])
async def test_set_protocol(first, second):
    async with tls_connection(first) as (transport, protocol, peer):
        peer.send(b"first")
        assert await protocol.read(5) == b"first"
        following = second()
        transport.set_protocol(following)
        assert transport.get_protocol() is following
        assert following.calls == []
        peer.send(b"second")
        assert await following.read(6) == b"second"
        peer.send_close_notify()
        assert await following.lost is None
        assert following.calls[-2:] == ["eof_received", "connection_lost"]
        assert "connection_lost" not in protocol.calls


@pytest.mark.parametrize("first", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("second", [Recorder, BufferedRecorder])
async def test_set_protocol_inside_a_call(first, second):
    """A protocol sets another one while it receives data, as for an upgrade to WebSocket. Later data goes to the new
    one.
    """
    method = "buffer_updated" if first is BufferedRecorder else "data_received"

    def switch(self, argument):
        getattr(first, method)(self, argument)
        self.following = second()
        self.transport.set_protocol(self.following)
        self.transport.write(b"ok")

    kind = type("Switching", (first,), {method: switch})
    async with tls_connection(kind) as (_, protocol, peer):
        peer.send(b"upgrade")
        assert await peer.read(2) == b"ok"
        peer.send(b"new")
        assert await protocol.following.read(3) == b"new"
        assert bytes(protocol.data) == b"upgrade"


async def test_set_protocol_while_paused():
    async with tls_connection() as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"for the new one")
        await settle()
        following = BufferedRecorder()
        transport.set_protocol(following)
        transport.resume_reading()
        assert await following.read(15) == b"for the new one"
        assert protocol.calls == ["connection_made"]


async def test_set_protocol_gets_flow_control():
    async with tls_connection(buffers=65536) as (transport, protocol, peer):
        count = 0
        while protocol.calls[-1] != "pause_writing":
            transport.write(bytes(1 << 18))
            count += 1
        following = Recorder()
        transport.set_protocol(following)
        await peer.read(count << 18)
        while "resume_writing" not in following.calls:
            await asyncio.sleep(0)
        assert "resume_writing" not in protocol.calls


# --- without an end ---


async def test_loop_keeps_the_transport():
    """The loop keeps the transport as long as the connection lives, though nobody else refers to it."""
    near, far = socket_pair()
    with TlsPeer(far) as peer:
        shaking = asyncio.create_task(peer.handshake())
        transport, protocol = await connect(Recorder, near)
        await shaking
        references = weakref.ref(transport), weakref.ref(protocol)
        del transport, protocol
        gc.collect()
        transport, protocol = (reference() for reference in references)
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
        transport.abort()
        await gone(near)


async def test_nothing_is_left_of_a_connection():
    """After a connection, a garbage collection at the latest frees the protocol, the transport and the SSLObject."""
    async with tls_connection() as (transport, protocol, peer):
        references = [weakref.ref(transport), weakref.ref(protocol)]
        references.append(weakref.ref(transport.get_extra_info("ssl_object")))
        transport.close()
        assert await peer.read_until_end() == b""
        await peer.unwrap()
        await protocol.lost
    del transport, protocol
    await settle()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


async def test_context_lives_as_long_as_the_connection():
    context = certificates.client_context()
    async with tls_connection(context=context) as (transport, protocol, peer):
        del context
        gc.collect()
        assert transport.get_extra_info("sslcontext").check_hostname is True
        peer.send(b"hello")
        assert await protocol.read(5) == b"hello"
