"""README.md says how rloop is used: every snippet is taken from the page and run. rloop only."""

import asyncio
import pathlib
import re
import subprocess
import sys
import textwrap
from typing import Any

import pytest

rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LIMIT = 25
LOOP = "<rloop.Loop running=True closed=False debug=False>"
# asyncio.run() takes a loop_factory.
HAS_FACTORY = sys.version_info >= (3, 12)


def inline(title):
    """The pieces of code in the paragraph that begins with this title."""
    [paragraph] = re.findall(rf"^\*\*{title}\*\*(.*?)\n\n", README, re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`]+)`", paragraph)


def block(word):
    """The block of Python code that contains this word."""
    [text] = [text for text in BLOCKS if word in text]
    return text


def run(folder, *command):
    """The output of a command that has to succeed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_source(folder, source):
    (folder / "program.py").write_text(textwrap.dedent(source))
    return run(folder, sys.executable, "-W", "error", "program.py")


def test_no_block_is_forgotten():
    assert len(BLOCKS) == 3


def test_first_program(tmp_path):
    source = block("async def main():")
    assert source.count("    ...\n") == 1
    source = source.replace("    ...\n", "    print(asyncio.get_running_loop())\n")
    if not HAS_FACTORY:
        # The comment gives the line for this version, which replaces the other one.
        source = re.sub(r"^asyncio\.run\(.*on 3\.11: (.+)$", r"\1", source, flags=re.MULTILINE)
    assert run_source(tmp_path, source) == f"{LOOP}\n"


def test_loop_shows_itself(tmp_path):
    line, _, comment = block("get_running_loop").partition("#")
    source = f"import asyncio, rloop\nasync def main():\n    {line}\nrloop.run(main())\n"
    assert run_source(tmp_path, source).strip() == comment.strip()


def test_python_m_rloop(tmp_path):
    assert "\n$ python -m rloop\n" in README and "`python -m rloop` says" in README
    assert "this is the one" in run(tmp_path, sys.executable, "-m", "rloop")


def test_asyncio():
    async def main():
        return asyncio.get_running_loop()

    in_run, runner, in_one_word = inline("asyncio")
    names = {"asyncio": asyncio, "rloop": rloop, "main": main}
    with eval(runner, names) as made:
        assert isinstance(made.run(main()), rloop.Loop)
    for call in (in_run, in_one_word) if HAS_FACTORY else (in_one_word,):
        assert isinstance(eval(call, names), rloop.Loop)


def test_uvicorn(tmp_path):
    pytest.importorskip("uvicorn")
    (tmp_path / "app.py").write_text(
        textwrap.dedent("""
            import asyncio, os, signal

            async def app(scope, receive, send):
                assert scope["type"] == "lifespan"
                await receive()
                print(asyncio.get_running_loop(), flush=True)
                await send({"type": "lifespan.startup.complete"})
                os.kill(os.getpid(), signal.SIGTERM)
                await receive()
                await send({"type": "lifespan.shutdown.complete"})
        """)
    )
    [command] = inline("uvicorn")
    # uvicorn ends by the signal that it was sent, once it has shut down.
    words = [sys.executable, "-m", *command.split(), "--port", "0"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)
    assert done.stdout == f"{LOOP}\n"
    assert "Application shutdown complete" in done.stderr
    assert "Traceback" not in done.stderr


def test_aiohttp(tmp_path):
    pytest.importorskip("aiohttp")
    [line] = inline("aiohttp")
    source = f"""
        import asyncio, rloop
        from aiohttp import web

        async def on_startup(app):
            print(asyncio.get_running_loop())
            raise web.GracefulExit

        app = web.Application()
        app.on_startup.append(on_startup)
        {line}
    """
    assert LOOP in run_source(tmp_path, source)


def test_pytest_asyncio(tmp_path):
    (tmp_path / "conftest.py").write_text(block("pytest_asyncio_loop_factories"))
    (tmp_path / "test_loop.py").write_text(
        textwrap.dedent("""
            import asyncio, pytest, rloop

            @pytest.mark.asyncio
            async def test_loop():
                is_rloop = type(asyncio.get_running_loop()) is rloop.Loop
                with open("loops", "a") as file:
                    print("rloop" if is_rloop else "asyncio", file=file)
        """)
    )
    output = run(tmp_path, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "2 passed" in output
    assert sorted((tmp_path / "loops").read_text().split()) == ["asyncio", "rloop"]


def test_anyio(tmp_path):
    pytest.importorskip("anyio")
    [line] = inline("anyio")
    source = f"""
        import anyio, asyncio, rloop

        async def main():
            print(asyncio.get_running_loop())

        {line}
    """
    assert run_source(tmp_path, source) == f"{LOOP}\n"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="loop_factory of test cases is new in Python 3.13")
def test_unittest(tmp_path):
    [line] = inline("unittest")
    head, body = line.split(": ", 1)
    (tmp_path / "test_loop.py").write_text(
        f"import asyncio, rloop, unittest\n\n{head}:\n    {body}\n"
        "    async def test_loop(self):\n        assert type(asyncio.get_running_loop()) is rloop.Loop\n"
    )
    command = [sys.executable, "-W", "error", "-m", "unittest", "-v"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert "Ran 1 test" in done.stderr


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="Python 3.16 has no policies")
def test_policy(tmp_path):
    assert "`rloop.install()` and `rloop.EventLoopPolicy`" in README
    source = """
        import asyncio, warnings, rloop
        warnings.simplefilter("ignore")
        rloop.install()

        async def main():
            print(asyncio.get_running_loop())

        asyncio.run(main())
    """
    assert run_source(tmp_path, source) == f"{LOOP}\n"


def test_no_registry_is_promised():
    """Until rloop is published, its name there is another project's."""
    for page in (README, (ROOT / "docs" / "embedding.md").read_text()):
        assert not re.search(r"^\s*(pip|uv|uv pip|poetry|pdm) (install|add) +[\"']?rloop\b", page, re.MULTILINE)
        assert not re.search(r'rloop = (\{ version = )?"\d', page)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_figures_are_those_of_the_performance_page():
    """No figure is written twice in two ways: five rows of a table of docs/performance.md, with some of its columns."""
    [section] = re.findall(r"^## Figures\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    _, *rows = [cells(line) for line in section.splitlines() if line.startswith("| ")]
    page = (ROOT / "docs" / "performance.md").read_text()
    published = [cells(line) for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) == 5
    for title, *figures in rows:
        assert any(row[0] == title and set(figures) <= set(row) for row in published), title
