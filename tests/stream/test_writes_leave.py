"""A write is sent at once: the peer can read it while the callback that wrote it still runs.

Only a connection that has been seen to write in pieces keeps one back, for what the same callback writes next
(src/transports/habit.rs has the rule). What may be seen of that is here too.
"""

import asyncio
import signal
import socket
import struct
import sys

import pytest
import uvicorn

from support.datagrams import endpoint, udp_socket
from support.peers import HOST, PATIENCE, Recorder, connection, on_asyncio, read_until_eof, settle, until
from support.pipe_peers import read_exactly, write_pipe
from support.tls_peers import tls_connection

HEAD, BODY = b"head, ", b"body"


def sent_segments(transport):
    """How many TCP segments with data have left so far: one for each send of little data."""
    sock = transport.get_extra_info("socket")
    # The offset of tcpi_data_segs_out in struct tcp_info.
    return struct.unpack_from("156xI", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160))[0]


async def in_turns(count, callback):
    """Calls the callback in `count` turns of the loop."""
    for _ in range(count):
        done = asyncio.get_running_loop().create_future()

        def call(done=done):
            try:
                done.set_result(callback())
            except BaseException as error:
                done.set_exception(error)

        asyncio.get_running_loop().call_soon(call)
        await done


async def learn_pieces(transport, peer, body=BODY):
    """Writes in pieces on the connection until the loop expects it to."""

    def answer():
        transport.write(HEAD)
        transport.write(body)

    await in_turns(5, answer)
    assert await peer.read(5 * len(HEAD + body)) == 5 * (HEAD + body)


# --- at once ---


async def test_stream_write():
    async with connection() as (transport, _, peer):

        def callback():
            transport.write(b"x")
            assert peer.sock.recv(10) == b"x"

        await in_turns(5, callback)


@pytest.mark.parametrize("method", ["write", "writelines"])
async def test_several_writes_that_are_far_apart(method):
    """A callback writes, computes, and writes again. Nothing waits for later writes, in no turn."""
    async with connection() as (transport, _, peer):

        def callback():
            for _ in range(3):
                if method == "write":
                    transport.write(b"line\n")
                else:
                    transport.writelines([b"li", b"ne\n"])
                assert peer.sock.recv(10) == b"line\n"
                work(0.003)

        await in_turns(5, callback)


