"""The Python programs on pages of docs/ are run as they stand. README.md has test_readme.py.

A page about one part of rloop is tested with that part.

A block that is marked `python` and imports rloop is a whole program. If a block marked `text` follows, it is what the
program prints. Pieces of programs are marked `py`, and are only compiled.
"""

import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("rloop", exc_type=ModuleNotFoundError)

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
PAGES = [DOCS / f"{name}.md" for name in ("coming-from-uvloop", "configuration", "troubleshooting")]
LIMIT = 25


def programs(text):
    """(source, what it prints, or None) of each program of a page."""
    found = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", text, re.M | re.S)
    return [
        (source, printed or None) for source, printed in found if re.search(r"^(import|from) rloop\b", source, re.M)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_programs_run(page, tmp_path):
    for source, printed in programs(page.read_text()):
        (tmp_path / "program.py").write_text(source)
        command = [sys.executable, "-W", "error", "program.py"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 0, done.stderr
        assert printed is None or done.stdout == printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pieces_compile(page):
    for source in re.findall(r"^```py\n(.*?)^```$", page.read_text(), re.M | re.S):
        compile(source, page.name, "exec")


def test_what_is_found_in_a_page():
    text = (
        "```python\nimport rloop\n```\n\n```text\nout\n```\n\n```python\nawait x\n```\n\n```python\nimport rloop\n```\n"
    )
    assert programs(text) == [("import rloop\n", "out\n"), ("import rloop\n", None)]


def test_pages_have_programs():
    """So that a change of the marks does not silence the test."""
    assert {page.name for page in PAGES if programs(page.read_text())} >= {"coming-from-uvloop.md", "configuration.md"}
