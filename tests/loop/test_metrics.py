"""The figures of a loop (`loop.metrics()`, `rloop.all_metrics()`), under real traffic.

asyncio has no such method, so these tests run on rloop only.
"""

import asyncio
import contextlib
import dataclasses
import gc
import os
import socket
import ssl
import threading
import time
import warnings

import pytest

import rloop
from rloop import _metrics
from support import certificates
from support.peers import until

FIELDS = """
    turns callbacks timers_fired timers_cancelled ready_depth ready_depth_max polls wakeups idle busy reads writes
    bytes_read bytes_written accepts accept_errors connections_made connections_open datagrams_received datagrams_sent
    handshakes_done handshakes_failed fds_registered bytes_queued utilization turn delay
"""


@pytest.fixture
def loop():
    loop = rloop.new_event_loop()
    yield loop
    loop.close()


def spent(loop, main):
    """Run a coroutine; returns the figures of that span."""
    before = loop.metrics()
    loop.run_until_complete(main)
    return loop.metrics() - before


def test_fields_are_those_that_are_promised(loop):
    metrics = loop.metrics()
    assert sorted(field.name for field in dataclasses.fields(metrics)) == sorted(FIELDS.split())
    assert len(loop._figures()) == _metrics.LENGTH
    with pytest.raises(dataclasses.FrozenInstanceError):
        metrics.turns = 1
    assert isinstance(metrics, rloop.Metrics)
    assert isinstance(metrics.turn, rloop.Histogram)


def test_callbacks_and_turns(loop):
    async def main():
        for _ in range(100):
            loop.call_soon(int)
        await asyncio.sleep(0)
        # 100 callbacks were queued, and the task behind them.
        assert loop.metrics().ready_depth == 101

    metrics = spent(loop, main())
    # The first step of the task, and the callback that ends the run, are callbacks as well.
    assert metrics.callbacks == 100 + 3
    assert metrics.turns == 3
    assert metrics.turn.count == metrics.turns
    assert metrics.ready_depth_max == 101
    assert metrics.polls == 0


def test_a_callback_that_ends_the_run_is_counted(loop):
    def leave():
        raise KeyboardInterrupt

    loop.call_soon(leave)
    loop.call_soon(int)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert loop.metrics().callbacks == 1
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert loop.metrics().callbacks == 3


def test_timers(loop):
    async def main():
        cancelled = [loop.call_later(3600, int) for _ in range(30)]
        for timer in cancelled[:20]:
            timer.cancel()
            timer.cancel()
        assert loop.metrics().timers_cancelled == 20
        fired = loop.call_later(0.001, int)
        await asyncio.sleep(0.002)
        # A timer that has fired is not cancelled any more.
        fired.cancel()
        for timer in cancelled[20:]:
            timer.cancel()

    metrics = spent(loop, main())
    assert metrics.timers_fired == 2
    assert metrics.timers_cancelled == 30
    assert metrics.delay.count == 2
    assert metrics.delay.sum > 0


def test_lateness_of_a_timer_behind_a_slow_callback(loop):
    async def main():
        due = loop.create_future()
        loop.call_later(0.001, due.set_result, None)
        time.sleep(0.05)
        await due

    metrics = spent(loop, main())
    assert metrics.delay.count == 1
    assert metrics.delay.max >= 49_000_000
    assert metrics.delay.p50 == metrics.delay.max
    assert metrics.turn.max >= 50_000_000
    assert metrics.busy >= 0.05


def test_idle_and_utilization(loop):
    metrics = spent(loop, asyncio.sleep(0.05))
    assert metrics.idle >= 0.049
    assert 0 < metrics.utilization < 1
    assert metrics.utilization == metrics.busy / (metrics.busy + metrics.idle)
    assert metrics.polls >= 1
    stopped = loop.metrics()
    time.sleep(0.01)
    # Nobody runs the loop: neither is it idle nor busy.
    assert loop.metrics() == stopped


def test_busy_includes_the_turn_that_lasts(loop):
    async def main():
        before = loop.metrics()
        time.sleep(0.02)
        return loop.metrics() - before

    metrics = loop.run_until_complete(main())
    assert metrics.busy >= 0.02
    assert metrics.idle == 0
    assert metrics.utilization == 1