def work(seconds):
    """Keeps the loop from doing anything else."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        pass


async def test_write_and_drain():
    near, far = socket.socketpair()
    far.settimeout(PATIENCE)
    reader, writer = await asyncio.open_connection(sock=near)
    with far:
        for _ in range(5):
            for _ in range(3):
                writer.write(HEAD)
                writer.write(BODY)
                await writer.drain()
                assert far.recv(100) == HEAD + BODY
            await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()


async def test_large_write():
    """As much of a large write as the kernel takes is sent at once."""
    async with connection(buffers=65536) as (transport, _, peer):
        received = 0

        def callback():
            nonlocal received
            transport.write(bytes(40_000))
            received += len(peer.sock.recv(40_000))

        for number in range(3):
            await in_turns(1, callback)
            assert received > number * 40_000
            received += len(await peer.read((number + 1) * 40_000 - received))


async def test_datagrams():
    with udp_socket() as peer:
        peer.setblocking(True)
        peer.settimeout(PATIENCE)
        async with endpoint(local_addr=(HOST, 0)) as (transport, _):

            def callback():
                for _ in range(3):
                    transport.sendto(b"x", peer.getsockname())
                    assert peer.recv(10) == b"x"
                    work(0.003)

            await in_turns(5, callback)


async def test_pipe():
    async with write_pipe() as (transport, _, far):

        def callback():
            for _ in range(3):
                transport.write(b"line\n")
                assert read_exactly(far.file.fileno(), 5) == b"line\n"
                work(0.003)

        await in_turns(5, callback)


async def test_standard_input_of_a_child():
    """The child answers each line while the callback that wrote it waits for the answer."""
    source = "import sys\nfor line in sys.stdin: sys.stdout.write(line); sys.stdout.flush()"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            source,
            stdin=asyncio.subprocess.PIPE,
            stdout=theirs,  # type: ignore[arg-type]
        )
        theirs.close()
        ours.settimeout(PATIENCE)
        for _ in range(5):
            process.stdin.write(b"question\n")
            await process.stdin.drain()
            assert ours.recv(100) == b"question\n"
            await asyncio.sleep(0)
        process.stdin.close()
        await process.wait()


async def test_tls():
    """Encrypted data is sent at once as well."""
    async with tls_connection() as (transport, _, peer):

        def callback():
            for _ in range(3):
                transport.write(b"line\n")
                # A record consists of a header of 5 bytes, the encrypted text, and the tag.
                assert len(peer.sock.recv(100, socket.MSG_PEEK)) > 10
                work(0.003)

        for _ in range(5):
            await in_turns(1, callback)
            assert await peer.read(15) == 3 * b"line\n"


async def test_answer_leaves_before_another_callback():
    """Even an answer in pieces is sent when its callback returns, before the next callback runs."""
    async with connection() as (transport, _, peer):
        await learn_pieces(transport, peer)
        loop = asyncio.get_running_loop()

        def answer():
            transport.write(HEAD)
            transport.write(BODY)

        def other():
            seen.set_result(peer.sock.recv(100))

        for _ in range(5):
            seen = loop.create_future()
            loop.call_soon(answer)
            loop.call_soon(other)
            assert await seen == HEAD + BODY


# --- the end of the process ---

LAST_WORDS = """
    import os, signal, socket, sys
    async def main():
        reader, writer = await asyncio.open_connection(sock=socket.socket(fileno={fileno}))
        for _ in range(3):
            writer.write(b"head, ")
            writer.write(b"body")
            await writer.drain()
        {end}
    loop = new_event_loop()
    loop.run_until_complete(main())
"""
ENDS = {
    "_exit": ("os._exit(7)", 7),
    "execv": ("os.execv('/bin/sh', ['sh', '-c', 'exit 7'])", 7),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
}


@pytest.mark.parametrize("end", ENDS)
def test_last_words(child, end):
    """Everything that was written and drained before the process ends arrives."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.set_inheritable(True)
        statement, status = ENDS[end]
        result = child(LAST_WORDS.format(fileno=theirs.fileno(), end=statement), close_fds=False)
        theirs.close()
        ours.settimeout(PATIENCE)
        assert (result.returncode, result.stderr) == (status, "")
        assert read_until_eof(ours) == 3 * (HEAD + BODY)


# --- pieces ---


async def test_head_and_body_are_one_send():
    async with connection() as (transport, _, peer):
        for _ in range(50):
            before = sent_segments(transport)
            await learn_pieces(transport, peer)
            sends = sent_segments(transport) - before
            # If the machine stops this process between two writes, they do not count as pieces. Then try once more.
            if on_asyncio() or sends == 5:
                break
        # asyncio sends each piece by itself.
        assert sends == (10 if on_asyncio() else 5)


async def test_single_answers_do_not_wait_for_a_second_piece_for_ever():
    """A connection that no longer writes in pieces sends at once again."""
    async with connection() as (transport, _, peer):
        await learn_pieces(transport, peer)

        def single():
            transport.write(b"x")

        await in_turns(5, single)
        assert await peer.read(5) == b"xxxxx"

        def callback():
            transport.write(b"y")
            assert peer.sock.recv(10) == b"y"

        await in_turns(3, callback)


@pytest.mark.parametrize(
    "ask",
    [
        lambda transport: transport.is_closing(),
        lambda transport: transport.get_write_buffer_size(),
        lambda transport: transport.get_extra_info("peername"),
        lambda transport: transport.get_extra_info("socket"),
        lambda transport: transport.get_extra_info("no such thing"),
    ],
    ids=["is_closing", "get_write_buffer_size", "peername", "socket", "unknown"],
)
async def test_who_asks_finds_everything_sent(ask):
    async with connection() as (transport, _, peer):
        await learn_pieces(transport, peer)

        def callback():
            transport.write(HEAD)
            transport.write(BODY)
            ask(transport)
            assert peer.sock.recv(100) == HEAD + BODY

        await in_turns(5, callback)


