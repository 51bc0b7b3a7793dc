"""The pages of the site: which there are, and how a link of the repository becomes one of the site.

`mkdocs.yml` names this file as a hook, and MkDocs calls `on_config`. Every page is written into target/pages: those of
docs/, files from elsewhere in the repository, and the reference. The theme and the order of the pages are in
`mkdocs.yml`. This file uses the standard library only, so that it is tested without MkDocs.
"""

from __future__ import annotations

import ast
import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Files outside docs/ that are pages, too.
ELSEWHERE = {
    "README.md": "index.md",
    "examples/README.md": "examples.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "ARCHITECTURE.md": "architecture.md",
}
# The section of the navigation for pages of docs/ that it does not name.
REST = "In operation"
# The names of the package that it makes only when they are asked for, and those whose methods are asyncio's.
ON_DEMAND = ("install", "EventLoopPolicy")
ONLY_ASYNCIO_METHODS = ("Loop", "EventLoopPolicy")
REFERENCE = """# API reference

Everything that rloop exports. A loop also has the methods of
[`asyncio.AbstractEventLoop`](compatibility.md#the-methods-of-a-loop), which Python's documentation describes.
"""


def sources() -> dict[str, str]:
    """Each file of the repository that is a page, with the name of its page."""
    docs = {f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    return docs | ELSEWHERE


def page_link(source: str, label: str, target: str) -> str:
    """The link of the file `source` to `target`, as a link of the site. What is no page becomes text with its path."""
    path, _, anchor = target.partition("#")
    if "://" in target or not path:
        return f"[{label}]({target})"
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if page := sources().get(file):
        return f"[{label}]({page}{'#' + anchor if anchor else ''})"
    if file.startswith("examples/") and file.endswith(".py"):
        return f"[{label}](examples.md#{anchor_of(file.removeprefix('examples/'))})"
    if file.startswith("docs/"):
        return f"[{label}]({file.removeprefix('docs/')})"
    return f"`{file}`" if label in (file, posixpath.basename(file)) else f"{label} (`{file}`)"


def anchor_of(title: str) -> str:
    return re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")


def page(source: str) -> str:
    """The text of a page of the site."""
    text = (ROOT / source).read_text()

    def replace(found: re.Match[str]) -> str:
        return page_link(source, found[1], found[2])

    # Blocks of code and code in a line stay as they are.
    parts = re.split(r"(^```.*?^```$|`[^`\n]+`(?!\]))", text, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", replace, part) for part in parts[::2]]
    text = "".join(parts)
    if source == "examples/README.md":
        text += "".join(
            f"\n## {path.name}\n\n```python\n{path.read_text()}```\n"
            for path in sorted((ROOT / "examples").glob("*.py"))
        )
    return text


def rust_documentation(name: str) -> str:
    """The documentation of a Python function or class that is written in Rust, or nothing if `name` is none.

    The stub has the types of these, and no documentation.
    """
    item = rf"((?:^ *///.*\n)+)(?:^ *#\[py(?:function|class).*\n)(?:^ *#\[.*\n)*^ *pub (?:fn|struct) {name}\b"
    for path in sorted((ROOT / "src").rglob("*.rs")):
        if found := re.search(item, path.read_text(), re.MULTILINE):
            return re.sub(r"^ */// ?", "", found[1], flags=re.MULTILINE).strip() + "\n"
    return ""


def exports() -> list[str]:
    """The names that the package exports, its version aside, in the order of its `__all__`."""
    tree = ast.parse((ROOT / "python" / "rloop" / "__init__.py").read_text())
    [names] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return [name for name in (*names, *ON_DEMAND) if name != "__version__"]


def reference() -> str:
    """The page of the API. mkdocstrings puts in what `:::` names, from the stub and the docstrings."""
    text = REFERENCE
    for name in exports():
        options = "    options:\n      members: false\n" if name in ONLY_ASYNCIO_METHODS else ""
        text += f"\n::: rloop.{name}\n{options}\n{rust_documentation(name)}"
    return text


def write(folder: Path) -> list[str]:
    """Write pages, drawings, style sheet and dashboard into an emptied folder. Returns the names of the pages."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pages = {name: page(source) for source, name in sources().items()} | {"reference.md": reference()}
    for name, text in pages.items():
        (folder / name).write_text(text)
    for file in [*(ROOT / "docs").glob("*.svg"), ROOT / "docs" / "site.css", ROOT / "docs" / "grafana.json"]:
        shutil.copy(file, folder)
    return list(pages)


def named(nav: Any) -> set[str]:
    """The pages that a navigation names, at any depth."""
    if isinstance(nav, str):
        return {nav}
    return set().union(*(named(item) for item in (nav.values() if isinstance(nav, dict) else nav)))


def completed(nav: list[Any], pages: list[str]) -> list[Any]:
    """The navigation with the pages that it does not name in the section `REST`, which goes if there are none."""
    rest = [name for name in pages if name not in named(nav)]
    return [{REST: rest} if REST in item else item for item in nav if rest or REST not in item]


def on_config(config: Any) -> Any:
    """Called by MkDocs before it looks for pages."""
    folder = ROOT / "target" / "pages"
    pages = write(folder)
    config["docs_dir"] = str(folder)
    config["nav"] = completed(config["nav"], pages)
    return config
