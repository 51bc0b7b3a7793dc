"""The names that the package exports, and how a program chooses its loop by them. rloop only."""

import asyncio
import importlib.metadata
import importlib.resources
import inspect
import os
import pickle
import platform
import re
import ssl
import subprocess
import sys
import warnings
from typing import Any

import pytest

rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

POLICIES = sys.version_info < (3, 16)
# The name in the metadata of this project's wheels.
OURS = "An asyncio event loop written in Rust"


async def running_loop():
    return asyncio.get_running_loop()


def test_new_event_loop():
    first, second = rloop.new_event_loop(), rloop.new_event_loop()
    assert type(first) is type(second) is rloop.Loop
    assert first is not second
    first.close()
    second.close()


def test_loop():
    loop = rloop.Loop()
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert repr(loop) == "<rloop.Loop running=False closed=False debug=False>"
    loop.close()
    assert repr(loop) == "<rloop.Loop running=False closed=True debug=False>"


def test_repr_of_a_running_loop():
    async def main():
        return repr(asyncio.get_running_loop())

    assert rloop.run(main(), debug=True) == "<rloop.Loop running=True closed=False debug=True>"


@pytest.mark.parametrize("name", ["Loop", "new_event_loop", "run"])
def test_public_names_belong_to_the_package(name):
    """A public name tells `rloop` as its module: pickle, documentation tools and messages use that."""
    value = getattr(rloop, name)
    assert (value.__module__, value.__qualname__) == ("rloop", name)
    assert pickle.loads(pickle.dumps(value)) is value


def test_source_is_right_or_not_there():
    """`Loop` names a module that is not the file it is in. `inspect` must not show lines of the wrong file."""
    assert "def run_forever(" in inspect.getsource(rloop.Loop.run_forever)
    with pytest.raises(OSError):
        inspect.getsource(rloop.Loop)


def test_signature_of_new_event_loop():
    assert inspect.signature(rloop.new_event_loop) == inspect.Signature()
    assert inspect.getdoc(rloop.new_event_loop).startswith("Make a new loop: the `loop_factory` for ")
    with pytest.raises(TypeError):
        rloop.new_event_loop(None)


def test_new_event_loop_in_a_class():
    class Tests:
        loop_factory = rloop.new_event_loop

    for factory in (Tests.loop_factory, Tests().loop_factory):
        loop = factory()
        assert type(loop) is rloop.Loop
        loop.close()


def test_run():
    loop = rloop.run(running_loop())
    assert isinstance(loop, rloop.Loop)
    assert loop.is_closed()


def test_run_with_another_loop():
    class Loop(rloop.Loop):
        pass

    assert type(rloop.run(running_loop(), loop_factory=Loop)) is Loop
    assert isinstance(rloop.run(running_loop(), loop_factory=None), rloop.Loop)


@pytest.mark.parametrize("debug", [None, False, True])
def test_run_in_debug_mode(debug):
    assert rloop.run(running_loop(), debug=debug).get_debug() is bool(debug)


def test_signature_of_run():
    main, *options = inspect.signature(rloop.run).parameters.values()
    assert main.name == "main"
    assert {option.name: option.default for option in options} == {"loop_factory": None, "debug": None}
    assert all(option.kind is option.KEYWORD_ONLY for option in options)


def test_run_of_what_is_no_coroutine():
    with pytest.raises((TypeError, ValueError)):
        rloop.run(42)


def test_run_in_a_running_loop():
    async def main():
        coroutine = running_loop()
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            rloop.run(coroutine)
        coroutine.close()

    rloop.run(main())


def test_run_leaves_no_current_loop():
    source = """
import asyncio, rloop, warnings
warnings.simplefilter("ignore")
asyncio.set_event_loop(None)
rloop.run(asyncio.sleep(0))
asyncio.get_event_loop()
"""
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert "RuntimeError: There is no current event loop" in result.stderr


@pytest.mark.skipif(sys.version_info < (3, 12), reason="loop_factory is new in Python 3.12")
def test_asyncio_run():
    assert isinstance(asyncio.run(running_loop(), loop_factory=rloop.new_event_loop), rloop.Loop)  # type: ignore[call-arg]
    assert isinstance(asyncio.run(running_loop(), loop_factory=rloop.Loop), rloop.Loop)  # type: ignore[call-arg]


def test_version():
    assert re.match(r"\d+\.\d+\.\d+", rloop.__version__)
    assert rloop.__version__ == importlib.metadata.version("rloop")


def test_exported_names():
    assert {"Loop", "new_event_loop", "run", "__version__"} <= set(rloop.__all__)
    for name in set(rloop.__all__) - {"install", "EventLoopPolicy"}:
        assert getattr(rloop, name) is not None
    with pytest.raises(AttributeError, match="module 'rloop' has no attribute 'nonsense'"):
        rloop.nonsense  # noqa: B018


def test_type_information():
    files = {file.name for file in importlib.resources.files("rloop").iterdir()}
    assert {"py.typed", "_rloop.pyi"} <= files