async def test_question_between_pieces_is_no_habit():
    async with connection() as (transport, _, peer):

        def callback():
            for _ in range(3):
                transport.write(b"x")
                assert transport.get_write_buffer_size() == 0
                assert peer.sock.recv(10) == b"x"

        await in_turns(10, callback)


async def test_callback_that_goes_on_after_its_pieces_loses_the_habit():
    """A callback that computes after its writes delays them once, and never again."""
    async with connection() as (transport, _, peer):
        await learn_pieces(transport, peer)

        def callback():
            transport.write(HEAD)
            transport.write(BODY)
            work(0.003)

        await in_turns(1, callback)
        await peer.read(len(HEAD + BODY))

        def next_callback():
            transport.write(b"x")
            assert peer.sock.recv(10) == b"x"

        await in_turns(1, next_callback)


async def test_pieces_leave_when_the_loop_stops():
    async with connection() as (transport, _, peer):
        await learn_pieces(transport, peer)
        transport.write(HEAD)
        transport.write(BODY)
        await settle()
        assert peer.sock.recv(100) == HEAD + BODY


async def test_many_tasks_on_one_connection():
    """Writes of several tasks may share a send. Everything arrives, in order."""
    async with connection() as (transport, _, peer):
        loop = asyncio.get_running_loop()
        # TCP joins what it cannot send yet. So the peer reads the five writes of each turn before the next turn.
        fewest = 5
        for turn in range(50):
            before = sent_segments(transport)
            for number in range(5):
                loop.call_soon(transport.write, b"%02d, %d;" % (turn, number))
            await asyncio.sleep(0)
            expected = b"".join(b"%02d, %d;" % (turn, number) for number in range(5))
            assert await peer.read(len(expected)) == expected
            fewest = min(fewest, sent_segments(transport) - before)
        assert fewest == 5 if on_asyncio() else fewest < 5


async def test_large_body_behind_a_head():
    async with connection() as (transport, _, peer):
        body = bytes(40_000)
        await learn_pieces(transport, peer, body)
        await learn_pieces(transport, peer, body)
        assert transport.get_write_buffer_size() == 0


async def test_flow_control_with_pieces():
    """If the kernel does not take the pieces, the protocol is paused before the loop runs the next callback."""
    async with connection(Recorder, buffers=8192) as (transport, protocol, peer):
        await learn_pieces(transport, peer)
        transport.set_write_buffer_limits(high=0)

        def callback():
            while "pause_writing" not in protocol.calls:
                transport.write(HEAD)
                transport.write(bytes(20_000))
                transport.get_write_buffer_size()

        await in_turns(1, callback)
        assert protocol.calls[-1] == "pause_writing"
        left = transport.get_write_buffer_size()
        assert left > 0
        transport.abort()


# --- uvicorn ---


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_response_leaves_before_a_background_task_that_computes(http):
    """Head and body are two writes. The application then computes without giving the loop a turn."""
    pytest.importorskip(http)
    received = []

    async def application(scope, receive, send):
        headers = [(b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})
        received.append(read_response(client))

    with socket.create_server((HOST, 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        client.settimeout(PATIENCE)
        config = uvicorn.Config(application, http=http, lifespan="off", log_level="warning")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        for number in range(1, 11):
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda number=number: len(received) == number)  # type: ignore[misc]
        server.should_exit = True
        await serving
    assert all(response.endswith(b"\r\n\r\nhello") for response in received)


def read_response(sock):
    data = b""
    while not data.endswith(b"hello"):
        chunk = sock.recv(1000)
        if not chunk:
            break
        data += chunk
    return data
