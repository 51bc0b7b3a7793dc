"""The laboratory's parts `faults`, `modes` and `allocations`: what can be checked without their own build of rloop.

`make lab` runs them. The schedule itself has Rust unit tests, in `src/reactor/sys/faults.rs`.
"""

import errno
import importlib
import pathlib
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CALLS = set(
    re.findall(r"\w+", re.findall(r"calls! \{(.*?)\}", (ROOT / "src/reactor/sys/call.rs").read_text(), re.S)[-1])
)


@pytest.fixture
def lab(monkeypatch):
    """Imports a file of lab/."""
    monkeypatch.syspath_prepend(ROOT / "lab")
    modules = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(ROOT / "lab") in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_a_wheel_cannot_make_calls_fail():
    rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)
    assert not hasattr(rloop._rloop, "_faults")


def test_no_wheel_has_the_feature():
    features = tomllib.loads((ROOT / "Cargo.toml").read_text())["features"]
    assert features["faults"] == []
    assert all("faults" not in others for others in features.values())
    assert "faults" not in (ROOT / "pyproject.toml").read_text()


def test_every_call_has_errors(lab):
    """Every call that Linux has can fail in a case: `accept` and `select` are other systems'."""
    table = lab("faults_table")
    assert set(table.ERRORS) == CALLS - {"accept", "select"}
    for errors in table.ERRORS.values():
        names = errors.split()
        assert names and len(names) == len(set(names)) and all(hasattr(errno, name) for name in names)
    assert set(table.SHORT) < CALLS and set(table.AFTER) < CALLS


def test_cases_of_a_scenario(lab):
    faults = lab("faults")
    cases = list(faults.cases_of("tcp", {"shutdown": [2, 0], "recv": [500, 0]}))
    assert len(cases) == len(set(cases))
    shutdown = [str(case) for case in cases if case.call == "shutdown" and case.number == errno.EBADF]
    assert shutdown == [
        "tcp: shutdown number 1: EBADF",
        "tcp: shutdown number 2: EBADF",
        "tcp: shutdown number 1: EBADF, for ever",
    ]
    assert max(case.first for case in cases) == 20
    assert "tcp: recv number 20: 1 only" in map(str, cases)
    assert "tcp: recv number 1: EINTR, 5 times" in map(str, cases)
    harmless = {case.number for case in cases if case.what == "errno" and case.is_harmless}
    assert harmless == {errno.EINTR, errno.EAGAIN}


def test_left_out_tests_exist(lab):
    """A test that is left out of a mode is there, and its mode, too."""
    known = {*lab("modes").MODES, *lab("reach").WAYS}
    lines = [line for line in (ROOT / "lab/modes_left_out.txt").read_text().splitlines() if not line.startswith("#")]
    for line in filter(None, lines):
        names, test = line.split(maxsplit=1)
        assert set(names.split(",")) <= known
        path, _, name = test.partition("::")
        source = (ROOT / path).read_text()
        assert not name or re.search(rf"def {re.escape(name.partition('[')[0])}\b", source), line


@pytest.mark.parametrize("name", ["faults", "modes", "reach", "allocations"])
def test_part_explains_itself(name):
    command = [sys.executable, str(ROOT / "lab" / f"{name}.py"), "--help"]
    path = str(ROOT / "tests")
    result = subprocess.run(command, capture_output=True, text=True, timeout=25, env={"PYTHONPATH": path, "PATH": ""})
    assert result.returncode == 0 and "--seconds" in result.stdout, result.stderr


# Names of scenarios that work without the laboratory's build: a slice of `allocations`, and the scenarios as such.
SCENARIOS = ["tcp", "unix", "streams", "tls", "start-tls", "udp", "unix-datagrams", "pipes", "sock", "sock-datagrams"]


@pytest.mark.parametrize("name", [*SCENARIOS, "readers", "signals", "threads"])
def test_scenarios(child, name, loop_name):
    """Each scenario of the faults works on both loops when nothing fails."""
    if name == "unix-datagrams" and loop_name == "asyncio":
        pytest.skip("asyncio sends to the address None, which its socket does not take")
    result = child(
        f"""
        import sys
        sys.path.insert(0, {str(ROOT / "lab")!r})
        from faults_scenarios import SCENARIOS
        from faults_world import World

        world = World()
        loop = world.loop = new_event_loop()
        loop.set_exception_handler(world.report)
        loop.run_until_complete(SCENARIOS[{name!r}](world))
        loop.run_until_complete(world.teardown())
        world.verify()
        print(world.problems, world.troubles[:-1])
        loop.close()
        """,
        "-Werror",
        "-Wignore:Implicitly cleaning up:ResourceWarning",
    )
    assert (result.stdout, result.returncode) == ("[] []\n", 0), result.stderr
