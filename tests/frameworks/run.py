"""`make frameworks`: installs what docs/frameworks.md shows, runs every snippet, writes the table of the page.

The Python that runs this has rloop installed. The snippets are run by test_snippets.py, which pytest runs here.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from frameworks.page import BEGIN, END, PACKAGES, PAGE, sections  # noqa: E402

REQUIREMENTS = HERE / "requirements.txt"
RESULTS = HERE.parents[1] / "target" / "frameworks.xml"


def install() -> None:
    """Install all packages or, if that fails, each of them that can be installed."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, "-r", str(REQUIREMENTS)]).returncode == 0:
        return
    for line in REQUIREMENTS.read_text().splitlines():
        if not line.startswith("#") and subprocess.run([*pip, line]).returncode:
            print(f"-- cannot be installed on this Python: {line}", flush=True)


def outcomes() -> dict[str, list[str]]:
    """Of each section, what became of its runs: "ran", or why not."""
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(RESULTS).iter("testcase"):
        if match := re.fullmatch(r"test_loop\[(.+)-\d+\]", case.get("name", "")):
            skipped = case.find("skipped")
            found.setdefault(match[1], []).append("ran" if skipped is None else str(skipped.get("message")))
    return found


def table(outcomes: dict[str, list[str]]) -> str:
    """The table of the page, with a row for each section."""
    rows = [f"rloop {importlib.metadata.version('rloop')}, Python {platform.python_version()}.", ""]
    rows += ["| program | versions | runs |", "| --- | --- | --- |"]
    for section in sections():
        runs = outcomes[section.title]
        if set(runs) == {"ran"}:
            versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES[section.title])
            rows.append(f"| {section.title} | {versions} | {len(runs)} |")
        else:
            rows.append(f"| {section.title} | | {', '.join(sorted(set(runs)))} |")
    return "\n".join(rows)


def write_table() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(outcomes())}\n\n{END}{after}")
    print(f"{PAGE} has the table", flush=True)


def main() -> int:
    install()
    # The table that one test looks at is written afterwards.
    options = ["-p", "no:cacheprovider", "-k", "not table", f"--junitxml={RESULTS}"]
    status = subprocess.run([sys.executable, "-m", "pytest", *options, str(HERE)], cwd=HERE.parents[1]).returncode
    if status == 0:
        write_table()
    return status


if __name__ == "__main__":
    sys.exit(main())
