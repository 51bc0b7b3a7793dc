"""The names that the package exports, and how a program chooses its loop by them. rloop only."""

import asyncio
import importlib.metadata
import importlib.resources
import inspect
import re
import subprocess
import sys
import warnings

import pytest

rloop = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

POLICIES = sys.version_info < (3, 16)


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
    assert repr(loop) == "<Loop running=False closed=False debug=False>"
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
    assert isinstance(asyncio.run(running_loop(), loop_factory=rloop.new_event_loop), rloop.Loop)
    assert isinstance(asyncio.run(running_loop(), loop_factory=rloop.Loop), rloop.Loop)


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
    source = "import rloop, sys; print('EventLoopPolicy' in vars(rloop), rloop.__name__)"
    result = subprocess.run([sys.executable, "-W", "error", "-c", source], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("False rloop\n", "")


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
def test_policies_are_deprecated(name):
    with pytest.warns(DeprecationWarning, match=name):
        getattr(rloop, name)


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
