"""What terminals and other devices do that pipes do not.

What they have in common with pipes is tested in the other files, by the kinds "master" and "slave".
"""

import asyncio
import contextlib
import errno
import os
import termios
import tty

import pytest

from support.peers import Recorder, on_asyncio, settle
from support.pipe_peers import FarEnd, WriteRecorder, open_end, read_pipe, released, terminal_files, write_pipe

PLENTY = bytes(range(256)) * 4096


@contextlib.asynccontextmanager
async def lines():
    """A transport that reads a terminal which gives whole lines, its protocol, and the other end of the terminal."""
    near, far = (open_end(fileno, "r+b") for fileno in reversed(os.openpty()))
    mode = termios.tcgetattr(near)
    mode[tty.LFLAG] &= ~termios.ECHO
    termios.tcsetattr(near, termios.TCSANOW, mode)
    with FarEnd(far) as far_end:
        transport, protocol = await asyncio.get_running_loop().connect_read_pipe(Recorder, near)
        yield transport, protocol, far_end
        transport.close()
        await released(near)


async def test_lines_come_one_by_one():
    """A read of a terminal that is not raw returns a line, and more may be there."""
    async with lines() as (_, protocol, far_end):
        far_end.send(b"one\ntwo\nthree\nunfinished")
        assert await protocol.read(14) == b"one\ntwo\nthree\n"
        assert protocol.calls == ["connection_made"] + ["data_received"] * 3


async def test_unfinished_line_and_end():
    async with lines() as (_, protocol, far_end):
        far_end.send(b"one\ntwo\nunfinished")
        assert await protocol.read(8) == b"one\ntwo\n"
        far_end.send(b" line\n")
        assert await protocol.read(24) == b"one\ntwo\nunfinished line\n"
        # Control-D at the start of a line.
        far_end.send(b"\x04")
        assert await protocol.lost is None
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


@pytest.mark.parametrize("size", [10, 4000])
async def test_terminal_that_reads_nothing_at_once(size):
    """With VMIN 0 a read that finds nothing returns no bytes. This is not the end."""
    near, far = reversed(terminal_files())
    mode = termios.tcgetattr(near)
    mode[tty.CC][termios.VMIN] = mode[tty.CC][termios.VTIME] = 0
    termios.tcsetattr(near, termios.TCSANOW, mode)
    with FarEnd(far) as far_end:
        transport, protocol = await asyncio.get_running_loop().connect_read_pipe(Recorder, near)
        for count in range(1, 5):
            far_end.send(b"x" * size)
            await protocol.read(size * count)
            await settle()
            transport.pause_reading()
            transport.resume_reading()
            await settle()
        assert not transport.is_closing()
        assert set(protocol.calls) == {"connection_made", "data_received"}
        transport.close()
        await released(near)


async def test_one_file_for_both_ends():
    """A terminal can be read and written through one file descriptor."""
    loop = asyncio.get_running_loop()
    near, far = terminal_files()
    twin = open(near.fileno(), "wb", buffering=0, closefd=False)
    with FarEnd(far) as far_end:
        reading, reader = await loop.connect_read_pipe(Recorder, near)
        writing, writer = await loop.connect_write_pipe(WriteRecorder, twin)
        far_end.send(b"one")
        assert await reader.read(3) == b"one"
        # This is more than the kernel takes, so that the loop must watch for both directions.
        writing.write(PLENTY)
        assert writing.get_write_buffer_size() > 0
        far_end.send(b"two")
        assert await reader.read(6) == b"onetwo"
        assert await far_end.read(len(PLENTY)) == PLENTY
        far_end.send(b"three")
        assert await reader.read(11) == b"onetwothree"
        await settle()
        assert writer.calls == ["connection_made", "pause_writing", "resume_writing"]
        writing.close()
        await released(twin)
        # When one transport ends, asyncio stops watching the file for the other one.
        if not on_asyncio():
            far_end.send(b"four")
            assert await reader.read(15) == b"onetwothreefour"
        reading.close()
        await released(near)


async def test_what_a_program_prints_comes_behind():
    """The program also writes to the terminal itself. That comes behind what the transport has written."""
    async with write_pipe("slave") as (transport, _, far):
        transport.write(b"Name: ")
        os.write(transport.get_extra_info("pipe").fileno(), b"rloop\n")
        assert await far.read(12) == b"Name: rloop\n"


async def test_device_without_room(caplog):
    """An OSError of a write ends the transport, and is not reported."""
    near = open("/dev/full", "wb", buffering=0)
    transport, protocol = await asyncio.get_running_loop().connect_write_pipe(WriteRecorder, near)
    transport.write(b"x")
    assert transport.is_closing()
    exc = await protocol.lost
    assert type(exc) is OSError and exc.errno == errno.ENOSPC
    assert protocol.calls == ["connection_made", "connection_lost"]
    await released(near)
    assert caplog.records == []


async def test_resume_of_a_device_that_cannot_be_polled():
    class Shy(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    near = open("/dev/zero", "rb", buffering=0)
    transport, protocol = await asyncio.get_running_loop().connect_read_pipe(Shy, near)
    with pytest.raises(PermissionError):
        transport.resume_reading()
    transport.close()
    assert await protocol.lost is None
    assert protocol.calls == ["connection_made", "connection_lost"]
    await released(near)


async def test_terminal_that_hangs_up_while_it_is_full():
    async with write_pipe("slave") as (transport, protocol, far):
        transport.write(PLENTY)
        assert transport.get_write_buffer_size() > 0
        far.close()
        exc = await protocol.lost
        assert type(exc) is OSError and exc.errno == errno.EIO
        assert protocol.calls == ["connection_made", "pause_writing", "connection_lost"]


async def test_hang_up_behind_data():
    async with read_pipe("slave") as (_, protocol, far):
        far.send(b"last words")
        await protocol.read(10)
        far.close()
        assert await protocol.lost is None
        assert bytes(protocol.data) == b"last words"
