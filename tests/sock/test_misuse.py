"""loop.sock_* with sockets that they do not take: blocking ones in debug mode, TLS sockets, closed ones,
those of a transport, and on loops that are closed.

Wrong addresses, buffers and sizes are in the files of the calls.
"""

import asyncio
import errno
import socket
import ssl

import pytest

from support.peers import HOST, Recorder, socket_pair
from support.sock_peers import fill, streams, waiting

CALLS = {
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 100),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(100)),
    "sock_recvfrom": lambda loop, sock: loop.sock_recvfrom(sock, 100),
    "sock_recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(100)),
    "sock_sendall": lambda loop, sock: loop.sock_sendall(sock, b"x"),
    "sock_sendto": lambda loop, sock: loop.sock_sendto(sock, b"x", (HOST, 9)),
    "sock_connect": lambda loop, sock: loop.sock_connect(sock, (HOST, 9)),
    "sock_accept": lambda loop, sock: loop.sock_accept(sock),
    "sock_sendfile": lambda loop, sock: loop.sock_sendfile(sock, open("/dev/null", "rb")),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS)


@EVERY_CALL
@pytest.mark.parametrize("timeout", [None, 5])
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
async def test_blocking_socket_in_debug_mode(call, timeout):
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        sock.settimeout(timeout)
        peer.send(b"hello")
        loop.set_debug(True)
        with pytest.raises(ValueError) as info:
            await CALLS[call](loop, sock)
        loop.set_debug(False)
        assert type(info.value) is ValueError
        assert str(info.value) == "the socket must be non-blocking"
        assert sock.gettimeout() == timeout
        assert sock.recv(100) == b"hello"


async def test_blocking_socket_that_need_not_wait():
    """Without debug mode a blocking socket is not refused."""
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        sock.setblocking(True)
        peer.send(b"hello")
        assert await loop.sock_recv(sock, 100) == b"hello"
        await loop.sock_sendall(sock, b"bye")
        assert await peer.read(3) == b"bye"
        assert sock.gettimeout() is None


@EVERY_CALL
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
async def test_tls_socket(call, debug):
    loop = asyncio.get_running_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with context.wrap_socket(socket.socket(), server_hostname="host", do_handshake_on_connect=False) as sock:
        sock.setblocking(False)
        loop.set_debug(debug)
        with pytest.raises(TypeError) as info:
            await CALLS[call](loop, sock)
        loop.set_debug(False)
        assert str(info.value) == "Socket cannot be of type SSLSocket"


@EVERY_CALL
@pytest.mark.parametrize("debug", [False, True])
async def test_closed_socket(call, debug):
    if call == "sock_sendfile":
        pytest.skip("an empty file goes anywhere")
    loop = asyncio.get_running_loop()
    sock = socket.socket(type=socket.SOCK_DGRAM if call == "sock_sendto" else socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.close()
    loop.set_debug(debug)
    with pytest.raises(OSError) as info:
        await CALLS[call](loop, sock)
    loop.set_debug(False)
    assert type(info.value) is OSError
    assert info.value.errno == errno.EBADF
    assert str(info.value) == f"[Errno {errno.EBADF}] Bad file descriptor"


@pytest.mark.parametrize("call", ["sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into"])
async def test_socket_of_a_transport(call):
    """The call is tried first, and refused if it had to wait. The transport goes on."""
    loop = asyncio.get_running_loop()
    near, far = socket_pair()
    with far:
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        with pytest.raises(RuntimeError) as info:
            await CALLS[call](loop, near)
        assert str(info.value) == f"File descriptor {near.fileno()!r} is used by transport {transport!r}"
        far.sendall(b"hello")
        assert await protocol.read(5) == b"hello"
        transport.close()
        await protocol.lost


async def test_send_on_the_socket_of_a_transport():
    loop = asyncio.get_running_loop()
    near, far = socket_pair(buffers=65536)
    with far:
        transport, protocol = await loop.create_connection(Recorder, sock=near)
        await loop.sock_sendall(near, b"goes at once")
        assert far.recv(100) == b"goes at once"
        fill(near)
        with pytest.raises(RuntimeError) as info:
            await loop.sock_sendall(near, b"would wait")
        assert str(info.value) == f"File descriptor {near.fileno()!r} is used by transport {transport!r}"
        transport.abort()
        await protocol.lost


@EVERY_CALL
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
async def test_what_is_no_socket(call):
    loop = asyncio.get_running_loop()
    for wrong in (None, 42, "socket"):
        with pytest.raises((AttributeError, TypeError)):
            await CALLS[call](loop, wrong)


@pytest.mark.parametrize("call", ["sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into"])
def test_closed_loop(loop, call):
    """On a closed loop, a call that need not wait is made, and one that would have to wait raises."""
    with streams() as (sock, peer):
        loop.close()
        peer.send(b"hello")
        with pytest.raises(StopIteration):
            CALLS[call](loop, sock).send(None)
        coroutine = CALLS[call](loop, sock)
        with pytest.raises(RuntimeError, match="^Event loop is closed$"):
            coroutine.send(None)
        coroutine.close()


async def test_shut_down_while_it_is_waited_for():
    """shutdown() wakes the waiting call."""
    loop = asyncio.get_running_loop()
    with streams() as (sock, peer):
        task = await waiting(loop.sock_recv(sock, 100))
        sock.shutdown(socket.SHUT_RDWR)
        assert await task == b""


@EVERY_CALL
async def test_wrong_number_of_arguments(call):
    method = getattr(asyncio.get_running_loop(), call)
    with pytest.raises(TypeError):
        await method()
    with pytest.raises(TypeError):
        await method(None, 1, 2, 3, 4, 5)
