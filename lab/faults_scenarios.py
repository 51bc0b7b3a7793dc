"""The scenarios in which each system call fails in turn. Each is a coroutine that uses one kind of I/O of the loop.

A scenario must notice anything that is lost: it waits for all that it has sent (`World.until`), and ends cleanly. It
makes about twenty calls of each name that it uses. What a failure may do is in `faults_world.py`.
"""

from __future__ import annotations

import _thread
import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Where `support` is.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

import faults_world  # noqa: E402
from faults_world import Datagrams, Peer, Problem, World  # noqa: E402

from support import certificates  # noqa: E402

HOST = "127.0.0.1"
ROUNDS = 10
BURST = bytes(range(256)) * 1200


# --- streams ---


async def converse(world: World, client: Peer, server: Peer, *, eof: bool = True) -> None:
    """Question and answer, a burst in each direction with a pause in it, and an end."""
    client.other, server.other = server, client

    async def answered(sender: Peer, receiver: Peer) -> None:
        await world.until(lambda: len(receiver.received) == len(sender.sent))

    for number in range(ROUNDS):
        client.write(b"question %d" % number)
        await answered(client, server)
        server.write(b"answer ", b"%d" % number, b" in pieces")
        await answered(server, client)
    for sender, receiver in [(client, server), (server, client)]:
        receiver.transport.pause_reading()
        sender.write(BURST)
        sender.write(b"one", BURST, b"two")
        if not sender.writable:
            receiver.transport.resume_reading()
            await world.until(lambda sender=sender: sender.writable)  # type: ignore[misc]
        else:
            receiver.transport.resume_reading()
        await answered(sender, receiver)
    client.write(b"the last")
    if eof:
        client.transport.write_eof()
        await world.until(lambda: server.ended)
    client.transport.close()
    await answered(client, server)
    server.transport.close()
    await world.until(lambda: client.lost and server.lost)


async def conversation(world: World, server: Any, connecting: Any, **options: Any) -> None:
    """A conversation of a client with the server's peer, which is the next that is made."""
    world.closing.append(server.close)
    client = Peer(world)
    transport, _ = await connecting(lambda: client)
    world.keep(transport)
    del transport
    made = lambda: [peer for peer in world.peers if peer is not client and peer.transport is not None]  # noqa: E731
    await world.until(made)
    [other] = made()
    assert isinstance(other, Peer)
    await converse(world, client, other, **options)


async def tcp(world: World) -> None:
    server = await world.loop.create_server(world.peer, HOST, 0)
    address = server.sockets[0].getsockname()
    await conversation(world, server, lambda factory: world.loop.create_connection(factory, *address))


async def unix(world: World) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        server = await world.loop.create_unix_server(world.peer, path)
        await conversation(world, server, lambda factory: world.loop.create_unix_connection(factory, path))


async def tls(world: World) -> None:
    server = await world.loop.create_server(world.peer, HOST, 0, ssl=certificates.server_context(), **TIMEOUTS)
    host, port = server.sockets[0].getsockname()
    options = {"ssl": certificates.client_context(), "server_hostname": certificates.HOSTNAME, **TIMEOUTS}
    connecting = lambda factory: world.loop.create_connection(factory, host, port, **options)  # noqa: E731
    await conversation(world, server, connecting, eof=False)


TIMEOUTS: dict[str, Any] = {"ssl_handshake_timeout": 2, "ssl_shutdown_timeout": 2}


async def start_tls(world: World) -> None:
    """A connection that becomes a TLS connection."""
    server = await world.loop.create_server(world.peer, HOST, 0)
    world.closing.append(server.close)
    client = Peer(world)
    below, _ = await world.loop.create_connection(lambda: client, *server.sockets[0].getsockname())
    await world.until(lambda: len(world.peers) == 2 and world.peers[1].transport is not None)
    other = world.peers[1]
    assert isinstance(other, Peer)
    upper, lower = Peer(world), Peer(world)
    options: list[tuple[Any, ...]] = [
        (client, upper, certificates.client_context(), False, certificates.HOSTNAME),
        (other, lower, certificates.server_context(), True, None),
    ]
    # What was connected is closed by the layer from here on, and the peers below hear no more.
    plain = [client, other]
    layers = await world.limited(upgrade(world, plain, options))
    for peer, transport in zip([upper, lower], layers, strict=True):
        peer.connection_made(transport)
    for peer in plain:
        world.peers.remove(peer)
    await converse(world, upper, lower, eof=False)


