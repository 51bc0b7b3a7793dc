"""A slice of the laboratory's fuzzers, each for a few seconds. rloop only; what each part tries is in lab/README.md."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

LAB = Path(__file__).resolve().parents[2] / "lab"


def played(part, *arguments):
    """Runs a part of the laboratory; returns what it tried. Whatever fails is shown."""
    done = subprocess.run([sys.executable, LAB / f"{part}.py", *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["failed"] == 0
    return result["tried"]


@pytest.mark.time_limit(120)
def test_random_programs():
    """The same ones each time: a seed for each mix of connections."""
    for seed, mix in enumerate(["streams", "all", "exits"], 1):
        assert played("programs", "--seconds", "60", "--seed", str(seed), "--kinds", mix, "--programs", "30") >= 30


@pytest.mark.time_limit(120)
def test_wrong_calls():
    assert played("api", "--seconds", "60", "--seed", "1", "--episodes", "15") > 500


@pytest.mark.time_limit(120)
def test_hostile_peers():
    assert played("hostile_peers", "--seconds", "60", "--seed", "1", "--count", "200") == 200
