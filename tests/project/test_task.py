"""The decisions of tools/task.py and tools/machine.py: what is missing, what is skipped for it, what is built anew, and
that nothing is installed into the system unasked."""

import importlib
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(monkeypatch):
    """A fresh copy of the module. Its Python has no tests of asyncio, and every command is on PATH."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.delenv("RLOOP_INSTALL", raising=False)
    monkeypatch.delenv("RLOOP_PYTHONS", raising=False)
    for name in ("machine", "task"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("machine")
    monkeypatch.setattr(module, "has_asyncio_tests", lambda python: False)
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    return module


@pytest.fixture
def task(machine, monkeypatch, tmp_path):
    """A fresh copy of the module, which builds in a folder of the test's own; `task.ran` is what it would have run."""
    module: Any = importlib.import_module("task")
    module.ran = []

    def run(*command, **environment):
        module.ran.append(command)
        if command[1:4] == ("-m", "venv", "--clear"):
            command[4].mkdir(exist_ok=True)

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    monkeypatch.setattr(module, "VENVS", tmp_path)
    return module


@pytest.fixture
def python(machine, monkeypatch):
    found = machine.Python((sys.executable,), (3, 11, 7))
    monkeypatch.setattr(machine, "pythons", lambda: {(3, 11): found})
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


def test_missing(task, machine, python, monkeypatch, capsys):
    lacking = machine.missing()
    versions = [line.split()[1] for line in lacking if line.startswith("CPython ")]
    assert versions == ["3.12", "3.13", "3.14", "3.15"]
    assert [line for line in lacking if "RLOOP_INSTALL=1" in line and "asyncio's own tests" in line]
    task.say_missing(lacking, "Missing")
    assert capsys.readouterr().out.splitlines() == ["", "== Missing", *(f"  {line}" for line in lacking)]
    monkeypatch.setenv("RLOOP_INSTALL", "1")
    assert not [line for line in machine.missing() if "asyncio's own tests" in line]


def test_nothing_missing_is_not_said(task, capsys):
    task.say_missing([], "Missing")
    assert capsys.readouterr().out == ""


def test_test_says_what_it_skips_at_both_ends_and_skips_it(task, machine, python, monkeypatch, capsys):
    """Every step only prints its name, so that the output shows the order."""
    steps = ["lint", "hosting", "python_tests", "source_distribution", "conformance_of", "run_demo", "docs"]
    for step in steps:
        monkeypatch.setattr(task, step, lambda *_, step=step: print(step))
    monkeypatch.setattr(task, "venv", lambda *_: ("python",))
    monkeypatch.setattr(task, "wheel", lambda python: "wheel")
    monkeypatch.setattr(machine, "is_shared", lambda python: False)
    task.test()
    output = capsys.readouterr().out
    assert output.index("Missing here") < output.index("lint")
    assert output.index("run_demo") < output.index("docs") < output.index("Skipped, because")
    assert output.count("asyncio's own tests") == 2
    assert output.count("a shared library of Python 3.11.7") == 2
    assert "source_distribution" in output
    assert "conformance_of" not in output
    assert "hosting" not in output
    assert "Everything else passed" in output


@pytest.mark.parametrize(("lacks", "skips"), [("fmt", "format"), ("clippy", "clippy")])
def test_lint_skips_a_command_that_cargo_lacks_and_says_so(task, machine, python, monkeypatch, capsys, lacks, skips):
    monkeypatch.setattr(machine, "has_cargo", lambda command: command != lacks)
    monkeypatch.setattr(task, "build", lambda: ("python",))
    task.lint()
    output = capsys.readouterr().out
    assert f"cargo {lacks} (rustup component add " in output
    assert f"== Rust: {skips}" not in output
    assert {"fmt", "clippy"} - {lacks} == {command[1] for command in task.ran if command[0] == "cargo"}
    assert ("python", "-m", "ruff", "format", "--check", *task.PYTHON_FOLDERS) in task.ran


