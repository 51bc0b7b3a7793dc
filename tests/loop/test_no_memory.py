"""No memory is a MemoryError, or another exception that Python makes of it. It is never the end of the process."""

import pytest

LIMITED = """
    import asyncio, resource, socket
    def used():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    async def endpoint():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
        transport.sendto(b"x", transport.get_extra_info("sockname"))
        await asyncio.sleep(0.01)
        transport.close()
        await asyncio.sleep(0)
    async def stream():
        left, right = socket.socketpair()
        with right:
            right.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=left)
            right.send(b"x")
            await reader.readexactly(1)
            writer.write(bytes(100_000))
            writer.close()
    endings = set()
    for room in range(0, 5_000_000, 250_000):
        limit = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used() + room, limit[1]))
        try:
            loop = new_event_loop()
            try:
                loop.set_exception_handler(lambda loop, context: None)
                loop.run_until_complete(asyncio.wait_for({what}(), 2))
            finally:
                loop.close()
        except (MemoryError, OSError, TimeoutError) as error:
            endings.add(type(error).__name__)
        else:
            endings.add("done")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limit)
    print(*endings)
"""


@pytest.mark.parametrize("what", ["endpoint", "stream"])
def test_little_memory(child, what):
    """Address space is limited, as by `ulimit -v`."""
    result = child(LIMITED.format(what=what))
    assert result.returncode == 0, result.stderr
    assert "done" in result.stdout
