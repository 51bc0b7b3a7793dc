"""What is published of the benchmark: docs/performance.svg, the tables at the head of docs/performance.md, and some of
their rows in README.md.

    python benchmarks/published.py target/bench.json [another file ...]

Each file is what bench.py has written on one version of Python. The chart and README.md show the last of them that has
rows with CPU times. Nothing is measured here, and no figure is written by hand.
"""

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import arrivals
import echo
import footprint
import loops
import processes
import tls
import transfers
from report import Samples

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE, CHART, README = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.svg", ROOT / "README.md"
BEGIN, END = "<!-- figures: begin, by benchmarks/published.py -->", "<!-- figures: end -->"
# What the others are shown relative to.
REFERENCE = "asyncio"


@dataclass(frozen=True)
class Row:
    """A row of the benchmark that is published: its title, and where bench.py keeps it."""

    title: str
    section: str
    row: str
    metric: str = "cpu_us"
    # What the measured figure is divided by, to be in microseconds.
    scale: float = 1.0


def _echo(title: str, section: str, config: echo.Config | echo.Calls) -> Row:
    return Row(title, section, str(config))


def _tls(title: str, figure: tls.Echo | tls.Shake) -> Row:
    return Row(title, "tls", str(figure))


def _step(figure: str) -> Row:
    return Row(f"`{figure}`", "inprocess", figure, "cpu_ns", 1000)


KIB = 1024
STEPS = (
    *("call_soon", "threadsafe_other", "timer_cancel", "timer_fire", "sleep_zero", "create_task", "wait_for"),
    *("queue_ping_pong", "reader_wakeups", "run_in_executor"),
)
ROWS = (
    _echo("TCP 1 KiB", "tcp", echo.Config("protocol", KIB, 32)),
    _echo("TCP 10 KiB", "tcp", echo.Config("protocol", 10 * KIB, 32)),
    _echo("TCP 100 KiB", "tcp", echo.Config("protocol", 100 * KIB, 32)),
    _echo("one connection", "tcp", echo.Config("protocol", KIB, 1)),
    _echo("1,000 connections", "tcp", echo.Config("protocol", KIB, 1000)),
    _echo("5,000 connections", "tcp", echo.Config("protocol", KIB, 5000)),
    _echo("head and body apart", "tcp", echo.HEAD_AND_BODY),
    _echo("128 B, 32 deep", "tcp", echo.PIPELINED),
    _echo("connect, 1 KiB, close", "tcp", echo.CALLS),
    _echo("`BufferedProtocol` 1 KiB", "tcp", echo.Config("buffered", KIB, 32)),
    _echo("streams 1 KiB", "tcp", echo.Config("streams", KIB, 32)),
    _echo("streams 100 KiB", "tcp", echo.Config("streams", 100 * KIB, 32)),
    _echo("UNIX 1 KiB", "unix", echo.Config("unix", KIB, 32)),
    _echo("UDP 1 KiB", "udp", echo.Config("udp", KIB, 32)),
    _echo("`sock_*` 1 KiB", "sock", echo.Config("sock", KIB, 32)),
    _tls("TLS 1 KiB", tls.Echo("protocol", KIB)),
    _tls("TLS 100 KiB", tls.Echo("protocol", 100 * KIB)),
    _tls("TLS streams 1 KiB", tls.Echo("streams", KIB)),
    _tls("TLS handshake, RSA", tls.Shake("RSA-2048", False)),
    _tls("TLS handshake, P-256", tls.Shake("P-256", False)),
    *(_echo(config.kind, "http", config) for config in echo.HTTP),
    *(Row(f"{row}, a MiB", "transfers", row, "cpu_ns", 1000) for row in transfers.BULK),
    *(Row(row, "transfers", row, "cpu_ns", 1000) for row in (*transfers.SENDFILES, transfers.CONNECT)),
    *(Row(row, "processes", row) for row in (processes.SPAWN_SMALL, processes.SPAWN_PIPES)),
    *map(_step, STEPS),
)


# What a loop costs before it does anything. These are shown in a table of their own, and not in the chart.
FOOTPRINTS = tuple(Row(name, "footprint", name, "value") for name in footprint.NAMES)

