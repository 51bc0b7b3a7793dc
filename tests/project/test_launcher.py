"""`python -m rloop PROGRAM`: the program runs as without rloop, but on rloop's loop. rloop only.

What child processes inherit is in test_launcher_children.py, what `python -m rloop` alone prints in test_readme.py.
"""

import os
import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest

rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

from rloop import _launch  # noqa: E402

LIMIT = 25
LAUNCHER = ["-m", "rloop"]
# The programs inherit the environment, which may switch debug mode on.
DEBUG = any(map(os.environ.get, ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE")))
LOOP = f"<rloop.Loop running=True closed=False debug={DEBUG}>"

# Prints what of a Python a program can see of how it was started.
SELF_PORTRAIT = """
import json, os, pickle, sys

class Mine:
    pass

def main():
    here = sys.modules["__main__"]
    seen = {
        "argv": sys.argv, "name": __name__, "path": sys.path, "file": globals().get("__file__"),
        "spec": getattr(here.__spec__, "name", None), "loader": type(here.__loader__).__name__,
        "names": sorted(vars(here)), "mine": Mine.__module__, "flags": repr(sys.flags), "warnings": sys.warnoptions,
        "x": repr(sys._xoptions), "pickled": type(pickle.loads(pickle.dumps(Mine()))) is Mine,
        "modules": [name for name in ("asyncio", "sitecustomize", "socket") if name in sys.modules],
        "package": here.__package__, "prefix": sys.prefix, "cwd": os.getcwd(),
    }
    print(json.dumps(seen, indent=1))

if __name__ == "__main__":
    main()
"""

RUNNING = "import asyncio\nasync def main():\n    print(asyncio.get_running_loop())\n"


def start(folder, *words, options=(), environ=None, text=None):
    """Run Python in `folder`; `words` are its arguments."""
    environ = {**os.environ, **(environ or {})}
    command = [sys.executable, *options, *words]
    return subprocess.run(command, cwd=folder, env=environ, input=text, capture_output=True, text=True, timeout=LIMIT)


def run(folder, source, *options, environ=None):
    """The output of a program that is run by the launcher, and must succeed without a warning."""
    words = ["-W", "error", *LAUNCHER, *options, "-c", textwrap.dedent(source)]
    done = start(folder, *words, environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# --- as without rloop ---


@pytest.fixture
def folder(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for path in (tmp_path / "app.py", package / "module.py", package / "__main__.py"):
        path.write_text(SELF_PORTRAIT)
    return tmp_path


@pytest.mark.parametrize(
    "program",
    [
        ["app.py"],
        ["app.py", "-m", "module", "--debug", "-c", ""],
        ["-m", "package.module", "--watch", "1"],
        ["-m", "package"],
        ["-mpackage"],
        ["package"],
        ["-c", SELF_PORTRAIT, "a", "b"],
        ["-", "a"],
    ],
    ids=lambda program: " ".join(program)[:20],
)
def test_program_sees_what_it_sees_without_rloop(folder, program):
    text = SELF_PORTRAIT if program[0] == "-" else None
    usual = start(folder, *program, text=text)
    assert usual.returncode == 0
    launched = start(folder, *LAUNCHER, *program, text=text)
    assert (launched.stdout, launched.stderr) == (usual.stdout, usual.stderr)


@pytest.mark.parametrize(
    "options", [["-W", "error", "-X", "dev"], ["-b", "-O"], ["-P"], ["-u", "-Wdefault"]], ids=" ".join
)
def test_options_of_the_interpreter_stay(folder, options):
    usual = start(folder, "app.py", options=options)
    launched = start(folder, *LAUNCHER, "app.py", options=options)
    assert (launched.stdout, launched.stderr) == (usual.stdout, usual.stderr)


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("raise SystemExit(7)", 7),
        ("raise SystemExit('told')", 1),
        ("def f():\n    1 / 0\nf()", 1),
        ("import asyncio\nasync def f():\n    1 / 0\nf = f()\nf.close()\nimport nothing", 1),
        ("syntax error", 1),
        ("import os\nos._exit(5)", 5),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("import signal\nsignal.raise_signal(signal.SIGINT)", -signal.SIGINT),
    ],
)
def test_end_is_that_without_rloop(tmp_path, source, status):
    """Exit status, and every line of a traceback."""
    (tmp_path / "app.py").write_text(source)
    usual = start(tmp_path, "app.py", "x")
    launched = start(tmp_path, *LAUNCHER, "app.py", "x")
    assert usual.returncode == status
    assert (launched.returncode, launched.stdout, launched.stderr) == (status, usual.stdout, usual.stderr)


def test_program_that_is_not_there(tmp_path):
    usual, launched = start(tmp_path, "nothing.py"), start(tmp_path, *LAUNCHER, "nothing.py")
    assert launched.returncode == usual.returncode == 2
    assert launched.stderr == usual.stderr


def test_process_id_stays(tmp_path):
    """A supervisor signals the process that it has started."""
    words = [sys.executable, *LAUNCHER, "-c", "import os; print(os.getpid())"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        out, _ = process.communicate(timeout=LIMIT)
    assert int(out) == process.pid


# --- on rloop's loop ---


@pytest.mark.parametrize(
    "line",
    [
        "asyncio.run(main())",
        "with asyncio.Runner() as runner: runner.run(main())",
        "with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner: runner.run(main())",
        "with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner: runner.run(main())",
        "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()",
        "from uvicorn._compat import asyncio_run as r; r(main(), debug=None, loop_factory=asyncio.SelectorEventLoop)",
    ],
)
def test_loop(tmp_path, line):
    assert run(tmp_path, RUNNING + line) == f"{LOOP}\n"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.run() takes a loop_factory since Python 3.12")
def test_factory_that_is_no_wish(tmp_path):
    assert run(tmp_path, RUNNING + "asyncio.run(main(), loop_factory=asyncio.SelectorEventLoop)") == f"{LOOP}\n"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="the name EventLoop is of Python 3.13")
def test_factory_by_its_short_name(tmp_path):
    assert run(tmp_path, RUNNING + "asyncio.run(main(), loop_factory=asyncio.EventLoop)") == f"{LOOP}\n"


def test_policy_of_asyncio_is_no_wish(tmp_path):
    """As a program does that wants to be independent of what others have set before."""
    policy = (
        "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore')\n"
        "    asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())\n"
    )
    assert run(tmp_path, RUNNING + policy + "asyncio.run(main())") == f"{LOOP}\n"


OTHER = "class Other(asyncio.SelectorEventLoop):\n    pass\n"


def test_loop_of_another_project(tmp_path):
    line = "with asyncio.Runner(loop_factory=Other) as runner: runner.run(main())"
    assert run(tmp_path, RUNNING + OTHER + line).startswith("<Other running")


def test_policy_of_another_project(tmp_path):
    policy = (
        "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('ignore')\n"
        "    class Policy(asyncio.DefaultEventLoopPolicy):\n        _loop_factory = Other\n"
        "    asyncio.set_event_loop_policy(Policy())\n"
    )
    assert run(tmp_path, RUNNING + OTHER + policy + "asyncio.run(main())").startswith("<Other running")


def test_loop_that_the_program_makes_itself(tmp_path):
    """A call of asyncio's own class is a wish for it."""
    lines = "loop = asyncio.SelectorEventLoop(); print(type(loop).__name__); loop.close()"
    assert run(tmp_path, "import asyncio\n" + lines) == "_UnixSelectorEventLoop\n"


def test_signature_of_runner_stays(tmp_path):
    source = "import asyncio, inspect; print(inspect.signature(asyncio.Runner), asyncio.Runner.__init__.__qualname__)"
    assert run(tmp_path, source) == start(tmp_path, "-c", source).stdout


def test_import_of_asyncio_that_fails_is_tried_again(tmp_path):
    """The loop is switched over by the import that succeeds."""
    source = """
    import sys
    sys.modules["asyncio.events"] = None
    try:
        import asyncio
    except ImportError:
        for name in [name for name in sys.modules if name.startswith("asyncio")]:
            del sys.modules[name]
    import asyncio
    loop = asyncio.new_event_loop()
    print(type(loop), len([finder for finder in sys.meta_path if type(finder).__module__ == "rloop._switch"]))
    loop.close()
    """
    assert run(tmp_path, source) == "<class 'rloop.Loop'> 0\n"


# --- options ---


def test_debug(tmp_path):
    assert "debug=True" in run(tmp_path, RUNNING + "asyncio.run(main())", "--debug")


def test_watch(tmp_path):
    source = "import os; print(os.environ.get('RLOOP_WATCH'))"
    assert run(tmp_path, source, environ={"RLOOP_WATCH": "5"}) == "5\n"
    assert run(tmp_path, source, "--watch", "0.25", environ={"RLOOP_WATCH": "5"}) == "0.25\n"
    assert run(tmp_path, source, "--watch=1") == "1\n"


def test_publish(tmp_path):
    source = """
    import asyncio, os, rloop

    async def main():
        print(rloop.read_published(os.getpid()).pid == os.getpid())

    asyncio.run(main())
    """
    assert run(tmp_path, source, "--publish", environ={"XDG_RUNTIME_DIR": str(tmp_path)}) == "True\n"


def test_as_uvloop(tmp_path):
    source = """
    import asyncio, sys, uvloop, uvloop.loop
    async def main():
        print(asyncio.get_running_loop(), isinstance(asyncio.get_running_loop(), uvloop.loop.Loop))
    uvloop.run(main())
    loop = uvloop.new_event_loop()
    print(type(loop) is uvloop.Loop)
    loop.close()
    version, local = uvloop.__version__.split("+")
    assert tuple(map(int, version.split("."))) >= (0, 17)
    print(local, sorted(uvloop.__all__) == sorted({"EventLoopPolicy", "install"} & set(dir(uvloop)) |
        {"Loop", "new_event_loop", "run"}))
    """
    assert run(tmp_path, source, "--as-uvloop") == f"{LOOP} True\nTrue\nrloop.{rloop.__version__} True\n"


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="Python 3.16 has no policies")
def test_install_of_uvloop(tmp_path):
    source = """
    import warnings
    warnings.simplefilter("ignore")
    import asyncio, uvloop
    async def main():
        print(asyncio.get_running_loop(), isinstance(asyncio.get_event_loop_policy(), uvloop.EventLoopPolicy))
    uvloop.install()
    asyncio.run(main())
    """
    assert run(tmp_path, source, "--as-uvloop") == f"{LOOP} True\n"


def test_uvloop_is_left_alone_without_the_option(tmp_path):
    """A module of that name is the program's own."""
    (tmp_path / "uvloop.py").write_text("print('the real one')")
    assert run(tmp_path, "import uvloop", environ={"PYTHONPATH": str(tmp_path)}) == "the real one\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--debug"], "no program is given"),
        (["--nonsense", "app.py"], "unrecognized arguments: --nonsense"),
        (["-x", "app.py"], "unknown option: -x"),
        (["--watch"], "argument --watch: expected one argument"),
        (["--watch", "soon", "app.py"], "--watch takes a number of seconds, not 'soon'"),
        (["--watch", "-1", "app.py"], "--watch takes a number of seconds, not '-1'"),
        (["--watch=nan", "app.py"], "--watch takes a number of seconds, not 'nan'"),
        (["--no-child", "app.py"], "unrecognized arguments: --no-child"),
    ],
)
def test_wrong_command_lines(tmp_path, words, told):
    done = start(tmp_path, *LAUNCHER, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"python -m rloop: error: {told}\n")


