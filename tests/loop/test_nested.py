"""nest_asyncio and nest_asyncio2: a loop that is run again by its own callbacks.

They put methods of theirs on the class of the loop and change asyncio itself, so that each test has an interpreter of
its own.
"""

import sys

import pytest

PACKAGES = ["nest_asyncio", "nest_asyncio2"]


@pytest.fixture(params=PACKAGES)
def nested(request, child):
    """Runs source in which `nest` is one of the packages, not applied yet.

    nest_asyncio is no longer developed. `until` is the first version of Python on which it cannot do what the source
    asks for, on any loop: from 3.14 on, `asyncio.current_task()` is None; from 3.15 on, the callbacks of a connection
    share a context, which a nested run would enter twice.
    """

    def run(source, until=(4,)):
        if request.param == "nest_asyncio" and sys.version_info >= until:
            pytest.skip("nest_asyncio cannot do this on this version of Python, on any loop")
        source = f"import {request.param} as nest\n" + PRELUDE + source
        result = child(source, "-W", "ignore::DeprecationWarning")
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
        assert result.stdout == "end\n"

    return run


PRELUDE = """
import contextvars, gc, os, signal, socket, threading, time
loop = new_event_loop()
asyncio.set_event_loop(loop)
problems = []
loop.set_exception_handler(lambda loop, context: problems.append(context))

async def twice(number):
    await asyncio.sleep(0.001)
    return 2 * number

"""


def test_any_depth(nested):
    nested(
        """
async def down(depth):
    await asyncio.sleep(0)
    if depth == 0:
        return 0
    task = asyncio.current_task()
    below = loop.run_until_complete(down(depth - 1))
    assert asyncio.current_task() is task
    await asyncio.sleep(0.001)
    return below + 1

async def main():
    nest.apply()
    assert asyncio.run(twice(4)) == 8
    return loop.run_until_complete(down(20))

assert loop.run_until_complete(main()) == 20
# The run that applied it was the loop's own. This one is not.
assert loop.run_until_complete(down(20)) == 20
assert not problems
loop.close()
print("end")
"""
    )


def test_applied_before_the_loop_runs(nested):
    nested(
        """
nest.apply(loop)

async def main():
    assert loop.is_running() and asyncio.get_running_loop() is loop
    assert asyncio.run(twice(1)) == 2
    return loop.run_until_complete(asyncio.gather(twice(2), twice(3)))

assert loop.run_until_complete(main()) == [4, 6]
assert not loop.is_running()
loop.call_later(0.001, loop.stop)
loop.run_forever()
loop.call_soon(loop.stop)
loop.run_forever()
assert not problems
loop.close()
print("end")
"""
    )


def test_within_callbacks_of_every_kind(nested):
    """The loop is run again by a callback of `call_soon`, a timer, another thread, a reader and a protocol."""
    nested(
        """
nest.apply(loop)
results = []

def callback(name):
    results.append((name, loop.run_until_complete(twice(len(results)))))

def readable():
    # On asyncio the nested runs that are under way may all have found it ready.
    loop.remove_reader(left)
    left.recv(100)
    callback("reader")

class Server(asyncio.Protocol):
    data = b""

    def connection_made(self, transport):
        self.transport = transport
        callback("connection_made")

    def data_received(self, data):
        self.data += data
        if self.data == b"echo":
            callback("data_received")
            self.transport.write(self.data)
            self.transport.close()

    def connection_lost(self, exc):
        callback("connection_lost")
        lost.set_result(None)

async def main():
    global lost
    lost = loop.create_future()
    server = await loop.create_server(Server, "127.0.0.1", 0)
    loop.call_soon(callback, "soon")
    loop.call_later(0.001, callback, "timer")
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(callback, "thread"))
    thread.start()
    loop.add_reader(left, readable)
    right.send(b"x")
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    writer.write(b"echo")
    assert await reader.read() == b"echo"
    writer.close()
    await writer.wait_closed()
    await lost
    await asyncio.sleep(0.01)
    thread.join()
    server.close()
    await server.wait_closed()

left, right = socket.socketpair()
left.setblocking(False)
with left, right:
    loop.run_until_complete(main())
names = sorted(name for name, _ in results)
assert names == ["connection_lost", "connection_made", "data_received", "reader", "soon", "thread", "timer"], names
assert not problems, problems
loop.close()
print("end")
""",
        until=(3, 15),
    )


def test_io_of_a_nested_run(nested):
    """Client and server in the nested run: connections, and more data than the buffers hold."""
    nested(
        """
SIZE = 3_000_000

async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def talk():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    writer.write(bytes(SIZE))
    writer.write_eof()
    received = len(await reader.read())
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    return received

async def main():
    nest.apply()
    before = [loop.create_task(talk()) for _ in range(3)]
    await asyncio.sleep(0)
    assert loop.run_until_complete(talk()) == SIZE
    assert loop.run_until_complete(asyncio.gather(*before)) == [SIZE] * 3

loop.run_until_complete(main())
loop.run_until_complete(main())
assert not problems, problems
loop.close()
print("end")
"""
    )


