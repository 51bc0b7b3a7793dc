"""The interpreter ends while a loop is in the middle of something: soon, quietly, and with the program's exit code.

support/exits.py has the programs that end in the middle of their own code, and runs each many times.
lab/exits.py runs all of them thousands of times, on every Python of the machine.
"""

import pytest

from support import exits

# Before CPython 3.14 a daemon thread unwinds its stack once the interpreter has ended. Since then it just stops.
IN_A_DAEMON_THREAD = """
    import sys, threading, time
    loop = new_event_loop()
    {setup}
    threading.Thread(target=loop.run_forever, daemon=True).start()
    time.sleep(0.03)
    sys.exit(7)
"""
POSTING = """
    import sys, threading, time
    loop = new_event_loop()
    def post():
        while True:
            loop.call_soon_threadsafe(int)
    for _ in range(3):
        threading.Thread(target=post, daemon=True).start()
    {rest}
    sys.exit(7)
"""
ECHO = """
    import socket
    class Busy(asyncio.{base}):
        {methods}
    async def main():
        left, right = socket.socketpair()
        left.setblocking(False)
        await loop.create_connection(Busy, sock=left)
        def send():
            right.send(b"x")
            loop.call_soon(send)
        send()
    loop.run_until_complete(main())
"""


def indented(source, by=4):
    return source.strip().replace("\n    ", "\n" + " " * by)


def daemon(setup):
    return IN_A_DAEMON_THREAD.format(setup=indented(setup))


PROGRAMS = {
    "idle": daemon(""),
    "busy callback": daemon("""
    def step():
        for _ in range(100):
            pass
        loop.call_soon(step)
    loop.call_soon(step)"""),
    "callback with many arguments": daemon("""
    def step(*args):
        for _ in range(100):
            pass
        loop.call_soon(step, *args)
    loop.call_soon(step, *range(10))"""),
    "sleeping callback": daemon("""
    def step():
        time.sleep(0.0005)
        loop.call_soon(step)
    loop.call_soon(step)"""),
    "timers": daemon("""
    def step():
        loop.call_later(0.0001, step)
    step()"""),
    "tasks": daemon("""
    async def work():
        while True:
            await asyncio.sleep(0)
    tasks = [loop.create_task(work()) for _ in range(10)]"""),
    "failing callback": daemon("""
    def report(loop, context):
        for _ in range(100):
            pass
    loop.set_exception_handler(report)
    def step():
        loop.call_soon(step)
        1 / 0
    loop.call_soon(step)"""),
    "data_received": daemon(
        ECHO.format(base="Protocol", methods="def data_received(self, data):\n            for _ in range(100): pass")
    ),
    "get_buffer": daemon(
        ECHO.format(
            base="BufferedProtocol",
            methods="def get_buffer(self, hint):\n            for _ in range(100): pass\n"
            "            return bytearray(10)\n        def buffer_updated(self, count):\n"
            "            for _ in range(100): pass",
        )
    ),
    "executor": daemon("""
    async def work():
        while True:
            await loop.run_in_executor(None, int)
    task = loop.create_task(work())"""),
    "threads post to a running loop": POSTING.format(
        rest="threading.Thread(target=loop.run_forever, daemon=True).start(); time.sleep(0.03)"
    ),
    "threads post to the main thread's loop": POSTING.format(
        rest="loop.call_later(0.03, sys.exit, 7)\n    loop.run_forever()"
    ),
    "threads post to an unclosed loop": POSTING.format(rest="loop.run_until_complete(asyncio.sleep(0.01))"),
    "threads post to a closed loop": POSTING.replace("int)", "int) if not loop.is_closed() else 0").format(
        rest="loop.run_until_complete(asyncio.sleep(0.01))\n    loop.close()"
    ),
    "exit from a callback with everything open": """
    import signal, sys
    loop = new_event_loop()
    async def main():
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x" * 1_000_000)
        loop.add_signal_handler(signal.SIGUSR1, print)
        loop.call_later(3600, print)
        loop.task = loop.create_task(reader.read())
        loop.call_soon(sys.exit, 7)
        await asyncio.sleep(3600)
    loop.run_until_complete(main())
    """,
    "close at exit": """
    import atexit, sys
    loop = new_event_loop()
    atexit.register(loop.close)
    loop.call_soon(sys.exit, 7)
    loop.run_forever()
    """,
    "run at exit": """
    import atexit, sys
    loop = new_event_loop()
    atexit.register(lambda: loop.run_until_complete(asyncio.sleep(0.01)))
    sys.exit(7)
    """,
    "close as a module's last act": """
    import sys
    class Last:
        def __del__(self):
            self.loop.close()
    last = sys.last = Last()
    last.loop = new_event_loop()
    last.loop.call_soon(print)
    sys.exit(7)
    """,
    "transports closing": """
    import socket, sys
    loop = new_event_loop()
    async def main():
        left, right = socket.socketpair()
        left.setblocking(False)
        transport, protocol = await loop.create_connection(asyncio.Protocol, sock=left)
        transport.write(b"x" * 5_000_000)
        transport.close()
        loop.right = right
    loop.run_until_complete(main())
    loop.close()
    sys.exit(7)
    """,
}

