"""docs/compatibility.md: every method of a loop is listed, and every difference has a number, and tests that show it.

The tests themselves are where the behaviour is tested. rloop only.
"""

import ast
import asyncio
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
PAGE = (ROOT / "docs" / "compatibility.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()

SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
METHODS = re.findall(r"^\| `(\w+)` \| (.+) \|$", SECTIONS["The methods of a loop"], re.MULTILINE)
# Number and text; the text goes as far as the indentation.
DIFFERENCES = re.findall(r"^(\d+)\. (\*\*.+(?:\n +\S.*)*)", SECTIONS["Differences"], re.MULTILINE)

# Words of a test that is left out on asyncio because asyncio does something else.
LEFT_OUT = re.compile(r"loop_name == \"asyncio\"|on_asyncio\(\)|__module__\.startswith\(\"asyncio")


def named_tests(text):
    """The tests that a difference names, as (path, name)."""
    return re.findall(r"`([\w/]+\.py)::(\w+)`", text)


def functions(source):
    """The names of the functions that a file defines outside classes and functions."""
    tree = ast.parse(source)
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def leaves_asyncio_out(source):
    """Whether a function of this file skips its test if the loop is asyncio's."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and LEFT_OUT.search(ast.unparse(node.test).replace("'", '"')):
            if any(isinstance(part, ast.Call) and ast.unparse(part.func) == "pytest.skip" for part in ast.walk(node)):
                return True
    return False


def test_every_method_is_listed_once():
    public = sorted(name for name in dir(asyncio.AbstractEventLoop) if not name.startswith("_"))
    assert [name for name, _ in METHODS] == public


def test_methods_refer_to_differences():
    numbers = {number for number, _ in DIFFERENCES}
    for _, text in METHODS:
        assert re.fullmatch(r"same(, but for \d+((, \d+)* and \d+)?)?", text)
        assert set(re.findall(r"\d+", text)) <= numbers


def test_every_difference_has_a_number_of_its_own():
    assert [int(number) for number, _ in DIFFERENCES] == list(range(1, len(DIFFERENCES) + 1))
    assert len(re.findall(r"^\s*\d+\. ", PAGE, re.MULTILINE)) == len(DIFFERENCES) > 0


@pytest.mark.parametrize("text", [text for _, text in DIFFERENCES], ids=[number for number, _ in DIFFERENCES])
def test_every_difference_has_a_test(text):
    assert re.match(r"\*\*.+?\*\*\s+\S", text, re.DOTALL)
    assert re.search(r"\*Tests?:\*", text)
    named = named_tests(text)
    assert named
    for path, name in named:
        assert name.startswith("test_") and name in functions((TESTS / path).read_text()), f"{path}::{name}"


def test_what_is_left_out_on_asyncio_is_a_difference():
    left_out = {
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("test_*.py")
        if not path.is_relative_to(TESTS / "conformance") and leaves_asyncio_out(path.read_text())
    }
    assert len(left_out) > 30
    assert left_out - {path for path, _ in named_tests(SECTIONS["Differences"])} == set()


@pytest.mark.parametrize(
    "source, expected",
    [
        ("def test():\n    if on_asyncio() and x:\n        pytest.skip('hangs')", True),
        ("def skip(loop_name):\n    if loop_name == 'asyncio':\n        pytest.skip('hangs')", True),
        ("def test():\n    if sys.version_info < (3, 13):\n        pytest.skip('new')", False),
        ("def test():\n    if on_asyncio():\n        expected = 1", False),
    ],
)
def test_leaves_asyncio_out(source, expected):
    assert leaves_asyncio_out(source) == expected


def test_there_is_no_other_list():
    assert "docs/compatibility.md#differences" in CHANGELOG
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        headings = re.findall(r"^(?:#+ .*|.*:)$", path.read_text(), re.MULTILINE)
        lists = [line for line in headings if re.search(r"\bdiffer", line, re.IGNORECASE)]
        assert lists == (["## Differences"] if path.name == "compatibility.md" else []), path.name


def test_no_more_is_left_out_than_agreed():
    lines = (TESTS / "conformance" / "left_out.txt").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert 0 < len(rules) <= 25
    assert all(re.fullmatch(r"\S.* \| \S.*", rule) for rule in rules)
