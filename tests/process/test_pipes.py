"""Talking to a child: its input and output, flow control, and the end of either side.

What it is started with is in test_options.py, its end in test_exit.py.
"""

import asyncio
import fcntl
import os
import signal
import sys
import termios

import pytest

from support.children import DEVNULL, PIPE, STDOUT, Recorder, python, run, shell, start
from support.peers import on_asyncio, until

pytestmark = pytest.mark.usefixtures("no_child_left")

PLENTY = bytes(range(256)) * 16384  # 4 MiB


# --- streams ---


async def test_communicate():
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    assert await process.communicate(PLENTY) == (PLENTY, None)  # type: ignore[comparison-overlap]
    assert process.returncode == 0


async def test_communicate_with_all_three():
    script = shell("tee /dev/stderr; echo done; exit 4")
    process = await asyncio.create_subprocess_exec(*script, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    out, err = await process.communicate(PLENTY)
    assert (out, err, process.returncode) == (PLENTY + b"done\n", PLENTY, 4)


async def test_conversation():
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    for number in range(100):
        process.stdin.write(b"%d\n" % number)
        assert await process.stdout.readline() == b"%d\n" % number
    process.stdin.close()
    await process.stdin.wait_closed()
    assert await process.stdout.read() == b""
    assert await process.wait() == 0


async def test_drain():
    """drain() waits for a child that reads slowly."""
    process = await asyncio.create_subprocess_exec(*shell("sleep 0.2; wc -c"), stdin=PIPE, stdout=PIPE)
    for sent in range(0, len(PLENTY), 65536):
        process.stdin.write(PLENTY[sent : sent + 65536])
        await process.stdin.drain()
        assert process.stdin.transport.get_write_buffer_size() <= 65536 * 2
    process.stdin.close()
    assert await process.communicate() == (b"%d\n" % len(PLENTY), None)  # type: ignore[comparison-overlap]


async def test_reader_that_pauses():
    """Data beyond the reader's limit waits in the pipe and in the child."""
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, limit=1000)
    writing = asyncio.create_task(write_and_close(process.stdin, PLENTY))
    data = bytearray()
    while chunk := await process.stdout.read(5000):
        data += chunk
    await writing
    assert data == PLENTY
    assert await process.wait() == 0


async def write_and_close(writer, data):
    writer.write(data)
    await writer.drain()
    writer.close()


async def test_two_children_in_a_row():
    """One child's output is the other's input, by a pipe that the loop does not touch."""
    reader, writer = os.pipe()
    first = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=writer)
    os.close(writer)
    second = await asyncio.create_subprocess_exec("wc", "-c", stdin=reader, stdout=PIPE)
    os.close(reader)
    await first.communicate(PLENTY)
    assert await second.communicate() == (b"%d\n" % len(PLENTY), None)  # type: ignore[comparison-overlap]
    assert (first.returncode, second.returncode) == (0, 0)


async def test_many_at_a_time():
    outcomes = await asyncio.gather(*(run(shell('echo "$1"; exit "$1"', str(number))) for number in range(50)))
    assert outcomes == [(number, b"%d\n" % number, b"") for number in range(50)]


# --- protocols ---


async def test_pipe_transports():
    transport, protocol = await start(["cat"], stderr=DEVNULL)
    stdin, stdout = transport.get_pipe_transport(0), transport.get_pipe_transport(1)
    assert isinstance(stdin, asyncio.WriteTransport)
    assert isinstance(stdout, asyncio.ReadTransport)
    assert transport.get_pipe_transport(2) is None
    assert transport.get_pipe_transport(7) is None
    assert stdin.get_extra_info("pipe") is transport.get_extra_info("subprocess").stdin
    stdin.write(b"hello")
    stdin.write_eof()
    await protocol.lost
    assert protocol.data == {1: b"hello", 2: b""}
    transport.close()


