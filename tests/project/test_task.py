"""The decisions of tools/task.py: what is missing, and that nothing is installed into the system unasked."""

import importlib.util
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def task(monkeypatch):
    """The module, on a machine whose Python has no tests of asyncio; `task.ran` is what it would have run."""
    spec = importlib.util.spec_from_file_location("task", ROOT / "tools" / "task.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    # The dataclass in it looks for its module in sys.modules.
    monkeypatch.setitem(sys.modules, "task", module)
    spec.loader.exec_module(module)
    module.ran = []
    monkeypatch.setattr(module, "run", lambda *command, **environment: module.ran.append(command))
    monkeypatch.setattr(module, "has_asyncio_tests", lambda python: False)
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("RLOOP_INSTALL", raising=False)
    return module


@pytest.fixture
def python(task, monkeypatch):
    found = task.Python((sys.executable,), (3, 11, 7))
    monkeypatch.setattr(task, "pythons", lambda: {(3, 11): found})
    return found


@pytest.mark.parametrize("setting", [None, "", "0"])
def test_nothing_is_installed_unasked(task, python, monkeypatch, setting):
    if setting is not None:
        monkeypatch.setenv("RLOOP_INSTALL", setting)
    with pytest.raises(SystemExit, match="libpython3.11-testsuite.*RLOOP_INSTALL=1"):
        task.bring_asyncio_tests(python)
    assert task.ran == []


def test_what_is_allowed_is_installed(task, python, monkeypatch):
    monkeypatch.setenv("RLOOP_INSTALL", "1")
    task.bring_asyncio_tests(python)
    assert [command[0] for command in task.ran] == ["apt-get", "apt-get"]
    assert task.ran[1][-1] == "libpython3.11-testsuite"


def test_missing(task, python, monkeypatch, capsys):
    lacking = task.missing()
    versions = [line.split()[1] for line in lacking if line.startswith("CPython ")]
    assert versions == ["3.12", "3.13", "3.14", "3.15"]
    assert [line for line in lacking if "RLOOP_INSTALL=1" in line and "asyncio's own tests" in line]
    task.say_missing(lacking, "Missing")
    assert capsys.readouterr().out.splitlines() == ["", "== Missing", *(f"  {line}" for line in lacking)]
    monkeypatch.setenv("RLOOP_INSTALL", "1")
    assert not [line for line in task.missing() if "asyncio's own tests" in line]


def test_nothing_missing_is_not_said(task, capsys):
    task.say_missing([], "Missing")
    assert capsys.readouterr().out == ""


def test_test_says_what_it_skips_at_both_ends_and_skips_it(task, python, monkeypatch, capsys):
    """Every step only prints its name, so that the output shows the order."""
    steps = ["lint", "hosting", "python_tests", "source_distribution", "conformance_of", "run_demo"]
    for step in steps:
        monkeypatch.setattr(task, step, lambda *_, step=step: print(step))
    monkeypatch.setattr(task, "venv", lambda *_: ("python",))
    monkeypatch.setattr(task, "wheel", lambda python: "wheel")
    monkeypatch.setattr(task, "is_shared", lambda python: False)
    task.test()
    output = capsys.readouterr().out
    assert output.index("Missing here") < output.index("lint")
    assert output.index("run_demo") < output.index("Skipped, because")
    assert output.count("asyncio's own tests") == 2
    assert output.count("a shared library of Python 3.11.7") == 2
    assert "source_distribution" in output
    assert "conformance_of" not in output
    assert "hosting" not in output
    assert "Everything else passed" in output


def test_rust_that_is_too_old(task, monkeypatch):
    def answer(*command, **options):
        return subprocess.CompletedProcess(command, 0, stdout="rustc 1.70.0 (90c541806 2023-05-31)\n")

    monkeypatch.setattr(task.subprocess, "run", answer)
    with pytest.raises(SystemExit, match=r"Rust 1\.\d+ or newer is needed, not rustc 1\.70\.0"):
        task.check_rust()


def test_rust_that_is_not_there(task, monkeypatch):
    monkeypatch.setattr(task.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"Rust 1\.\d+ or newer is needed: cargo and rustc are not on PATH"):
        task.check_rust()


def test_ci_allows_what_a_developer_is_asked_for():
    assert "export RLOOP_INSTALL=1\nmake test\n" in (ROOT / ".ci" / "run").read_text()


def test_minimum_of_rust_is_the_same_everywhere():
    [needed] = re.findall(r'^rust-version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    for name in ("README.md", "Makefile", "docs/embedding.md"):
        assert f"Rust {needed}" in (ROOT / name).read_text(), name
