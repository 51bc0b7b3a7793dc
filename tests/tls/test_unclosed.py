"""TLS transports that nobody closes before the loop is closed, or the interpreter ends; and use from other threads.

The same of transports in clear is in stream/test_unclosed.py.
"""

import asyncio
import contextlib
import gc

import pytest

from support import certificates
from support.peers import recorded_warnings, socket_pair
from support.tls_peers import TlsPeer, connect


def unclosed(loop, peer, near):
    async def begin():
        shaking = asyncio.create_task(peer.handshake())
        transport, _ = await connect(asyncio.Protocol, near)
        await shaking
        return transport

    transport = loop.run_until_complete(begin())
    loop.run_until_complete(loop.shutdown_default_executor())
    return transport


@pytest.mark.parametrize("queued", [False, True])
def test_unclosed_transport_warns(loop_factory, queued):
    loop = loop_factory()
    near, far = socket_pair(buffers=65536)
    with TlsPeer(far) as peer:
        transport = unclosed(loop, peer, near)
        if queued:
            transport.write(bytes(8 << 20))
        loop.close()
        with recorded_warnings() as warned:
            del transport, loop, near
            gc.collect()
        assert any(text.startswith("unclosed transport <") for text in warned)
        with contextlib.suppress(ConnectionResetError):
            while peer.sock.recv(1 << 20):
                pass


def test_transport_of_a_closed_loop(loop_factory):
    """A transport of a closed loop is useless, but using it must not crash."""
    loop = loop_factory()
    near, far = socket_pair()
    with TlsPeer(far) as peer:
        transport = unclosed(loop, peer, near)
        loop.close()
        assert "Transport" in repr(transport)
        assert transport.is_closing() is False
        assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        transport.pause_reading()
        with pytest.raises(RuntimeError, match="^Event loop is closed$"):
            transport.close()
        with recorded_warnings():
            del transport, loop, near
            gc.collect()
        with contextlib.suppress(ConnectionResetError):
            while peer.sock.recv(65536):
                pass


PROGRAM = """
import os, ssl, threading

server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server_context.load_cert_chain(os.environ["CHAIN"])
client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
client_context.check_hostname = False
client_context.verify_mode = ssl.CERT_NONE
kept = []

class Keeping(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        kept.append(self)

    def data_received(self, data):
        self.transport.write(data)

async def connect(count):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Keeping, "127.0.0.1", 0, ssl=server_context)
    for _ in range(count):
        transport, _ = await loop.create_connection(
            Keeping, *server.sockets[0].getsockname(), ssl=client_context
        )
    return server
"""


def run(child, source, **environ):
    return child(PROGRAM + source, "-Wignore", CHAIN=str(certificates.server().chain), **environ)


def test_many_live_transports_at_the_end_of_the_interpreter(child):
    """Nobody closes the transports before the interpreter ends."""
    result = run(
        child,
        """
async def main():
    server = await connect(20)
    while len(kept) < 40:
        await asyncio.sleep(0.001)
    for protocol in kept:
        protocol.transport.write(bytes(1 << 20))
    return server

loop = new_event_loop()
server = loop.run_until_complete(main())
print("end")
""",
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "end\n", "")


def test_handshakes_at_the_end_of_the_interpreter(child):
    result = run(
        child,
        """
import socket

async def main():
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(10)]
    tasks = [
        asyncio.ensure_future(
            loop.create_unix_connection(Keeping, sock=near, ssl=client_context, server_hostname="localhost")
        )
        for near, _ in pairs
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    return pairs, tasks

loop = new_event_loop()
pairs, tasks = loop.run_until_complete(main())
for task in tasks:
    task._log_destroy_pending = False
print("end")
""",
    )
    assert (result.returncode, result.stdout) == (0, "end\n"), result.stderr
    assert "Fatal Python error" not in result.stderr


def test_use_from_other_threads(child, loop_name):
    """Not allowed, and not defined; but the process lives. In the ssl module of old versions it does not: an SSLObject
    lets go of the interpreter inside OpenSSL, and nothing keeps other threads out.
    """
    if loop_name == "asyncio":
        pytest.skip("asyncio promises nothing, and now and then hangs")
    result = run(
        child,
        """
import sys

sys.setswitchinterval(1e-5)

def use(transport, go_on):
    calls = [("write", b"x" * 100), ("writelines", [b"x", b"y"]), ("pause_reading",), ("resume_reading",),
             ("get_write_buffer_size",), ("is_closing",), ("get_protocol",), ("__repr__",), ("is_reading",),
             ("get_extra_info", "cipher"), ("set_write_buffer_limits",)]
    while go_on.is_set():
        for name, *args in calls:
            try:
                getattr(transport, name)(*args)
            except Exception:
                pass
    for name in ("abort", "close"):
        try:
            getattr(transport, name)()
        except Exception:
            pass

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    server = await connect(2)
    go_on = threading.Event()
    go_on.set()
    threads = [threading.Thread(target=use, args=(kept[0].transport, go_on)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        kept[-1].transport.write(b"hello")
        await asyncio.sleep(0)
    go_on.clear()
    for thread in threads:
        thread.join()
    for protocol in kept:
        protocol.transport.abort()
    server.close()

loop = new_event_loop()
loop.run_until_complete(asyncio.wait_for(main(), 20))
print("alive")
""",
    )
    assert (result.returncode, result.stdout) == (0, "alive\n"), result.stderr