def test_what_was_written_leaves_before_a_nested_run_waits(nested):
    nested(
        """
from support.sock_peers import receive_exactly

async def main():
    nest.apply()
    left, right = socket.socketpair()
    right.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=left)
    writer.write(b"question")
    assert loop.run_until_complete(asyncio.wait_for(receive_exactly(right, 8), 10)) == b"question"
    right.send(b"answer")
    assert loop.run_until_complete(asyncio.wait_for(reader.readexactly(6), 10)) == b"answer"
    writer.close()
    await writer.wait_closed()
    right.close()

loop.run_until_complete(main())
assert not problems, problems
loop.close()
print("end")
"""
    )


# asyncio's connection cannot receive while its own callback runs the loop, because its context is in use.
@pytest.mark.parametrize("loop_name", ["rloop"], indirect=True)
@pytest.mark.parametrize("tls", [False, True])
def test_protocol_that_waits_for_more_of_its_own_connection(nested, tls):
    contexts = "certificates.server_context(), certificates.client_context()" if tls else "None, None"
    nested(
        f"from support import certificates\ncontexts = {contexts}\n"
        """
nest.apply(loop)
got = []

async def rest():
    while sum(map(len, got)) < 8:
        await asyncio.sleep(0.001)

class Server(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        got.append(data)
        if len(got) == 1:
            self.transport.write(b"more")
            loop.run_until_complete(rest())
            self.transport.write(b"".join(got))
            self.transport.close()

async def main():
    server_context, client_context = contexts
    server = await loop.create_server(Server, "127.0.0.1", 0, ssl=server_context)
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname()[:2],
        ssl=client_context,
        server_hostname="localhost" if client_context else None,
    )
    writer.write(b"abcd")
    assert await reader.readexactly(4) == b"more"
    writer.write(b"efgh")
    assert await reader.read() == b"abcdefgh"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()

loop.run_until_complete(main())
assert not problems, problems
loop.close()
print("end")
""",
        until=(3, 15) if tls else (4,),
    )


# As above.
@pytest.mark.parametrize("loop_name", ["rloop"], indirect=True)
def test_protocol_that_waits_for_what_has_come_already(nested):
    """The kernel has all of a message, and says nothing more. A read gets the beginning."""
    nested(
        """
from support.peers import socket_pair

nest.apply(loop)
SIZE = 120_000
got = bytearray()

async def rest():
    while len(got) < SIZE:
        await asyncio.sleep(0.001)

class Reader(asyncio.Protocol):
    def data_received(self, data):
        first = not got
        got.extend(data)
        if first:
            loop.run_until_complete(asyncio.wait_for(rest(), 10))

async def main():
    near, far = socket_pair()
    with far:
        far.sendall(bytes(SIZE))
        transport, _ = await loop.create_connection(Reader, sock=near)
        await rest()
        transport.close()
        await asyncio.sleep(0.01)

loop.run_until_complete(main())
assert not problems, problems
loop.close()
print("end")
""",
        until=(3, 14),
    )


def test_protocol_that_waits_until_its_queue_is_sent(nested):
    """One report says that there is something to read and that there is room: the callback of the read waits for what
    follows from the room.
    """
    nested(
        """
from support.peers import socket_pair
from support.sock_peers import receive_exactly

nest.apply(loop)
SIZE = 1_000_000  # more than the kernel holds
calls = []

async def rest():
    while "resume_writing" not in calls:
        await asyncio.sleep(0)
        await receive_exactly(far, 1000)
    calls.append("all")

class Writer(asyncio.Protocol):
    def pause_writing(self):
        calls.append("pause_writing")

    def resume_writing(self):
        calls.append("resume_writing")

    def data_received(self, data):
        calls.append("data_received")
        loop.run_until_complete(asyncio.wait_for(rest(), 10))

async def main():
    global transport, far
    near, far = socket_pair(buffers=65536)
    far.setblocking(False)
    with far:
        transport, _ = await loop.create_connection(Writer, sock=near)
        transport.write(bytes(SIZE))
        await asyncio.sleep(0.01)
        try:
            while True:
                far.recv(65536)
        except BlockingIOError:
            pass
        far.send(b"x")
        while "all" not in calls:
            await asyncio.sleep(0.001)
        transport.close()
        far.close()
        await asyncio.sleep(0.01)

loop.run_until_complete(main())
assert calls == ["pause_writing", "data_received", "resume_writing", "all"], calls
assert not problems, problems
loop.close()
print("end")
""",
        until=(3, 14),
    )


