"""The figures of rloop's loops for `prometheus_client`: `REGISTRY.register(rloop.contrib.prometheus.Collector())`.

What the figures mean is in docs/metrics.md, and how they are made in `rloop/_openmetrics.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from rloop._openmetrics import LABELS, families

_CLASSES = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}


class Collector:
    """A collector of every open loop of the process. Another thread may collect."""

    def collect(self) -> Iterator[Metric]:
        """Yield each family of figures, with a sample for each loop."""
        for family in families():
            metric = _CLASSES[family.kind](family.name, family.text, labels=LABELS, unit=family.unit)
            for labels, value in family.samples:
                metric.add_metric(labels, **({"value": value} if family.kind != "histogram" else value.as_keywords()))
            yield metric
