"""If there is no memory, a program gets a MemoryError or another exception. The process never ends for it."""

import pytest

from support import failing_calls

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
    """The address space is limited, as `ulimit -v` does it."""
    result = child(LIMITED.format(what=what))
    assert result.returncode == 0, result.stderr
    assert "done" in result.stdout


@pytest.mark.skipif(not failing_calls.AVAILABLE, reason="no seccomp filters here")
def test_first_wait_with_little_memory(child):
    """The first wait of a loop needs no large block, also without epoll_pwait2, which came with Linux 5.11."""
    result = child(
        """
    import asyncio, resource
    from support import failing_calls
    failing_calls.refuse("epoll_pwait2", "ENOSYS")
    loop = new_event_loop()
    limit = resource.getrlimit(resource.RLIMIT_AS)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_AS, (0, limit[1]))
        while True:
            held.append(bytes(9000))
    except MemoryError:
        # What is free now are blocks of 9,000 bytes, apart from each other.
        del held[::4]
    try:
        loop.run_until_complete(asyncio.sleep(0.01))
    finally:
        del held
        resource.setrlimit(resource.RLIMIT_AS, limit)
        loop.close()
    print("done")
    """
    )
    assert (result.stdout, result.returncode) == ("done\n", 0), result.stderr


# asyncio on CPython 3.14 does not survive this.
@pytest.mark.parametrize("loop_name", ["rloop"], indirect=True)
def test_a_loop_that_is_half_made(child):
    """One allocation after the other fails while a loop is made.

    CPython 3.11 and 3.12 make an object's dictionary first. If there is no memory for it, they drop the object before
    anything is in it.
    """
    pytest.importorskip("_testcapi")
    result = child(
        """
    import gc, sys, _testcapi
    new_event_loop().close()
    sys.unraisablehook = lambda unraisable: None
    made = 0
    for number in range(80):
        for width in (1, 2):
            loop = None
            try:
                _testcapi.set_nomemory(number, number + width)
                loop = new_event_loop()
            except BaseException:
                pass
            finally:
                _testcapi.remove_mem_hooks()
            if loop is not None:
                loop.close()
                made += 1
            loop = None
            gc.collect()
    print("some" if 0 < made < 160 else made)
    """
    )
    assert (result.stdout, result.returncode) == ("some\n", 0), result.stderr
