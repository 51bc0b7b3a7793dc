"""Single allocations fail: MemoryError, or what CPython and asyncio make of it, and never an exception of a panic.

rloop only: CPython crashes when asyncio's loop runs these programs, in `Handle.__init__` or `weakref.py`. With rloop,
CPython 3.12 and 3.13 crash too, for instance in `asyncio.gather`.
"""

import sys

import pytest

pytestmark = [
    pytest.mark.parametrize("loop_name", ["rloop"]),
    pytest.mark.skipif((3, 12) <= sys.version_info < (3, 14), reason="CPython 3.12 and 3.13 crash by themselves"),
]

PROGRAM = """
    import asyncio, gc, logging, os, socket, sys
    import _testcapi

    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None
    raised = set()
    handled = lambda loop, context: raised.add(type(context.get("exception")).__name__)

    async def timers(loop):
        handles = [loop.call_later(0.001, int) for _ in range(3)]
        handles[0].cancel()
        repr(handles[1])
        loop.call_soon_threadsafe(int)
        await asyncio.sleep(0.002)

    async def udp(loop):
        one, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
        one.sendto(b"x" * 500, one.get_extra_info("sockname"))
        await asyncio.sleep(0.001)
        one.close()

    async def stream(loop):
        near, far = socket.socketpair()
        with far:
            reader, writer = await asyncio.open_connection(sock=near)
            far.send(b"x" * 300)
            await reader.readexactly(300)
            writer.write(b"y" * 300)
            writer.get_extra_info("peername")
            writer.close()

    async def server(loop):
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
        transport.close()
        server.close()

    async def pipe(loop):
        reader, writer = os.pipe()
        one, _ = await loop.connect_read_pipe(asyncio.Protocol, open(reader, "rb", 0))
        two, _ = await loop.connect_write_pipe(asyncio.Protocol, open(writer, "wb", 0))
        two.write(b"hello")
        two.close()
        one.close()

    for start in range(1, 160):
        try:
            _testcapi.set_nomemory(start, start + {width})
            try:
                loop = None
                loop = new_event_loop()
                loop.set_exception_handler(handled)
                loop.call_later(0.2, loop.stop)
                loop.run_until_complete({what}(loop))
            finally:
                _testcapi.remove_mem_hooks()
        except BaseException as error:
            raised.add(type(error).__name__)
        # asyncio's own `run_forever` can fail before it forgets which loop runs.
        asyncio._set_running_loop(None)
        if loop is not None:
            loop._thread_id = None
            loop.close()
        gc.collect()
    print(*raised)
"""


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("what", ["timers", "udp", "stream", "server", "pipe"])
@pytest.mark.filterwarnings("ignore")
def test_failed_allocations(child, what, width):
    pytest.importorskip("_testcapi")
    result = child(PROGRAM.format(what=what, width=width))
    assert result.returncode == 0, result.stderr
    raised = set(result.stdout.split())
    assert "MemoryError" in raised
    assert "PanicException" not in raised


RECEIVING = """
    import socket
    import _testcapi

    loop = new_event_loop()
    # In debug mode, the loop receives by the socket's own method.
    loop.set_debug(False)
    near, far = socket.socketpair()
    near.setblocking(False)
    outcomes = set()
    for start in [1] + list(range(1, 30)):
        far.send(b"x" * {size})
        got = b""
        try:
            _testcapi.set_nomemory(start, start + 1)
            try:
                got = loop._receive(near, {wanted})
            finally:
                _testcapi.remove_mem_hooks()
            outcomes.add("received")
        except MemoryError:
            outcomes.add("MemoryError")
        while len(got) < {size}:
            more = near.recv({size} - len(got))
            assert more
            got += more
        assert got == b"x" * {size}
    near.close(), far.close(), loop.close()
    print(*sorted(outcomes))
"""


@pytest.mark.parametrize("wanted", [1000, 65536])
@pytest.mark.parametrize("size", [1, 600])
def test_what_sock_recv_cannot_return_stays_in_the_socket(child, size, wanted):
    pytest.importorskip("_testcapi")
    result = child(RECEIVING.format(size=size, wanted=wanted))
    assert (result.returncode, result.stdout.strip()) == (0, "MemoryError received"), result.stderr
