"""Peers that have gone, where SIGPIPE has its default action, which ends the process: in a program that hosts Python
without signal handlers, or has asked for it. Nothing that the loop sends ends the process.

rloop only: writing to pipes and sendfile on asyncio end the process.
"""

import pytest

PRELUDE = """
    import contextlib, os, signal, socket, tempfile
    from support.peers import Recorder, released

    def gone_pair():
        near, far = socket.socketpair()
        near.setblocking(False)
        far.close()
        return near

    async def pipe():
        read_end, write_end = os.pipe()
        transport, protocol = await loop().connect_write_pipe(Recorder, open(write_end, "wb", 0))
        os.close(read_end)
        transport.write(b"x" * 100_000)
        print(type(await protocol.lost).__name__)

    async def stream():
        near, far = socket.socketpair()
        transport, protocol = await loop().create_connection(Recorder, sock=near)
        far.close()
        transport.write(b"x" * 100_000)
        await protocol.lost
        print("lost")

    async def sendall():
        with gone_pair() as sock:
            try:
                await loop().sock_sendall(sock, b"x")
            except BrokenPipeError:
                print("broken")

    async def sendall_in_debug_mode():
        loop().set_debug(True)
        await sendall()

    async def sendall_of_a_subclass():
        class Socket(socket.socket):
            pass

        with gone_pair() as sock, Socket(fileno=sock.detach()) as sock:
            try:
                await loop().sock_sendall(sock, b"x")
            except BrokenPipeError:
                print("broken")

    async def sendfile():
        near, far = socket.socketpair()
        transport, protocol = await loop().create_connection(Recorder, sock=near)
        far.close()
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * 100_000)
            # By reading and writing in the end, which tells of the peer only if it is told in time.
            with contextlib.suppress(OSError, RuntimeError):
                await loop().sendfile(transport, file)
            print("done")
        transport.abort()
        await released(transport)

    async def sock_sendfile():
        with gone_pair() as sock, tempfile.TemporaryFile() as file:
            file.write(b"x" * 100_000)
            file.flush()
            try:
                await loop().sock_sendfile(sock, file, fallback=False)
            except (OSError, RuntimeError, asyncio.SendfileNotAvailableError):
                print("broken")

    def loop():
        return asyncio.get_running_loop()

    async def main(what):
        await what()
        # Nothing is left of it.
        assert signal.SIGPIPE not in signal.sigpending()
        assert signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
"""


@pytest.mark.parametrize("early", [True, False], ids=["before the run", "in the run"])
@pytest.mark.parametrize(
    "what",
    ["pipe", "stream", "sendall", "sendall_in_debug_mode", "sendall_of_a_subclass", "sendfile", "sock_sendfile"],
)
def test_peer_that_has_gone(child, loop_name, what, early):
    if loop_name == "asyncio":
        pytest.skip("asyncio's pipes and sendfile end the process")
    default = "signal.signal(signal.SIGPIPE, signal.SIG_DFL)"
    source = f"""
    async def late(what):
        {"pass" if early else default}
        await main(what)

    {default if early else ""}
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(late({what}))
    print("alive")
    """
    result = child(PRELUDE + source)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == "alive" and len(result.stdout.split()) == 2


def test_the_usual_action(child, loop_name):
    """The loop does not change the signal's action: a program that writes by itself is ended, and so are children."""
    if loop_name == "asyncio":
        pytest.skip("as above")
    result = child(
        PRELUDE
        + """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main(pipe))
    read_end, write_end = os.pipe()
    os.close(read_end)
    os.write(write_end, b"x")
    """
    )
    assert result.returncode == -13
