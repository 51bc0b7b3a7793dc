"""The laboratory's part `reach`: each way holds where it should, and a slice of the tests passes in each.

`make reach` runs all of them. Which tests are left out is looked at in `test_lab_faults.py`.
"""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

LAB = Path(__file__).resolve().parents[2] / "lab"
WAYS = (
    "malloc-debug",
    "dev",
    "warnings",
    "c-locale",
    "no-home",
    "sandbox-eperm",
    "sandbox-enosys",
    "linux-4.18",
    "pid-1",
    "few-files",
)
# One file for what the ways are about: child processes, which wait for a pidfd where there is one.
SLICE = "tests/process/test_exit.py"


@pytest.fixture
def reach(monkeypatch):
    monkeypatch.syspath_prepend(LAB)
    names = ("reach", "modes", "builds", "faults_build")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("reach")
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    return module


def test_names(reach):
    assert tuple(reach.WAYS) == WAYS


@pytest.mark.parametrize("name", WAYS)
def test_a_way_is_told_from_its_absence(reach, name):
    """What asks whether a way holds finds that it does not hold outside."""
    way = reach.WAYS[name]
    variables = {key: value for key, value in reach.environment(way).items() if key not in way.variables}
    outside = subprocess.run([sys.executable, "-c", way.holds], env=variables, capture_output=True, timeout=25)
    assert outside.returncode != 0


@pytest.mark.time_limit(120)
@pytest.mark.parametrize("name", WAYS)
def test_slice(reach, name):
    if why := reach.why_not(name):
        pytest.skip(why)
    passed, failed = reach.run(name, SLICE)
    assert failed == []
    assert passed >= 10


def test_a_failure_is_counted(reach, capsys):
    """The outcome of a file that is not there is a failure, and is in the figures of its way."""
    figures = reach.modes.run_all(reach.run, ["dev"], ["tests/process/test_not_there.py"], 20, 1)
    assert figures == {"dev": [1, 1]}
    assert "dev tests/process/test_not_there.py: 0 passed, 1 failed" in capsys.readouterr().out
