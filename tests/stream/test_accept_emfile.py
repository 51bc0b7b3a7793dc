"""A server for which no file is left reports it, stops accepting for a while, and then serves those who waited.

Each scenario runs in a process of its own, because the limit of open files is the process's.
"""

import pytest

# The clients connect first. The kernel puts them into the listener's queue without the server.
PRELUDE = """
    import os, resource, socket

    from support.peers import read_exactly

    def use_up_files():
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, hard), hard))
        used = []
        while True:
            try:
                used.append(os.dup(0))
            except OSError:
                return used

    def free(used):
        while used:
            os.close(used.pop())

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)

    def connect(address, count):
        clients = [socket.create_connection(address) for _ in range(count)]
        for number, client in enumerate(clients):
            client.sendall(b"%02d" % number)
            client.settimeout(15)
        return clients

    def collect(clients):
        answers = [read_exactly(client, 2) for client in clients]
        for client in clients:
            client.close()
        return answers == [b"%02d" % number for number in range(len(clients))]
"""


def run(child, source):
    result = child(PRELUDE + source)
    assert result.stderr == ""
    assert result.returncode == 0
    return result.stdout.splitlines()


@pytest.mark.parametrize("count", [1, 20])
def test_clients_that_waited_are_served(child, count):
    lines = run(
        child,
        f"""
    async def main():
        loop = asyncio.get_running_loop()
        contexts = []
        failed = loop.create_future()

        def handler(loop, context):
            contexts.append(context)
            if not failed.done():
                failed.set_result(None)

        loop.set_exception_handler(handler)
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        loop.run_in_executor(None, int)  # the executor's thread must exist before the files run out
        clients = connect(address, {count})
        used = use_up_files()
        await failed
        free(used)
        print({{context["message"] for context in contexts}})
        print({{type(context["exception"]) for context in contexts}})
        print({{context["exception"].errno for context in contexts}})
        print({{type(context["socket"]).__name__ for context in contexts}})
        print(all(context["socket"].getsockname() == address for context in contexts))
        contexts.clear()
        print(await loop.run_in_executor(None, collect, clients))
        print(contexts)
        server.close()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    """,
    )
    assert lines == [
        "{'socket.accept() out of system resource'}",
        "{<class 'OSError'>}",
        "{24}",
        "{'TransportSocket'}",
        "True",
        "True",
        "[]",
    ]


def test_the_rest_of_the_loop_goes_on(child):
    """While accept fails, the loop neither waits busily nor stands still: open connections are served."""
    lines = run(
        child,
        """
    async def main():
        loop = asyncio.get_running_loop()
        failed = loop.create_future()
        loop.set_exception_handler(lambda loop, context: failed.done() or failed.set_result(None))
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        loop.run_in_executor(None, int)
        (early,) = connect(address, 1)
        print(await loop.run_in_executor(None, read_exactly, early, 2))
        late = connect(address, 3)
        used = use_up_files()
        await failed
        for _ in range(100):
            early.sendall(b"more")
            assert await loop.run_in_executor(None, read_exactly, early, 4) == b"more"
        free(used)
        print(await loop.run_in_executor(None, collect, late))
        early.close()
        server.close()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    """,
    )
    assert lines == ["b'00'", "True"]


def test_server_closed_while_it_rests(child):
    """The server is closed during its pause. Its clients are refused, and it does not listen again after the pause."""
    lines = run(
        child,
        """
    async def main():
        loop = asyncio.get_running_loop()
        failed = loop.create_future()
        loop.set_exception_handler(lambda loop, context: failed.done() or failed.set_result(None))
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        loop.run_in_executor(None, int)
        (client,) = connect(address, 1)
        used = use_up_files()
        await failed
        server.close()
        free(used)
        try:
            print(read_exactly(client, 2))
        except ConnectionResetError:
            print("reset")
        client.close()
        # Another server, which may have got the first one's number, rests in its turn: when it serves again,
        # the first one's rest is over, too.
        failed = loop.create_future()
        other = await loop.create_server(Echo, "127.0.0.1", 0)
        clients = connect(other.sockets[0].getsockname(), 3)
        used = use_up_files()
        await failed
        free(used)
        print(await loop.run_in_executor(None, collect, clients))
        other.close()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    """,
    )
    assert lines == ["reset", "True"]


def test_exit_of_the_exception_handler(child):
    """The exception handler that is told leaves the loop. The server pauses, and goes on with the loop."""
    lines = run(
        child,
        """
    loop = new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    told = []

    def handler(loop, context):
        told.append(context["message"])
        if len(told) == 1:
            raise SystemExit("now")

    async def serve():
        return await loop.create_server(Echo, "127.0.0.1", 0)

    async def answers():
        return await loop.run_in_executor(None, collect, clients)

    server = loop.run_until_complete(serve())
    loop.run_until_complete(loop.run_in_executor(None, int))
    clients = connect(server.sockets[0].getsockname(), 5)
    used = use_up_files()
    loop.set_exception_handler(handler)
    try:
        loop.run_forever()
    except SystemExit as error:
        print(error)
    free(used)
    print(loop.run_until_complete(answers()))
    print(set(told))
    server.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    """,
    )
    assert lines == ["now", "True", "{'socket.accept() out of system resource'}"]
