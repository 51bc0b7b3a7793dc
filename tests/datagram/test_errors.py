"""What goes wrong with datagrams: what the kernel refuses, and protocol methods that raise.

None of it ends the endpoint. Objects that are no address end it: test_address.py.
"""

import asyncio
import errno
import select
import socket

import pytest

from support.datagrams import (
    Datagrams,
    bound,
    endpoint,
    pair,
    raising_in,
    receive,
    refusing_socket,
    udp_socket,
    unix_socket,
    unix_socket_pair,
)
from support.peers import HOST, PATIENCE, has_ipv6, released, settle
from support.turns import turn_until

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no ::1 here")

HOSTS = pytest.mark.parametrize("host", [HOST, pytest.param("::1", marks=needs_ipv6)])


def wait_for_error(sock):
    """Waits until the kernel has an error for this socket. The error stays there."""
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(1000 * PATIENCE)


# --- port unreachable ---


@HOSTS
async def test_port_unreachable(host):
    with refusing_socket(host) as peer:
        async with endpoint(remote_addr=peer.getsockname()[:2]) as (transport, protocol):
            transport.sendto(b"refused")
            (error,) = await protocol.fail()
            assert type(error) is ConnectionRefusedError
            assert error.args == (errno.ECONNREFUSED, "Connection refused")
            assert not transport.is_closing()
            assert protocol.calls == ["connection_made", "error_received"]
            # Now the port is open.
            peer.connect(transport.get_extra_info("sockname"))
            transport.sendto(b"question")
            assert await receive(peer) == [(b"question", transport.get_extra_info("sockname"))]
            peer.send(b"answer")
            assert await protocol.read(1) == [b"answer"]
            assert protocol.errors == [error]


async def test_port_unreachable_time_and_again():
    with refusing_socket() as peer:
        async with endpoint(remote_addr=peer.getsockname()) as (transport, protocol):
            for count in range(1, 51):
                transport.sendto(b"refused")
                await protocol.fail(count)
            assert {type(error) for error in protocol.errors} == {ConnectionRefusedError}
            peer.connect(transport.get_extra_info("sockname"))
            transport.sendto(b"question")
            assert [data for data, _ in await receive(peer)] == [b"question"]


async def test_port_unreachable_for_many_in_one_turn():
    """The kernel reports that the first datagram was refused when the second is sent. So there may be one error for
    two.
    """
    with refusing_socket() as peer:
        async with endpoint(remote_addr=peer.getsockname()) as (transport, protocol):
            for _ in range(20):
                transport.sendto(b"refused")
            await protocol.fail()
            await settle()
            assert 1 <= len(protocol.errors) <= 20
            assert {type(error) for error in protocol.errors} == {ConnectionRefusedError}
            peer.connect(transport.get_extra_info("sockname"))
            peer.send(b"hello")
            assert await protocol.read(1) == [b"hello"]


async def test_unconnected_endpoints_are_not_told():
    async with bound() as (transport, protocol):
        with refusing_socket() as closed, udp_socket() as peer:
            transport.sendto(b"lost", closed.getsockname())
            transport.sendto(b"hello", peer.getsockname())
            transport.sendto(b"lost", closed.getsockname())
            assert [data for data, _ in await receive(peer)] == [b"hello"]
            peer.sendto(b"answer", transport.get_extra_info("sockname"))
            await protocol.read(1)
            await settle()
            assert protocol.calls == ["connection_made", "datagram_received"]


def test_error_and_data_at_once(loop):
    """An error and a datagram arrive at once. The program gets both."""

    async def connect():
        return await loop.create_datagram_endpoint(Datagrams, sock=sock)

    with refusing_socket() as peer:
        sock = udp_socket()
        sock.connect(peer.getsockname())
        transport, protocol = loop.run_until_complete(connect())
        peer.connect(sock.getsockname())
        for data in (b"one", b"two", b"three"):
            peer.send(data)
        peer.connect(peer.getsockname())
        sock.send(b"refused")
        wait_for_error(sock)
        turn_until(loop, lambda: len(protocol.received) == 3 and protocol.errors)
        assert protocol.data == [b"one", b"two", b"three"]
        assert [type(error) for error in protocol.errors] == [ConnectionRefusedError]
        peer.connect(sock.getsockname())
        peer.send(b"four")
        loop.run_until_complete(protocol.read(4))
        transport.close()
        loop.run_until_complete(released(transport))


# --- too large ---


