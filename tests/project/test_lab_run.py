"""What lab/run.py makes of the parts of the laboratory: when one has failed, and how long all of them take."""

import heapq
import importlib
import sys
from pathlib import Path

import pytest

LAB = Path(__file__).resolve().parents[2] / "lab"


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """`run.py`, with parts and their output in a folder of the test's own."""
    monkeypatch.syspath_prepend(LAB)
    monkeypatch.delitem(sys.modules, "run", raising=False)
    module = importlib.import_module("run")
    monkeypatch.delitem(sys.modules, "run")
    monkeypatch.setattr(module, "LAB", tmp_path)
    monkeypatch.setattr(module, "OUTPUT", tmp_path)
    return module


@pytest.mark.parametrize(
    ("line", "status", "passed"),
    [
        ('{"tried": 3, "failed": 0}', 0, True),
        ('{"skipped": "it is not here"}', 0, True),
        ('{"tried": 3, "failed": 1}', 0, False),
        ('{"tried": 3, "failed": 0}', 1, False),
        ('{"skipped": "it is not here"}', 1, False),
        ('{"tried": 0, "failed": 0}', 0, False),
        ('{"failed": 0}', 0, False),
        ("{}", 0, False),
        ("no JSON", 0, False),
    ],
)
def test_a_part_has_to_try_something(lab, tmp_path, line, status, passed):
    (tmp_path / "part.py").write_text(f"import sys\nprint('working')\nprint({line!r})\nsys.exit({status})\n")
    outcome = lab.run("part", 10)
    assert outcome.passed is passed


def test_a_part_that_ends_with_nothing_tried_fails(monkeypatch, capsys):
    monkeypatch.syspath_prepend(LAB)
    monkeypatch.delitem(sys.modules, "builds", raising=False)
    builds = importlib.import_module("builds")
    monkeypatch.delitem(sys.modules, "builds")
    with pytest.raises(SystemExit) as ended:
        builds.finish(0, 0)
    assert ended.value.code == 1
    assert capsys.readouterr().out == '{"tried": 0, "failed": 1}\n'


def test_all_parts_fit_into_the_time(lab):
    """Two run at a time; the next part begins where one has ended. Both lanes end about together."""
    lanes = [0] * lab.AT_A_TIME
    for name in lab.in_order(lab.PARTS):
        heapq.heappush(lanes, heapq.heappop(lanes) + lab.PARTS[name])
    assert max(lanes) <= lab.LIMIT == 4800
    assert max(lanes) - min(lanes) <= 300


def test_each_part_is_a_program(lab):
    assert [name for name in lab.PARTS if not (LAB / f"{name}.py").is_file()] == []
