"""A slice of four parts of the laboratory: long runs, interrupts, forks and exits. rloop only.

Each part is run for a few seconds, as `make lab` does for minutes. What the long run makes of its figures is tested
without a run: whoever leaks must be found.
"""

import copy
import importlib
import json
import os
import pathlib
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

LAB = pathlib.Path(__file__).resolve().parents[2] / "lab"

pytestmark = pytest.mark.time_limit(180)


@pytest.fixture
def figures(monkeypatch) -> Any:
    monkeypatch.syspath_prepend(LAB)
    return importlib.import_module("soak_figures")


@pytest.fixture
def chart(monkeypatch) -> Any:
    monkeypatch.syspath_prepend(LAB)
    return importlib.import_module("soak_chart").chart


def run(tmp_path, program, *arguments):
    """The last line of a part's output. Its files go to a folder of the test's own."""
    done = subprocess.run(
        [sys.executable, LAB / program, *map(str, arguments)],
        env={**os.environ, "CARGO_TARGET_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-2_000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_soak(tmp_path):
    said = run(tmp_path, "soak.py", "--seconds", 4)
    assert said["tried"] > 100
    rounds = [json.loads(line) for line in (tmp_path / "lab" / "soak.jsonl").read_text().splitlines()]
    assert rounds[-1]["connections"] == said["tried"]
    assert ElementTree.parse(tmp_path / "lab" / "soak.svg").getroot().tag.endswith("svg")


def test_interrupts(tmp_path):
    assert run(tmp_path, "interrupts.py", "--seconds", 20, "--count", 400)["tried"] >= 400


@pytest.mark.parametrize(
    ("place", "act"),
    [
        ("thread_while_it_polls", "go_on"),
        ("queued_writes", "leave_by_exit"),
        ("tls_handshake", "new_loop"),
        ("stopped_with_much_to_do", "close"),
    ],
)
def test_forks(tmp_path, place, act):
    done = subprocess.run(
        [sys.executable, "-W", "error", LAB / "forks_cases.py", "rloop", place, act, "1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_exits(tmp_path):
    assert run(tmp_path, "exits.py", "--here", "--seconds", 30, "--count", 16)["tried"] == 16


# --- what the long run makes of its figures ---


def flat(figures, count=10, connections=10_000):
    """The rounds of a run in which nothing grows."""
    one = {
        "seconds": 60.0,
        "took": 60.0,
        "made": dict.fromkeys(figures.KINDS, connections // 10),
        "answers": 1,
        "latency": figures.percentiles([100, 200, 300]),
        "rss": 50_000,
        "files": ["socket:[1]", "pipe:[2]"],
        "under load": {"files": 20, "rss": 60_000},
        "tasks": 3,
        "transports": 1,
        "protocols": 0,
        "chores": dict.fromkeys(figures.DUTIES, 1),
        "errors": {},
        "expected": {"no file descriptors": 1},
    }
    return [{**copy.deepcopy(one), "connections": connections * (number + 1)} for number in range(count)]


def test_flat_run_passes(figures):
    assert figures.judge(flat(figures)) == []


def leak_a_file(rounds):
    for number, one in enumerate(rounds):
        one["files"] += [f"socket:[{100 + index}]" for index in range(number)]


def leak_tasks(rounds):
    rounds[-1]["tasks"] += 1


def leak_transports(rounds):
    rounds[-1]["transports"] += 1


def leak_memory(rounds):
    for one in rounds:
        one["rss"] += one["connections"] // 50


def make_an_error(rounds):
    rounds[3]["errors"] = {"client, tls: Wrong": 1}


def leave_out_a_chore(rounds):
    for one in rounds:
        del one["chores"]["fork"]


def leave_out_a_server(rounds):
    for one in rounds:
        one["made"]["tls"] = 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (leak_a_file, "9 files were left open in 90,000 connections, of {'socket': 9}"),
        (leak_tasks, "tasks: 3 after the first round, 4 at the end"),
        (leak_transports, "transports: 1 after the first round, 2 at the end"),
        (leak_memory, "1,200 KiB of growth in 60,000 connections after the warm-up"),
        (make_an_error, "1 times: client, tls: Wrong"),
        (leave_out_a_chore, "the chore fork was never done"),
        (leave_out_a_server, "no connection was made to tls"),
    ],
)
def test_what_a_run_fails_for(figures, change, told):
    rounds = flat(figures)
    change(rounds)
    assert figures.judge(rounds) == [told]


def test_growth_of_a_long_run_is_counted_by_the_million(figures):
    rounds = flat(figures, count=12, connections=1_000_000)
    for one in rounds:
        one["rss"] += one["connections"] // 1_000  # 1,000 KiB for each million
    assert figures.judge(rounds) == []
    for one in rounds:
        one["rss"] += one["connections"] // 10_000
    assert len(figures.judge(rounds)) == 1


def test_run_of_one_round_says_nothing(figures):
    assert figures.judge(flat(figures, count=1)) == ["1 rounds are too few to see a growth"]


def test_percentiles(figures):
    assert figures.percentiles([]) == {"p50": 0, "p90": 0, "p99": 0, "p99.9": 0, "max": 0}
    assert figures.percentiles(range(1000)) == {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 999}


def test_chart(figures, chart):
    svg = ElementTree.fromstring(chart(flat(figures)))
    lines = [element for element in svg.iter() if element.tag.endswith("polyline")]
    assert len(lines) == 14
    assert {len(line.attrib["points"].split()) for line in lines} == {10}
