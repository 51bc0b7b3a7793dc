"""The end of a transport: close and abort at any moment, connection_lost exactly once, and what is left behind.

Connections that end by an error are in test_transport_errors.py.
"""

import asyncio
import contextlib
import gc
import re
import socket
import warnings

import pytest
from peers import PATIENCE, BufferedRecorder, Recorder, arrived, connection, released, settle, socket_pair

PLENTY = bytes(range(256)) * 4096

ENDS = pytest.mark.parametrize("end", ["close", "abort"])


async def still(protocol):
    """Nothing more is called, whatever the loop finds."""
    before = list(protocol.calls)
    await settle()
    assert protocol.calls == before


# --- connection_lost ---


@ENDS
async def test_connection_lost_is_called_soon(end):
    """Not inside the call, and in its place among the callbacks."""
    loop = asyncio.get_running_loop()
    async with connection() as (transport, protocol, _):
        loop.call_soon(protocol.calls.append, "before")
        assert getattr(transport, end)() is None
        loop.call_soon(protocol.calls.append, "after")
        assert protocol.calls == ["connection_made"]
        assert await protocol.lost is None
        await settle()
        assert protocol.calls == ["connection_made", "before", "connection_lost", "after"]


@pytest.mark.parametrize("ends", [("close",) * 3, ("abort",) * 3, ("close", "abort"), ("abort", "close")], ids=str)
async def test_connection_lost_is_called_once(ends):
    async with connection() as (transport, protocol, _):
        for end in ends:
            getattr(transport, end)()
        assert await protocol.lost is None
        await released(transport)
        for end in ends:
            if end == "close":  # abort() of a transport that is gone fails in asyncio of some versions
                transport.close()
        await still(protocol)
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_abort_when_all_is_over():
    async with connection() as (transport, protocol, _):
        transport.abort()
        assert await protocol.lost is None
        await released(transport)
        transport.abort()
        await still(protocol)
        assert protocol.calls == ["connection_made", "connection_lost"]


@ENDS
@pytest.mark.parametrize("method", ["connection_made", "data_received", "connection_lost"])
async def test_end_inside_a_callback(method, end):
    class Ending(Recorder):
        ended = False

    def call(self, *args):
        getattr(Recorder, method)(self, *args)
        getattr(self.transport, end)()
        self.calls.append("returned")

    setattr(Ending, method, call)
    async with connection(Ending) as (transport, protocol, peer):
        if method == "data_received":
            peer.send(b"x")
        if method == "connection_lost":
            transport.close()
        assert await protocol.lost is None
        await still(protocol)
        position = protocol.calls.index(method)
        assert protocol.calls[position + 1] == "returned"
        assert protocol.calls.count("connection_lost") == 1


@ENDS
@pytest.mark.parametrize("factory", [Recorder, BufferedRecorder])
async def test_end_inside_data_received_is_the_end_of_data(factory, end):
    """Though the kernel holds much more."""

    class Ending(factory):
        def received(self, data):
            super().received(data)
            getattr(self.transport, end)()

    async with connection(Ending) as (transport, protocol, peer):
        transport.pause_reading()
        sending = asyncio.create_task(peer.send_all(PLENTY))
        await arrived(transport, 65536)
        transport.resume_reading()
        assert await protocol.lost is None
        await still(protocol)
        assert len(protocol.calls) == 3
        assert len(protocol.data) < len(PLENTY)
        (outcome,) = await asyncio.gather(sending, return_exceptions=True)
        assert isinstance(outcome, (ConnectionResetError, BrokenPipeError, type(None)))


@ENDS
async def test_end_by_another_callback_of_the_same_turn(end):
    """The data has arrived, and whoever runs first ends the connection: nothing more is received."""
    loop = asyncio.get_running_loop()
    async with connection() as (first, one, peer), connection() as (second, two, other):

        def end_other(data, protocol, victim):
            Recorder.data_received(protocol, data)
            getattr(victim, end)()

        one.data_received = lambda data: end_other(data, one, second)
        two.data_received = lambda data: end_other(data, two, first)
        first.pause_reading()
        second.pause_reading()
        peer.send(b"x")
        other.send(b"x")
        await arrived(first, 1)
        await arrived(second, 1)
        loop.call_soon(first.resume_reading)
        loop.call_soon(second.resume_reading)
        await asyncio.wait([one.lost, two.lost], return_when=asyncio.FIRST_COMPLETED)
        await settle()
        survivor, victim = (one, two) if two.lost.done() else (two, one)
        assert victim.calls == ["connection_made", "connection_lost"]
        assert survivor.calls == ["connection_made", "data_received"]


