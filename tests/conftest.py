"""What every test relies on: the choice of the loop, a time limit, and the search for leaks.

No test lives here, and nothing that only one test file needs.
"""

import contextlib
import faulthandler
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from support import sendfile
from support.loops import LOOPS, new_loop, open_files

# Where `support` is.
TESTS = os.path.dirname(os.path.abspath(__file__))

# A shell starts its background jobs with Ctrl-C ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DEFAULT_LIMIT = 30

# So many seconds after the alarm the process is ended, with a traceback of every thread: an exception did not help.
GRACE = 15

# Contexts given to the exception handlers of this test's loops. One list, emptied for each test, because
# pytest-asyncio makes its loops from a hook that runs before any fixture.
_errors = []


def new_watched_loop(name):
    loop = new_loop(name)
    loop.set_exception_handler(lambda loop, context: _errors.append(context))
    return loop


def pytest_asyncio_loop_factories(config, item):
    """`async def` tests run once on each loop."""

    def factory(name):
        return lambda: new_watched_loop(name)

    return {name: factory(name) for name in LOOPS}


@pytest.fixture(params=LOOPS)
def loop_name(request):
    """The module whose `new_event_loop` makes the loop."""
    return request.param


@pytest.fixture
def loop_factory(loop_name):
    """A callable that returns a new loop, which the test closes."""
    return lambda: new_loop(loop_name)


@pytest.fixture
def loop(loop_name):
    """A new loop, closed after the test. What reaches its exception handler is in `loop_errors`."""
    loop = new_watched_loop(loop_name)
    yield loop
    loop.close()


@pytest.fixture
def child(loop_name):
    """Runs source in a fresh interpreter: what may crash, or is decided when an interpreter starts or ends.

    The source finds `asyncio`, `new_event_loop` of the loop under test, and the modules of `support`. Warnings are
    shown, not raised. Without `close_fds` the child has the files that are inheritable.
    """

    def run(source, *flags, close_fds=True, **environ):
        prelude = f"import asyncio\nfrom {loop_name} import new_event_loop\n"
        path = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")]))
        return subprocess.run(
            [sys.executable, "-X", "faulthandler", *flags, "-c", prelude + textwrap.dedent(source)],
            env={**os.environ, "PYTHONPATH": path, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEFAULT_LIMIT - 5,
            close_fds=close_fds,
        )

    return run


@pytest.fixture
def data_path(tmp_path):
    """A file that is larger than what the kernel keeps of a connection, for sendfile."""
    path = tmp_path / "file"
    path.write_bytes(sendfile.DATA)
    return path


@pytest.fixture
def data_file(data_path):
    with open(data_path, "rb") as file:
        yield file


@pytest.fixture
def small_file(tmp_path):
    with open(tmp_path / "small", "w+b") as file:
        file.write(sendfile.SMALL)
        file.seek(0)
        yield file


@pytest.fixture(autouse=True)
def loop_errors():
    """What the loops reported in this test. A test that expects a report takes it out of this list.

    Runs around every other fixture, so it also sees what is left once the loop is closed: open files, and
    what only the garbage collector finds, such as a task destroyed while pending.
    """
    files = open_files()
    _errors.clear()
    yield _errors
    unexpected = [describe(context) for context in _errors]
    _errors.clear()  # a context holds tracebacks, and those hold files
    gc.collect()
    unexpected += [describe(context) for context in _errors]
    _errors.clear()
    leaked = open_files() - files
    if unexpected:
        pytest.fail("the exception handler was called:\n" + "\n".join(unexpected), pytrace=False)
    if leaked:
        pytest.fail(f"left open: {sorted(leaked)}", pytrace=False)


@pytest.fixture
def no_child_left():
    """Fails a test that leaves a child process behind, whether it runs or is a zombie."""
    yield
    deadline = time.monotonic() + 5
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid:
                pytest.fail(f"left as a zombie: {pid}", pytrace=False)
            time.sleep(0.01)
        pytest.fail("left running: a child", pytrace=False)


def describe(context):
    return ", ".join(f"{key}={value!r}" for key, value in context.items())


# --- the limit of time ---


class TimeLimit(SystemExit):
    """A test took too long. A SystemExit, because a loop hands anything else to its exception handler."""


@contextlib.contextmanager
def time_limit(item):
    marker = item.get_closest_marker("time_limit")
    seconds = marker.args[0] if marker else DEFAULT_LIMIT

    def expire(signum, frame):
        raise TimeLimit(f"no end after {seconds} s")

    previous = signal.signal(signal.SIGALRM, expire)
    # Repeated, in case the first one is raised where Python must ignore it.
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=item.config.stash[real_stderr])
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with time_limit(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with time_limit(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    with time_limit(item):
        return (yield)


real_stderr = pytest.StashKey[int]()


def pytest_configure(config):
    config.addinivalue_line("markers", "time_limit(seconds): instead of 30 s for the test")
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        config.stash[real_stderr] = os.dup(2)


def pytest_unconfigure(config):
    os.close(config.stash[real_stderr])


def pytest_collection_finish():
    # Each test is followed by a collection. Without this they would look at everything that exists now, for minutes.
    gc.collect()
    gc.freeze()


def pytest_report_header():
    return f"loops: {', '.join(LOOPS)}"
