"""The figures of rloop's loops as observable instruments of OpenTelemetry: `rloop.contrib.opentelemetry.instrument()`.

What the figures mean is in docs/metrics.md, and how they are made in `rloop/_openmetrics.py`. OpenTelemetry has no
observable histogram. So a histogram becomes two counters, `count` and `sum`, and a gauge for each quantile.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter

from rloop._openmetrics import INSTRUMENTS, LABELS, Instrument, observe


def _observe(instrument: Instrument, _options: CallbackOptions) -> Iterable[Observation]:
    return [Observation(value, dict(zip(LABELS, labels, strict=True))) for labels, value in observe(instrument)]


def instrument(meter: Meter | None = None) -> None:
    """Make an instrument for each figure. `meter`: where; None: the meter `rloop` of the global provider."""
    meter = meter or get_meter("rloop")
    for each in INSTRUMENTS:
        create = meter.create_observable_counter if each.kind == "counter" else meter.create_observable_gauge
        create(each.name, [functools.partial(_observe, each)], each.unit, each.text)