async def upgrade(world: World, plain: list[Peer], options: list[tuple[Any, ...]]) -> list[Any]:
    transports = [peer.transport for peer in plain]
    for peer in plain:
        peer.handed_over = True
    try:
        starting = [
            world.loop.start_tls(peer_transport, layer, context, server_side=side, server_hostname=name, **TIMEOUTS)
            for peer_transport, (_, layer, context, side, name) in zip(transports, options, strict=True)
        ]
        results = await asyncio.gather(*starting, return_exceptions=True)
    finally:
        world.closing += [transport.abort for transport in transports]
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def streams(world: World) -> None:
    """asyncio's StreamReader and StreamWriter, with an answer to each line."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(line.upper())
                await writer.drain()
            writer.close()
            await writer.wait_closed()
        except OSError as error:
            world.told(error, "a stream")
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, HOST, 0)
    world.closing.append(server.close)

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            for number in range(ROUNDS):
                writer.write(b"line %d\n" % number)
                await writer.drain()
                if await reader.readline() != b"LINE %d\n" % number and not world.troubles:
                    raise Problem("a wrong answer")
            writer.close()
            await writer.wait_closed()
        finally:
            writer.transport.abort()

    await world.limited(ask())


# --- datagrams ---


async def datagrams(world: World, server: Datagrams, client: Datagrams) -> None:
    """Single datagrams, then many at once, each of which is echoed. The network may lose none here."""
    server.echoes = True
    expected = 0
    for number in range(ROUNDS):
        client.transport.sendto(bytes([65 + number]) * 100)
        expected += 1
        await world.until(lambda: len(client.received) >= expected)  # noqa: B023
    for _ in range(5):
        for number in range(20):
            client.transport.sendto(bytes([65 + number]) * 50)
        expected += 20
        await world.until(lambda: len(client.received) >= expected)  # noqa: B023
    client.transport.close()
    server.transport.close()
    await world.until(lambda: client.lost and server.lost)


async def udp(world: World) -> None:
    server, client = Datagrams(world), Datagrams(world)
    await world.loop.create_datagram_endpoint(lambda: server, (HOST, 0))
    address = server.transport.get_extra_info("sockname")
    await world.loop.create_datagram_endpoint(lambda: client, remote_addr=address)
    await datagrams(world, server, client)


async def unix_datagrams(world: World) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    world.closing += [near.close, far.close]
    server, client = Datagrams(world), Datagrams(world)
    await world.loop.create_datagram_endpoint(lambda: server, sock=near)
    await world.loop.create_datagram_endpoint(lambda: client, sock=far)
    await datagrams(world, server, client)


# --- pipes, and what goes through them ---


async def pipes(world: World) -> None:
    reading, writing = os.pipe()
    files = [open(reading, "rb", 0), open(writing, "wb", 0)]
    world.closing += [file.close for file in files]
    reader, writer = Peer(world), Peer(world)
    reader.other = writer
    await world.loop.connect_read_pipe(lambda: reader, files[0])
    await world.loop.connect_write_pipe(lambda: writer, files[1])
    for number in range(ROUNDS):
        writer.write(b"number %d" % number)
        await world.until(lambda: len(reader.received) == len(writer.sent))
    reader.transport.pause_reading()
    writer.write(BURST)
    writer.write(b"one", BURST, b"two")
    reader.transport.resume_reading()
    await world.until(lambda: len(reader.received) == len(writer.sent))
    writer.write(BURST)
    writer.transport.write_eof()
    await world.until(lambda: reader.lost and writer.lost)
    if len(reader.received) != len(writer.sent) and not world.troubles:
        raise Problem("a pipe has lost something")


async def subprocess(world: World) -> None:
    """A child that sends back what it gets, and a signal for it."""
    code = "import sys; sys.stdout.write(sys.stdin.read()); sys.exit(7)"
    pipe = asyncio.subprocess.PIPE

    async def talk() -> None:
        command = ("/bin/sh", "-c", "cat; exit 7") if os.path.exists("/bin/sh") else (sys.executable, "-c", code)
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        try:
            output, _ = await process.communicate(BURST)
            if (output, process.returncode) != (BURST, 7) and not world.troubles and not FAULTS_FIRED():
                raise Problem(f"a child has sent {len(output)} bytes and ended with {process.returncode}")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            process._transport.close()  # type: ignore[attr-defined]

    await world.limited(talk())


def FAULTS_FIRED() -> bool:  # noqa: N802
    """True if a call has failed in this case: `communicate` says nothing of a pipe that broke."""
    from rloop import _rloop

    faults = _rloop._faults  # type: ignore[attr-defined]
    return any(failed for _, failed in faults.counts().values())


# --- without transports ---


async def sock_calls(world: World) -> None:
    loop = world.loop
    with socket.create_server((HOST, 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)

        async def serve() -> bytes:
            connection, _ = await loop.sock_accept(listener)
            with connection:
                received = bytearray()
                while data := await loop.sock_recv(connection, 1 << 16):
                    received += data
                    await loop.sock_sendall(connection, b"ok")
                return bytes(received)

        async def ask() -> None:
            sent = b""
            await loop.sock_connect(client, listener.getsockname())
            for number in range(ROUNDS):
                sent += b"number %d" % number
                await loop.sock_sendall(client, b"number %d" % number)
                await loop.sock_recv_into(client, bytearray(2))
            sent += BURST
            await loop.sock_sendall(client, BURST)
            client.shutdown(socket.SHUT_WR)
            if await serving != sent:
                raise Problem("sock_recv has lost something")

        serving = loop.create_task(serve())
        try:
            await world.limited(either(ask(), serving))
        finally:
            serving.cancel()
            await asyncio.wait([serving])
            if not serving.cancelled():
                serving.exception()


async def either(asking: Any, serving: asyncio.Task[Any]) -> None:
    """Wait for `asking`, or for an exception of `serving`."""
    asked = asyncio.ensure_future(asking)
    try:
        await asyncio.wait([asked, serving], return_when=asyncio.FIRST_EXCEPTION)
    finally:
        if not asked.done():
            asked.cancel()
            await asyncio.wait([asked])
    if serving.done() and not serving.cancelled() and (error := serving.exception()):
        raise error
    asked.result()


async def sock_datagrams(world: World) -> None:
    loop = world.loop
    with socket.socket(type=socket.SOCK_DGRAM) as near, socket.socket(type=socket.SOCK_DGRAM) as far:
        for one in (near, far):
            one.setblocking(False)
            one.bind((HOST, 0))

        async def talk() -> None:
            for number in range(ROUNDS):
                receiving = loop.create_task(loop.sock_recvfrom(far, 100))
                try:
                    await asyncio.sleep(0)
                    await loop.sock_sendto(near, b"x%d" % number, far.getsockname())
                    data, _ = await receiving
                finally:
                    receiving.cancel()
                    await asyncio.wait([receiving])
                if data != b"x%d" % number:
                    raise Problem("sock_recvfrom has changed something")

        await world.limited(talk())


async def readers(world: World) -> None:
    """add_reader and add_writer, whose callbacks read and write one piece at a time."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    world.closing += [near.close, far.close]
    left, received = bytearray(BURST), bytearray()

    def readable() -> None:
        # A spurious wake-up finds nothing.
        try:
            received.extend(far.recv(1 << 15))
        except BlockingIOError:
            return
        world.poke()

    def writable() -> None:
        try:
            del left[: near.send(left[: 1 << 15])]
        except BlockingIOError:
            return
        if not left:
            world.loop.remove_writer(near)

    world.closing += [lambda: world.loop.remove_reader(far), lambda: world.loop.remove_writer(near)]
    world.loop.add_reader(far, readable)
    world.loop.add_writer(near, writable)
    await world.until(lambda: len(received) == len(BURST))


