"""Programs whose interpreter ends while a daemon thread runs a loop, in the middle of the program's own code.

`ROWS` has one for each way in which rloop calls user code. Each sleeps there: a sleep lets go of the interpreter, and
the thread asks for it again while the main thread ends the interpreter. CPython before 3.14 ends the thread then.

`python tests/support/exits.py LOOP [COUNT]` runs each COUNT times (200). It prints the exit codes that were not the
program's own, and how long the slowest end took, from `sys.exit()` to the end of the process. Status 1 if there was a
wrong code, or if an end took longer than a second. No test lives here; loop/test_exit.py runs each once.
"""

import collections
import json
import os
import subprocess
import sys
import textwrap

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CODE = 7
LIMIT = 1.0  # seconds

# `nap` is the user code. The program ends once it has begun; that the main thread sleeps late in the end of the
# interpreter makes sure that the other thread wakes before the process is gone.
PROGRAM = """
import asyncio, contextlib, logging, os, socket, ssl, sys, threading, time, warnings
sys.path.insert(0, {tests!r})
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

began = threading.Event()

def nap(*args):
    began.set()
    time.sleep(0.002)

class Napping:
    def __del__(self, nap=nap):
        nap()

class Shown:
    def __init__(self, call):
        self.call = call
    def __call__(self):
        self.call()
    def __repr__(self):
        nap()
        return "shown"

def log_nowhere():
    logging.disable(logging.NOTSET)
    logger = logging.getLogger("asyncio")
    logger.handlers, logger.propagate = [logging.StreamHandler(open(os.devnull, "w"))], False

class Late:
    def __del__(self, sleep=time.sleep):
        sleep(0.05)

async def pair(**options):
    "A connection to a socket of the program's own."
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    transport, protocol = await loop.create_connection(options.pop("protocol", asyncio.Protocol), sock=left, **options)
    return transport, right

async def serve_and_connect(factory, client=asyncio.Protocol, server_ssl=None, client_ssl=None):
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_ssl)
    address = server.sockets[0].getsockname()
    options = dict(ssl=client_ssl, server_hostname="localhost") if client_ssl else {{}}
    while True:
        transport, _ = await loop.create_connection(client, *address, **options)
        transport.write(b"x")
        await asyncio.sleep(0.001)
        transport.close()

def tls():
    from support import certificates
    return dict(server_ssl=certificates.server_context(), client_ssl=certificates.client_context())

{definitions}

async def main():
{body}

loop = Loop() if "Loop" in globals() else new_event_loop()

def run():
    try:
        loop.run_until_complete(main())
    except BaseException as error:
        print("main() ended:", repr(error), file=sys.stderr, flush=True)
        os._exit(4)

threading.Thread(target=run, daemon=True).start()
if not began.wait(20):
    print("no user code was called", file=sys.stderr, flush=True)
    os._exit(3)
time.sleep(0.01)
sys.late = Late()
print(time.monotonic(), flush=True)
sys.exit({code})
"""

ECHO = """
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
"""

