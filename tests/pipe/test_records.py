"""Files on which every write is a record of its own: packet pipes, and sockets that keep messages apart.

Nothing else of reading and writing is here: see test_read.py and test_write.py.
"""

import asyncio
import os
import socket

import pytest

from support.peers import Recorder, settle
from support.pipe_peers import FarEnd, WriteRecorder, open_end, released

PACKETS = [b"one", b"three", b"x" * 4096, b"y", b"z" * 1000]


def packet_pipe():
    return tuple(map(open_end, os.pipe2(os.O_DIRECT | os.O_CLOEXEC), ("rb", "wb")))


def datagram_sockets():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


def sequenced_sockets():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


MAKERS = pytest.mark.parametrize("make", [packet_pipe, datagram_sockets, sequenced_sockets])


class Records(Recorder):
    def data_received(self, data):
        self.records = [*getattr(self, "records", ()), data]
        super().data_received(data)


@MAKERS
async def test_records_that_are_read(make):
    """Each record is one call, and none waits for the next one."""
    near, far = make()
    transport, protocol = await asyncio.get_running_loop().connect_read_pipe(Records, near)
    with FarEnd(far) as far_end:
        for packet in PACKETS:
            far_end.send(packet)
        await protocol.read(sum(map(len, PACKETS)))
        assert protocol.records == PACKETS
        transport.pause_reading()
        for packet in PACKETS:
            far_end.send(packet)
        await settle()
        transport.resume_reading()
        await protocol.read(2 * sum(map(len, PACKETS)))
        assert protocol.records == PACKETS * 2
        transport.close()
        await released(near)


@MAKERS
async def test_records_that_are_written(make):
    far, near = make()
    transport, _ = await asyncio.get_running_loop().connect_write_pipe(WriteRecorder, near)
    with FarEnd(far):
        for packet in PACKETS:
            transport.write(packet)
        # asyncio joins this one as well.
        transport.writelines([b"wri", b"te", bytearray(b"lines")])
        await settle()
        assert [os.read(far.fileno(), 65536) for _ in PACKETS] == PACKETS
        assert os.read(far.fileno(), 65536) == b"writelines"
        transport.close()
        await released(near)


async def test_records_that_have_to_wait():
    """asyncio joins records that have to wait. rloop does not."""
    far, near = packet_pipe()
    transport, protocol = await asyncio.get_running_loop().connect_write_pipe(WriteRecorder, near)
    with FarEnd(far) as far_end:
        packets = [b"%d" % number * 500 for number in range(500)]
        reading = asyncio.create_task(far_end.read(sum(map(len, packets))))
        for packet in packets:
            transport.write(packet)
        assert await reading == b"".join(packets)
        await settle()
        assert transport.get_write_buffer_size() == 0
        assert protocol.calls in (
            ["connection_made"],
            ["connection_made", "pause_writing", "resume_writing"],
        )
        transport.close()
        await released(near)
