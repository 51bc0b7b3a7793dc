"""The option `--rloop` of pytest (`python/rloop_pytest`): a child pytest runs a small file of tests with each plugin.

Each file is run with and without the option, so also on asyncio's loop.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

LIMIT = 25

# Each file of tests checks the class of its loop by this.
CHECK = """
import asyncio, os, sys

def check():
    kind = type(asyncio.get_running_loop())
    assert f"{kind.__module__}.{kind.__qualname__}" == os.environ["EXPECTED"]
    assert ("rloop" in sys.modules) == (os.environ["EXPECTED"] == "rloop.Loop")
"""

AUTO = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]

ASYNCIO = """
import pytest

@pytest.fixture
async def fixture():
    check()
    yield
    check()

async def test_one(fixture):
    check()

@pytest.mark.asyncio(loop_scope="module")
async def test_two():
    check()
"""

ANYIO = """
import anyio, pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def fixture():
    check()

@pytest.mark.anyio
async def test_one(fixture):
    check()

@pytest.mark.anyio
async def test_two():
    async with anyio.create_task_group() as group:
        await anyio.to_thread.run_sync(anyio.from_thread.run_sync, check)
"""

AIOHTTP = """
from aiohttp import web

async def answer(request):
    check()
    return web.Response(text="answer")

async def test_one(aiohttp_client):
    app = web.Application()
    app.router.add_get("/", answer)
    client = await aiohttp_client(app)
    async with client.get("/") as response:
        assert await response.text() == "answer"
    check()

async def test_two():
    check()
"""

UNITTEST = """
import unittest

class Tests(unittest.IsolatedAsyncioTestCase):
    async def test_one(self):
        check()

def test_two():
    async def main():
        check()
    asyncio.run(main())
"""

# The name of the plugin's module, a file with two tests, and options of pytest.
PLUGINS = {
    "pytest-asyncio": ("pytest_asyncio", ASYNCIO, AUTO),
    "anyio": ("anyio", ANYIO, ["-p", "no:asyncio", "-p", "no:aiohttp"]),
    "pytest-aiohttp": ("pytest_aiohttp", AIOHTTP, AUTO),
    "none": ("unittest", UNITTEST, ["-p", "no:asyncio", "-p", "no:aiohttp", "-p", "no:anyio"]),
}

CHOICES = [([], "asyncio.unix_events._UnixSelectorEventLoop"), (["--rloop"], "rloop.Loop")]


def run(folder, source, options, expected):
    """What a child pytest prints about a file of tests."""
    (folder / "test_it.py").write_text(CHECK + source)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    environ = {**os.environ, "EXPECTED": expected}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=LIMIT)
    return done.stdout + done.stderr


@pytest.mark.parametrize("plugin", list(PLUGINS))
@pytest.mark.parametrize(("choice", "expected"), CHOICES, ids=["without", "with"])
def test_loop(tmp_path, plugin, choice, expected):
    module, source, options = PLUGINS[plugin]
    pytest.importorskip(module)
    out = run(tmp_path, source, [*options, *choice], expected)
    assert "= 2 passed in" in out, out
    assert ("\nloop: rloop " in out) == bool(choice)


def test_loop_that_the_tests_name_stays(tmp_path):
    """A conftest.py chooses the loop for pytest-asyncio: that is a wish, as it is for `python -m rloop`."""
    (tmp_path / "conftest.py").write_text("""
import asyncio

class Other(asyncio.SelectorEventLoop):
    pass

def pytest_asyncio_loop_factories(config, item):
    return {"other": Other}
""")
    source = "import asyncio\nasync def test_one():\n    assert type(asyncio.get_running_loop()).__name__ == 'Other'\n"
    out = run(tmp_path, source, [*AUTO, "--rloop"], "")
    assert "= 1 passed in" in out, out


def test_nothing_is_imported_without_the_option(tmp_path):
    """pytest imports the plugin in every project of the environment: neither rloop nor asyncio come with it."""
    source = """
import sys, rloop_pytest
print([name for name in ("asyncio", "rloop", "socket") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stdout == "[]\n"
