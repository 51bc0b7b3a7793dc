"""Datagrams that the kernel does not take at once: the queue and its size, pause_writing and resume_writing,
and that nobody has to wait for a busy endpoint.

UNIX sockets are used because they lose nothing: a peer that does not read makes the sender wait.
"""

import asyncio
import contextlib
import select
import socket
import sys
import threading

import pytest

from support.datagrams import Datagrams, Echo, bound, endpoint, pair, receive, receive_waiting, udp_socket, unix_socket
from support.peers import PATIENCE, on_asyncio, settle

# With this buffer the kernel keeps a dozen small datagrams, and a few of SIZE.
BUFFER = 4096
SIZE = 1000

# Since 3.13 the size of the queue counts some bytes for the address of each datagram.
HEADER = 8 if sys.version_info >= (3, 13) else 0


def numbered(count, start=0):
    return [b"%d" % number + b"." * (SIZE - len(b"%d" % number)) for number in range(start, start + count)]


def sizes_go_wrong():
    """asyncio 3.13.0 adds the header and does not take it away again."""
    return on_asyncio() and sys.version_info[:2] == (3, 13)


async def send(transport, datagrams):
    """Sends the datagrams, and lets the loop give the kernel as many as it takes."""
    for data in datagrams:
        transport.sendto(data)
    await settle()


# --- the limits ---


async def test_limits():
    async with pair() as (transport, _, _):
        assert transport.get_write_buffer_limits() == (16384, 65536)
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)
        transport.set_write_buffer_limits(high=100, low=100)
        assert transport.get_write_buffer_limits() == (100, 100)
        with pytest.raises(ValueError) as info:
            transport.set_write_buffer_limits(high=10, low=11)
        assert str(info.value) == "high (10) must be >= low (11) must be >= 0"
        assert transport.get_write_buffer_limits() == (100, 100)
        transport.set_write_buffer_limits()
        assert transport.get_write_buffer_limits() == (16384, 65536)


# --- the size ---


async def test_size():
    """The size is the sum of all datagrams in the queue: their bytes, and since 3.13 a header for each."""
    async with pair(buffer=BUFFER) as (transport, protocol, far):
        assert transport.get_write_buffer_size() == 0
        await send(transport, numbered(50))
        size = transport.get_write_buffer_size()
        assert size > 0
        transport.sendto(b"x")
        assert transport.get_write_buffer_size() == size + 1 + HEADER
        transport.sendto(bytearray(100))
        assert transport.get_write_buffer_size() == size + 101 + 2 * HEADER
        await settle()
        assert transport.get_write_buffer_size() == size + 101 + 2 * HEADER
        taken = len(receive_waiting(far))
        assert size == (50 - taken) * (SIZE + HEADER)
        assert protocol.calls == ["connection_made"]


async def test_size_of_empty_datagrams():
    if on_asyncio() and sys.version_info < (3, 13):
        pytest.skip("asyncio sends no empty datagram before 3.13")
    async with pair(buffer=BUFFER) as (transport, _, far):
        await send(transport, [b""] * 50)
        size = transport.get_write_buffer_size()
        taken = len(receive_waiting(far))
        assert taken < 50
        assert size == (50 - taken) * HEADER
        assert [data for data, _ in await receive(far, 50 - taken)] == [b""] * (50 - taken)


async def test_size_is_nothing_in_the_end():
    if sizes_go_wrong():
        pytest.skip("asyncio counts wrong")
    async with pair(buffer=BUFFER) as (transport, _, far):
        for _ in range(3):
            await send(transport, numbered(50))
            assert transport.get_write_buffer_size() > 0
            assert [data for data, _ in await receive(far, 50)] == numbered(50)
            await settle()
            assert transport.get_write_buffer_size() == 0


async def test_size_of_what_the_kernel_takes():
    async with bound() as (transport, _):
        with udp_socket() as peer:
            for data in numbered(10):
                transport.sendto(data, peer.getsockname())
            await settle()
            assert transport.get_write_buffer_size() == 0


# --- pause_writing, resume_writing ---


async def test_pause_when_above_the_high_mark():
    async with pair(buffer=BUFFER) as (transport, protocol, _):
        while True:
            transport.sendto(b"x" * SIZE)
            if transport.get_write_buffer_size() > 65536:
                break
            assert "pause_writing" not in protocol.calls
        # pause_writing is called by the sendto that passes the mark, before that returns.
        assert protocol.calls == ["connection_made", "pause_writing"]
        await send(transport, numbered(10))
        assert protocol.calls == ["connection_made", "pause_writing"]


async def test_nothing_is_lost():
    """A paused endpoint keeps all that it is given, and sends it in order."""
    async with pair(buffer=BUFFER) as (transport, protocol, far):
        await send(transport, numbered(500))
        assert protocol.calls == ["connection_made", "pause_writing"]
        assert [data for data, _ in await receive(far, 500)] == numbered(500)
        await protocol.until(lambda: "resume_writing" in protocol.calls or sizes_go_wrong())
        await settle()
        assert receive_waiting(far) == []
        assert protocol.errors == []