# A look-up in libc is like this one: no thread can end it. It takes longer than a child may live.
LOOK_UP = """
    import ctypes, socket, sys, threading, time
    loop = new_event_loop()
    stuck = []
    {patch} = lambda *args: stuck.append(args) or ctypes.CDLL(None).sleep(60)
    async def look_up():
        pending = asyncio.gather(*({call} for _ in range(3)))
        while len(stuck) < 3:
            await asyncio.sleep(0.001)
        return pending
    def turn():
        loop.run_until_complete(asyncio.sleep(0))
    def end():
        sys.exit(7)
    {rest}
"""
LOOK_UP_ENDS = {
    "unclosed": "pending = loop.run_until_complete(look_up())\n    end()",
    "cancelled": "loop.run_until_complete(look_up()).cancel()\n    turn()\n    end()",
    "closed": "pending = loop.run_until_complete(look_up())\n    loop.close()\n    end()",
    "running": "task = loop.create_task(look_up())\n    loop.call_later(0.1, end)\n    loop.run_forever()",
    "half-closed": """
    async def main():
        pending = await look_up()
        closing = asyncio.ensure_future(loop.shutdown_asyncgens())
        loop.call_soon(end)
        await asyncio.sleep(60)
    loop.run_until_complete(main())""",
    "in a daemon thread": """
    async def main():
        pending = await look_up()
        done.set()
        await pending
    done = threading.Event()
    threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True).start()
    done.wait()
    end()""",
}
ASKED = {"getaddrinfo": 'loop.getaddrinfo("name.invalid", 80)', "getnameinfo": 'loop.getnameinfo(("127.0.0.1", 80))'}


@pytest.mark.parametrize("debug", ["", "1"], ids=["", "debug"])
@pytest.mark.parametrize("function", ASKED)
@pytest.mark.parametrize("how", LOOK_UP_ENDS)
def test_look_ups_do_not_hold_up_the_end(child, loop_name, how, function, debug):
    if loop_name == "asyncio":
        pytest.skip("waits for them")
    program = LOOK_UP.format(patch=f"socket.{function}", call=ASKED[function], rest=LOOK_UP_ENDS[how])
    result = child(program, PYTHONASYNCIODEBUG=debug)
    assert result.returncode == 7, result.stderr
    assert "Fatal" not in result.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_exit(child, program):
    result = child(PROGRAMS[program])
    assert (result.returncode, "Fatal" in result.stderr) == (7, False), result.stderr


@pytest.mark.parametrize("name", exits.ROWS)
def test_exit_in_user_code(child, name):
    result = child(exits.program(name))
    assert (result.returncode, "Fatal" in result.stderr) == (exits.CODE, False), result.stderr


def test_says_nothing_but_warnings(child):
    result = child(
        """
        import socket, sys
        async def main():
            loop = asyncio.get_running_loop()
            left, right = socket.socketpair()
            left.setblocking(False)
            transport, protocol = await loop.create_connection(asyncio.Protocol, sock=left)
            transport.write(b"x" * 1_000_000)
            endpoint = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
            server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
            raise ValueError("the traceback holds everything")
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(main())
        except ValueError as error:
            sys.last = error
        sys.exit(7)
        """
    )
    assert (result.returncode, result.stderr) == (7, "")


def test_warns_of_signal_handlers_left_at_exit(child):
    """Signal handlers that are left when the interpreter ends cannot be removed any more."""
    result = child(
        """
        import signal, sys
        loop = new_event_loop()
        loop.add_signal_handler(signal.SIGUSR1, print)
        class Last:
            def __del__(self, loop=loop, finalizing=sys.is_finalizing):
                assert finalizing()
                loop.close()
        sys.modules["last"] = Last()
        """,
        "-Walways",
    )
    assert result.returncode == 0
    assert "on interpreter shutdown stage, skipping signal handlers removal" in result.stderr
    assert "closed=True" in result.stderr