@HOSTS
@pytest.mark.parametrize("connected", [False, True])
async def test_too_large(host, connected):
    largest = 65507 if host == HOST else 65527
    with udp_socket(host) as peer:
        address = peer.getsockname()
        where = {"remote_addr": address[:2]} if connected else {"local_addr": (host, 0)}
        async with endpoint(**where) as (transport, protocol):
            for count, size in enumerate([largest + 1, 70_000, 1 << 20], 1):
                transport.sendto(bytes(size), address)
                errors = await protocol.fail(count)
                assert type(errors[-1]) is OSError
                assert errors[-1].args == (errno.EMSGSIZE, "Message too long")
            assert not transport.is_closing()
            assert transport.get_write_buffer_size() == 0
            transport.sendto(b"x" * largest, address)
            assert [data for data, _ in await receive(peer)] == [b"x" * largest]
            assert protocol.calls == ["connection_made"] + ["error_received"] * 3


@pytest.mark.parametrize("position", [0, 1, 49, 50, 99])
async def test_too_large_among_others(position):
    """Only the datagram that is too large is not sent."""
    async with bound() as (transport, protocol):
        with udp_socket() as peer:
            sent = [b"%d" % number for number in range(100)]
            for number, data in enumerate(sent):
                transport.sendto(bytes(70_000) if number == position else data, peer.getsockname())
            del sent[position]
            assert [data for data, _ in await receive(peer, 99)] == sent
            (error,) = await protocol.fail()
            assert error.errno == errno.EMSGSIZE


async def test_all_too_large():
    async with bound() as (transport, protocol):
        with udp_socket() as peer:
            for _ in range(50):
                transport.sendto(bytes(70_000), peer.getsockname())
            await protocol.fail(50)
            transport.sendto(b"hello", peer.getsockname())
            assert [data for data, _ in await receive(peer)] == [b"hello"]
            assert len(protocol.errors) == 50


# --- UNIX peers ---


async def test_unix_peer_that_has_gone(tmp_path):
    path = str(tmp_path / "peer")
    with unix_socket(path):
        pass
    async with endpoint(local_addr=str(tmp_path / "own"), family=socket.AF_UNIX) as (transport, protocol):
        transport.sendto(b"refused", path)
        (error,) = await protocol.fail()
        assert type(error) is ConnectionRefusedError
        (tmp_path / "peer").unlink()
        with unix_socket(path) as peer:
            transport.sendto(b"hello", path)
            assert [data for data, _ in await receive(peer)] == [b"hello"]


async def test_connected_unix_peer_that_goes():
    """Datagrams that the peer had sent before it closed are received."""
    near, far = unix_socket_pair()
    async with endpoint(sock=near) as (transport, protocol):
        far.send(b"last words")
        far.close()
        assert await protocol.read(1) == [b"last words"]
        transport.sendto(b"x")
        (error,) = await protocol.fail()
        assert type(error) is ConnectionRefusedError
        # From now on the endpoint has no peer.
        transport.sendto(b"x")
        await protocol.fail(2)
        assert protocol.errors[1].errno == errno.ENOTCONN
        assert not transport.is_closing()


# --- protocol methods that raise ---


ERRORS = pytest.mark.parametrize("kind", [ZeroDivisionError, OSError, asyncio.CancelledError])


def only_report(loop_errors):
    """The exception of the only report, which must be about a callback."""
    (context,) = loop_errors
    loop_errors.clear()
    assert context["message"].startswith("Exception in callback ")
    return context["exception"]


