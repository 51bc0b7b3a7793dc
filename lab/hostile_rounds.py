"""The rounds of `hostile_peers.py`: each opens one thing on the running loop, and plays one hostile peer of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from program_peers import stream_pair

from support.datagrams import Datagrams, unix_socket_pair
from support.peers import BufferedRecorder, Echo, Recorder

LARGE = 300_000
# What a connection may end with: nothing, or what the kernel says of a peer that has gone.
ENDS = (type(None), ConnectionError)


class Pausing(Recorder):
    """Pauses its reading now and then, and writes what it gets several times."""

    random: random.Random

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.random.random() < 0.3:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)
        if self.random.random() < 0.3:
            self.transport.write(bytes(data) * self.random.choice([1, 2, 100]))


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    sock.close()


async def breathe(randomness: random.Random) -> None:
    for _ in range(randomness.randrange(3)):
        await asyncio.sleep(0)


# --- streams ---


async def open_stream(randomness: random.Random) -> tuple[Any, Any, socket.socket, socket.socket]:
    family = randomness.choice(["tcp", "unix"])
    near, far = stream_pair(family)
    factory: Any = randomness.choice([Recorder, BufferedRecorder, Echo, Pausing])
    if factory is Pausing:
        factory = type("Pausing", (Pausing,), {"random": randomness})
    loop = asyncio.get_running_loop()
    connect = loop.create_unix_connection if family == "unix" else loop.create_connection
    transport, protocol = await connect(factory, sock=near)
    protocol.keep_open = randomness.choice([None, True])
    return transport, protocol, near, far


async def end_of(transport: Any, protocol: Any, near: socket.socket) -> None:
    """The end: told once, with an exception that programs expect of a network, and the file is closed."""
    exc = await protocol.lost
    assert isinstance(exc, ENDS), repr(exc)
    for _ in range(3):
        await asyncio.sleep(0)
    assert protocol.calls.count("connection_lost") == 1, protocol.calls
    assert protocol.calls.count("connection_made") == 1, protocol.calls
    assert protocol.calls[-1] == "connection_lost", protocol.calls
    assert near.fileno() == -1, "the socket is left open"
    pauses = [call for call in protocol.calls if call in ("pause_writing", "resume_writing")]
    expected = ["pause_writing", "resume_writing"] * len(pauses)
    assert pauses == expected[: len(pauses)], pauses


async def stream_in_pieces(randomness: random.Random) -> None:
    """A peer that sends pieces of any size, reads when it likes, half-closes, and leaves by FIN or RST at any point."""
    transport, protocol, near, far = await open_stream(randomness)
    sent = bytearray()
    with far:
        for _ in range(randomness.randrange(1, 30)):
            what = randomness.randrange(10)
            if what < 5:
                data = randomness.randbytes(randomness.choice([1, 1, 7, 1000, LARGE]))
                with contextlib.suppress(OSError):
                    sent += data[: far.send(data)]
            elif what < 7:
                with contextlib.suppress(OSError):
                    far.recv(randomness.choice([1, 1000, LARGE]))
            elif what < 8 and not transport.is_closing():
                transport.write(randomness.randbytes(randomness.choice([1, 100, LARGE])))
            elif what < 9 and randomness.random() < 0.3:
                with contextlib.suppress(OSError):
                    far.shutdown(randomness.choice([socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR]))
            await breathe(randomness)
            if randomness.random() < 0.05:
                break
        if randomness.random() < 0.5:
            reset(far)
        elif randomness.random() < 0.5:
            transport.close()
            if randomness.random() < 0.5:
                transport.abort()
    # The peer has gone, so that nothing waits for it; but a protocol that keeps the connection open hears nothing more.
    await breathe(randomness)
    transport.abort()
    await end_of(transport, protocol, near)
    assert sent.startswith(bytes(protocol.data)), "delivers what was not sent"


async def stream_that_never_reads(randomness: random.Random) -> None:
    """A peer that takes nothing: the protocol is paused, and nothing is sent once the transport was aborted."""
    transport, protocol, near, far = await open_stream(randomness)
    with far:
        transport.set_write_buffer_limits(randomness.choice([0, 1000, LARGE]))
        while "pause_writing" not in protocol.calls:
            transport.write(bytes(randomness.choice([LARGE, 4 * LARGE])))
            await asyncio.sleep(0)
        for _ in range(randomness.randrange(4)):
            randomness.choice([transport.pause_reading, transport.resume_reading, transport.write_eof])()
            await breathe(randomness)
        if randomness.random() < 0.5:
            transport.close()
            await breathe(randomness)
        if randomness.random() < 0.5:
            reset(far)
            await breathe(randomness)
        transport.abort()
        await end_of(transport, protocol, near)


async def stream_byte_by_byte(randomness: random.Random) -> None:
    """All bytes arrive, in order, though each comes alone; the echo arrives although the peer reads byte by byte."""
    loop = asyncio.get_running_loop()
    near, far = stream_pair(randomness.choice(["tcp", "unix"]))
    transport, protocol = await loop.create_connection(Echo, sock=near)
    data, back = randomness.randbytes(randomness.randrange(1, 60)), bytearray()
    with far:
        for at in range(len(data)):
            await loop.sock_sendall(far, data[at : at + 1])
        while len(back) < len(data):
            back += await loop.sock_recv(far, 1)
        far.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(far, 1) == b""
    await end_of(transport, protocol, near)
    assert data == back == protocol.data


async def stream_that_serves(randomness: random.Random) -> None:
    """A server between hostile clients, which come and go at any moment, serves a good one."""
    loop = asyncio.get_running_loop()
    made: list[Echo] = []

    def factory() -> Echo:
        made.append(Echo())
        return made[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for _ in range(randomness.randrange(1, 6)):
        bad = socket.create_connection(address)
        bad.setblocking(False)
        with contextlib.suppress(OSError):
            bad.send(bytes(randomness.choice([1, LARGE])))
        await breathe(randomness)
        bad.close() if randomness.random() < 0.5 else reset(bad)
    with socket.create_connection(address) as good:
        good.setblocking(False)
        await loop.sock_sendall(good, b"hello")
        assert await loop.sock_recv(good, 100) == b"hello"
    server.close()
    while not made or not all(protocol.lost.done() for protocol in made if protocol.transport):
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)


# --- datagrams ---


async def datagrams(randomness: random.Random) -> None:
    """Datagrams of all sizes, strange senders, refused ones, and ends in between."""
    loop = asyncio.get_running_loop()
    connected = randomness.random() < 0.5
    near, far = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for sock in (near, far):
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
    far.connect(near.getsockname())
    address = far.getsockname()
    if connected:
        near.connect(address)
    transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=near)
    sent = []
    for _ in range(randomness.randrange(1, 30)):
        what = randomness.randrange(8)
        size = randomness.choice([0, 1, 100, 1500, 9000, 65507])
        if what < 4 and far.fileno() >= 0:
            data = randomness.randbytes(size)
            with contextlib.suppress(OSError):
                far.send(data)
                sent.append(data)
        elif what < 6:
            transport.sendto(bytes(randomness.choice([size, 65508, 100_000])), None if connected else address)
        elif what < 7:
            far.close()  # whose port refuses what comes from now on
        elif not connected:
            transport.sendto(b"x", randomness.choice([("127.0.0.1", 1), ("127.0.0.1", address[1])]))
        await breathe(randomness)
    await asyncio.sleep(0)
    transport.close() if randomness.random() < 0.5 else transport.abort()
    await asyncio.sleep(0)
    transport.abort()
    exc = await protocol.lost
    far.close()
    await asyncio.sleep(0)
    assert isinstance(exc, (type(None), OSError)), repr(exc)
    assert all(isinstance(error, OSError) for error in protocol.errors), protocol.errors
    assert protocol.calls.count("connection_lost") == 1 and protocol.calls[-1] == "connection_lost"
    assert all(data in sent for data in protocol.data), "delivers what was not sent"
    assert near.fileno() == -1


async def full_datagrams(randomness: random.Random) -> None:
    """A receiver that takes nothing, and is gone while datagrams wait for it."""
    near, far = unix_socket_pair()
    near.setblocking(False)
    transport: Any
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, sock=near)
    transport.set_write_buffer_limits(randomness.choice([0, 1000]))
    while "pause_writing" not in protocol.calls:
        transport.sendto(bytes(randomness.choice([1, 1000, 10_000])))
    for _ in range(randomness.randrange(5)):
        far.recv(LARGE)
        await breathe(randomness)
    if randomness.random() < 0.5:
        far.close()
        await breathe(randomness)
    transport.close()
    await breathe(randomness)
    transport.abort()
    exc = await protocol.lost
    far.close()
    await asyncio.sleep(0)
    assert isinstance(exc, (type(None), OSError)), repr(exc)
    assert protocol.calls.count("connection_lost") == 1 and near.fileno() == -1


# --- children ---

# Each gets `r`, a number between 0 and 1, and closes its pipes, dies, or floods in some order.
CHILDREN = (
    "import os; [os.close(n) for n in {order}]; os._exit(7)",
    "import os, time; [os.close(n) for n in {order}]; time.sleep({r} / 50)",
    "import os, signal; os.close({order}[0]); os.kill(os.getpid(), signal.SIGKILL)",
    "import os; os.write(1, bytes({size})); os.write(2, bytes({size}))",
    "import os, sys; data = os.read(0, {size}); os.close(0); os.write(1, data); os.close(1); os.read(2, 1) if 0 else 0",
    "import os\nif os.fork() == 0:\n import time; time.sleep({r} / 50); os.write(1, b'late'); os._exit(0)",
    "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.write(1, b'x'); os.read(0, 1)",
)


class Child(asyncio.SubprocessProtocol):
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.exited = asyncio.Event()
        self.lost = asyncio.get_running_loop().create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        assert f"lost {fd}" not in self.calls

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.calls.append(f"lost {fd}")

    def process_exited(self) -> None:
        self.calls.append("exited")
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("connection_lost")
        self.lost.set_result(exc)


async def children(randomness: random.Random) -> None:
    """A child that closes its pipes in any order, dies, floods, or leaves a grandchild behind that has them."""
    order = randomness.sample([0, 1, 2], 3)[: randomness.randrange(1, 4)]
    source = randomness.choice(CHILDREN)
    source = source.format(order=order, r=randomness.random(), size=randomness.choice([1, 4096, LARGE]))
    loop = asyncio.get_running_loop()
    # Without site-packages it starts in a third of the time.
    transport, protocol = await loop.subprocess_exec(Child, sys.executable, "-S", "-E", "-c", source)
    writing: Any = transport.get_pipe_transport(0)
    for _ in range(randomness.randrange(4)):
        with contextlib.suppress(OSError):
            what = randomness.randrange(6)
            if what < 2:
                writing.write(bytes(randomness.choice([1, LARGE])))
            elif what == 2:
                writing.close()
            elif what == 3:
                transport.get_pipe_transport(randomness.choice([1, 2])).close()  # type: ignore[union-attr]
            elif what == 4:
                transport.send_signal(randomness.choice([signal.SIGTERM, signal.SIGSTOP, signal.SIGCONT]))
        await breathe(randomness)
    if randomness.random() < 0.3 or "SIG_IGN" in source or "os.read" in source:
        with contextlib.suppress(ProcessLookupError):
            transport.kill()
    with contextlib.suppress(ProcessLookupError):
        transport.send_signal(signal.SIGCONT)
    await protocol.exited.wait()
    transport.close()
    await protocol.lost
    await asyncio.sleep(0)
    assert protocol.calls.count("exited") == protocol.calls.count("connection_lost") == 1, protocol.calls
    assert all(protocol.calls.count(f"lost {fd}") <= 1 for fd in range(3)), protocol.calls
    assert transport.get_returncode() is not None
    with contextlib.suppress(ChildProcessError):
        reaped, _ = os.waitpid(-1, os.WNOHANG)
        assert reaped == 0, "a zombie is left"


Round = Callable[[random.Random], Coroutine[Any, Any, None]]
# A child takes as long as many others.
ROUNDS: list[Round] = [
    *[stream_in_pieces] * 30,
    *[stream_that_never_reads] * 10,
    *[stream_byte_by_byte] * 10,
    *[stream_that_serves] * 10,
    *[datagrams] * 20,
    *[full_datagrams] * 10,
    *[children] * 3,
]