# name: (definitions, body of main)
ROWS = {
    "callback": ("", "while True:\n    loop.call_soon(nap)\n    await asyncio.sleep(0)"),
    "timer": ("", "while True:\n    loop.call_later(0, nap)\n    await asyncio.sleep(0)"),
    "reader": (
        "",
        "left, right = socket.socketpair()\nright.send(b'x')\nloop.add_reader(left, nap)\nawait asyncio.sleep(60)",
    ),
    "task": ("async def work():\n    nap()", "while True:\n    await asyncio.create_task(work())"),
    "threadsafe": (
        "def post():\n    while True:\n        loop.call_soon_threadsafe(nap)\n        time.sleep(0.001)",
        "threading.Thread(target=post, daemon=True).start()\nawait asyncio.sleep(60)",
    ),
    "accept: factory": ("def factory():\n    nap()\n    return asyncio.Protocol()", "await serve_and_connect(factory)"),
    "accept: connection_made": (
        "class Made(asyncio.Protocol):\n    connection_made = nap",
        "await serve_and_connect(Made)",
    ),
    "connect: connection_made": (
        "class Made(asyncio.Protocol):\n    connection_made = nap",
        "await serve_and_connect(asyncio.Protocol, Made)",
    ),
    "data_received": (
        "class Data(asyncio.Protocol):\n    data_received = nap",
        "await serve_and_connect(Data)",
    ),
    "eof_received": ("class End(asyncio.Protocol):\n    eof_received = nap", "await serve_and_connect(End)"),
    "eof_received: truth": (
        "class Truth:\n    def __bool__(self):\n        nap()\n        return False\n"
        "class End(asyncio.Protocol):\n    def eof_received(self):\n        return Truth()",
        "await serve_and_connect(End)",
    ),
    "connection_lost": ("class Lost(asyncio.Protocol):\n    connection_lost = nap", "await serve_and_connect(Lost)"),
    "get_buffer and its length": (
        "class Buffer(bytearray):\n    def __len__(self):\n        nap()\n        return super().__len__()\n"
        "class Buffered(asyncio.BufferedProtocol):\n    def get_buffer(self, hint):\n        return Buffer(100)\n"
        "    buffer_updated = nap",
        "await serve_and_connect(Buffered)",
    ),
    "pause_writing and resume_writing": (
        "class Flow(asyncio.Protocol):\n    pause_writing = nap\n    resume_writing = nap",
        "transport, peer = await pair(protocol=Flow)\nwhile True:\n    transport.write(bytes(1_000_000))\n"
        "    while transport.get_write_buffer_size():\n        await loop.sock_recv(peer, 1_000_000)",
    ),
    "writelines: iterator": (
        "def lines():\n    for _ in range(3):\n        nap()\n        yield b'x'",
        "transport, peer = await pair()\nwhile True:\n    transport.writelines(lines())\n    await asyncio.sleep(0)",
    ),
    "protocol attribute that is a property": (
        "class Property(asyncio.Protocol):\n    @property\n    def data_received(self):\n        nap()\n"
        "        return lambda data: None",
        "await serve_and_connect(Property)",
    ),
    "UDP: datagram_received": (
        "class Datagrams(asyncio.DatagramProtocol):\n    datagram_received = nap",
        "endpoint, _ = await loop.create_datagram_endpoint(Datagrams, ('127.0.0.1', 0))\nwhile True:\n"
        "    endpoint.sendto(b'x', endpoint.get_extra_info('sockname'))\n    await asyncio.sleep(0)",
    ),
    "UDP: error_received": (
        "class Datagrams(asyncio.DatagramProtocol):\n    error_received = nap",
        "endpoint, _ = await loop.create_datagram_endpoint(Datagrams, ('127.0.0.1', 0))\nwhile True:\n"
        "    endpoint.sendto(bytes(100_000), endpoint.get_extra_info('sockname'))\n    await asyncio.sleep(0)",
    ),
    "UDP: the socket's own sendto": (
        "class Socket(socket.socket):\n    def sendto(self, *args):\n        nap()\n"
        "        return super().sendto(*args)",
        "own = Socket(socket.AF_INET, socket.SOCK_DGRAM)\nown.setblocking(False)\nown.bind(('127.0.0.1', 0))\n"
        "endpoint, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=own)\nwhile True:\n"
        "    endpoint.sendto(b'x', own.getsockname())\n    await asyncio.sleep(0)",
    ),
    "pipe: data_received": (
        "class Data(asyncio.Protocol):\n    data_received = nap",
        "r, w = os.pipe()\nawait loop.connect_read_pipe(Data, open(r, 'rb', 0))\nwhile True:\n"
        "    os.write(w, b'x')\n    await asyncio.sleep(0.001)",
    ),
    "pipe: connection_lost": (
        "class Lost(asyncio.Protocol):\n    connection_lost = nap",
        "while True:\n    r, w = os.pipe()\n    reader, _ = await loop.connect_read_pipe(Lost, open(r, 'rb', 0))\n"
        "    writer, _ = await loop.connect_write_pipe(Lost, open(w, 'wb', 0))\n    writer.write(b'x')\n"
        "    writer.close()\n    await asyncio.sleep(0.002)",
    ),
    "process: pipe_data_received and process_exited": (
        "class Child(asyncio.SubprocessProtocol):\n    pipe_data_received = nap\n    process_exited = nap",
        "while True:\n    transport, _ = await loop.subprocess_exec(Child, 'echo', 'x', stdin=None)\n"
        "    await transport._wait()\n    transport.close()",
    ),
    "exception handler": (
        "",
        "loop.set_exception_handler(nap)\nwhile True:\n    loop.call_soon(lambda: 1 / 0)\n    await asyncio.sleep(0)",
    ),
    "repr in a report": (
        "",
        "log_nowhere()\nwhile True:\n    loop.call_soon(Shown(lambda: 1 / 0))\n    await asyncio.sleep(0)",
    ),
    "debug mode: repr of a slow callback": (
        "",
        "log_nowhere()\nloop.set_debug(True)\nloop.slow_callback_duration = 0\n"
        "while True:\n    loop.call_soon(Shown(int))\n    await asyncio.sleep(0)",
    ),
    "task factory": (
        "def factory(loop, coro, **options):\n    nap()\n    return asyncio.Task(coro, loop=loop, **options)",
        "loop.set_task_factory(factory)\nwhile True:\n    await loop.create_task(asyncio.sleep(0))",
    ),
    "subclass: time": (
        "class Loop(type(new_event_loop())):\n    def time(self):\n        nap()\n        return super().time()",
        "while True:\n    await asyncio.sleep(0.001)",
    ),
    "subclass: call_at": (
        "class Loop(type(new_event_loop())):\n    def call_at(self, *args, **options):\n        nap()\n"
        "        return super().call_at(*args, **options)",
        "while True:\n    await asyncio.sleep(0.001)",
    ),
    "finalizer of a callback": (
        "",
        "while True:\n    loop.call_soon(lambda it=Napping(): None)\n    await asyncio.sleep(0)",
    ),
    "finalizer of a cancelled timer's argument": (
        "",
        "while True:\n    loop.call_later(60, print, Napping()).cancel()\n    await asyncio.sleep(0)",
    ),
    "finalizer of a protocol": (
        "class Data(Napping, asyncio.Protocol):\n    pass",
        "await serve_and_connect(Data)",
    ),
    "TLS: handshake": (
        "def choose(ssl_object, name, context):\n    nap()",
        "options = tls()\noptions['server_ssl'].sni_callback = choose\n"
        "await serve_and_connect(asyncio.Protocol, **options)",
    ),
    "TLS: data_received": (
        "class Data(asyncio.Protocol):\n    data_received = nap",
        "await serve_and_connect(Data, **tls())",
    ),
    "TLS: shutdown": (
        "class Lost(asyncio.Protocol):\n    eof_received = nap\n    connection_lost = nap",
        "await serve_and_connect(Lost, **tls())",
    ),
    "streams": (
        "async def handle(reader, writer):\n    nap()\n    writer.close()",
        "server = await asyncio.start_server(handle, '127.0.0.1', 0)\nwhile True:\n"
        "    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())\n"
        "    await reader.read()\n    writer.close()",
    ),
    "executor": (
        "",
        # An executor refuses work once the main thread has ended.
        "with contextlib.suppress(RuntimeError):\n    while True:\n        await loop.run_in_executor(None, nap)\n"
        "await asyncio.sleep(60)",
    ),
}