@pytest.mark.parametrize("option", ["-E", "-I", "-S"])
def test_options_that_shut_rloop_out(tmp_path, option):
    """Rather an error than a program on the wrong loop."""
    # -S leaves out site-packages, too.
    environ = {"PYTHONPATH": os.path.dirname(rloop.__path__[0])}
    done = start(tmp_path, *LAUNCHER, "app.py", options=[option], environ=environ)
    assert done.returncode == 2
    assert done.stderr == "python -m rloop: the options -E, -I and -S of Python keep rloop from the program\n"


def test_launcher_within_another_program(tmp_path):
    """A profiler or debugger around the launcher would see nothing of the program: that is told."""
    source = "import sys, runpy; sys.argv = ['x', 'app.py']; runpy.run_module('rloop', run_name='__main__')"
    done = start(tmp_path, "-c", source)
    assert done.returncode == 2
    assert done.stderr == f"python -m rloop: {_launch.AROUND}\n"


def test_package_in_the_current_directory_only(tmp_path):
    """`-m` looks into the current directory, and the program may not."""
    (tmp_path / "rloop").symlink_to(rloop.__path__[0])
    source = "import sys; sys.path = [entry for entry in sys.path if entry != sys.argv[1]]; import runpy; "
    source += "sys.argv = ['x', 'app.py']; sys.orig_argv = ['python', '-m', 'rloop', 'app.py']; "
    source += "runpy.run_module('rloop', run_name='__main__')"
    done = start(tmp_path, "-c", source, os.path.dirname(rloop.__path__[0]))
    assert done.returncode == 2
    assert "is not where `import rloop` of this Python looks" in done.stderr


