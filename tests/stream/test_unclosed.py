"""Transports that nobody closes before the loop is closed, and transports that other threads use.

The end of a transport in order is in test_end.py.
"""

import asyncio
import gc
import re

import pytest

from support.peers import PATIENCE, recorded_warnings, socket_pair

# --- without an end ---


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
        assert far.recv(1) == b""  # its file was closed when it was freed


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
    """A transport of a closed loop is useless, but using it must not crash."""
    loop = loop_factory()
    transport, far = unclosed(loop)
    with far:
        loop.close()
        assert f"fd={transport.get_extra_info('socket').fileno()}" in repr(transport)
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
    """Nobody closes the transports before the interpreter ends."""
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
    """This is not allowed and its result undefined, but the process lives, and another loop works in it."""
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
            methods = ["write", "writelines", "pause_reading", "resume_reading", "get_write_buffer_size",
                       "is_closing", "get_protocol", "__repr__", "set_write_buffer_limits", "get_extra_info",
                       "is_reading"]
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

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(main())
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(echo())
        """,
        "-Wignore",
        PYTHONASYNCIODEBUG=debug,
    )
    assert (result.returncode, result.stdout) == (0, "alive\n"), result.stderr
