"""A sandbox, an older kernel or an emulation of Linux refuses system calls, and the loop works without them.

Each scenario runs in a process of its own, because the filter cannot be removed from a process.
"""

import textwrap

import pytest

from support import failing_calls

pytestmark = pytest.mark.skipif(not failing_calls.AVAILABLE, reason="no seccomp filters here")


def run(child, source):
    result = child("from support.failing_calls import refuse\n" + textwrap.dedent(source))
    assert result.stderr == ""
    assert result.returncode == 0
    return result.stdout.splitlines()


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
@pytest.mark.parametrize("calls", [["recvmmsg"], ["sendmmsg"], ["recvmmsg", "sendmmsg"]], ids="-".join)
def test_datagrams_one_by_one(child, calls, error):
    lines = run(
        child,
        f"""
    from support.datagrams import Datagrams

    for call in {calls}:
        refuse(call, "{error}")

    class Echo(Datagrams):
        def datagram_received(self, data, addr):
            self.transport.sendto(data, addr)

    async def main():
        loop = asyncio.get_running_loop()
        server, echo = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
        address = server.get_extra_info("sockname")
        client, protocol = await loop.create_datagram_endpoint(Datagrams, remote_addr=address)
        sent = [b"%d" % number * (number + 1) for number in range(40)]
        for datagram in sent:
            client.sendto(datagram)
        await protocol.until(lambda: len(protocol.received) == len(sent))
        print(protocol.data == sent, protocol.errors, echo.errors)
        client.close()
        server.close()
        await protocol.lost
        await echo.lost
        # A refused datagram is told of, whoever sent it.
        client, protocol = await loop.create_datagram_endpoint(Datagrams, remote_addr=address)
        client.sendto(b"one")
        await protocol.until(lambda: protocol.errors)
        print({{type(error).__name__ for error in protocol.errors}})
        client.close()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    """,
    )
    assert lines == ["True [] []", "{'ConnectionRefusedError'}"]


def test_waiting_by_pidfd(child):
    """Linux before 5.4 has pidfds, but waitid does not take them."""
    lines = run(
        child,
        """
import os, sys
refuse("waitid", "EINVAL", [(0, os.P_PIDFD)])

async def main():
    for code in ("raise SystemExit(7)", "import os; os.kill(os.getpid(), 9)"):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
        print(await asyncio.wait_for(process.wait(), 15))

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main())
""",
    )
    assert lines == ["7", "-9"]


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_children_without_pidfds(child, error, loop_name):
    """A thread waits for each child, and a dump of the loop has the child until it has ended."""
    lines = run(
        child,
        f"REFUSED, IS_ASYNCIO = {error!r}, {loop_name == 'asyncio'}"
        """
import sys
refuse("pidfd_open", REFUSED)

def dumped():
    if IS_ASYNCIO:
        return True
    import io, rloop
    out = io.StringIO()
    rloop.dump(out)
    return f"pid={process.pid}" in out.getvalue()

async def main():
    global process
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input(); raise SystemExit(7)", stdin=-1)
    print(dumped())
    process.stdin.write(b"x\\n")
    print(await asyncio.wait_for(process.wait(), 15), dumped() and not IS_ASYNCIO)

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main())
""",
    )
    assert lines == ["True", "7 False"]


@pytest.mark.parametrize("error, name", [("EPERM", "PermissionError"), ("EPROTO", "OSError")])
def test_an_accept_error_that_stays(child, loop_name, error, name):
    """The error is reported at most once a second, and the loop sleeps in between. EPROTO is an error of a single
    connection, but for one that meets every connection.
    """
    if loop_name == "asyncio":
        pytest.skip("asyncio tells of it in every turn")
    lines = run(
        child,
        f"REFUSED = {error!r}"
        """
import socket
from support.idle import sleeps
refuse("accept4", REFUSED)

async def main():
    contexts = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    start, slept = loop.time(), sleeps()
    clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(3)]
    while len(contexts) < 2:
        await asyncio.sleep(0.01)
    print(loop.time() - start >= 0.9, sleeps() - slept >= 10)
    print({context["message"] for context in contexts}, {type(context["exception"]).__name__ for context in contexts})
    for client in clients:
        client.close()
    server.close()
    await server.wait_closed()

with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main())
""",
    )
    assert lines == ["True True", f"{{'Error: socket.accept() failed'}} {{'{name}'}}"]