def test_exceptions_and_cancellation(nested):
    nested(
        """
async def fail():
    await asyncio.sleep(0.001)
    raise ZeroDivisionError

async def cancelled():
    asyncio.current_task().cancel()
    await asyncio.sleep(1)

def raises(expected, call, *args):
    try:
        call(*args)
    except expected as exc:
        return exc
    raise AssertionError(f"no {expected}")

async def main():
    nest.apply()
    raises(ZeroDivisionError, asyncio.run, fail())
    raises(ZeroDivisionError, loop.run_until_complete, fail())
    raises(asyncio.CancelledError, loop.run_until_complete, cancelled())
    raises(asyncio.TimeoutError, loop.run_until_complete, asyncio.wait_for(loop.create_future(), 0.001))
    loop.call_soon(lambda: 1 / 0)
    assert loop.run_until_complete(twice(1)) == 2
    assert isinstance(problems.pop()["exception"], ZeroDivisionError)
    # One that leaves the loop.
    def interrupt():
        raise KeyboardInterrupt
    loop.call_soon(interrupt)
    raises(KeyboardInterrupt, loop.run_until_complete, twice(1))
    assert await twice(2) == 4
    return "here"

assert loop.run_until_complete(main()) == "here"
assert not problems, problems
loop.close()
print("end")
""",
        until=(3, 14),
    )


def test_stop_ends_the_nested_run_first(nested):
    nested(
        """
async def main():
    nest.apply()
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert loop.is_running()
    assert await twice(1) == 2
    return "on"

assert loop.run_until_complete(main()) == "on"
assert not problems, problems
loop.close()
print("end")
"""
    )


def test_other_loops_afterwards(nested):
    """A loop in a thread, a new one, a subclass, and `asyncio.Runner`."""
    nested(
        """
nest.apply(loop)
results = []

async def main():
    running = asyncio.get_running_loop()
    running.call_soon(results.append, running.run_until_complete(twice(21)))
    await asyncio.sleep(0.001)
    return running.run_until_complete(twice(1))

def on_its_own(make):
    other = make()
    assert other.run_until_complete(main()) == 2
    other.close()

class Sub(type(loop)):
    pass

for make in new_event_loop, Sub:
    on_its_own(make)
    thread = threading.Thread(target=on_its_own, args=(make,))
    thread.start()
    thread.join()
with asyncio.Runner(loop_factory=new_event_loop) as runner:
    assert runner.run(main()) == 2
assert results == [42] * 5
assert not problems, problems
loop.close()
print("end")
"""
    )


def test_contexts_of_nested_callbacks(nested):
    nested(
        """
nest.apply(loop)
var = contextvars.ContextVar("var", default="nothing")
seen = []

async def inner():
    seen.append(var.get())
    var.set("inner")
    loop.call_soon(lambda: seen.append(var.get()))
    await asyncio.sleep(0.001)

async def main():
    loop.call_soon(lambda: seen.append(var.get()))
    var.set("outer")
    loop.run_until_complete(inner())
    seen.append(var.get())

loop.run_until_complete(main())
assert seen == ["nothing", "outer", "inner", "outer"], seen
assert var.get() == "nothing"
assert not problems, problems
loop.close()
print("end")
"""
    )


def test_signals_wake_a_nested_run(nested):
    nested(
        """
async def wait_for_signal():
    got = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, got.set_result, "signal")
    thread = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    thread.start()
    try:
        return await asyncio.wait_for(got, 10)
    finally:
        thread.join()
        loop.remove_signal_handler(signal.SIGUSR1)

async def main():
    nest.apply()
    return loop.run_until_complete(wait_for_signal())

assert loop.run_until_complete(main()) == "signal"
assert loop.run_until_complete(wait_for_signal()) == "signal"
assert signal.set_wakeup_fd(-1) == -1
assert not problems, problems
loop.close()
print("end")
""",
        until=(3, 14),
    )


def test_a_nested_run_sleeps(nested):
    """A nested run sleeps in the kernel, even with files registered."""
    nested(
        """
from support.idle import sleeps_between_timers

async def main():
    nest.apply()
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    assert loop.run_until_complete(sleeps_between_timers())
    writer.close()
    await writer.wait_closed()
    right.close()

loop.run_until_complete(main())
loop.run_until_complete(main())
assert not problems, problems
loop.close()
print("end")
"""
    )


def test_nothing_is_left_of_a_patched_loop(nested):
    nested(
        """
import weakref
nest.apply(loop)

async def main():
    loop.call_later(1000, print, "never")
    return loop.run_until_complete(twice(1))

loop.run_until_complete(main())
loop.close()
asyncio.set_event_loop(None)
gone = weakref.ref(loop)
del loop
gc.collect()
assert gone() is None
print("end")
"""
    )
