"""Wrong use of every exported class must end in an exception, never in a crash or a panic.

Each test runs in a child process, which may crash.
"""

import sys

import pytest

# Defines wrong values for the child, and a way to try a call that may do anything but crash.
PRELUDE = """
import copy, gc, importlib, os, pickle, signal, socket, sys, threading, warnings, weakref

warnings.simplefilter("ignore")

class Failing:
    def __getattr__(self, name): raise ZeroDivisionError
    def __call__(self, *args, **kwargs): raise ZeroDivisionError
    def __eq__(self, other): raise ZeroDivisionError
    def __hash__(self): raise ZeroDivisionError
    def __bool__(self): raise ZeroDivisionError
    def __index__(self): raise ZeroDivisionError
    def __float__(self): raise ZeroDivisionError
    def __repr__(self): raise ZeroDivisionError
    def fileno(self): raise ZeroDivisionError

class Closing:
    # Destroyed in the middle of whatever drops it.
    def __del__(self): gc.collect()

def function(*args, **kwargs): pass

VALUES = [
    None, True, 0, -1, 1, 2**31, 2**64, -2**64, 1.5, float("nan"), float("inf"), "", "text", b"bytes", (), [],
    {}, object(), Failing(), Closing(), function, int, sys, bytearray(10), memoryview(b"x"),
]

# What would wait, or end the process for good reasons.
SKIPPED = {"run_forever", "run_until_complete", "_run_once"}

class Late(BaseException):
    pass

def late(*args):
    raise Late

def attempt(function, *args, **kwargs):
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        result = function(*args, **kwargs)
        if asyncio.iscoroutine(result):
            result.close()
        return result
    except BaseException as error:
        # What a panic becomes when nobody turns it into an ordinary exception.
        assert "Panic" not in type(error).__name__, (function, args, error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        keep_low_numbers()

def keep_low_numbers():
    # Some methods close the file whose number they are given. 0 and 1 are among the values, so that no loop may get
    # these numbers for files of its own.
    for number in 0, 1:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)

def attempt_methods(thing):
    for name in dir(thing):
        method = attempt(getattr, thing, name)
        if name in SKIPPED or isinstance(method, type) or not callable(method):
            continue
        attempt(method)
        for value in VALUES:
            attempt(method, value)
            attempt(method, value, value)
        attempt(method, *VALUES)
        attempt(method, unknown=1)
        attempt(method, None, context=Failing())

def attempt_attributes(thing):
    for name in dir(thing):
        if name in ("__class__", "__dict__"):
            continue
        for value in VALUES:
            attempt(setattr, thing, name, value)
        attempt(delattr, thing, name)

signal.signal(signal.SIGALRM, late)
# Nothing that is closed or written to by mistake may be one of the process's own files.
sys.stdout = os.fdopen(os.dup(1), "w")
# Failed callbacks and handlers would write books.
import logging
logging.disable()
"""

END = """
gc.collect()
print("survived", flush=True)
os._exit(0)
"""

# Makes one object of each class, by means of a loop.
THINGS = {
    "loop": "loop",
    "closed loop": "(loop.close(), loop)[1]",
    "handle": "loop.call_soon(function)",
    "cancelled handle": "(handle := loop.call_soon(function), handle.cancel(), handle)[2]",
    "handle that ran": "(handle := loop.call_soon(int), loop.stop(), loop.run_forever(), handle)[3]",
    "handle of a closed loop": "(handle := loop.call_soon(function), loop.close(), handle)[2]",
    "timer": "loop.call_later(3600, function)",
    "cancelled timer": "(timer := loop.call_later(3600, function), timer.cancel(), timer)[2]",
    "timer of a closed loop": "(timer := loop.call_later(3600, function), loop.close(), timer)[2]",
    "handle of a thread": "loop.call_soon_threadsafe(function)",
    "server": "loop.run_until_complete(loop.create_server(asyncio.Protocol, '127.0.0.1', 0))",
    "transport": "connect()",
    "closing transport": "(transport := connect(), transport.close(), transport)[2]",
    "closed transport": "(transport := connect(), transport.abort(), turns(), transport)[3]",
    "transport of a closed loop": "(transport := connect(), loop.close(), transport)[2]",
}

CONNECT = """
loop = new_event_loop()
kept = []

def connect():
    left, right = socket.socketpair()
    kept.append(right)
    transport, protocol = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=left))
    return transport

def turns():
    for _ in range(5):
        loop.stop()
        loop.run_forever()
"""


def assert_survives(child, source):
    result = child(PRELUDE + source + END)
    assert result.returncode == 0, result.stderr[-5000:]
    assert result.stdout.endswith("survived\n"), result.stderr[-5000:]


@pytest.mark.parametrize("thing", THINGS)
def test_methods(child, thing):
    assert_survives(child, CONNECT + f"attempt_methods({THINGS[thing]})\n")


@pytest.mark.parametrize("thing", THINGS)
def test_attributes(child, thing):
    assert_survives(child, CONNECT + f"attempt_attributes({THINGS[thing]})\n")


@pytest.mark.parametrize("thing", THINGS)
def test_protocols_of_python(child, thing):
    """Copies, pickles, compares and initialises objects again, and makes instances without the constructor."""
    assert_survives(
        child,
        CONNECT
        + f"thing = {THINGS[thing]}\n"
        + """
for function in copy.copy, copy.deepcopy, pickle.dumps, repr, str, hash, len, iter, next, bool, weakref.ref:
    attempt(function, thing)
for value in [thing, *VALUES]:
    for operator in "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__":
        attempt(lambda: getattr(thing, operator)(value))
for cls in {type(thing), thing.__class__}:
    attempt(cls)
    for value in VALUES:
        attempt(cls, value)
        attempt(cls, value, value, value)
        attempt(cls, value, (value,), loop)
    attempt(cls, unknown=1)
    bare = attempt(cls.__new__, cls)
    attempt(cls.__new__, cls, *VALUES)
    if bare is not None:
        attempt(repr, bare)
        attempt_methods(bare)
    attempt(type, "Derived", (cls,), {})
attempt(thing.__init__)
attempt(thing.__init__, *VALUES)
attempt_methods(thing)
""",
    )


