"""The samples, and the tables that are made of them. Nothing here runs or measures anything.

A row is a configuration or a figure. For each row and loop there is one sample of each round. The tables show medians
of the rounds. A ratio of two loops is computed within each round, and the median of these ratios is shown: the speed of
the machine drifts from round to round, but the loops of one round ran at nearly the same time.
"""

import statistics
from collections import defaultdict

import loops


class Samples:
    """What was measured, by row and loop. After a failure, nothing of that row and loop is used any more."""

    def __init__(self):
        self.rounds = defaultdict(list)
        self.broken = {}
        # Why a loop cannot do what a row measures, by (row, loop).
        self.lacking = {}

    @classmethod
    def from_json(cls, rows: list[dict]) -> "Samples":
        """What `as_json` has written."""
        samples = cls()
        for one in rows:
            key = one["row"], one["loop"]
            if "error" in one:
                samples.broken[key] = one["error"]
            elif "lacking" in one:
                samples.lacking[key] = one["lacking"]
            else:
                samples.rounds[key] = one["rounds"]
        return samples

    def median(self, row: str, loop: str, metric: str) -> float | None:
        values = self.values(row, loop, metric)
        return statistics.median(values) if values else None

    def ratios(self, row: str, loop: str, metric: str, base: str = loops.BASE) -> list[float]:
        """The loop's value divided by the base's, one per round."""
        pairs = zip(self._samples(row, loop), self._samples(row, base), strict=False)
        return [own[metric] / other[metric] for own, other in pairs if other[metric]]

    def ratios_to_best(self, row: str, loop: str, metric: str) -> list[float]:
        """The loop's value divided by the least value of the rivals that were measured, one per round."""
        rivals = filter(None, (self.values(row, name, metric) for name in loops.RIVALS))
        best = [min(together) for together in zip(*rivals, strict=False)]
        return [own / least for own, least in zip(self.values(row, loop, metric), best, strict=False) if least]

    def values(self, row: str, loop: str, metric: str) -> list[float]:
        """The loop's values, one per round. There are none if it failed once."""
        return [sample[metric] for sample in self._samples(row, loop)]

    def _samples(self, row: str, loop: str) -> list[dict]:
        return [] if (row, loop) in self.broken else self.rounds.get((row, loop), [])

    def as_json(self) -> list[dict]:
        measured = [{"row": row, "loop": loop, "rounds": got} for (row, loop), got in self.rounds.items()]
        failed = [{"row": row, "loop": loop, "error": why} for (row, loop), why in self.broken.items()]
        absent = [{"row": row, "loop": loop, "lacking": why} for (row, loop), why in self.lacking.items()]
        return measured + failed + absent


def print_table(title: str, rows: list[str], columns: list[str], cell):
    """`cell(row, column)` returns a cell's text, or None for an empty one."""
    texts = {(row, column): cell(row, column) or "-" for row in rows for column in columns}
    width = 2 + max(len(text) for text in [*texts.values(), *columns])
    first = max(len(text) for text in [*rows, title])
    print(f"{title:<{first}}" + "".join(f"{column:>{width}}" for column in columns))
    for row in rows:
        print(f"{row:<{first}}" + "".join(f"{texts[row, column]:>{width}}" for column in columns))
    print()


def value_cell(samples: Samples, metric: str, form: str = "{:.1f}", scale: float = 1.0):
    """Makes a function for `print_table`, whose cells show the median."""

    def cell(row, loop):
        if (row, loop) in samples.broken:
            return "BROKEN"
        value = samples.median(row, loop, metric)
        return None if value is None else form.format(value * scale)

    return cell


def ratio_cell(samples: Samples, metric: str, form: str = "{:.1f}", rate: bool = False, scale: float = 1.0):
    """Makes a function for `print_table`, whose cells show the median and the ratio to the base. With `rate` they show
    the inverse ratio: how many times as fast the loop is."""
    plain = value_cell(samples, metric, form, scale)

    def cell(row, loop):
        ratios = samples.ratios(row, loop, metric)
        if not ratios:
            return plain(row, loop)
        ratio = statistics.median(1 / r if rate else r for r in ratios)
        return f"{plain(row, loop)} {ratio:>6.2f}"

    return cell
