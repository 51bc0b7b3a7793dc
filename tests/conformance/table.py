"""Writes the table of docs/compatibility.md from the results that `run.py` has left: `table.py VERSION...`.

Only for runs on every supported minor version: what a smaller machine has run is printed, and changes no file.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "conformance"
DOCUMENT = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- written by make conformance-all -->\n", "<!-- end -->\n"
MINORS = {"3.11", "3.12", "3.13", "3.14", "3.15"}


class Count(NamedTuple):
    passed: int
    run: int
    left_out: int

    def __str__(self) -> str:
        return f"{self.passed}/{self.run}" + (f" ({self.left_out})" if self.left_out else "")


def counts(version: str) -> dict[str, Count]:
    """The numbers for each module. Tests that skip themselves on this machine do not count as run."""
    found = {}
    for module, run in json.loads((RESULTS / f"{version}-rloop" / "results.json").read_text()).items():
        outcomes = [result["outcome"] for result in run["results"]]
        passed, failed = outcomes.count("passed"), outcomes.count("failed")
        found[module] = Count(passed, passed + failed, len(run["left_out"]))
    return found


def table(versions: list[str]) -> str:
    by_version = {version: counts(version) for version in versions}
    rows = [["tests", *versions], ["---"] * (1 + len(versions))]
    for module in sorted({module for found in by_version.values() for module in found}):
        cells = [by_version[version].get(module, Count(0, 0, 0)) for version in versions]
        if any(cell.run or cell.left_out for cell in cells):
            rows.append([f"`{module}`", *(str(cell) if cell.run or cell.left_out else "" for cell in cells)])
    sums = [Count(*map(sum, zip(*by_version[version].values(), strict=True))) for version in versions]
    rows.append(["**all**", *(f"**{total}**" for total in sums)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(versions: list[str]) -> None:
    text = table(versions)
    print(text)
    if {version.rpartition(".")[0] for version in versions} != MINORS:
        print(f"{DOCUMENT.name} is left as it is: it needs a run on each of {', '.join(sorted(MINORS))}")
        return
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + text + END + rest.partition(END)[2])


if __name__ == "__main__":
    main(sys.argv[1:])
