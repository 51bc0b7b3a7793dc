"""The pages for readers of the repository: what they name exists. README's snippets are run by test_readme.py, and
docs/compatibility.md has test_compatibility_page.py.
"""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "tests" / "README.md"]
FOLDERS = "src|python|tests|docs|benchmarks|examples|tools|fuzz"

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def paths(text):
    """What looks like a path from the top of the repository."""
    return re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./-]*\w/?)", text)


def links(text):
    """The targets of links within the repository."""
    return [target for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) if "://" not in target]


def targets(text):
    """The targets of make that are named."""
    return set(re.findall(r"\bmake ([a-z][a-z-]+)(?= ARGS|`|    |$)", text, re.MULTILINE))


def anchors(text):
    """The names by which the headings of a page are linked to."""
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall("^#+ (.+)$", text, re.M)}


@every_page
def test_paths_exist(page):
    assert [path for path in paths(page.read_text()) if not (ROOT / path).exists()] == []


@every_page
def test_links_lead_somewhere(page):
    text = page.read_text()
    assert [link for link in links(text) if not (page.parent / link).exists()] == []
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", text):
        if "://" not in link:
            assert anchor in anchors((page.parent / link if link else page).read_text()), anchor


@every_page
def test_targets_of_make_exist(page):
    known = set(re.findall(r"^([a-z-]+):  ## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"help", "test"} <= known
    assert targets(page.read_text()) - known == set()


@every_page
def test_sections_of_the_benchmark_exist(page):
    source = "".join((ROOT / "benchmarks" / name).read_text() for name in ("bench.py", "echo.py", "arrivals.py"))
    known = set(re.findall(r'^    "(\w+)": ', source, re.MULTILINE))
    assert {"tcp", "inprocess"} <= known
    assert set(re.findall(r"--only (\w+)", page.read_text())) <= known


def test_names_in_architecture_exist():
    """Functions, types and files that ARCHITECTURE.md names can be found in the sources by their names."""
    folders = [ROOT / "src", ROOT / "python", ROOT / "tests"]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".rs", ".py")]
    sources = "\n".join(path.read_text() for path in files)
    known = set(re.findall(r"\w+", sources)) | {path.name for path in files}
    text = re.sub(r"```.*?```", "", (ROOT / "ARCHITECTURE.md").read_text(), flags=re.DOTALL)
    names = re.findall(r"`([\w.:]+(?:\.\w+)?)(?:\(\))?`", text)
    assert len(names) > 50
    unknown = [name for name in names if name not in known and not set(re.split(r"::|\.", name)) <= known]
    assert unknown == []


def test_what_is_found_in_a_page():
    text = "See `src/core/`, [a](../tests/README.md#b) and docs/performance.md. `make bench ARGS=x`, not /usr/src/x."
    assert paths(text) == ["src/core/", "docs/performance.md"]
    assert links(text) == ["../tests/README.md"]
    assert targets(text) == {"bench"}
    assert anchors("# One, two: `three`\n") == {"one-two-three"}


def test_architecture_is_short():
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) < 200
