"""The figures of loops as OpenMetrics text, for `prometheus_client`, and for OpenTelemetry: read by the real libraries.

That docs/metrics.md has a row for each figure, with these names, is tested here, too. What the figures count is tested
in test_metrics.py.
"""

import asyncio
import dataclasses
import json
import os
import pathlib
import re

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import rloop
from rloop import _metrics, _openmetrics, _stacks
from rloop.contrib import opentelemetry, prometheus

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def loop():
    loop = rloop.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0.001))
    yield loop
    loop.close()


def own(loop):
    """The labels of this loop's samples."""
    number = next(number for number, known in _stacks.open_loops() if known is loop)
    return {"pid": str(os.getpid()), "loop": str(number)}


def check(families, loop):
    """The parsed families have every figure of the loop, with its value."""
    metrics, labels = loop.metrics(), own(loop)
    for field in dataclasses.fields(metrics):
        family, value = families.pop(_openmetrics.openmetrics_name(field.name)), getattr(metrics, field.name)
        samples = [sample for sample in family.samples if labels.items() <= sample.labels.items()]
        if family.type == "histogram":
            values = {sample.name: sample.value for sample in samples if "le" not in sample.labels}
            assert values == {f"{family.name}_count": value.count, f"{family.name}_sum": value.sum / 1e9}
            counts = [sample.value for sample in samples if "le" in sample.labels]
            assert counts == sorted(counts)
            assert counts[-1] == value.count
        else:
            assert [sample.value for sample in samples] == [value], field.name
            assert family.type == ("gauge" if field.name in {*_metrics.GAUGES, "utilization"} else "counter")
    assert families == {}


def test_text_is_read_by_prometheus(loop):
    parsed = text_string_to_metric_families(rloop.openmetrics())
    check({family.name: family for family in parsed}, loop)


def test_several_loops(loop):
    other = rloop.new_event_loop()
    try:
        turns = re.findall(r'rloop_turns_total\{pid="\d+",loop="(\d+)"\} (\d+)', rloop.openmetrics())
        assert (own(other)["loop"], "0") in turns
        assert (own(loop)["loop"], str(loop.metrics().turns)) in turns
    finally:
        other.close()
    assert f'loop="{int(own(loop)["loop"]) + 1}"' not in rloop.openmetrics()


def test_collector_of_prometheus_client(loop):
    registry = CollectorRegistry()
    registry.register(prometheus.Collector())
    parsed = text_string_to_metric_families(generate_latest(registry).decode())
    check({family.name: family for family in parsed}, loop)


def test_instruments_of_opentelemetry(loop):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    try:
        opentelemetry.instrument(provider.get_meter("rloop"))
        (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
    finally:
        provider.shutdown()
    found = {}
    for metric in scope.metrics:
        points = [point for point in metric.data.data_points if dict(point.attributes or {}) == own(loop)]
        found[metric.name] = ([point.value for point in points], metric.unit)
    metrics = loop.metrics()
    for field in dataclasses.fields(metrics):
        name, value = _openmetrics.opentelemetry_name(field.name), getattr(metrics, field.name)
        if isinstance(value, rloop.Histogram):
            assert found.pop(name + ".count") == ([value.count], "1")
            for part in ("sum", "p50", "p90", "p99", "p999", "max"):
                assert found.pop(f"{name}.{part}") == ([getattr(value, part) / 1e9], "s")
        else:
            assert found.pop(name)[0] == [value]
    assert found == {}


def test_the_dashboard_shows_what_is_exported(loop):
    """Each name in it is one of a sample, and each query is one that Prometheus understands in its outline."""
    names = set(re.findall(r"^(rloop_\w+)\{", rloop.openmetrics(), re.MULTILINE))
    text = (PAGE.parent / "grafana.json").read_text(encoding="utf-8")
    shown = set(re.findall(r"\brloop_\w+", text))
    assert shown - names == set()
    # Every figure has its place, but for the two that are shown in another form.
    figures = {re.sub("_(total|bucket|count|sum)$", "", name) for name in shown}
    assert {_openmetrics.openmetrics_name(field) for field in _openmetrics.TEXTS} - figures == {
        "rloop_ready_depth_max",
        "rloop_utilization_ratio",
    }
    panels = json.loads(text)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        for target in panel["targets"]:
            query = target["expr"]
            for left, right in ("()", "{}", "[]"):
                assert query.count(left) == query.count(right), query
            # A counter is shown by its rate, and only a counter is.
            for name, rated in re.findall(r"(?<!rate\()(rloop_\w+)\{|rate\((rloop_\w+)\{", query):
                assert bool(rated) == (name + rated).endswith(("_total", "_bucket")), query


def test_page_class_and_exporters_agree():
    rows = re.findall(
        r"^\| `(\w+)` \|.*?\| `(rloop_\w+)` \| `(rloop\.\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    fields = [field.name for field in dataclasses.fields(rloop.Metrics)]
    expected = [(name, _openmetrics.openmetrics_name(name), _openmetrics.opentelemetry_name(name)) for name in fields]
    assert rows == expected
    assert sorted(_openmetrics.TEXTS) == sorted(fields)
