"""A peer that sends without end gets its share and no more: callbacks, other connections and accept go on.

Only counts are looked at, never times.
"""

import asyncio
import select
import threading
import time

from support.peers import HOST, Peer, Recorder, arrived, connection, on_asyncio, settle, socket_pair

# At most so many reads and bytes of one connection between two looks at the others. asyncio: one read of 256 KiB.
READS = 16
BYTES = 4 << 20


class Flood:
    """A peer that sends for as long as the block lasts."""

    def __init__(self, sock):
        self.sock = sock
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.send)

    def send(self):
        chunk = bytes(1 << 20)
        try:
            while not self.stop.is_set():
                self.sock.sendall(chunk)
        except OSError:
            pass  # the transport was closed

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc_info):
        self.stop.set()
        self.sock.close()


class Flooded(Recorder):
    """Counts what it receives, without keeping it."""

    def __init__(self):
        super().__init__()
        self.reads = self.bytes = self.total = 0
        self.most_reads = self.most_bytes = 0

    def data_received(self, data):
        self.reads += 1
        self.bytes += len(data)
        self.total += len(data)

    def look(self):
        """Notes how much came since the last look."""
        self.most_reads = max(self.most_reads, self.reads)
        self.most_bytes = max(self.most_bytes, self.bytes)
        self.reads = self.bytes = 0


async def flooded(transport, protocol, far, work):
    """Runs `work` beside a flood of at least 64 MiB, or for as long as it takes."""
    with Flood(far) as flood:
        while protocol.total < 64 << 20:
            await work()
            protocol.look()
        transport.abort()
        await protocol.lost
    flood.thread.join()
    assert protocol.most_reads <= READS
    assert protocol.most_bytes <= BYTES


async def test_callbacks_go_on():
    near, far = socket_pair()
    transport, protocol = await asyncio.get_running_loop().create_connection(Flooded, sock=near)
    await flooded(transport, protocol, far, lambda: asyncio.sleep(0))


async def test_timers_go_on():
    near, far = socket_pair()
    transport, protocol = await asyncio.get_running_loop().create_connection(Flooded, sock=near)
    # A timer that is due at once needs nothing but a turn of the loop.
    await flooded(transport, protocol, far, lambda: asyncio.sleep(1e-9))


async def test_another_connection_goes_on():
    """The data of another connection is read before the flood has had much more than its share."""
    near, far = socket_pair()
    transport, protocol = await asyncio.get_running_loop().create_connection(Flooded, sock=near)

    async with connection() as (other, quiet, peer):
        count = 0

        async def exchange():
            nonlocal count
            peer.send(b"x")
            select.select([other.get_extra_info("socket")], [], [])
            protocol.look()
            count += 1
            await quiet.read(count)

        await flooded(transport, protocol, far, exchange)
        assert count


async def test_two_floods_share():
    """Neither connection has many reads in a row while the other has data, too."""
    order = []

    class Tagged(Recorder):
        def data_received(self, data):
            order.append(self)

    async with connection(Tagged) as (one, first, peer), connection(Tagged) as (two, second, other):
        for transport, far in ((one, peer), (two, other)):
            transport.pause_reading()
            far.sock.setblocking(False)
            try:
                while True:
                    far.sock.send(bytes(65536))
            except BlockingIOError:
                pass
            await arrived(transport, 32768)
        one.resume_reading()
        two.resume_reading()
        while len(set(order)) < 2:
            await settle()
        both = min(len(order) - 1 - order[::-1].index(first), len(order) - 1 - order[::-1].index(second))
        stretch = longest = 0
        for position in range(1, both):
            stretch = stretch + 1 if order[position] is order[position - 1] else 0
            longest = max(longest, stretch)
        assert longest <= READS


async def test_accept_goes_on():
    loop = asyncio.get_running_loop()
    near, far = socket_pair()
    transport, protocol = await loop.create_connection(Flooded, sock=near)
    accepted = asyncio.Queue()

    class Accepted(asyncio.Protocol):
        def connection_made(self, transport):
            accepted.put_nowait(transport)

    async with await loop.create_server(Accepted, HOST, 0) as server:
        address = server.sockets[0].getsockname()

        async def connect():
            client, _ = await loop.create_connection(asyncio.Protocol, *address)
            protocol.look()
            (await accepted.get()).abort()
            client.abort()

        await flooded(transport, protocol, far, connect)


async def test_a_flood_of_writes_does_not_starve():
    """A peer that reads as fast as the transport writes, without end."""
    loop = asyncio.get_running_loop()
    near, far = socket_pair(buffers=65536)

    class Writing(Recorder):
        def resume_writing(self):
            super().resume_writing()
            self.transport.write(chunk)

    chunk = bytes(1 << 20)
    with Peer(far):
        transport, protocol = await loop.create_connection(Writing, sock=near)

        def drain():
            try:
                while far.recv(1 << 20):
                    pass
            except OSError:
                pass

        thread = threading.Thread(target=drain)
        thread.start()
        transport.write(chunk)
        while protocol.calls.count("resume_writing") < 3:
            await asyncio.sleep(0)
        transport.abort()
        await protocol.lost
        thread.join()


async def test_other_threads_go_on_beside_native_callbacks():
    """A reader is a C function on a file that is always ready. It runs no bytecode, at which CPython could switch
    threads.
    """
    near, far = socket_pair()
    with near, far:
        far.send(b"x")
        ran = threading.Event()
        counted = []

        def count():
            while len(counted) < 20:
                counted.append(None)
                time.sleep(0.001)
            ran.set()

        loop = asyncio.get_running_loop()
        loop.add_reader(near, len, ())
        thread = threading.Thread(target=count)
        thread.start()
        while not ran.is_set():
            await asyncio.sleep(0.01)
        thread.join()
        assert loop.remove_reader(near)


async def test_writing_much_lets_others_run():
    """Much data is sent bit by bit. It arrives whole, pauses and resumes alternate, and callbacks go on."""
    # asyncio gives the kernel all that it takes. If the peer reads quickly, that is nearly everything at once.
    near, far = socket_pair(buffers=65536 if on_asyncio() else None)
    transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=near)
    data = bytes(range(256)) * 4096
    turns = 0

    async def count_turns():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count_turns())
    for _ in range(8):
        transport.write(data)
    assert await Peer(far).read(8 * len(data)) == 8 * data
    counting.cancel()
    flow = [call for call in protocol.calls if call.endswith("_writing")]
    assert flow == ["pause_writing", "resume_writing"] * (len(flow) // 2)
    assert turns > 8
    transport.close()
    await protocol.lost
    far.close()
