"""`python -m rloop PROGRAM`: what child processes inherit, and that their `sitecustomize` is still run. rloop only.

The program itself is tested in test_launcher.py.
"""

import os
import subprocess
import sys
from typing import Any

import pytest

rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

LIMIT = 25

# Prints the name of the loop of a multiprocessing child.
CHILDREN = """
import asyncio, multiprocessing, sys

async def main():
    return type(asyncio.get_running_loop()).__name__

def child(connection):
    connection.send((asyncio.run(main()), __name__, "uvloop" in str(sys.meta_path).lower()))
    connection.close()

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,))
    process.start()
    theirs.close()
    print(*ours.recv())
    process.join()
"""

# Prints the loop of a Python that is started by its command line, and by one that this starts.
NESTED = """
import asyncio, subprocess, sys
loop = asyncio.new_event_loop()
print(type(loop).__name__, flush=True)
loop.close()
if sys.argv[1] != "0":
    subprocess.run([sys.executable, *sys.argv[2:], __file__, str(int(sys.argv[1]) - 1)], check=True)
"""


def run(folder, source, *words, options=(), **environ):
    """The output of a program, which the launcher runs with `options`; it must succeed without a warning."""
    (folder / "app.py").write_text(source)
    command = [sys.executable, "-W", "error", "-m", "rloop", *options, "app.py", *words]
    environ = {**os.environ, **environ}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_children_of_multiprocessing(tmp_path, method):
    name = "__mp_main__"
    assert run(tmp_path, CHILDREN, method) == f"Loop {name} False\n"
    assert run(tmp_path, CHILDREN, method, options=["--as-uvloop"]) == f"Loop {name} True\n"
    usual = run(tmp_path, CHILDREN, method, options=["--no-children"])
    assert usual == f"_UnixSelectorEventLoop {name} False\n"


def test_children_and_their_children(tmp_path):
    assert run(tmp_path, NESTED, "2") == "Loop\n" * 3


def test_no_children(tmp_path):
    """Only the program is on rloop, and its environment is as it was."""
    assert run(tmp_path, NESTED, "1", options=["--no-children"]) == "Loop\n_UnixSelectorEventLoop\n"
    source = "import os; print(os.environ.get('PYTHONPATH'), [name for name in os.environ if name.startswith('RLOOP')])"
    clean = {name: "" for name in os.environ if name.startswith("RLOOP")}
    path = os.pathsep.join([str(tmp_path), "/elsewhere"])
    assert run(tmp_path, source, options=["--no-children"], PYTHONPATH=path) == f"{path} {list(clean)}\n"


def test_launcher_in_a_child(tmp_path):
    """The inner launcher decides for its program: `--no-children` there is not undone by the outer one."""
    words = ["-m", "rloop", "--no-children"]
    source = NESTED.replace("*sys.argv[2:]", "*(sys.argv[2:] if sys.argv[1] == '2' else [])")
    assert run(tmp_path, source, "2", *words) == "Loop\nLoop\n_UnixSelectorEventLoop\n"


def test_child_that_ignores_the_environment(tmp_path):
    assert run(tmp_path, NESTED, "1", "-E") == "Loop\n_UnixSelectorEventLoop\n"


def test_child_without_this_rloop(tmp_path):
    """Another Python may have another rloop, or none: it keeps the loop of asyncio."""
    other = tmp_path / "other" / "rloop"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise AssertionError")
    start = "subprocess.run([sys.executable, *sys.argv[2:]"
    environ = "env={**__import__('os').environ, 'PYTHONPATH': __import__('os').environ['PYTHONPATH'] + ':' + 'other'}, "
    source = NESTED.replace("check=True", environ + "check=True")
    assert start in source and environ in source
    assert run(tmp_path, source, "1") == "Loop\n_UnixSelectorEventLoop\n"


def test_children_do_not_import_what_they_do_not_need(tmp_path):
    source = "import sys; print([name for name in ('asyncio', 'rloop', 'ssl', 'socket') if name in sys.modules])"
    assert run(tmp_path, source) == "[]\n"
    assert run(tmp_path, source.replace("import sys;", "import sys, asyncio;")) == "['asyncio', 'ssl', 'socket']\n"


# --- sitecustomize ---


def sitecustomize(folder, source):
    """A folder with a `sitecustomize` of the user's."""
    made = folder / "site"
    made.mkdir()
    (made / "sitecustomize.py").write_text(source)
    return str(made)


def test_sitecustomize_of_the_user(tmp_path):
    """It is run before the program, as the module of that name, in the program and in its children."""
    path = sitecustomize(tmp_path, "import sys\nhere = __file__\nsys.told = __name__\n")
    source = "import sys, sitecustomize; print(sys.told, sitecustomize.here, sitecustomize.__spec__.origin)\n" + NESTED
    file = os.path.join(path, "sitecustomize.py")
    out = run(tmp_path, source, "1", PYTHONPATH=path)
    assert out == f"sitecustomize {file} {file}\nLoop\n" * 2


def test_sitecustomize_that_imports_asyncio(tmp_path):
    path = sitecustomize(tmp_path, "import asyncio\nloop = asyncio.new_event_loop()\nkind = type(loop)\nloop.close()\n")
    assert run(tmp_path, "import sitecustomize; print(sitecustomize.kind)", PYTHONPATH=path) == "<class 'rloop.Loop'>\n"


@pytest.mark.parametrize("source", ["raise ValueError('mine')", "import nothing_of_this_name", "syntax error"])
def test_sitecustomize_that_fails(tmp_path, source):
    """Python tells of it as without rloop, and the program runs on rloop."""
    path = sitecustomize(tmp_path, source)
    (tmp_path / "app.py").write_text(NESTED)
    environ = {**os.environ, "PYTHONPATH": path}
    outcomes = []
    for launcher in ([], ["-m", "rloop", "--no-children"]):
        command = [sys.executable, *launcher, "app.py", "0"]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=LIMIT)
        outcomes.append((done.returncode, done.stdout, done.stderr))
    (status, _, told), launched = outcomes
    assert "Error in sitecustomize" in told
    # The Python that reads the launcher's command line has told of it, too, before the program's does.
    assert launched == (status, "Loop\n", told * 2)


def test_sitecustomize_is_there_or_not_as_without_rloop(tmp_path):
    source = """
import sys
try:
    import sitecustomize
    print(sitecustomize.__file__)
except ImportError as exc:
    print(exc.name, "sitecustomize" in sys.modules)
"""
    usual = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=LIMIT)
    assert usual.stdout != ""
    assert run(tmp_path, source) == usual.stdout