def test_posts_of_other_threads(loop):
    async def main():
        for _ in range(3):
            done = loop.create_future()
            # The loop waits when the thread posts, or is about to.
            thread = threading.Timer(0.005, loop.call_soon_threadsafe, (done.set_result, None))
            thread.start()
            await done
            thread.join()

    metrics = spent(loop, main())
    assert metrics.wakeups == 3
    assert metrics.delay.count == 3


def test_a_post_waits_for_the_turn_to_end(loop):
    async def main():
        done = loop.create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(done.set_result, None))
        thread.start()
        thread.join()
        time.sleep(0.02)
        await done

    metrics = spent(loop, main())
    assert metrics.delay.count == 1
    assert metrics.delay.max >= 20_000_000


async def transfer(loop, size, **tls):
    """Send so many bytes through a stream server and back, once. Returns the figures while the connection is open."""

    async def serve(reader, writer):
        writer.write(await reader.readexactly(size))
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls.get("server"))
    port = server.sockets[0].getsockname()[1]
    name = "localhost" if tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls.get("client"), server_hostname=name)
    writer.write(bytes(size))
    await reader.readexactly(size)
    metrics = loop.metrics()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    await until(lambda: loop.metrics().connections_open == 0)
    return metrics


def test_tcp(loop):
    inside = []

    async def main():
        inside.append(await transfer(loop, 10_000))

    metrics = spent(loop, main())
    assert metrics.accepts == 1
    assert metrics.accept_errors == 0
    assert metrics.connections_made == 2
    assert inside[0].connections_open == 2
    assert metrics.connections_open == 0
    assert metrics.bytes_read == metrics.bytes_written == 20_000
    assert metrics.writes == 2
    # Each end reads its bytes, and the server then the end of the stream.
    assert metrics.reads >= 3
    # The listener, the two connections, and the loop's own.
    assert inside[0].fds_registered == metrics.fds_registered + 3


def test_bytes_that_the_kernel_does_not_take(loop):
    async def main():
        left, right = socket.socketpair()
        with right:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
            transport.write(bytes(3_000_000))
            assert loop.metrics().bytes_queued == transport.get_write_buffer_size() > 1_000_000
            transport.write(bytes(1_000))
            assert loop.metrics().bytes_queued == transport.get_write_buffer_size()
            await loop.run_in_executor(None, right.recv, 500_000, socket.MSG_WAITALL)
            await until(lambda: loop.metrics().bytes_queued < 2_600_000)
            assert loop.metrics().bytes_queued == transport.get_write_buffer_size()
            transport.abort()
            assert loop.metrics().bytes_queued == 0
            await asyncio.sleep(0)

    spent(loop, main())


def test_a_connection_that_is_dropped(loop):
    async def main():
        left, right = socket.socketpair()
        with right:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
            transport.pause_reading()
            assert loop.metrics().connections_open == 1
            with warnings.catch_warnings():
                # Nobody has closed it.
                warnings.simplefilter("ignore", ResourceWarning)
                del transport, _
                gc.collect()
            assert loop.metrics().connections_open == 0

    spent(loop, main())


def test_an_accept_that_fails(loop):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            address = listening.getsockname()
            server = await loop.create_server(asyncio.Protocol, sock=listening)
            reported = loop.create_future()
            loop.set_exception_handler(lambda loop, context: reported.done() or reported.set_result(context))
            # The program takes the socket away: accept fails with EINVAL once it does not listen any more.
            with socket.create_connection(address):
                listening.shutdown(socket.SHUT_RDWR)
                await reported
            server.close()

    assert spent(loop, main()).accept_errors >= 1


def test_tls_handshake(loop):
    async def main():
        await transfer(loop, 1_000, server=certificates.server_context(), client=certificates.client_context())

    metrics = spent(loop, main())
    assert metrics.handshakes_done == 2
    assert metrics.handshakes_failed == 0
    # What is counted is what the kernel has seen: the handshake and the records.
    assert metrics.bytes_written == metrics.bytes_read > 2_000


def test_tls_handshakes_that_fail(loop):
    errors = []
    loop.set_exception_handler(lambda loop, context: errors.append(context))

    async def main():
        context = certificates.server_context()
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        # The client does not trust the server.
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())
        await until(lambda: loop.metrics().handshakes_failed == 2)
        # The peer does not speak TLS.
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            await until(lambda: loop.metrics().handshakes_failed == 3)
        # The peer goes in the middle of it.
        socket.create_connection(("127.0.0.1", port)).close()
        await until(lambda: loop.metrics().handshakes_failed == 4)
        server.close()
        await server.wait_closed()
        await until(lambda: loop.metrics().connections_open == 0)

    metrics = spent(loop, main())
    assert (metrics.handshakes_done, metrics.handshakes_failed) == (0, 4)