def program(name: str) -> str:
    """The source of a row; it needs `new_event_loop`, and exits with `CODE`."""
    definitions, body = ROWS[name]
    return PROGRAM.format(
        tests=TESTS,
        definitions=definitions,
        body=textwrap.indent(body, "    "),
        code=CODE,
    )


# Runs a row many times: each is a fork of an interpreter that has imported nearly everything, and ends as any other
# does. `certificates` has a folder that goes with the process: each child imports it by itself.
FORKER = """
import json, os, sys, time
sys.path.insert(0, {tests!r})
import asyncio, contextlib, logging, socket, ssl, threading, warnings
from {loop} import new_event_loop
program = compile(sys.stdin.read(), "program", "exec")
results, running = [], dict()
for number in range({count} + {parallel}):
    if number >= {parallel}:
        pid, status = os.wait()
        ended = time.monotonic()
        with os.fdopen(running.pop(pid)) as said:
            results.append((os.waitstatus_to_exitcode(status), ended - float(said.read() or "nan")))
    if number < {count}:
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.dup2(writer, 1)
            exec(program, dict(__name__="__main__", new_event_loop=new_event_loop))
        os.close(writer)
        running[pid] = reader
print(json.dumps(results))
"""
PARALLEL = 8


def run(loop: str, name: str, count: int) -> tuple[list[tuple[int, float]], str]:
    """(exit code, how long the end took in seconds) of each, and what was printed to stderr."""
    source = FORKER.format(loop=loop, tests=TESTS, count=count, parallel=min(PARALLEL, count))
    process = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", source],
        input=program(name),
        capture_output=True,
        text=True,
        timeout=60 + count,
    )
    return json.loads(process.stdout), process.stderr


def main(loop: str, count: str = "200") -> int:
    failed = 0
    for name in ROWS:
        results, stderr = run(loop, name, int(count))
        wrong = [code for code, _ in results if code != CODE]
        slowest = max(seconds for _, seconds in results)
        codes = dict(collections.Counter(wrong)) or "none"
        print(f"{name}: {len(results)} exits, wrong codes: {codes}, slowest {slowest:.2f} s", flush=True)
        if wrong:
            print(textwrap.indent(stderr[-1000:], "    "), file=sys.stderr)
        failed += bool(wrong) or not slowest < LIMIT
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
