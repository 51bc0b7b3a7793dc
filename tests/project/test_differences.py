"""Differences from asyncio that docs/compatibility.md lists and that no test of the behaviour itself shows.

Each test says what either loop does, so that the page is also checked when asyncio changes.
"""

import asyncio
import fcntl
import socket
import struct
import sys
import termios
import threading
import time

import pytest

from support.datagrams import Datagrams, udp_socket
from support.peers import Recorder, on_asyncio, released, settle, socket_pair
from support.tls_peers import tls_connection
from support.turns import turn

HOST = "127.0.0.1"


async def test_no_task_around_a_protocol_factory():
    loop = asyncio.get_running_loop()
    tasks = []

    def factory():
        tasks.append(asyncio.current_task())
        return protocol

    protocol = Recorder()
    server = await loop.create_server(factory, HOST, 0)
    async with server:
        with socket.create_connection(server.sockets[0].getsockname()):
            while not tasks:
                await asyncio.sleep(0)
        await protocol.lost
    assert (tasks[0] is not None) == on_asyncio()


async def test_nagle_is_off_whatever_the_listening_socket_was_made_with():
    loop = asyncio.get_running_loop()
    seen = loop.create_future()

    class Looking(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            sock = transport.get_extra_info("socket")
            seen.set_result(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)  # its `proto` is 0
    listener.bind((HOST, 0))
    protocol = Looking()
    async with await loop.create_server(lambda: protocol, sock=listener):
        with socket.create_connection(listener.getsockname()):
            assert (await seen != 0) == (not on_asyncio())
        await protocol.lost


def test_datagrams_that_wait_are_received_in_one_turn(loop):
    async def make():
        return await loop.create_datagram_endpoint(Datagrams, local_addr=(HOST, 0))

    transport, protocol = loop.run_until_complete(make())
    with udp_socket() as peer:
        for number in range(5):
            peer.sendto(b"%d" % number, transport.get_extra_info("sockname"))
        while not protocol.received:
            turn(loop)
        assert len(protocol.received) == (1 if type(loop).__module__.startswith("asyncio") else 5)
    transport.close()
    loop.run_until_complete(released(transport))


async def test_a_paused_tls_transport_leaves_data_in_the_kernel():
    async with tls_connection() as (transport, protocol, peer):
        sock = transport.get_extra_info("socket")
        transport.pause_reading()
        records = peer.encrypt(b"x" * 60_000)
        # Until the loop has acknowledged what came before, the kernel may keep back the end of what is sent here.
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.send_raw(records)
        await settle()
        assert waiting(sock) == (0 if on_asyncio() else len(records))
        assert protocol.data == b""
        transport.resume_reading()
        assert await protocol.read(60_000) == b"x" * 60_000


def waiting(sock):
    """How many bytes the kernel holds for whoever reads from the socket."""
    return struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))[0]


async def test_a_given_socket_stays_open_although_the_program_closes_it():
    near, far = socket_pair()
    with far:
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=near)
        near.close()
        assert (near.fileno() == -1) == on_asyncio()
        if not on_asyncio():
            far.sendall(b"hello")
            assert await protocol.read(5) == b"hello"
        transport.abort()
        await protocol.lost


@pytest.mark.parametrize("loop_name", ["rloop"], indirect=True)
def test_stop_called_by_another_thread_wakes_the_loop(loop):
    """asyncio would sleep on."""

    def stop():
        time.sleep(0.05)
        loop.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    loop.run_forever()
    thread.join()


class HasMethods(socket.socket):
    """A socket with a `send` of its own, so that a loop must call it, and with a `sendmsg`."""

    called: tuple[str, ...] = ()

    def send(self, *args):
        self.called += ("send",)
        return super().send(*args)

    def sendmsg(self, *args):
        self.called += ("sendmsg",)
        return super().sendmsg(*args)


async def test_sendmsg_of_a_given_socket_is_never_called():
    near, far = socket_pair(buffers=4096)
    near = HasMethods(near.family, near.type, near.proto, fileno=near.detach())
    near.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=near)
    with far:
        transport.writelines([bytes(200_000), b"more", b"and more"])
        transport.close()
        received = 0
        far.setblocking(False)
        while not protocol.lost.done():
            try:
                received += len(far.recv(65536))
            except BlockingIOError:
                await asyncio.sleep(0)
    assert ("sendmsg" in near.called) == (on_asyncio() and sys.version_info >= (3, 12))


async def test_a_view_that_is_not_contiguous_is_sent(loop_errors):
    near, far = socket_pair()
    with far:
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=near)
        try:
            transport.write(memoryview(b"a-b-c-")[::2])
        except ValueError:
            assert on_asyncio()
        transport.close()
        error = await protocol.lost
        assert far.recv(10) == (b"" if on_asyncio() else b"abc")
    if on_asyncio():
        loop_errors.clear()  # a connection that the write has ended
    else:
        assert error is None
