"""The decisions of tools/wheels.py, tools/wheel_try.py and tools/targets.py: for which Pythons and systems wheels are
built, what is refused, and what is skipped. Nothing is built here, and the network is not used.
"""

import importlib
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
REPORT = '{{"sym_tag": "{tag}", "external_libs": {libraries}}}'


@pytest.fixture
def tools(monkeypatch):
    """What imports a fresh copy of a module of tools/."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.delenv("RLOOP_INSTALL", raising=False)
    for name in ("machine", "task", "targets", "wheels"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module


@pytest.fixture
def machine(tools, monkeypatch):
    """A machine that has CPython 3.11 and 3.14."""
    module = tools("machine")
    there = [module.Python((f"/usr/bin/python3.{minor}",), (3, minor, 1)) for minor in (11, 14)]
    monkeypatch.setattr(module, "all_pythons", lambda: there)
    monkeypatch.setattr(module, "default_python", lambda: there[0])
    return module


@pytest.fixture
def wheels(machine, tools, monkeypatch):
    module = tools("wheels")
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    return module


def test_a_wheel_for_each_python_that_is_there(wheels, machine, capsys):
    here = wheels.system_of("x86_64", "gnu")
    assert wheels.chosen("", here) == machine.all_pythons()
    assert "the wheels for 3.12, 3.13, 3.15" in capsys.readouterr().out
    assert [python.minor for python in wheels.chosen("3.14", here)] == [(3, 14)]


def test_a_python_that_is_named_has_to_be_there(wheels):
    here = wheels.system_of("x86_64", "gnu")
    with pytest.raises(SystemExit, match="not on this machine: Python 3.12"):
        wheels.chosen("3.11 3.12", here)
    with pytest.raises(SystemExit, match="does not support Python 3.10"):
        wheels.chosen("3.10 3.11", here)


@pytest.mark.parametrize(("arch", "libc"), [("aarch64", "gnu"), ("x86_64", "musl"), ("aarch64", "musl")])
def test_pythons_of_other_systems_need_not_be_there(wheels, arch, libc):
    system = wheels.system_of(arch, libc)
    assert not system.is_this
    assert [python.minor for python in wheels.chosen("", system)] == wheels.SUPPORTED
    assert [python.command for python in wheels.chosen("3.12", system)] == [("python3.12",)]


def test_tags(wheels):
    glibc, musl = wheels.system_of("aarch64", "gnu"), wheels.system_of("x86_64", "musl")
    assert (glibc.tag, glibc.reported, glibc.flags) == ("manylinux2014", "manylinux_2_17_aarch64", "")
    assert (musl.tag, musl.reported) == ("musllinux_1_2", "musllinux_1_2_x86_64")
    assert musl.target == "x86_64-unknown-linux-musl"


@pytest.mark.parametrize(
    ("size", "tag", "libraries", "refused"),
    [
        (600_000, "manylinux_2_17_x86_64", "{}", None),
        (1_000_000, "manylinux_2_17_x86_64", "{}", "are too many"),
        (600_000, "manylinux_2_34_x86_64", "{}", "is not for manylinux_2_17_x86_64"),
        (600_000, "manylinux_2_17_x86_64", '{"libssl.so.3": null}', "is not for"),
    ],
)
def test_what_is_refused(wheels, monkeypatch, tmp_path, size, tag, libraries, refused):
    path = tmp_path / "rloop.whl"
    path.write_bytes(bytes(size))
    answer = subprocess.CompletedProcess([], 0, stdout=REPORT.format(tag=tag, libraries=libraries), stderr="")
    monkeypatch.setattr(wheels, "kept_venv", lambda *arguments: ("python",))
    monkeypatch.setattr(wheels.subprocess, "run", lambda *command, **options: answer)
    system = wheels.system_of("x86_64", "gnu")
    if refused is None:
        wheels.check(path, system)
    else:
        with pytest.raises(SystemExit, match=refused):
            wheels.check(path, system)


def test_builds_that_differ_are_refused(wheels, machine, monkeypatch, tmp_path):
    [python, _] = machine.all_pythons()
    monkeypatch.setattr(wheels, "TARGET", tmp_path)
    first, second = tmp_path / "first.whl", tmp_path / "second.whl"
    for path in (first, second):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("name", "content")
    monkeypatch.setattr(wheels, "build", lambda *arguments: second)
    second.write_bytes(first.read_bytes())
    wheels.build_again(first, python, None)
    second.write_bytes(first.read_bytes() + b"x")
    with pytest.raises(SystemExit, match="two builds differ"):
        wheels.build_again(first, python, None)


def test_files_of_a_wheel_have_the_time_that_is_asked_for(wheels, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert wheels.commit_time() == "1700000000"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert int(wheels.commit_time()) > 1_700_000_000


def test_smoke_tests_exist(wheels):
    assert [path for path in wheels.SMOKE if not (ROOT / path).is_file()] == []
    assert {re.split("[=<>]", line)[0] for line in wheels.test_requirements()} == {"pytest", "pytest-asyncio"}


def test_first_program_is_the_one_of_the_readme(tools):
    pytest.importorskip("rloop")
    program = tools("wheel_try").first_program((ROOT / "README.md").read_text())
    compile(program, "README.md", "exec")
    assert "import rloop" in program
    assert "..." not in program
    assert ("loop_factory" in program) == (sys.version_info >= (3, 12))


# --- targets ---


def test_a_target_is_skipped_if_its_library_is_not_there(machine, tools, monkeypatch, capsys):
    targets = tools("targets")
    monkeypatch.setattr(machine, "check_rust", lambda: None)
    monkeypatch.setattr(machine, "has_standard_library", lambda target: False)
    monkeypatch.setattr(machine, "has_library_source", lambda: False)
    monkeypatch.setattr(targets, "run", lambda *command, **environment: pytest.fail("nothing can be checked"))
    targets.main()
    skipped = re.findall("^== Skipped: (\\S+) needs", capsys.readouterr().out, re.MULTILINE)
    assert skipped == [*targets.TARGETS, targets.REFUSED]


def test_the_source_of_the_library_is_enough(machine, tools, monkeypatch):
    targets = tools("targets")
    monkeypatch.setattr(machine, "has_standard_library", lambda target: False)
    monkeypatch.setattr(machine, "has_library_source", lambda: True)
    command = targets.command_for("aarch64-apple-darwin")
    assert "build-std=std,panic_unwind" in command
    assert targets.environment_for(command)["RUSTC_BOOTSTRAP"] == "1"


def test_the_library_is_installed_only_if_that_is_allowed(machine, tools, monkeypatch):
    targets = tools("targets")
    ran = []
    monkeypatch.setattr(machine, "has_standard_library", lambda target: bool(ran))
    monkeypatch.setattr(targets.subprocess, "run", lambda command, **options: ran.append(command))
    monkeypatch.setattr(targets.shutil, "which", lambda name: name)
    assert not targets.bring_standard_library("x86_64-unknown-freebsd")
    monkeypatch.setenv("RLOOP_INSTALL", "1")
    assert targets.bring_standard_library("x86_64-unknown-freebsd")
    assert ran == [["rustup", "target", "add", "x86_64-unknown-freebsd"]]


def test_an_installation_that_takes_too_long_is_given_up(machine, tools, monkeypatch):
    targets = tools("targets")

    def never_ends(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(machine, "has_standard_library", lambda target: False)
    monkeypatch.setattr(targets.subprocess, "run", never_ends)
    monkeypatch.setattr(targets.shutil, "which", lambda name: name)
    monkeypatch.setenv("RLOOP_INSTALL", "1")
    assert not targets.bring_standard_library("x86_64-unknown-freebsd")


@pytest.mark.parametrize(
    ("errors", "passes"),
    [
        ("error: rloop does not run on Windows: use asyncio\nerror: could not compile `rloop` (lib)\n", True),
        ("error: rloop does not run on Windows: use asyncio\nerror[E0432]: mio\nerror: could not compile\n", False),
        ("error[E0432]: unresolved import\nerror: could not compile `rloop` (lib)\n", False),
        ("", False),
    ],
)
def test_windows_is_told_one_sentence(tools, monkeypatch, errors, passes):
    targets = tools("targets")
    answer = subprocess.CompletedProcess([], 101, stderr=errors)
    monkeypatch.setattr(targets.subprocess, "run", lambda *command, **options: answer)
    if passes:
        targets.refuse(["cargo"])
    else:
        with pytest.raises(SystemExit, match="by one sentence"):
            targets.refuse(["cargo"])


def test_every_module_is_for_unix():
    """Else Windows gets the errors of that module, too."""
    source = (ROOT / "src" / "lib.rs").read_text()
    modules = re.findall(r"((?:^#\[.*\]\n)+)^(?:pub )?mod (\w+)", source, re.MULTILINE)
    assert len(modules) == len(re.findall(r"^(?:pub )?mod ", source, re.MULTILINE))
    assert [name for attributes, name in modules if not re.search(r"cfg\((?:all\()?unix", attributes)] == []
    assert "#[cfg(not(unix))]\ncompile_error!(" in source