async def test_resume_when_down_to_the_low_mark():
    if sizes_go_wrong():
        pytest.skip("asyncio counts wrong")
    sizes = []

    class Watching(Datagrams):
        def resume_writing(self):
            super().resume_writing()
            sizes.append(self.transport.get_write_buffer_size())

    async with pair(Watching, buffer=BUFFER) as (transport, protocol, far):
        transport.set_write_buffer_limits(high=50_000, low=20_000)
        await send(transport, numbered(100))
        assert protocol.calls == ["connection_made", "pause_writing"]
        received = 0
        while not sizes:
            received += len(await receive(far))
            await settle()
        assert sizes[0] <= 20_000
        assert received < 100
        assert len(await receive(far, 100 - received)) == 100 - received
        await settle()
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]


async def test_zero_limits():
    if sizes_go_wrong():
        pytest.skip("asyncio counts wrong")
    async with pair(buffer=BUFFER) as (transport, protocol, far):
        transport.set_write_buffer_limits(high=0)
        await send(transport, [b"x"])
        assert protocol.calls == ["connection_made"]
        await send(transport, numbered(50))
        assert protocol.calls == ["connection_made", "pause_writing"]
        await receive(far, 51)
        await protocol.until(lambda: len(protocol.calls) == 3)
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]
        assert transport.get_write_buffer_size() == 0


