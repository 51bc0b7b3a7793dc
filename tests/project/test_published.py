"""What benchmarks/published.py makes of the figures of the benchmark. Nothing is measured here."""

import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"
MARKS = "<!-- figures: begin, by benchmarks/published.py -->", "<!-- figures: end -->"
# CPU us of three rounds on a machine that becomes slower: rloop is ahead over TCP, and behind over UDP.
TCP, UDP = "protocol       1 KiB   32 conns", "udp            1 KiB   32 conns"
ROUNDS = {
    "tcp": {TCP: {"rloop": (4, 5, 6), "asyncio": (8, 10, 12), "uvloop": (5, 6, 7)}},
    "udp": {UDP: {"rloop": (6, 6, 6), "asyncio": (12, 12, 12), "uvloop": (5, 5, 5)}},
}
HEADER = {
    "Python": "CPython 3.11.7",
    "loops": "rloop (0.1.0), asyncio (standard library), uvloop (0.23.0)",
    "rounds": "3",
}


def published(*arguments):
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=60)


def publish(figures, page, readme, chart):
    return published("published.py", str(figures), "--page", page, "--readme", readme, "--chart", chart)


@pytest.fixture
def files(tmp_path):
    """A file of figures, two pages with marks, and where the chart goes."""
    sections = {
        section: [
            {"row": row, "loop": loop, "rounds": [{"cpu_us": value} for value in values]}
            for row, loops in rows.items()
            for loop, values in loops.items()
        ]
        for section, rows in ROUNDS.items()
    }
    figures, page = tmp_path / "bench.json", tmp_path / "page.md"
    readme, chart = tmp_path / "readme.md", tmp_path / "chart.svg"
    figures.write_text(json.dumps({"header": HEADER, "sections": sections}))
    for path in (page, readme):
        path.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    return figures, page, readme, chart


def test_the_page_shows_medians_and_the_ratio_to_the_best(files):
    figures, page, readme, chart = files
    done = publish(figures, page, readme, chart)
    assert (done.returncode, done.stderr) == (0, "")
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| TCP 1 KiB | 5 | 10 | 6 | 0.83 | tcp |" in text
    assert "| UDP 1 KiB | 6 | 12 | 5 | 1.20 | udp |" in text
    assert "Not ahead here: UDP 1 KiB (1.20)." in text


def test_the_readme_shows_some_rows_and_loops(files):
    figures, page, readme, chart = files
    everything = json.loads(figures.read_text())
    everything["header"]["loops"] += ", aiofastnet (0.9.0)"
    figures.write_text(json.dumps(everything))
    assert publish(figures, page, readme, chart).returncode == 0
    assert "| TCP 1 KiB | 5 | 10 | 6 | - | 0.83 | tcp |" in page.read_text()
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| CPU, us, CPython 3.11.7 | rloop | asyncio | uvloop | rloop / best other |" in text
    assert "| TCP 1 KiB | 5 | 10 | 6 | 0.83 |" in text


def test_delays_have_a_table_of_their_own(files):
    figures, page, readme, chart = files
    everything = json.loads(figures.read_text())
    everything["sections"]["load"] = [
        {"row": "protocol  300 us of work, 70%", "loop": loop, "rounds": [{"p50_us": median, "p99_us": tail}]}
        for loop, median, tail in (("rloop", 400, 2000), ("asyncio", 800, 4000), ("uvloop", 500, 1600))
    ]
    figures.write_text(json.dumps(everything))
    assert publish(figures, page, readme, chart).returncode == 0
    before, _, delays = page.read_text().partition("| response time or delay, us |")
    assert "TCP 1 KiB" in before and "TCP 1 KiB" not in delays
    assert "| protocol, 300 us of work, 70% load: response time, median | 400 | 800 | 500 | 0.80 | load |" in delays
    assert "| protocol, 300 us of work, 70% load: response time, p99 | 2000 | 4000 | 1600 | 1.25 | load |" in delays
    assert "Not ahead here: protocol, 300 us of work, 70% load: response time, p99 (1.25)." in delays
    assert "300 us" not in chart.read_text()


def test_the_chart_is_relative_to_asyncio(files):
    figures, page, readme, chart = files
    assert publish(figures, page, readme, chart).returncode == 0
    texts = [element.text for element in xml.etree.ElementTree.fromstring(chart.read_text()).iter() if element.text]
    assert {"TCP 1 KiB", "UDP 1 KiB", "rloop", "uvloop"} <= set(texts)
    assert [text for text in texts if text.replace(".", "").isdigit()] == [
        "0.50",
        "1.00",
        "0.60",
        "0.50",
        "1.00",
        "0.42",
    ]


def test_a_page_without_marks_is_left_alone(files):
    figures, page, readme, chart = files
    page.write_text("no marks")
    done = publish(figures, page, readme, chart)
    assert done.returncode != 0 and "lacks the marks" in done.stderr
    assert page.read_text() == "no marks" and "old" in readme.read_text() and not chart.exists()


def test_what_is_published_is_measured():
    """Each published row is one that bench.py measures without options."""
    program = """
import echo, footprint, inprocess, processes, published, tls, transfers
known = {section: {str(row) for row in rows[0]} for section, rows in echo.SECTIONS.items()}
known |= {"tls": set(map(str, tls.DEFAULT)), "inprocess": set(inprocess.NAMES), "transfers": set(transfers.NAMES)}
known |= {"processes": set(processes.NAMES), "footprint": set(footprint.NAMES)}
rows = (*published.ROWS, *published.FOOTPRINTS)
print(*(row.title for row in rows if row.row not in known[row.section]), sep=", ")
"""
    done = published("-c", program)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