@ERRORS
async def test_datagram_received_that_raises(kind, loop_errors):
    """The exception is reported. Every other datagram is received, including those that came in the same batch."""
    error = kind("why")

    class Raising(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if data == b"two":
                raise error

    sent = [b"one", b"two", b"three", b"four"]
    async with pair(Raising) as (transport, protocol, far):
        for data in sent:
            far.send(data)
        assert await protocol.read(4) == sent
        assert only_report(loop_errors) is error
        assert not transport.is_closing()
        transport.sendto(b"answer")
        assert [data for data, _ in await receive(far)] == [b"answer"]
        assert protocol.calls == ["connection_made"] + ["datagram_received"] * 4


async def test_datagram_received_that_always_raises(loop_errors):
    error = ZeroDivisionError("why")
    async with pair(raising_in("datagram_received", error)) as (transport, protocol, far):
        for number in range(50):
            far.send(b"%d" % number)
        assert await protocol.read(50) == [b"%d" % number for number in range(50)]
        await settle()
        assert [context["exception"] for context in loop_errors] == [error] * 50
        loop_errors.clear()
        assert not transport.is_closing()


@ERRORS
async def test_error_received_that_raises(kind, loop_errors):
    """error_received gets an error of the receiving side, and raises."""
    error = kind("why")
    with refusing_socket() as peer:
        sock = udp_socket()
        sock.connect(peer.getsockname())
        async with endpoint(raising_in("error_received", error), sock=sock) as (transport, protocol):
            sock.send(b"refused")
            await protocol.fail()
            await settle()
            assert only_report(loop_errors) is error
            assert not transport.is_closing()
            peer.connect(sock.getsockname())
            peer.send(b"hello")
            assert await protocol.read(1) == [b"hello"]


@ERRORS
async def test_connection_made_that_raises(kind, loop_errors):
    error = kind("why")
    async with pair(raising_in("connection_made", error)) as (transport, protocol, far):
        assert only_report(loop_errors) is error
        assert not transport.is_closing()
        far.send(b"hello")
        assert await protocol.read(1) == [b"hello"]
        transport.sendto(b"answer")
        assert [data for data, _ in await receive(far)] == [b"answer"]


@ERRORS
@pytest.mark.parametrize("end", ["close", "abort"])
async def test_connection_lost_that_raises(kind, end, loop_errors):
    error = kind("why")
    async with pair(raising_in("connection_lost", error)) as (transport, protocol, _):
        getattr(transport, end)()
        assert await protocol.lost is None
        await released(transport)
        assert only_report(loop_errors) is error
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_other_endpoints_go_on(loop_errors):
    error = ZeroDivisionError("why")
    async with (
        pair(raising_in("datagram_received", error)) as (_, bad, far),
        pair() as (_, good, other),
    ):
        far.send(b"x")
        other.send(b"hello")
        await bad.read(1)
        assert await good.read(1) == [b"hello"]
        await settle()
        assert only_report(loop_errors) is error


async def test_protocol_without_the_methods(loop_errors):
    class Deaf:
        def connection_made(self, transport):
            pass

        def connection_lost(self, exc):
            pass

    async with pair(Deaf) as (transport, _, far):
        far.send(b"x")
        await settle()
        error = only_report(loop_errors)
        assert type(error) is AttributeError
        assert "datagram_received" in str(error)
        assert not transport.is_closing()


# --- protocol methods that leave the loop ---


LEAVING = pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])


@LEAVING
@pytest.mark.parametrize("method", ["connection_made", "datagram_received"])
def test_exit(loop, method, kind):
    """run_forever raises the exception. No datagram is lost, and loop and endpoint can be used again."""
    sent = [b"%d" % number for number in range(20)]
    near, far = unix_socket_pair()
    with far:
        protocol = None

        def factory():
            nonlocal protocol
            protocol = raising_in(method, kind("now"))()
            return protocol

        for data in sent:
            far.send(data)
        task = loop.create_task(loop.create_datagram_endpoint(factory, sock=near))
        with pytest.raises(kind, match="now"):
            loop.run_forever()
        setattr(protocol, method, lambda *args: getattr(Datagrams, method)(protocol, *args))
        transport, _ = loop.run_until_complete(task)
        assert loop.run_until_complete(protocol.read(20)) == sent
        transport.sendto(b"answer")
        assert [data for data, _ in loop.run_until_complete(receive(far))] == [b"answer"]
        transport.close()
        loop.run_until_complete(released(transport))
        assert protocol.calls.count("connection_lost") == 1


@LEAVING
def test_exit_in_connection_lost(loop, kind):
    near, far = unix_socket_pair()
    with far:
        factory = raising_in("connection_lost", kind("now"))
        transport, protocol = loop.run_until_complete(create(loop, factory, near))
        transport.close()
        with pytest.raises(kind, match="now"):
            loop.run_forever()
        assert transport.get_extra_info("socket").fileno() == -1
        loop.run_until_complete(settle())
        assert protocol.calls == ["connection_made", "connection_lost"]


def test_stop_in_datagram_received(loop):
    """Datagrams that came in the same turn are received before the stop, or when the loop runs again."""

    class Stopping(Datagrams):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            loop.stop()

    sent = [b"%d" % number for number in range(20)]
    near, far = unix_socket_pair()
    with far:
        transport, protocol = loop.run_until_complete(create(loop, Stopping, near))
        for data in sent:
            far.send(data)
        turn_until(loop, lambda: len(protocol.received) == 20)
        assert protocol.data == sent
        transport.close()
        turn_until(loop, lambda: transport.get_extra_info("socket").fileno() == -1)


async def create(loop, factory, sock):
    return await loop.create_datagram_endpoint(factory, sock=sock)