def test_classes(child):
    """Every class of the package, also those that only the loop may make."""
    assert_survives(
        child,
        CONNECT
        + """
import pkgutil
package = importlib.import_module(new_event_loop.__module__.split(".")[0])
modules = [package] + [attempt(importlib.import_module, f"{package.__name__}.{module.name}")
    for module in pkgutil.iter_modules(package.__path__) if module.name != "__main__"]
classes = {value for module in modules if module for value in vars(module).values()
    if isinstance(value, type) and value.__module__.split(".")[0] == package.__name__}
assert type(loop) in classes
for cls in classes - {asyncio.Runner}:
    for instance in [attempt(cls), attempt(cls.__new__, cls), attempt(cls, None, None, None, None)]:
        if isinstance(instance, cls):
            attempt(repr, instance)
            attempt_methods(instance)
    for value in VALUES:
        attempt(cls, value)
        attempt(cls, value, value)
""",
    )


def test_loop_without_constructor(child):
    assert_survives(
        child,
        """
cls = type(new_event_loop())
for loop in [cls.__new__(cls) for _ in range(3)]:
    attempt(loop.run_forever)
    attempt(loop.run_until_complete, asyncio.sleep(0))
    attempt(loop.close)
    attempt_methods(loop)

class Forgetful(cls):
    def __init__(self):
        pass

loop = Forgetful()
attempt(loop.call_soon, function)
attempt(loop.call_soon_threadsafe, function)
attempt(loop.call_later, 0, function)
attempt(loop.add_reader, 0, function)
attempt(loop.stop)
attempt(loop.run_forever)
attempt(loop.close)
""",
    )


def test_constructor_called_again(child):
    """Calls `__init__` again on a loop with everything pending, and on one that runs."""
    assert_survives(
        child,
        CONNECT
        + """
transport = connect()
loop.call_soon(function)
loop.call_later(3600, function)
loop.add_reader(kept[0], function)
attempt(loop.__init__)
attempt(transport.write, b"x")
attempt(loop.run_until_complete, asyncio.sleep(0))
loop = new_event_loop()
loop.call_soon(loop.__init__)
loop.call_later(0.001, loop.stop)
attempt(loop.run_forever)
attempt(loop.run_forever)
""",
    )


def test_loop_run_and_closed_from_inside(child, loop_name):
    if loop_name == "asyncio" and sys.version_info[:3] == (3, 13, 0):
        pytest.skip("asyncio of Python 3.13.0 takes the running loop down")
    assert_survives(
        child,
        CONNECT
        + """
depth = 0

def inside():
    global depth
    depth += 1
    if depth < 20:
        attempt(loop.run_forever)
        attempt(loop.run_until_complete, loop.create_future())
        attempt(loop.close)
        loop.stop()
        attempt(loop._run_once)
    loop.stop()

kept.append(socket.socket())
loop.add_writer(kept[0], inside)
loop.call_soon(inside)
loop.call_later(0, inside)
attempt(loop.run_forever)
assert depth
""",
    )


def test_loop_used_from_many_threads(child):
    """Without debug mode nothing refuses this. What happens is undefined, but the process must survive."""
    assert_survives(
        child,
        CONNECT
        + """
transport = connect()

def misuse():
    for number in range(300):
        try:
            timer = loop.call_later(0.001, int)
            loop.call_soon(int)
            loop.call_at(0, int)
            timer.cancel()
            transport.write(b"x")
            transport.get_write_buffer_size()
            loop.add_reader(kept[0], kept[0].recv, 10)
            loop.remove_reader(kept[0])
            loop.stop()
            loop.is_running()
            repr(timer)
            loop.run_forever()
        except BaseException as error:
            assert "Panic" not in type(error).__name__, error

threads = [threading.Thread(target=misuse) for _ in range(4)]
loop.call_later(0.2, loop.stop)
for thread in threads:
    thread.start()
attempt(loop.run_forever)
for thread in threads:
    thread.join(5)
attempt(loop.close)
attempt(transport.close)
""",
    )


def test_interpreter_ends_while_everything_is_open(child):
    """Nothing is closed. A warning about that is fine, a crash is not."""
    source = PRELUDE + CONNECT
    result = child(
        source
        + """
transport = connect()
server = loop.run_until_complete(loop.create_server(asyncio.Protocol, "127.0.0.1", 0))
loop.call_soon(function)
timer = loop.call_later(3600, function)
loop.add_reader(kept[0], function)
loop.run_until_complete(loop.run_in_executor(None, int))
threading.Thread(target=loop.call_soon_threadsafe, args=(function,)).start()
print("survived", flush=True)
"""
    )
    assert result.returncode == 0, result.stderr[-5000:]
    assert result.stdout.endswith("survived\n"), result.stderr[-5000:]


def test_fork(child):
    """A child process drops what it has inherited, and makes a loop of its own."""
    assert_survives(
        child,
        CONNECT
        + """
transport = connect()
loop.call_soon(function)
pid = os.fork()
if pid == 0:
    fresh = new_event_loop()
    fresh.run_until_complete(asyncio.sleep(0))
    fresh.close()
    del loop, transport
    gc.collect()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
transport.abort()
turns()
loop.close()
""",
    )