# --- what becomes of the data ---


async def test_close_sends_what_is_queued():
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(PLENTY)
        transport.close()
        assert transport.is_closing()
        await settle()
        assert "connection_lost" not in protocol.calls
        assert await peer.read_until_eof() == PLENTY
        assert await protocol.lost is None


async def test_abort_drops_what_is_queued():
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(PLENTY)
        assert transport.get_write_buffer_size() > 0
        transport.abort()
        assert transport.is_closing()
        assert await protocol.lost is None
        assert len(await peer.read_until_eof()) < len(PLENTY)
        assert protocol.calls == ["connection_made", "pause_writing", "connection_lost"]


async def test_abort_while_flushing():
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(PLENTY)
        transport.close()
        assert transport.get_write_buffer_size() > 0
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        assert await protocol.lost is None
        assert len(await peer.read_until_eof()) < len(PLENTY)
        await still(protocol)


async def test_abort_sends_what_the_kernel_takes():
    """asyncio has given small writes to the kernel by then."""
    async with connection() as (transport, protocol, peer):
        transport.write(b"small")
        transport.abort()
        assert await protocol.lost is None
        assert await peer.read_until_eof() == b"small"


async def test_nothing_is_read_while_flushing():
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(PLENTY)
        transport.close()
        peer.send(b"too late")
        await arrived(transport, 8)
        await settle()
        assert "data_received" not in protocol.calls
        transport.abort()
        assert await protocol.lost is None


async def test_eof_while_flushing():
    """The peer sends its FIN, and still reads all."""
    async with connection(buffers=65536) as (transport, protocol, peer):
        transport.write(PLENTY)
        transport.close()
        peer.send_eof()
        await settle()
        assert await peer.read_until_eof() == PLENTY
        assert await protocol.lost is None
        assert "eof_received" not in protocol.calls


@ENDS
async def test_file_is_closed_by_the_loop(end):
    """By the time that connection_lost is over, not when the garbage collector comes by."""
    async with connection() as (transport, protocol, peer):
        sock = transport.get_extra_info("socket")
        number = sock.fileno()
        getattr(transport, end)()
        assert sock.fileno() == number
        await protocol.lost
        await released(transport)
        assert await peer.read_until_eof() == b""
        # Its number can be used again at once, and the loop is not confused.
        again = socket.socket()
        with again, socket.create_server(("127.0.0.1", 0)) as listener:
            again.connect(listener.getsockname())
            far, _ = listener.accept()
            far.sendall(b"hello")
            far.close()
            fresh, other = await asyncio.get_running_loop().create_connection(Recorder, sock=again)
            assert await other.read(5) == b"hello"
            assert await other.lost is None
            await released(fresh)
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_methods_after_the_end():
    """None of them raises, and none of them does anything."""
    async with connection() as (transport, protocol, _):
        transport.close()
        await protocol.lost
        await released(transport)
        transport.pause_reading()
        transport.resume_reading()
        transport.write(b"x")
        transport.write_eof()
        transport.close()
        assert transport.can_write_eof() is True
        assert transport.is_reading() is False
        assert transport.is_closing() is True
        assert transport.get_write_buffer_size() == 0
        assert transport.get_write_buffer_limits() == (16384, 65536)
        assert isinstance(repr(transport), str)
        await still(protocol)


# --- without an end ---


@contextlib.contextmanager
def recorded_warnings():
    """The texts of the ResourceWarnings. asyncio's socket may give one of its own before the transport does."""
    texts = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    texts += [str(warning.message) for warning in caught if warning.category is ResourceWarning]


def unclosed(loop):
    near, far = socket_pair()
    far.settimeout(PATIENCE)
    transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=near))
    return transport, far


