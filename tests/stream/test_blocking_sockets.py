"""Sockets that somebody else has made blocking: O_NONBLOCK belongs to the open file, which a child process, or whoever
else got the socket, shares. The loop goes on all the same.

Each scenario runs in a process of its own. A call that blocks while it holds the GIL hangs only that process.
"""

import pytest

PRELUDE = """
    import faulthandler, os, socket
    from support.peers import BufferedRecorder, Peer, Recorder, serving, socket_pair

    faulthandler.dump_traceback_later(10, exit=True)

    def make_blocking(sock):
        with socket.socket(fileno=os.dup(sock.fileno())) as other:
            other.setblocking(True)
"""


def run(child, source):
    result = child(PRELUDE + source)
    assert result.stderr == ""
    assert result.returncode == 0
    return result.stdout.split()


@pytest.mark.parametrize("factory", ["Recorder", "BufferedRecorder"])
@pytest.mark.parametrize("pair", ["socket_pair", "socket.socketpair"], ids=["tcp", "unix"])
def test_a_read_that_fills_the_buffer(child, pair, factory):
    """A read that fills the buffer does not tell whether there is more data."""
    lines = run(
        child,
        f"""
    async def main():
        near, far = {pair}(buffers=1 << 20) if {pair} is socket_pair else {pair}()
        with Peer(far) as peer:
            loop = asyncio.get_running_loop()
            transport, protocol = await loop.create_connection({factory}, sock=near)
            make_blocking(near)
            for count in (1, 2, 3):
                await peer.send_all(bytes(65536))
                await protocol.read(65536 * count)
                await asyncio.sleep(0.05)
            peer.send(b"more")
            print((await protocol.read(65536 * 3 + 4))[-4:].decode())
            transport.abort()
            print(await protocol.lost)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    """,
    )
    assert lines == ["more", "None"]


@pytest.mark.parametrize("count", [1, 3, 20])
def test_a_listener(child, loop_name, count):
    if loop_name == "asyncio":
        pytest.skip("asyncio accepts until the call would block, and hangs")
    lines = run(
        child,
        f"""
    async def main():
        async with serving(Recorder, backlog=50) as (server, address):
            make_blocking(server.sockets[0])
            clients = []
            for _ in range(2):
                clients += [socket.create_connection(address) for _ in range({count})]
                for client in clients:
                    client.sendall(b"x")
                await asyncio.sleep(0.05)
            print(len(clients))
            for client in clients:
                client.close()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    """,
    )
    assert lines == [str(2 * count)]