async def test_pause_reading():
    transport, protocol = await start(["cat"])
    stdout = transport.get_pipe_transport(1)
    stdout.pause_reading()
    transport.get_pipe_transport(0).write(b"held")
    transport.get_pipe_transport(0).close()
    await protocol.exited
    await asyncio.sleep(0.02)
    assert protocol.data[1] == b""
    assert not protocol.lost.done()
    stdout.resume_reading()
    await protocol.lost
    assert protocol.data[1] == b"held"
    transport.close()


async def test_pause_writing():
    class Paused(Recorder):
        def pause_writing(self):
            self.calls.append("pause_writing")

        def resume_writing(self):
            self.calls.append("resume_writing")
            asyncio.get_running_loop().call_soon(self.transport.get_pipe_transport(0).close)

    transport, protocol = await start(shell("read x; wc -c"), Paused)
    transport.get_pipe_transport(0).write(b"\n" + PLENTY)
    assert protocol.calls == ["connection_made", "pause_writing"]
    await protocol.lost
    assert protocol.data[1] == b"%d\n" % len(PLENTY)
    assert "resume_writing" in protocol.calls
    transport.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
@pytest.mark.parametrize("pipesize", [None, 0, 32768])
async def test_full_pipes(pipesize):
    """When a child's pipe is full, rloop enlarges it, unless the program has set its size. Other pipes stay as they
    are.
    """
    kwargs = {} if pipesize is None else {"pipesize": pipesize}
    held = pipesize or 65536
    busy = held if on_asyncio() or pipesize else 262144
    transport, protocol = await start(["cat"], **kwargs)
    stdin, stdout, stderr = (transport.get_pipe_transport(fd) for fd in (0, 1, 2))
    pipes = [pipe.get_extra_info("pipe") for pipe in (stdin, stdout, stderr)]
    stdin.write(b"x")
    await until(lambda: protocol.data[1] == b"x")
    assert capacities(pipes) == [held, held, held]

    os.kill(transport.get_pid(), signal.SIGSTOP)
    os.waitid(os.P_PID, transport.get_pid(), os.WSTOPPED)
    stdin.write(PLENTY)
    assert stdin.get_write_buffer_size() == len(PLENTY) - busy
    assert capacities(pipes) == [busy, held, held]

    stdout.pause_reading()
    os.kill(transport.get_pid(), signal.SIGCONT)
    await until(lambda: queued(pipes[1]) == held)
    stdout.resume_reading()
    await until(lambda: len(protocol.data[1]) > len(PLENTY))
    assert capacities(pipes) == [busy, busy, held]

    stdin.close()
    await protocol.lost
    assert protocol.data == {1: b"x" + PLENTY, 2: b""}
    transport.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
async def test_full_pipes_of_many_children():
    """Only a limited number of pipes is enlarged at a time, because the kernel limits the pages for all pipes of a
    user.
    """
    for _ in range(2):
        children = [await start(["cat"], stdout=DEVNULL, stderr=DEVNULL) for _ in range(70)]
        pipes = [transport.get_pipe_transport(0).get_extra_info("pipe") for transport, _ in children]
        for transport, _ in children:
            os.kill(transport.get_pid(), signal.SIGSTOP)
            os.waitid(os.P_PID, transport.get_pid(), os.WSTOPPED)
            transport.get_pipe_transport(0).write(PLENTY)
        large = 0 if on_asyncio() else 64
        assert sorted(capacities(pipes)) == [65536] * (70 - large) + [262144] * large
        for transport, _ in children:
            os.kill(transport.get_pid(), signal.SIGCONT)
            transport.get_pipe_transport(0).close()
        for transport, protocol in children:
            await protocol.lost
            transport.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
async def test_pipe_that_the_child_has_made_larger():
    source = "import fcntl, os; fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, 1048576); os.write(1, b'!'); os.read(0, 1)"
    transport, protocol = await start(python(source))
    await until(lambda: protocol.data[1])
    stdin = transport.get_pipe_transport(0)
    stdin.write(PLENTY)
    assert capacities([stdin.get_extra_info("pipe")]) == [1048576]
    await protocol.lost
    transport.close()


def capacities(pipes):
    return [fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) for pipe in pipes]