# What README.md shows: these rows, of these loops.
FIRST_ROWS = ("TCP 1 KiB", "streams 1 KiB", "UDP 1 KiB", "TLS 1 KiB", "`call_soon`")
FIRST_LOOPS = ("rloop", "asyncio", "uvloop", "zuvloop")

# How long an answer, a timer or a callback takes at a given load. These are shown in a table of their own, and not in
# the chart.
DELAYS = tuple(
    Row(f"{load.title}: {title}", section, str(load), metric)
    for section, (default, _, _) in arrivals.SECTIONS.items()
    for load in default
    for metric, title in (arrivals.DELAYS if section == "delays" else arrivals.RESPONSES).items()
)


@dataclass(frozen=True)
class Run:
    """What bench.py has measured on one Python."""

    header: dict[str, str]
    sections: dict[str, Samples]

    @classmethod
    def read(cls, path: str) -> "Run":
        everything = json.loads(pathlib.Path(path).read_text())
        sections = {name: Samples.from_json(rows) for name, rows in everything["sections"].items()}
        return cls(everything["header"], sections)

    def loops(self) -> list[str]:
        """The loops that this run has measured, rloop first."""
        return [name for name in loops.NAMES if f"{name} (" in self.header["loops"]]

    def rows(self, published: Sequence[Row] = ROWS) -> list[Row]:
        """The published rows that this run has, in their order."""
        return [row for row in published if self.microseconds(row, "rloop") is not None]

    def microseconds(self, row: Row, loop: str) -> float | None:
        samples = self.sections.get(row.section)
        median = samples.median(row.row, loop, row.metric) if samples else None
        return None if median is None else median / row.scale

    def relative(self, row: Row, loop: str) -> float | None:
        """The loop's CPU time relative to that of asyncio: the median of the ratios of the rounds."""
        ratios = self.sections[row.section].ratios(row.row, loop, row.metric, base=REFERENCE)
        return statistics.median(ratios) if ratios else None

    def to_best(self, row: Row) -> float | None:
        """rloop's figure relative to that of the best of the others, as the bars judge it."""
        ratios = self.sections[row.section].ratios_to_best(row.row, "rloop", row.metric)
        return statistics.median(ratios) if ratios else None


def page(runs: list[Run]) -> str:
    """The text between the marks of the page: the tables for each Python."""
    return "\n\n".join(part for run in runs for part in tables(run))


def tables(run: Run) -> list[str]:
    measured = ", ".join(f"{key} {text}" for key, text in run.header.items() if key not in ("Python", "loops"))
    parts = [f"**{run.header['Python']}** beside {run.header['loops']}; {measured}."]
    for title, published in (("CPU, us", ROWS), ("response time or delay, us", DELAYS)):
        if rows := run.rows(published):
            parts += [table(run, title, rows, run.loops()), where_behind(run, rows)]
    if rows := run.rows(FOOTPRINTS):
        parts.append(table(run, "memory and start", rows, run.loops(), ("section",)))
    return parts


def summary(run: Run) -> str:
    """The text between the marks of README.md."""
    rows = [row for row in run.rows() if row.title in FIRST_ROWS]
    names = [name for name in run.loops() if name in FIRST_LOOPS]
    return table(run, f"CPU, us, {run.header['Python']}", rows, names, (RATIO,))


RATIO = "rloop / best other"


def table(run: Run, title: str, rows: list[Row], names: list[str], last: tuple[str, ...] = (RATIO, "section")) -> str:
    """A table with a column for each loop, and these last columns."""
    lines = [f"| {' | '.join([title, *names, *last])} |", f"|{'---|' * (1 + len(names) + len(last))}"]
    for row in rows:
        figures = [run.microseconds(row, name) for name in names]
        cells = ["-" if figure is None else shown(figure) for figure in figures]
        ratio = run.to_best(row)
        ends = {RATIO: "-" if ratio is None else f"{ratio:.2f}", "section": row.section}
        lines.append(f"| {' | '.join([row.title, *cells, *(ends[name] for name in last)])} |")
    return "\n".join(lines)


