"""Samples and the tables made of them. Nothing here runs or measures anything.

A row is a configuration or a figure; per row and loop there is one sample per round. What is shown is the
median of the rounds, and a ratio is the median of the ratios within each round, because the loops of a
round ran side by side while the machine's speed drifts from round to round.
"""

import statistics
from collections import defaultdict

import loops


class Samples:
    """What was measured, by row and loop; a (row, loop) that failed once is not used any more."""

    def __init__(self):
        self.rounds = defaultdict(list)
        self.broken = {}
        # (row, loop) that cannot be measured because the loop has no such thing, and what it says.
        self.lacking = {}

    def median(self, row: str, loop: str, metric: str) -> float | None:
        values = self.values(row, loop, metric)
        return statistics.median(values) if values else None

    def ratios(self, row: str, loop: str, metric: str, base: str = loops.BASE) -> list[float]:
        """The loop's value in proportion to the base's, one per round."""
        pairs = zip(self._samples(row, loop), self._samples(row, base), strict=False)
        return [own[metric] / other[metric] for own, other in pairs if other[metric]]

    def ratios_to_best(self, row: str, loop: str, metric: str) -> list[float]:
        """The loop's value in proportion to the least of those rivals' that were measured, one per round."""
        rivals = filter(None, (self.values(row, name, metric) for name in loops.RIVALS))
        best = [min(together) for together in zip(*rivals, strict=False)]
        return [own / least for own, least in zip(self.values(row, loop, metric), best, strict=False) if least]

    def values(self, row: str, loop: str, metric: str) -> list[float]:
        """The loop's value, one per round; none if it failed once."""
        return [sample[metric] for sample in self._samples(row, loop)]

    def _samples(self, row: str, loop: str) -> list[dict]:
        return [] if (row, loop) in self.broken else self.rounds.get((row, loop), [])

    def as_json(self) -> list[dict]:
        measured = [{"row": row, "loop": loop, "rounds": got} for (row, loop), got in self.rounds.items()]
        failed = [{"row": row, "loop": loop, "error": why} for (row, loop), why in self.broken.items()]
        absent = [{"row": row, "loop": loop, "lacking": why} for (row, loop), why in self.lacking.items()]
        return measured + failed + absent


def print_table(title: str, rows: list[str], columns: list[str], cell):
    """`cell(row, column)` gives a cell's text, nothing for an empty one."""
    texts = {(row, column): cell(row, column) or "-" for row in rows for column in columns}
    width = 2 + max(len(text) for text in [*texts.values(), *columns])
    first = max(len(text) for text in [*rows, title])
    print(f"{title:<{first}}" + "".join(f"{column:>{width}}" for column in columns))
    for row in rows:
        print(f"{row:<{first}}" + "".join(f"{texts[row, column]:>{width}}" for column in columns))
    print()


def value_cell(samples: Samples, metric: str, form: str = "{:.1f}", scale: float = 1.0):
    """A cell with the median."""

    def cell(row, loop):
        if (row, loop) in samples.broken:
            return "BROKEN"
        value = samples.median(row, loop, metric)
        return None if value is None else form.format(value * scale)

    return cell


def ratio_cell(samples: Samples, metric: str, form: str = "{:.1f}", rate: bool = False, scale: float = 1.0):
    """A cell with the median and the ratio to the base's; with `rate`, the inverse: how often as fast."""
    plain = value_cell(samples, metric, form, scale)

    def cell(row, loop):
        ratios = samples.ratios(row, loop, metric)
        if not ratios:
            return plain(row, loop)
        ratio = statistics.median(1 / r if rate else r for r in ratios)
        return f"{plain(row, loop)} {ratio:>6.2f}"

    return cell