def queued(pipe):
    """How many bytes the kernel holds in this pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


async def test_set_protocol():
    transport, protocol = await start(["cat"])
    successor = Recorder()
    successor.transport = transport
    successor.calls.append("adopted")
    transport.set_protocol(successor)
    assert transport.get_protocol() is successor
    transport.get_pipe_transport(0).write(b"x")
    transport.get_pipe_transport(0).close()
    await successor.lost
    assert protocol.calls == ["connection_made"]
    assert successor.data[1] == b"x"
    transport.close()


# --- either side goes away ---


async def test_child_that_closes_its_input():
    script = "exec <&-; echo closed; exec sleep 100"
    process = await asyncio.create_subprocess_exec(*shell(script), stdin=PIPE, stdout=PIPE)
    assert await process.stdout.readline() == b"closed\n"
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            process.stdin.write(PLENTY)
            await process.stdin.drain()
    assert process.returncode is None
    process.kill()
    assert await process.wait() == -signal.SIGKILL


async def test_communicate_with_a_child_that_does_not_listen():
    process = await asyncio.create_subprocess_exec(*shell("exit 5"), stdin=PIPE, stdout=PIPE)
    assert await process.communicate(PLENTY) == (b"", None)  # type: ignore[comparison-overlap]
    assert process.returncode == 5


async def test_child_that_closes_its_output():
    """A child that closes its output has not exited."""
    transport, protocol = await start(shell("exec >&- 2>&-; read x; exit 6"))
    while protocol.calls.count("lost 1") + protocol.calls.count("lost 2") < 2:
        await asyncio.sleep(0.001)
    assert transport.get_returncode() is None
    assert not protocol.exited.done()
    transport.get_pipe_transport(0).write(b"\n")
    await protocol.lost
    assert transport.get_returncode() == 6
    transport.close()


async def test_grandchild_that_keeps_a_pipe():
    """process_exited is called at once, connection_lost only when the pipe has ended as well."""
    transport, protocol = await start(shell("exec 3<&0; (read x <&3; echo late) & exit 0"), stderr=DEVNULL)
    assert await protocol.exited == 0
    await asyncio.sleep(0.02)
    assert not protocol.lost.done()
    transport.get_pipe_transport(0).write(b"\n")
    await protocol.lost
    assert protocol.data[1] == b"late\n"
    transport.close()


async def test_close_of_a_pipe():
    """The parent closes a pipe. The child notices when it writes."""
    transport, protocol = await start(["yes"])
    transport.get_pipe_transport(1).close()
    assert await protocol.exited == -signal.SIGPIPE
    await protocol.lost
    transport.close()


async def test_sleep_between_data_and_end():
    transport, protocol = await start(shell("echo one; sleep 0.05; echo two >&2; sleep 0.05; echo three"))
    transport.get_pipe_transport(0).close()
    await protocol.lost
    assert protocol.data == {1: b"one\nthree\n", 2: b"two\n"}
    assert [call for call in protocol.calls if call.startswith("data")] == ["data 1", "data 2", "data 1"]
    transport.close()


async def test_output_of_a_child_that_is_gone():
    """All output of a child that has ended is delivered, in whatever order the ends are reported."""
    for size in 1, 70_000, 3_000_000:
        source = f"import os\ndata = b'x' * {size}\nwhile data: data = data[os.write(1, data):]"
        transport, protocol = await start(python(source), stderr=STDOUT)
        await protocol.exited
        await protocol.lost
        assert protocol.data[1] == b"x" * size
        assert protocol.calls[-1] == "connection_lost"
        transport.close()


async def test_write_after_the_end(caplog):
    transport, protocol = await start(["/bin/true"])
    stdin = transport.get_pipe_transport(0)
    await protocol.lost
    for _ in range(10):
        stdin.write(b"x")
    assert stdin.is_closing()
    if not on_asyncio():
        assert {record.getMessage() for record in caplog.records} == {
            "pipe closed by peer or os.write(pipe, data) raised exception."
        }
    transport.close()