def test_udp(loop):
    class Receiver(asyncio.DatagramProtocol):
        count = 0

        def datagram_received(self, data, addr):
            self.count += 1

    async def main():
        receiver, protocol = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
        address = receiver.get_extra_info("sockname")
        sender, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address)
        for _ in range(20):
            sender.sendto(b"x" * 10)
        await until(lambda: protocol.count == 20)
        sender.close()
        receiver.close()
        await asyncio.sleep(0)

    metrics = spent(loop, main())
    assert metrics.datagrams_sent == metrics.datagrams_received == 20
    assert metrics.bytes_written == metrics.bytes_read == 200
    assert 1 <= metrics.writes <= 20
    assert 1 <= metrics.reads <= 20
    assert metrics.connections_made == 0
    assert metrics.bytes_queued == 0


def test_pipes(loop):
    class Reader(asyncio.Protocol):
        count = 0

        def data_received(self, data):
            self.count += len(data)

    async def main():
        reading, writing = os.pipe()
        source, protocol = await loop.connect_read_pipe(Reader, os.fdopen(reading, "rb", 0))
        sink, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(writing, "wb", 0))
        sink.write(b"x" * 100)
        await until(lambda: protocol.count == 100)
        sink.close()
        source.close()
        await asyncio.sleep(0)

    metrics = spent(loop, main())
    assert metrics.bytes_written == metrics.bytes_read == 100
    assert metrics.connections_made == 0


def test_turns_of_a_program(loop):
    loop.call_soon(int)
    loop._run_once()
    metrics = loop.metrics()
    assert (metrics.turns, metrics.callbacks) == (1, 1)


def test_every_open_loop():
    with contextlib.closing(rloop.new_event_loop()) as first, contextlib.closing(rloop.new_event_loop()) as second:
        second.call_soon(second.stop)
        second.run_forever()
        known = rloop.all_metrics()
        assert (known[first].turns, known[second].turns) == (0, 1)
    known = rloop.all_metrics()
    assert first not in known
    assert second not in known
    assert second.metrics().turns == 1


def test_readable_from_another_thread_while_the_loop_runs(loop):
    def look():
        before = loop.metrics().turns
        for _ in range(100):
            assert loop.metrics().turns >= before

    async def main():
        looking = loop.run_in_executor(None, look)
        while not looking.done():
            await asyncio.sleep(0)
        await looking

    spent(loop, main())


def test_quantiles_of_known_values():
    counts = [0] * _metrics.BUCKETS
    # 0 to 99 ns, and one of 1000 ns.
    for value in [*range(100), 1000]:
        counts[next(at for at, bound in enumerate(_metrics.BOUNDS) if bound >= value)] += 1
    histogram = rloop.Histogram(sum(range(100)) + 1000, 1000, tuple(counts))
    assert histogram.count == 101
    assert 50 <= histogram.p50 <= 50 * 9 / 8
    assert 90 <= histogram.p90 <= 90 * 9 / 8
    assert 99 <= histogram.p99 <= 99 * 9 / 8
    assert histogram.p999 == histogram.quantile(1) == 1000
    assert histogram.quantile(0) == 0
    empty = histogram - histogram
    assert (empty.count, empty.sum, empty.p99, empty.max) == (0, 0, 0, 1000)
    with pytest.raises(ValueError, match="share"):
        histogram.quantile(1.5)
    with pytest.raises(TypeError):
        histogram - 1  # type: ignore[operator]


def test_bounds_of_buckets():
    assert _metrics.BOUNDS[:20] == (*range(16), 17, 19, 21, 23)
    for lower, upper in zip(_metrics.BOUNDS[8:], _metrics.BOUNDS[9:], strict=False):
        assert lower < upper <= lower * 9 / 8 + 1


def test_gauges_keep_the_later_value(loop):
    earlier = loop.metrics()
    later = dataclasses.replace(earlier, turns=earlier.turns + 5, ready_depth=7, connections_open=3, bytes_queued=9)
    span = later - earlier
    assert (span.turns, span.ready_depth, span.connections_open, span.bytes_queued) == (5, 7, 3, 9)
    assert (earlier - later).turns == -5
    with pytest.raises(TypeError):
        earlier - 1