async def signals(world: World) -> None:
    arrived: list[int] = []

    def handler() -> None:
        arrived.append(1)
        world.poke()

    def end() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        world.loop.remove_signal_handler(signal.SIGALRM)
        # A scenario that is cancelled may still send one, which would end the process.
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    world.loop.add_signal_handler(signal.SIGALRM, handler)
    world.closing.append(end)
    for number in range(ROUNDS):
        # In this time the loop sleeps in its wait, which the signal ends.
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        await world.until(lambda: len(arrived) > number)  # noqa: B023


async def threads(world: World) -> None:
    """Calls of other threads, each of which is accepted or refused."""
    called: list[int] = []
    accepted: list[int] = []
    refused: list[OSError] = []

    def call(number: int) -> None:
        called.append(number)
        world.poke()

    def work(number: int) -> None:
        try:
            world.loop.call_soon_threadsafe(call, number)
        except OSError as error:
            refused.append(error)
        except RuntimeError:
            # The fault may have ended the run, after which the loop is closed.
            if not world.loop.is_closed():
                raise
        else:
            accepted.append(number)

    for number in range(ROUNDS):
        ended = in_thread(work, number)
        # In this time the loop sleeps in its wait, and the thread has to wake it.
        await asyncio.sleep(0.004)
        ended.acquire(timeout=faults_world.LIMIT)
        if refused:
            raise refused[0]
        await world.until(lambda: set(accepted) <= set(called))
    executor_result = await world.limited(in_executor(world.loop))
    await world.limited(world.loop.shutdown_default_executor())
    if executor_result != 7:
        raise Problem("an executor has lost something")


def in_thread(function: Callable[[int], None], number: int) -> _thread.LockType:
    """Call the function after a moment in another thread. Returns a lock that can be acquired once it has ended.

    `threading.Thread` would wait in `start` until the thread has begun: for ever, if it has no memory to begin."""
    ended = _thread.allocate_lock()
    ended.acquire()

    def run() -> None:
        try:
            time.sleep(0.001)
            function(number)
        finally:
            ended.release()

    _thread.start_new_thread(run, ())
    return ended


async def in_executor(loop: asyncio.AbstractEventLoop) -> int:
    return await loop.run_in_executor(None, lambda: 7)


async def making_a_loop(world: World) -> None:
    """The loop was made while calls fail, and does a little."""
    await asyncio.sleep(0)


SCENARIOS = {
    "tcp": tcp,
    "unix": unix,
    "streams": streams,
    "tls": tls,
    "tls-portable": tls,
    "start-tls": start_tls,
    "udp": udp,
    "unix-datagrams": unix_datagrams,
    "pipes": pipes,
    "subprocess": subprocess,
    "sock": sock_calls,
    "sock-datagrams": sock_datagrams,
    "readers": readers,
    "signals": signals,
    "threads": threads,
    "loop": making_a_loop,
}
