"""The pages of the site: which there are, and how a link of the repository becomes one of the site.

`mkdocs.yml` names this file as a hook, and MkDocs calls `on_config`. Every page is written into target/pages: those of
docs/, files from elsewhere in the repository, and the reference. The theme and the order of the pages are in
`mkdocs.yml`. This file uses the standard library only, so that it is tested without MkDocs.
"""

from __future__ import annotations

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
REFERENCE = """# API reference

Everything that rloop exports. A loop also has the methods of
[`asyncio.AbstractEventLoop`](compatibility.md#the-methods-of-a-loop), which Python's documentation describes.

::: rloop.new_event_loop

{new_event_loop}

::: rloop.run

::: rloop.Loop
    options:
      members: false

::: rloop.install

::: rloop.EventLoopPolicy
    options:
      members: false
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


def rust_documentation(function: str, path: str) -> str:
    """The documentation of a Python function that is written in Rust. The stub, which has its types, has none."""
    source = (ROOT / path).read_text()
    [comment] = re.findall(rf"((?:^ *///.*\n)+)(?:^ *#\[.*\n)*^ *pub fn {function}\b", source, re.MULTILINE)
    return re.sub(r"^ */// ?", "", comment, flags=re.MULTILINE).strip()


def write(folder: Path) -> list[str]:
    """Write all pages, and the drawings and the style sheet of docs/, into an emptied folder. Returns the pages' names."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pages = {name: page(source) for source, name in sources().items()}
    native = rust_documentation("new_event_loop", "src/event_loop/package.rs")
    pages["reference.md"] = REFERENCE.format(new_event_loop=native)
    for name, text in pages.items():
        (folder / name).write_text(text)
    for file in [*(ROOT / "docs").glob("*.svg"), ROOT / "docs" / "site.css"]:
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
