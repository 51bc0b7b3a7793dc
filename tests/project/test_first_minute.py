"""The block of README.md that tools/first_minute.py makes: what is shown of commands, and what of one that fails."""

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"


@pytest.fixture
def first_minute(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.delitem(sys.modules, "first_minute", raising=False)
    module = importlib.import_module("first_minute")
    monkeypatch.delitem(sys.modules, "first_minute")
    return module


def test_block(first_minute, tmp_path):
    outputs = [
        ("cd try", ""),
        ("pwd", f"{tmp_path}\n"),
        ("cat two", "a\n\nb\n"),
        ("x", "Linux-6.1.9-local-x86_64-with-glibc2.36"),
    ]
    expected = ["```text", "$ cd try", "$ pwd", "~/try", "$ cat two", "a", "", "b", "$ x"]
    expected += ["Linux-6.1-x86_64-with-glibc2.36", "```"]
    assert first_minute.block(outputs, tmp_path).split("\n") == expected


def test_what_is_run_is_what_is_shown(first_minute, tmp_path):
    wheel = tmp_path / "rloop.whl"
    for shown, real in first_minute.commands("python3", wheel):
        assert (
            real.replace(" --quiet --disable-pip-version-check --no-index", "").replace(str(wheel), wheel.name) == shown
        )


def test_a_command_that_fails(first_minute, tmp_path):
    assert first_minute.run("echo one; echo two >&2", tmp_path) == "one\ntwo\n"
    with pytest.raises(SystemExit, match=r"FAILED \(exit status 3\): echo no; exit 3\nno\n"):
        first_minute.run("echo no; exit 3", tmp_path)


def test_the_program(first_minute, tmp_path):
    """The newcomer's program runs on this rloop."""
    pytest.importorskip("rloop", exc_type=ModuleNotFoundError)
    (tmp_path / "hello.py").write_text(first_minute.PROGRAM)
    assert first_minute.run(f"{sys.executable} hello.py", tmp_path).startswith("<rloop.Loop running=True")


def test_the_readme_shows_these_commands(first_minute):
    [block] = re.findall(r"```text\n(\$ .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    shown = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    wheel = Path(shown[1].split()[-1])
    assert shown == [command for command, _ in first_minute.commands("python3", wheel)]
    assert f"$ cat hello.py\n{first_minute.PROGRAM}$ python hello.py\n<rloop.Loop " in block
