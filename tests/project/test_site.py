"""What tools/pages.py makes of the repository's pages, and that the site's navigation leads to all of them.

MkDocs is not needed here: `make docs` builds the site and checks its links and anchors.
"""

import importlib
import pathlib
import re
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.delitem(sys.modules, "pages", raising=False)
    yield importlib.import_module("pages")
    sys.modules.pop("pages", None)


@pytest.fixture
def site(pages, tmp_path):
    pages.write(tmp_path / "site")
    return tmp_path / "site"


@pytest.mark.parametrize(
    "source, target, link",
    [
        ("README.md", "docs/limits.md", "[x](limits.md)"),
        ("README.md", "docs/compatibility.md#tls", "[x](compatibility.md#tls)"),
        ("README.md", "#install", "[x](#install)"),
        ("docs/limits.md", "../README.md#install", "[x](index.md#install)"),
        ("docs/limits.md", "../CHANGELOG.md", "[x](changelog.md)"),
        ("docs/how-it-works.md", "layers.svg", "[x](layers.svg)"),
        ("examples/README.md", "with_uvicorn.py", "[x](examples.md#with_uvicornpy)"),
        ("docs/limits.md", "https://example.org/a#b", "[x](https://example.org/a#b)"),
        ("docs/compatibility.md", "../tests", "x (`tests`)"),
    ],
)
def test_link(pages, source, target, link):
    assert pages.page_link(source, "x", target) == link


def test_path_that_is_no_page_is_said_once(pages):
    assert pages.page_link("README.md", "LICENSE-MIT", "LICENSE-MIT") == "`LICENSE-MIT`"


def test_every_link_leads_to_a_page(site):
    """The same as MkDocs checks, but for anchors."""
    for path in site.glob("*.md"):
        text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
        for target in re.findall(r"(?<!`)\]\(([^)#\s]+)", text):
            assert "://" in target or (site / target).exists(), (path.name, target)


def test_code_is_left_as_it_is(site):
    assert "```python\nimport asyncio\nimport rloop\n" in (site / "index.md").read_text()
    example = (ROOT / "examples" / "pipeline.py").read_text()
    assert f"## pipeline.py\n\n```python\n{example}```" in (site / "examples.md").read_text()


def test_reference_has_the_words_of_rust(site):
    text = (site / "reference.md").read_text()
    assert "Make a new loop: the `loop_factory` for `asyncio.run()`" in text
    assert "///" not in text


def test_reference_has_every_export(pages, site):
    rloop: Any = pytest.importorskip("rloop", exc_type=ModuleNotFoundError)
    listed = re.findall(r"^::: rloop\.(\w+)$", (site / "reference.md").read_text(), re.M)
    assert set(listed) == {*rloop.__all__, "install", "EventLoopPolicy"} - {"__version__"}
    assert len(listed) == len(set(listed))


def test_words_of_rust_are_those_of_what_python_sees(pages):
    assert pages.rust_documentation("new_event_loop").startswith("Make a new loop")
    # A struct that Python does not see.
    assert pages.rust_documentation("LoopCore") == ""


def test_navigation_names_pages_that_exist(pages):
    named = set(re.findall(r"^ +- [^:]+: ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert {"index.md", "limits.md"} <= named
    assert named <= {*pages.sources().values(), "reference.md"}


def test_pages_that_the_navigation_does_not_name(pages):
    nav = [{"Start": "index.md"}, {"Use": [{"A": "a.md"}]}, {pages.REST: []}]
    assert pages.completed(nav, ["index.md", "a.md"]) == nav[:2]
    assert pages.completed(nav, ["index.md", "a.md", "b.md"]) == [*nav[:2], {pages.REST: ["b.md"]}]
    assert f"- {pages.REST}: []" in (ROOT / "mkdocs.yml").read_text()
