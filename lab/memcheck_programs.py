"""The programs that `memcheck.py` runs under valgrind: one for each transport, and for what uses the loop directly.

`python memcheck_programs.py NAME` runs one of them on rloop. Each opens connections, moves data in both directions with
writes that the kernel does not take at once, pauses, and closes in an orderly way and by an abort. No check lives here
but that the data is complete.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
import tempfile
from pathlib import Path

import rloop

ROOT = Path(__file__).resolve().parent.parent
DATA = bytes(range(256)) * 1200


class Echo(asyncio.Protocol):
    """Sends back what comes, and pauses now and then."""

    transport: asyncio.Transport

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self.transport.resume_reading)


async def exchange(reader, writer):
    """Sends data to an `Echo` and reads it back; then ends the connection."""
    writer.write(DATA)
    writer.writelines([DATA[:1000], DATA[1000:]])
    received = await reader.readexactly(2 * len(DATA))
    assert received == 2 * DATA
    writer.close()
    await writer.wait_closed()


async def abort(reader, writer):
    writer.write(DATA * 10)
    await reader.readexactly(10)
    writer.transport.abort()


async def tcp():
    loop = asyncio.get_running_loop()
    async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        for use in (exchange, abort, exchange):
            await use(*await asyncio.open_connection(*address))


async def tls():
    sys.path.insert(0, str(ROOT / "tests"))
    from support.certificates import client_context, server_context

    loop = asyncio.get_running_loop()
    async with await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_context()) as server:
        address = server.sockets[0].getsockname()
        context: ssl.SSLContext = client_context()
        for use in (exchange, abort, exchange):
            await use(*await asyncio.open_connection(*address, ssl=context, server_hostname="localhost"))


async def unix():
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        async with await loop.create_unix_server(Echo, path):
            for use in (exchange, abort):
                await use(*await asyncio.open_unix_connection(path))


async def udp():
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[bytes] = asyncio.Queue()

    class Peer(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            received.put_nowait(data)

    one, _ = await loop.create_datagram_endpoint(Peer, local_addr=("127.0.0.1", 0))
    other, _ = await loop.create_datagram_endpoint(Peer, remote_addr=one.get_extra_info("sockname"))
    for length in (0, 1, 1000, 30000):
        other.sendto(DATA[:length])
        assert await received.get() == DATA[:length]
        one.sendto(DATA[:length], other.get_extra_info("sockname"))
        assert await received.get() == DATA[:length]
    one.close()
    other.abort()


async def pipe():
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    reader = asyncio.StreamReader()
    source, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), open(reading, "rb", 0))
    target, _ = await loop.connect_write_pipe(asyncio.Protocol, open(writing, "wb", 0))
    target.write(DATA)
    target.write_eof()
    assert await reader.read() == DATA
    source.close()


async def sock():
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        sending = asyncio.ensure_future(loop.sock_sendall(one, DATA))
        received = b""
        while len(received) < len(DATA):
            received += await loop.sock_recv(other, 10000)
        await sending
        assert received == DATA
        waiting = asyncio.ensure_future(loop.sock_recv(other, 10))
        await asyncio.sleep(0)
        waiting.cancel()
        readable = asyncio.Event()
        loop.add_reader(other, readable.set)
        one.send(b"x")
        await readable.wait()
        loop.remove_reader(other)


async def process():
    child = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    output, _ = await child.communicate(DATA)
    assert output == DATA and child.returncode == 0


async def callbacks():
    """Timers, threads and signals."""
    loop = asyncio.get_running_loop()
    timers = [loop.call_later(0.001 * n, int) for n in range(200)]
    for timer in timers[::2]:
        timer.cancel()
    heard = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, heard.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await heard.wait()
    loop.remove_signal_handler(signal.SIGUSR1)
    done = asyncio.Event()
    await asyncio.to_thread(loop.call_soon_threadsafe, done.set)
    await done.wait()
    await asyncio.gather(*(asyncio.sleep(0.001) for _ in range(100)))


PROGRAMS = {main.__name__: main for main in (tcp, tls, unix, udp, pipe, sock, process, callbacks)}

if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(*PROGRAMS)
    else:
        rloop.run(PROGRAMS[sys.argv[1]]())
        print("complete")
