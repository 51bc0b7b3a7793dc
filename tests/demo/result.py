"""What the demo prints of its measurements: the table, a warning if the machine is busy, and the sentence at the end.

Nothing is measured here. A slice is what one loop did in a fraction of a second. The speed of the machine drifts, but
the slices of one round ran directly one after the other. So a ratio is computed within each round. The table shows the
median of these ratios, with the least and the greatest.
"""

import statistics
from dataclasses import dataclass

# (title, property of a slice, how it is written)
FIGURES = (("requests a second", "rate", "{:,.0f}"), ("server CPU, µs a request", "cost", "{:.1f}"))

# If other processes use more CPUs than this, the figures are not reliable.
BUSY = 0.2


@dataclass(frozen=True)
class Slice:
    requests: int
    seconds: float
    cpu_seconds: float
    # How many CPUs other processes used at the same time.
    others: float = 0.0

    @property
    def rate(self):
        return self.requests / self.seconds

    @property
    def cost(self):
        """CPU time of the server for each request, in microseconds."""
        return self.cpu_seconds / self.requests * 1e6


@dataclass(frozen=True)
class Ratio:
    """The median of the rounds' ratios, the least and the greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, pairs):
        ratios = [own / other for own, other in pairs]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self):
        return f"{self.median:.2f} ({self.least:.2f}-{self.greatest:.2f})"


class Results:
    """All slices by workload and loop, one of each round, in the order of the rounds."""

    def __init__(self, loops):
        self.loops = loops
        self.workloads = []
        self._slices = {}

    def add(self, workload, loop, measured):
        if workload not in self.workloads:
            self.workloads.append(workload)
        self._slices.setdefault((workload, loop), []).append(measured)

    def slices(self, workload, loop):
        return self._slices[workload, loop]

    def ratio(self, figure, workload, loop, base):
        """The ratio of a figure of the loop to the same figure of the base."""
        own, others = self.slices(workload, loop), self.slices(workload, base)
        return Ratio.of((getattr(a, figure), getattr(b, figure)) for a, b in zip(own, others, strict=True))

    def others(self):
        """How many CPUs other processes used: the median of all slices."""
        return statistics.median(one.others for slices in self._slices.values() for one in slices)


def lines(results):
    """The lines of the table."""
    own, *rivals = results.loops
    heads = [f"{own} / {rival} (range)" for rival in rivals]
    for title, figure, form in FIGURES:
        yield _row(title, results.loops, heads)
        for workload in results.workloads:
            slices = [results.slices(workload, loop) for loop in results.loops]
            medians = [form.format(statistics.median(getattr(one, figure) for one in own)) for own in slices]
            ratios = [str(results.ratio(figure, workload, own, rival)) for rival in rivals]
            yield _row(workload, medians, ratios)
        yield ""


def _row(name, values, ratios):
    return f"{name:26}" + "".join(f"{text:>12}" for text in values) + "".join(f"{text:>26}" for text in ratios)


def warning(others, load_average, cpus):
    """The warning, if the machine is busy with other things, else None."""
    if others <= BUSY:
        return None
    return (
        f"WARNING: other processes used {others:.1f} of {cpus} CPUs meanwhile (load average {load_average:.1f}): "
        "take these figures on a machine that has nothing else to do"
    )


def sentence(results):
    """The result in one sentence."""
    own, *rivals = results.loops
    if not rivals:
        return f"{own} was measured alone, so there is nothing to compare it with."
    rival = rivals[0]
    rates = [results.ratio("rate", workload, own, rival) for workload in results.workloads]
    costs = [results.ratio("cost", workload, own, rival) for workload in results.workloads]
    return (
        f"In the same time {own} answered {_span(rates)} times as many requests as {rival}, "
        f"for {_span(costs)} of the CPU time a request{_doubt(rates, rival)}."
    )


def _span(ratios):
    least, greatest = (f"{pick(ratio.median for ratio in ratios):.2f}" for pick in (min, max))
    return least if least == greatest else f"{least} to {greatest}"


def _doubt(ratios, rival):
    """What the sentence adds if the rounds contradict each other."""
    doubtful = sum(ratio.least <= 1 <= ratio.greatest for ratio in ratios)
    if not doubtful:
        return ""
    return f"; in {doubtful} of {len(ratios)} workloads, though, {rival} was no slower in some of the rounds"