def shown(figure: float) -> str:
    """Three digits, or all that are before the point."""
    return f"{figure:.3g}" if abs(figure) < 1000 else f"{figure:.0f}"


def where_behind(run: Run, rows: list[Row]) -> str:
    """The rows in which another loop is better."""
    ratios = {row.title: run.to_best(row) for row in rows}
    behind = [f"{title} ({ratio:.2f})" for title, ratio in ratios.items() if ratio is not None and ratio > 1]
    return f"Not ahead here: {'; '.join(behind)}." if behind else "rloop is ahead on each of these rows."


WIDTH, LABELS, BAR, GAP, LEGEND = 880, 190, 9, 10, 62
COLOURS = {
    "rloop": "#d1495b",
    "asyncio": "#9aa5b1",
    "uvloop": "#1f6fb2",
    "aiofastnet": "#8a5a9e",
    "zuvloop": "#3c8d40",
    "rsloop": "#d08c2f",
    loops.OTHER_RLOOP: "#5c5346",
}


def chart(run: Run) -> str:
    """The text of the SVG: for each row a bar a loop, whose length is its CPU time relative to asyncio's."""
    names, rows = run.loops(), run.rows()
    block = len(names) * BAR + GAP
    height = LEGEND + len(rows) * block + 20
    unit = (WIDTH - LABELS - 60) / max(1.0, *(run.relative(row, name) or 0 for row in rows for name in names))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12" role="img"><title>CPU time relative to asyncio, {escape(run.header["Python"])}</title>'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="12" y="22" font-size="14" font-weight="bold">CPU time relative to asyncio, '
        f"{escape(run.header['Python'])}; shorter is better</text>",
        *legend(names),
    ]
    for number, row in enumerate(rows):
        top = LEGEND + number * block
        parts.append(
            f'<text x="{LABELS - 10}" y="{top + block / 2:.0f}" text-anchor="end">'
            f"{escape(row.title.replace('`', ''))}</text>"
        )
        parts += bars(run, row, names, top, unit)
    x = LABELS + unit
    parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{LEGEND - 4}" y2="{height - 16}" stroke="#555"/></svg>\n')
    return "\n".join(parts)


def legend(names: list[str]):
    step = min(110, (WIDTH - LABELS) // len(names))
    for number, name in enumerate(names):
        x = LABELS + number * step
        yield f'<rect x="{x}" y="36" width="12" height="12" fill="{COLOURS[name]}"/>'
        yield f'<text x="{x + 17}" y="46">{name}</text>'


def bars(run: Run, row: Row, names: list[str], top: int, unit: float):
    for number, name in enumerate(names):
        value = run.relative(row, name)
        if value is None:
            continue
        y, length = top + number * BAR, value * unit
        yield f'<rect x="{LABELS}" y="{y}" width="{length:.1f}" height="{BAR - 1}" fill="{COLOURS[name]}"/>'
        yield f'<text x="{LABELS + length + 4:.1f}" y="{y + BAR - 1}" font-size="9">{value:.2f}</text>'


def between_marks(path: pathlib.Path, text: str) -> str:
    """What the page is with this text between its marks."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        sys.exit(f"{path} lacks the marks between which the figures stand")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE", help="what bench.py has written on one Python")
    parser.add_argument("--page", type=pathlib.Path, default=PAGE, help="the page that shows the tables (%(default)s)")
    parser.add_argument("--readme", type=pathlib.Path, default=README, help="the page with some rows (%(default)s)")
    parser.add_argument("--chart", type=pathlib.Path, default=CHART, help="the chart (%(default)s)")
    options = parser.parse_args()
    runs = [Run.read(file) for file in options.files]
    shown = [run for run in runs if run.rows()][-1]
    texts = {options.page: page(runs), options.readme: summary(shown)}
    filled = {path: between_marks(path, text) for path, text in texts.items()}
    for path, text in filled.items():
        path.write_text(text)
    options.chart.write_text(chart(shown))
    print("written:", *filled, options.chart)


if __name__ == "__main__":
    main()