def test_import_is_silent_and_lazy():
    """Importing rloop touches no policy and warns about nothing."""
    source = "import rloop, sys; print('EventLoopPolicy' in vars(rloop), 'rloop._policy' in sys.modules)"
    result = subprocess.run([sys.executable, "-W", "error", "-c", source], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("False False\n", "")


@pytest.mark.parametrize("look", ["help(rloop)", "inspect.getmembers(rloop)"])
def test_looking_at_every_name_is_silent(look):
    """`help()`, completion, documentation tools and debuggers look at every name."""
    command = [sys.executable, "-W", "error", "-c", f"import inspect, rloop; {look}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_dir():
    assert dir(rloop) == sorted(rloop.__all__)


@pytest.mark.skipif(not POLICIES, reason="Python 3.16 has no policies")
def test_install():
    source = """
import asyncio, warnings
warnings.simplefilter("ignore")
import rloop
rloop.install()
loop = asyncio.new_event_loop()
print(type(loop) is rloop.Loop)
loop.close()
async def main():
    print(type(asyncio.get_running_loop()) is rloop.Loop)
asyncio.run(main())
"""
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("True\nTrue\n", "")


@pytest.mark.skipif(not POLICIES, reason="Python 3.16 has no policies")
@pytest.mark.parametrize("name", ["install", "EventLoopPolicy"])
def test_policies_are_deprecated_where_asyncio_says_so(name):
    """The call warns of the line that calls it, with advice that the running version can follow."""
    source = f"import rloop\nvalue = rloop.{name}\nvalue()"
    result = subprocess.run([sys.executable, "-W", "always", "-c", source], capture_output=True, text=True)
    if sys.version_info >= (3, 14):
        advice = "pass loop_factory=rloop.new_event_loop to asyncio.run() or asyncio.Runner()"
        told = f"rloop.{name} is deprecated, as asyncio's event loop policies are: {advice}"
        assert result.stderr.splitlines()[0] == f"<string>:3: DeprecationWarning: {told}"
        assert result.stderr.count("Warning") == 1
    else:
        assert result.stderr == ""
    assert result.returncode == 0


@pytest.mark.skipif(not POLICIES, reason="Python 3.16 has no policies")
def test_names_of_policies():
    for name in ("install", "EventLoopPolicy"):
        value = getattr(rloop, name)
        assert (value.__module__, value.__qualname__) == ("rloop", name)
        assert pickle.loads(pickle.dumps(value)) is value


@pytest.mark.skipif(not POLICIES, reason="Python 3.16 has no policies")
def test_policy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        policy = rloop.EventLoopPolicy()
        loop = policy.new_event_loop()
    assert isinstance(loop, rloop.Loop)
    loop.close()


@pytest.mark.skipif(POLICIES, reason="Python 3.15 and earlier have policies")
@pytest.mark.parametrize("name", ["install", "EventLoopPolicy"])
def test_no_policies(name):
    assert name not in dir(rloop)
    with pytest.raises(AttributeError):
        getattr(rloop, name)


def test_python_m_rloop():
    """`python -m rloop` tells what is installed, on what it runs, and that it is this project."""
    result = subprocess.run([sys.executable, "-W", "error", "-m", "rloop"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    lines = dict(re.match(r"(\w+): +(.+)", line).groups() for line in result.stdout.splitlines())  # type: ignore[misc]
    assert lines["rloop"].startswith(f"{rloop.__version__}, ")
    assert f" {platform.python_version()}, " in lines["Python"]
    assert lines["platform"].startswith(platform.platform())
    assert lines["loop"] == "<rloop.Loop running=True closed=False debug=False>"
    assert lines["project"].startswith("this is the one")
    assert lines["asyncio"].endswith(" is the loop of asyncio.run")
    assert ssl.OPENSSL_VERSION in lines["TLS"]
    assert lines["epoll_pwait2"].startswith(("yes", "no ("))
    assert lines["pidfd"] == "yes"
    assert re.fullmatch(r"-?\d+ files, at most -?\d+, \d+ open now", lines["limits"])


@pytest.mark.parametrize(
    ("options", "environ", "what", "told"),
    [
        ([], {}, "asyncio", "asyncio.unix_events._UnixSelectorEventLoop is the loop of asyncio.run"),
        ([], {"RLOOP_TLS_ENGINE": "portable"}, "TLS", "portable, by RLOOP_TLS_ENGINE; " + ssl.OPENSSL_VERSION),
        ([], {}, "debug", "no"),
        (["-X", "dev"], {}, "debug", "yes"),
        ([], {"PYTHONASYNCIODEBUG": "1"}, "debug", "yes"),
        ([], {}, "environment", "none"),
        ([], {"RLOOP_WATCH": "5", "RLOOP_X": "1"}, "environment", "RLOOP_WATCH=5, RLOOP_X=1"),
    ],
)
def test_what_python_m_rloop_tells(options, environ, what, told):
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RLOOP_", "PYTHONASYNCIO"))}
    command = [sys.executable, *options, "-m", "rloop", "doctor"]
    result = subprocess.run(command, capture_output=True, text=True, env={**own, **environ}, timeout=25)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"{what}:".ljust(14) + told in result.stdout.splitlines()


@pytest.mark.parametrize("limit", [40, 50])
def test_limit_of_files(limit):
    source = f"""
import resource, runpy
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, 50))
runpy.run_module("rloop", run_name="__main__")
"""
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=25)
    assert f"limits:       {limit} files, at most 50, " in result.stdout


@pytest.mark.parametrize(
    ("version", "summary", "told"),
    [
        ("0.5.0", "Another loop", "the package installed as rloop 0.5.0 is another project: Another loop"),
        ("9.9.9", OURS, f"the files are of {rloop.__version__}, but 9.9.9 is installed"),
    ],
)
def test_python_m_rloop_beside_another_project(tmp_path, version, summary, told):
    """pip has installed another project of this name over this one, and replaced metadata or files."""
    folder = tmp_path / "rloop-0.dist-info"
    folder.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: rloop\nVersion: {version}\nSummary: {summary}\n"
    (folder / "METADATA").write_text(metadata)
    package = os.path.dirname(rloop.__path__[0])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), package])}
    command = [sys.executable, "-m", "rloop"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    assert f"project:      {told}\n" in result.stdout