def test_whether_cargo_has_a_command(machine, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not machine.has_cargo("fmt")
    cargo = tmp_path / "cargo"
    cargo.write_text('#!/bin/sh\n[ "$1" = fmt ]\n')
    cargo.chmod(0o755)
    assert machine.has_cargo("fmt")
    assert not machine.has_cargo("clippy")


def test_every_folder_with_python_is_formatted(task):
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a clone")
    files = [pathlib.PurePath(line) for line in tracked.stdout.splitlines()]
    assert len(files) > 100
    assert not [file for file in files if not any(file.is_relative_to(folder) for folder in task.PYTHON_FOLDERS)]


def test_build_installs_into_the_environment_that_it_has_made(task, python, tmp_path, capsys):
    inside = task.build()
    assert inside == (str(tmp_path / "dev-3.11" / "bin" / "python"),)
    assert task.ran[0][1:] == ("-m", "venv", "--clear", tmp_path / "dev-3.11")
    assert task.ran[1][:4] == (*inside, "-m", "pip", "install")
    assert task.ran[2][:4] == (*inside, "-m", "maturin", "develop")
    assert "--release" not in task.ran[2]
    assert str(tmp_path / "dev-3.11") in capsys.readouterr().out.splitlines()[-1]


def test_check_builds_and_hands_its_arguments_to_pytest(task, python):
    task.main(["check", "tests/tls", "-k", "pause"])
    assert task.ran[-2][2:4] == ("maturin", "develop")
    assert task.ran[-1][1:] == ("-m", "pytest", "tests/tls", "-k", "pause")


def test_arguments_of_a_task_that_takes_none(task):
    with pytest.raises(SystemExit, match=r"usage: task\.py build\|check\|"):
        task.main(["build", "tests"])


def test_an_environment_is_kept_until_its_requirements_or_its_python_change(task, machine, python, tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("one==1")

    def made(python):
        task.ran.clear()
        task.kept_venv("kept", python, "maturin", requirements)
        return bool(task.ran)

    assert [made(python), made(python)] == [True, False]
    requirements.write_text("one==2")
    assert [made(python), made(python)] == [True, False]
    newer = machine.Python(python.command, (3, 11, 8))
    assert [made(newer), made(newer)] == [True, False]


def test_a_wheel_is_not_built_anew_for_what_a_build_leaves_in_the_folder(task, monkeypatch, tmp_path):
    monkeypatch.setattr(task, "ROOT", tmp_path)
    folder = tmp_path / "python" / "rloop"
    folder.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "python/rloop/_loop.py"):
        (tmp_path / name).touch()
    before = task.last_change()
    later = time.time() + 100
    for name in ("_rloop.cpython-311-x86_64-linux-gnu.so", "_loop.cpython-311.pyc"):
        (folder / name).touch()
        task.os.utime(folder / name, (later, later))
    assert task.last_change() == before
    task.os.utime(folder / "_loop.py", (later, later))
    assert task.last_change() > before


def test_no_folder_beside_the_checkout_is_looked_into(machine, python):
    assert machine.ELSEWHERE == ""
    assert machine.all_pythons() == [python]


def test_pythons_elsewhere_come_by_a_setting(machine, python, monkeypatch, tmp_path):
    program = tmp_path / "in"
    program.touch()

    def answer(*command):
        versions = {"python3.11": (3, 11, 7), "python3.14": (3, 14, 1)}
        version = versions.get(command[-1])
        return version and machine.Python(command, version)

    monkeypatch.setattr(machine, "ELSEWHERE", str(program))
    monkeypatch.setattr(machine, "python_of", answer)
    # 3.11.7 is here already.
    assert machine.all_pythons() == [python, machine.Python((str(program), "python3.14"), (3, 14, 1))]


def test_a_setting_that_leads_nowhere_is_an_error(machine, python, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "ELSEWHERE", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match="RLOOP_PYTHONS is .*nowhere"):
        machine.all_pythons()


def test_rust_that_is_too_old(machine, monkeypatch):
    def answer(*command, **options):
        return subprocess.CompletedProcess(command, 0, stdout="rustc 1.70.0 (90c541806 2023-05-31)\n")

    monkeypatch.setattr(machine.subprocess, "run", answer)
    with pytest.raises(SystemExit, match=r"Rust 1\.\d+ or newer is needed, not rustc 1\.70\.0"):
        machine.check_rust()


def test_rust_that_is_not_there(machine, monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"Rust 1\.\d+ or newer is needed: cargo and rustc are not on PATH"):
        machine.check_rust()


def test_ci_allows_what_a_developer_is_asked_for():
    assert "export RLOOP_INSTALL=1\nmake test\n" in (ROOT / ".ci" / "run").read_text()


def test_minimum_of_rust_is_the_same_everywhere():
    [needed] = re.findall(r'^rust-version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    for name in ("README.md", "CONTRIBUTING.md", "Makefile", "docs/embedding.md"):
        assert f"Rust {needed}" in (ROOT / name).read_text(), name


def test_the_site_is_built_so_that_a_broken_link_fails(task, python, monkeypatch):
    """With --quiet MkDocs would not count its warnings."""
    monkeypatch.setattr(task, "kept_venv", lambda *_: ("python",))
    task.docs()
    assert task.ran == [("python", "-m", "mkdocs", "build", "--strict")]


def test_a_rival_without_a_wheel_for_this_python_is_left_out(task, python, monkeypatch, capsys):
    commands = []

    def status_of(*command):
        commands.append(command)
        return int(command[-1] == "rsloop")

    monkeypatch.setattr(task, "status_of", status_of)
    task.install_rivals(("python",), python)
    assert [command[-1] for command in commands] == [*task.RIVALS, "rloop==0.5.*"]
    assert all("--only-binary" in command for command in commands)
    # Beside ours, the other project's package would replace it.
    assert str(task.VENVS / "rloop-0.5" / "3.11") in commands[-1]
    assert capsys.readouterr().out == "rsloop cannot be installed for Python 3.11.7, and is left out\n"
