"""docs/compatibility.md says something about every method of a loop. rloop only."""

import asyncio
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "compatibility.md").read_text()
SECTION = PAGE.partition("## The methods of a loop")[2]
METHODS = re.findall(r"^\| `(\w+)` \| (.+) \|$", SECTION, re.MULTILINE)


def test_every_method_is_listed_once():
    public = sorted(name for name in dir(asyncio.AbstractEventLoop) if not name.startswith("_"))
    assert [name for name, _ in METHODS] == public


def test_every_difference_is_explained():
    mentioned = {int(number) for _, text in METHODS for number in re.findall(r"\b\d\b", text)}
    explained = {int(number) for number in re.findall(r"^(\d)\. \*\*", PAGE, re.MULTILINE)}
    assert mentioned == explained
    assert all(text.startswith("same") for _, text in METHODS)


def test_no_more_is_left_out_than_agreed():
    lines = (ROOT / "tests" / "conformance" / "left_out.txt").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert 0 < len(rules) <= 25
    assert all(re.fullmatch(r"\S.* \| \S.*", rule) for rule in rules)