async def test_pairs():
    """The program waits while writing is paused. Pauses and resumes alternate."""
    if sizes_go_wrong():
        pytest.skip("asyncio counts wrong")

    class Paired(Datagrams):
        def pause_writing(self):
            super().pause_writing()
            may_write.clear()

        def resume_writing(self):
            super().resume_writing()
            may_write.set()

    may_write = asyncio.Event()
    may_write.set()
    async with pair(Paired, buffer=BUFFER) as (transport, protocol, far):
        reading = asyncio.create_task(receive(far, 1000))
        for data in numbered(1000):
            await may_write.wait()
            transport.sendto(data)
            assert transport.get_write_buffer_size() <= 65536 + SIZE + HEADER
        assert [data for data, _ in await reading] == numbered(1000)
        await settle()
        flow = protocol.calls[1:]
        assert flow
        assert flow == ["pause_writing", "resume_writing"] * (len(flow) // 2)


async def test_sendto_in_resume_writing():
    if sizes_go_wrong():
        pytest.skip("asyncio counts wrong")

    # Nobody reads while a round is sent. Otherwise asyncio would queue nothing, and not pause.
    sending = threading.Lock()

    class Eager(Datagrams):
        rounds = 3

        def resume_writing(self):
            super().resume_writing()
            self.rounds -= 1
            if self.rounds:
                with sending:
                    for data in numbered(200):
                        self.transport.sendto(data)

    def read():
        assert select.select([far], [], [], PATIENCE)[0]
        with sending:
            return far.recv(SIZE)

    async with pair(Eager, buffer=BUFFER) as (transport, protocol, far):
        await send(transport, numbered(200))
        received = await asyncio.to_thread(lambda: [read() for _ in range(600)])
        assert sorted(received) == sorted(numbered(200) * 3)
        await protocol.until(lambda: protocol.rounds == 0)
        assert protocol.calls == ["connection_made"] + ["pause_writing", "resume_writing"] * 3


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
async def test_callback_that_raises(method, loop_errors):
    if sizes_go_wrong():
        pytest.skip("asyncio counts wrong")
    error = ZeroDivisionError(method)

    def call(self):
        getattr(Datagrams, method)(self)
        raise error

    raising = type("Raising", (Datagrams,), {method: call})
    async with pair(raising, buffer=BUFFER) as (transport, protocol, far):
        await send(transport, numbered(100))
        assert [data for data, _ in await receive(far, 100)] == numbered(100)
        await protocol.until(lambda: len(protocol.calls) == 3)
        await settle()
        assert loop_errors == [
            {
                "message": f"protocol.{method}() failed",
                "exception": error,
                "transport": transport,
                "protocol": protocol,
            }
        ]
        loop_errors.clear()
        assert not transport.is_closing()
        transport.sendto(b"goes on")
        assert [data for data, _ in await receive(far)] == [b"goes on"]


async def test_new_protocol_is_resumed():
    if sizes_go_wrong():
        pytest.skip("asyncio counts wrong")
    async with pair(buffer=BUFFER) as (transport, protocol, far):
        await send(transport, numbered(100))
        assert protocol.calls == ["connection_made", "pause_writing"]
        successor = Datagrams()
        transport.set_protocol(successor)
        await receive(far, 100)
        await successor.until(lambda: successor.calls)
        assert successor.calls == ["resume_writing"]
        assert protocol.calls == ["connection_made", "pause_writing"]


# --- whose buffer it is that is full ---


@pytest.mark.parametrize("connected", [False, True])
async def test_full_queue_of_a_slow_peer(tmp_path, connected):
    """A UNIX socket takes few datagrams from those that it is not connected to.

    If the sender is not connected either, the kernel always calls it writable, so that no event tells when to send.
    """
    path = str(tmp_path / "peer")
    with unix_socket(path) as peer:
        where = {"remote_addr" if connected else "local_addr": path if connected else str(tmp_path / "own")}
        async with endpoint(**where, family=socket.AF_UNIX) as (transport, protocol):
            for data in numbered(300):
                transport.sendto(data, path)
            await settle()
            assert transport.get_write_buffer_size() > 0
            assert [data for data, _ in await receive(peer, 300)] == numbered(300)
            assert protocol.errors == []
            await settle()
            assert receive_waiting(peer) == []


async def test_one_full_peer_among_others(tmp_path):
    """All peers share one queue. If one of them is slow, order is kept, and nothing is lost."""
    slow, quick = str(tmp_path / "slow"), str(tmp_path / "quick")
    with unix_socket(slow) as slow_peer, unix_socket(quick) as quick_peer:
        async with endpoint(local_addr=str(tmp_path / "own"), family=socket.AF_UNIX) as (transport, _):
            reading = asyncio.create_task(receive(quick_peer, 100))
            for number in range(100):
                transport.sendto(b"slow %d" % number, slow)
                transport.sendto(b"quick %d" % number, quick)
            await settle()
            assert not reading.done()
            received = [data for data, _ in await receive(slow_peer, 100)]
            assert received == [b"slow %d" % number for number in range(100)]
            assert [data for data, _ in await reading] == [b"quick %d" % number for number in range(100)]


# --- errors of what is queued ---


async def test_too_large_in_the_queue():
    """A datagram that is too large is an error when it would be sent. The datagrams behind it are sent."""
    async with pair(buffer=BUFFER) as (transport, protocol, far):
        datagrams = numbered(50)
        await send(transport, [*datagrams[:40], bytes(100_000), *datagrams[40:], bytes(100_000)])
        assert protocol.errors == []
        assert [data for data, _ in await receive(far, 50)] == datagrams
        errors = await protocol.fail(2)
        assert [error.strerror for error in errors] == ["Message too long"] * 2
        transport.sendto(b"goes on")
        assert [data for data, _ in await receive(far)] == [b"goes on"]


async def test_peer_that_goes_while_datagrams_wait(tmp_path):
    """The peer goes while datagrams wait for it. Each of them is an error, and the endpoint goes on."""
    path = str(tmp_path / "peer")
    with unix_socket(path) as peer:
        async with endpoint(remote_addr=path, family=socket.AF_UNIX) as (transport, protocol):
            await send(transport, numbered(100))
            assert protocol.errors == []
            taken = len(receive_waiting(peer))
            assert 0 < taken < 100
            peer.close()
            errors = await protocol.fail(100 - taken)
            assert type(errors[0]) is ConnectionRefusedError
            await settle()
            assert len(protocol.errors) == 100 - taken
            assert not transport.is_closing()
            if not sizes_go_wrong():
                assert transport.get_write_buffer_size() == 0
            assert protocol.calls.count("pause_writing") == 1


async def test_unconnected_peer_that_goes_while_datagrams_wait(tmp_path):
    """A peer goes while datagrams wait. Those for other peers are sent."""
    path = str(tmp_path / "peer")
    with unix_socket(path) as peer, unix_socket(str(tmp_path / "other")) as other:
        async with endpoint(local_addr=str(tmp_path / "own"), family=socket.AF_UNIX) as (transport, protocol):
            for data in numbered(50):
                transport.sendto(data, path)
            transport.sendto(b"to another", other.getsockname())
            await settle()
            assert transport.get_write_buffer_size() > 0
            assert receive_waiting(other) == []
            peer.close()
            assert [data for data, _ in await receive(other)] == [b"to another"]
            assert {type(error) for error in protocol.errors} == {ConnectionRefusedError}


# --- others get their turn ---


async def test_endless_datagrams_starve_nobody():
    """An endpoint that answers itself has always something to read."""

    async with bound(Echo) as (busy, protocol), pair() as (_, quiet, far):
        for _ in range(50):
            busy.sendto(b"again", busy.get_extra_info("sockname"))
        for count in range(1, 101):
            await asyncio.sleep(0)
            await asyncio.sleep(1e-9)
            far.send(b"x")
            await quiet.read(count)
        assert len(protocol.received) > 100


async def test_endless_sending_starves_nobody():
    """A peer that reads as fast as the endpoint sends."""
    if sizes_go_wrong():
        pytest.skip("asyncio counts wrong")

    class Endless(Datagrams):
        def resume_writing(self):
            super().resume_writing()
            for _ in range(100):
                self.transport.sendto(b"x" * SIZE)

    def drain():
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                far.recv(SIZE)

    over = threading.Event()
    async with pair(Endless, buffer=BUFFER) as (transport, protocol, far):
        far.settimeout(0.1)  # at the end nothing wakes the thread
        thread = threading.Thread(target=drain)
        for _ in range(100):
            transport.sendto(b"x" * SIZE)
        thread.start()
        while protocol.calls.count("resume_writing") < 3:
            # The peer may read so fast that nothing is queued.
            if protocol.calls[-1] != "pause_writing":
                transport.sendto(b"x" * SIZE)
            await asyncio.sleep(0)
        transport.abort()
        await protocol.lost
        over.set()
        thread.join()