def test_help(tmp_path):
    done = start(tmp_path, *LAUNCHER, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--debug", "--watch SECONDS", "--as-uvloop", "--no-children"):
        assert f"  {option} " in done.stdout or f"  {option}\n" in done.stdout


# --- the command line ---


@pytest.mark.parametrize(
    ("arguments", "ours", "program"),
    [
        (["a.py", "--debug"], [], ["a.py", "--debug"]),
        (["--debug", "--watch", "1", "-m", "x"], ["--debug", "--watch", "1"], ["-m", "x"]),
        (["--watch=1", "-", "x"], ["--watch=1"], ["-", "x"]),
        (["-h"], ["-h"], []),
        (["--watch"], ["--watch"], []),
    ],
)
def test_split(arguments, ours, program):
    assert _launch.split(arguments) == (ours, program)


@pytest.mark.parametrize(
    ("orig_argv", "options"),
    [
        (["python", "-m", "rloop", "a", "b"], []),
        (["python", "-W", "error", "-m", "rloop", "a", "b"], ["-W", "error"]),
        (["python", "-mrloop", "a", "b"], []),
        (["python", "-bm", "rloop", "a", "b"], ["-b"]),
        (["python", "-u", "-bmrloop", "a", "b"], ["-u", "-b"]),
        (["python", "-m", "cProfile", "-m", "rloop.x", "a", "b"], None),
        (["python", "rloop", "a", "b"], None),
        (["python", "a", "b"], None),
    ],
)
def test_interpreter_options(orig_argv, options):
    assert _launch.interpreter_options(["rloop", "a", "b"], orig_argv) == options


# --- programs of others ---


def test_pytest(tmp_path):
    test = RUNNING + "def test_loop():\n    asyncio.run(main())\n"
    (tmp_path / "test_app.py").write_text(test)
    # Without this option pytest-asyncio warns, which is an error where all warnings are.
    options = ("-q", "-s", "-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")
    done = start(tmp_path, *LAUNCHER, "-m", "pytest", *options, "test_app.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert LOOP in done.stdout
    assert "1 passed" in done.stdout
