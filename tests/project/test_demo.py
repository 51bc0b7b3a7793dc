"""What the demo prints about its measurements (tests/demo/result.py). No server runs here."""

import os
import pathlib
import sys
import time
from dataclasses import replace

import pytest

DEMO = str(pathlib.Path(__file__).resolve().parents[1] / "demo")


@pytest.fixture
def result(monkeypatch):
    monkeypatch.syspath_prepend(DEMO)
    monkeypatch.delitem(sys.modules, "result", raising=False)
    import result

    yield result
    sys.modules.pop("result", None)


@pytest.fixture
def measured(result):
    """Two workloads, three rounds, on a machine that slows down: rloop is faster in every round."""
    results = result.Results(["rloop", "asyncio"])
    for workload, gain in (("GET", (2.0, 1.5, 1.6)), ("echo", (3.0, 3.2, 2.8))):
        for speed, factor in zip((1000, 400, 100), gain, strict=True):
            results.add(workload, "rloop", result.Slice(round(speed * factor), 0.5, speed * factor * 30e-6))
            results.add(workload, "asyncio", result.Slice(speed, 0.5, speed * 60e-6))
    return results


def test_ratio_is_of_the_rounds(result, measured):
    """The ratio is of rounds, not of the best slices or of sums: those depend on the machine's speed."""
    assert measured.ratio("rate", "GET", "rloop", "asyncio") == result.Ratio(1.6, 1.5, 2.0)
    assert str(measured.ratio("rate", "echo", "rloop", "asyncio")) == "3.00 (2.80-3.20)"
    assert str(measured.ratio("cost", "GET", "rloop", "asyncio")) == "0.50 (0.50-0.50)"


def test_table(result, measured):
    table = [" ".join(line.split()) for line in result.lines(measured) if line]
    assert table == [
        "requests a second rloop asyncio rloop / asyncio (range)",
        "GET 1,200 800 1.60 (1.50-2.00)",
        "echo 2,560 800 3.00 (2.80-3.20)",
        "server CPU, µs a request rloop asyncio rloop / asyncio (range)",
        "GET 30.0 60.0 0.50 (0.50-0.50)",
        "echo 30.0 60.0 0.50 (0.50-0.50)",
    ]


def test_columns_are_aligned(result, measured):
    lines = [line for line in result.lines(measured) if line]
    assert len({len(line) for line in lines}) == 1


def test_sentence(result, measured):
    assert result.sentence(measured) == (
        "In the same time rloop answered 1.60 to 3.00 times as many requests as asyncio, "
        "for 0.50 of the CPU time a request."
    )


def test_sentence_says_when_the_rounds_contradict_each_other(result, measured):
    for loop, requests in (("rloop", 90), ("asyncio", 100)):
        measured.add("GET", loop, result.Slice(requests, 0.5, 0.001))
    assert result.sentence(measured).endswith(
        "; in 1 of 2 workloads, though, asyncio was no slower in some of the rounds."
    )


def test_one_loop_alone(result):
    results = result.Results(["rloop"])
    results.add("GET", "rloop", result.Slice(100, 0.5, 0.001))
    assert result.sentence(results) == "rloop was measured alone, so there is nothing to compare it with."
    assert "range" not in "".join(result.lines(results))


@pytest.mark.parametrize("others", [0.0, 0.2])
def test_quiet_machine(result, others):
    assert result.warning(others, 9.0, 2) is None


def test_busy_machine(result, measured):
    assert measured.others() == 0.0
    for loop in measured.loops:
        for workload in measured.workloads:
            slices = measured.slices(workload, loop)
            slices[:] = [replace(one, others=1.25) for one in slices]
    text = result.warning(measured.others(), 3.14, 2)
    assert text.startswith("WARNING: other processes used 1.2 of 2 CPUs meanwhile (load average 3.1)")


def test_cpu_time_of_a_process_is_finer_than_a_tick(result, monkeypatch):
    import server

    class Process(server.UvicornProcess):
        pid = os.getpid()

        def __init__(self):
            pass

    readings = [Process().cpu_seconds() for _ in range(1000)]
    steps = [later - earlier for earlier, later in zip(readings, readings[1:], strict=False)]
    assert 0 < min(filter(None, steps)) < 0.001
    assert readings[-1] - readings[0] <= time.process_time()