def test_unclosed_transport_warns(loop_factory):
    loop = loop_factory()
    transport, far = unclosed(loop)
    fileno = transport.get_extra_info("socket").fileno()
    with far:
        loop.close()
        with recorded_warnings() as warned:
            del transport, loop
            gc.collect()
        assert re.search(rf"^unclosed transport <.*fd={fileno}\b.*>$", "\n".join(warned), re.MULTILINE)
        assert far.recv(1) == b""  # the file has gone with it


def test_loop_closed_with_data_queued(loop_factory):
    loop = loop_factory()
    transport, far = unclosed(loop)
    with far:
        transport.write(bytes(16 * 1024 * 1024))
        assert transport.get_write_buffer_size() > 0
        loop.close()
        with recorded_warnings() as warned:
            del transport, loop
            gc.collect()
        assert any(text.startswith("unclosed transport <") for text in warned)
        while far.recv(1 << 20):
            pass


def test_transport_of_a_closed_loop(loop_factory):
    """Of no use, but no danger either."""
    loop = loop_factory()
    transport, far = unclosed(loop)
    with far:
        loop.close()
        assert isinstance(repr(transport), str)
        assert transport.is_closing() is False
        assert transport.get_extra_info("peername") == far.getsockname()
        transport.pause_reading()
        with pytest.raises(RuntimeError, match="^Event loop is closed$"):
            transport.close()
        with recorded_warnings() as warned:
            del transport, loop
            gc.collect()
        assert any(text.startswith("unclosed transport <") for text in warned)
        assert far.recv(1) == b""


def test_many_live_transports_at_the_end_of_the_interpreter(child):
    """Nobody closes anything, and the interpreter ends by itself."""
    result = child(
        """
        import socket

        listener = socket.create_server(("127.0.0.1", 0))
        peers = []

        class Keeping(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

        async def main():
            loop = asyncio.get_running_loop()
            for _ in range(20):
                transport, _ = await loop.create_connection(Keeping, *listener.getsockname())
                peers.append(listener.accept()[0])
                transport.write(bytes(4 << 20))

        loop = new_event_loop()
        loop.run_until_complete(main())
        print("end")
        """,
        "-Wignore",
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "end\n", "")


# --- from another thread ---


@pytest.mark.parametrize("debug", ["", "1"])
def test_use_from_other_threads(child, debug, loop_name):
    """Not allowed, and not defined; but the process lives, and another loop works in it."""
    if loop_name == "asyncio":
        pytest.skip("asyncio promises nothing, and now and then hangs")
    result = child(
        """
        import socket, sys, threading

        sys.setswitchinterval(1e-5)

        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def data_received(self, data):
                self.transport.write(data)

        def use(transport, go_on):
            methods = ["write", "writelines", "pause_reading", "resume_reading", "get_write_buffer_size", "is_closing",
                       "get_protocol", "__repr__", "set_write_buffer_limits", "get_extra_info", "is_reading"]
            arguments = {"write": (b"x" * 100,), "writelines": ([b"x", b"y"],), "get_extra_info": ("socket",)}
            while go_on.is_set():
                for name in methods:
                    try:
                        getattr(transport, name)(*arguments.get(name, ()))
                    except Exception:
                        pass
            for name in ("write_eof", "abort", "close"):
                try:
                    getattr(transport, name)()
                except Exception:
                    pass

        def drain(sock):
            try:
                while sock.recv(65536):
                    pass
            except OSError:
                pass

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, context: None)
            with socket.create_server(("127.0.0.1", 0)) as listener:
                transport, _ = await loop.create_connection(Echo, *listener.getsockname())
                far, _ = listener.accept()
            go_on = threading.Event()
            go_on.set()
            threads = [threading.Thread(target=use, args=(transport, go_on)) for _ in range(2)]
            threads.append(threading.Thread(target=drain, args=(far,)))
            for thread in threads:
                thread.start()
            for _ in range(200):
                far.sendall(b"hello")
                await asyncio.sleep(0)
            go_on.clear()
            far.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
            far.close()
            await asyncio.sleep(0)

        async def echo():
            server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"alive")
            print((await reader.readexactly(5)).decode())
            writer.close()
            server.close()

        asyncio.Runner(loop_factory=new_event_loop).run(main())
        asyncio.Runner(loop_factory=new_event_loop).run(echo())
        """,
        "-Wignore",
        PYTHONASYNCIODEBUG=debug,
    )
    assert (result.returncode, result.stdout) == (0, "alive\n"), result.stderr
