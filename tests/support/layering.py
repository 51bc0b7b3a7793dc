"""Reads sources as text: what a file says besides comments, strings and tests, what it uses, and how long it is.

No rule about rloop lives here; those are in project/test_layering.py and project/test_laws.py.
"""

import ast
import pathlib
import re
from collections.abc import Iterator

# What each module uses.
Graph = dict[str, set[str]]

# Comments and literals, longest first where one could start like another. A lifetime ('a) is no literal.
_SKIPPED = re.compile(
    r"""
      //[^\n]*
    | /\*.*?\*/
    | b?r(?P<hashes>\#*)".*?"(?P=hashes)
    | b?"(?:\\.|[^"\\])*"
    | b?'(?:\\[^\n]+?|[^'\\])'
    """,
    re.VERBOSE | re.DOTALL,
)

# An item with a body, with its visibility and other attributes in front.
_TEST_ITEM = re.compile(r"#\[cfg\((?:test|all\(test\b[^]]*)\)\][^{;]*\b(?:mod|fn|impl)\b[^{;]*\{")

# A path with its group, if it has one: crate::a::{b, c::d}
_PATH = re.compile(r"\b(?:crate|super|self)(?:\s*::\s*(?:\w+|\*))*(?:\s*::\s*\{)?")


def rust_sources() -> dict[str, str]:
    """{path below src/: source}"""
    return _sources("src", "*.rs")


def python_sources() -> dict[str, str]:
    """{path below python/: source}"""
    return _sources("python", "*.py")


def _sources(folder: str, names: str) -> dict[str, str]:
    root = pathlib.Path(__file__).resolve().parents[2] / folder
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob(names))}


def code(source: str) -> str:
    """The source without comments, the contents of literals, and everything under #[cfg(test)]."""
    source = _SKIPPED.sub('""', source)
    while match := _TEST_ITEM.search(source):
        source = source[: match.start()] + source[_closing_brace(source, match.end()) :]
    return source


def _closing_brace(source: str, start: int) -> int:
    """The index behind the brace that closes the one before `start`."""
    depth = 1
    for match in re.finditer(r"[{}]", source[start:]):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return start + match.end()
    return len(source)


def module_of(path: str) -> str:
    """The module that a file below src/ holds: reactor/mod.rs is reactor, lib.rs is the crate itself."""
    parts = path.removesuffix(".rs").split("/")
    if parts[-1] in ("mod", "lib", "main"):
        parts.pop()
    return "::".join(parts)


def uses(path: str, source: str) -> set[str]:
    """The modules and items of the crate that a file names, as paths from the crate's root."""
    module = module_of(path).split("::") if module_of(path) else []
    source = code(source)
    found = set()
    for match in _PATH.finditer(source):
        named = re.sub(r"\s", "", match[0])
        if named.endswith("{"):
            group = source[match.end() : _closing_brace(source, match.end()) - 1]
            names = [named[:-1] + item for item in _expand(group)]
        else:
            names = [named]
        for name in names:
            if "::" in name:
                found.add(_from_root(name, module))
    return found


def _expand(group: str) -> list[str]:
    """a, b::{c, d} as [a, b::c, b::d]"""
    items, depth, item = [], 0, ""
    for character in re.sub(r"\s+as\s+\w+|\s", "", group) + ",":
        depth += (character == "{") - (character == "}")
        if character == "," and depth == 0:
            head, brace, rest = item.partition("{")
            items += [head + inner for inner in _expand(rest[:-1])] if brace else [item] if item else []
            item = ""
        else:
            item += character
    return items


def _from_root(name: str, module: list[str]) -> str:
    first, *rest = name.split("::")
    base = [] if first == "crate" else list(module) if first == "self" else module[:-1]
    while rest and rest[0] == "super":
        base, rest = base[:-1], rest[1:]
    return "::".join(base + rest)


# --- circles ---


def rust_graph(sources: dict[str, str]) -> Graph:
    """{module: the modules that it uses} of {path below src/: source}.

    A name that a mod.rs passes on counts as that of the file that it comes from.
    """
    modules = {module_of(path): path for path in sources}
    passed_on = {module: _passed_on(module, sources[path], modules) for module, path in modules.items()}
    graph: Graph = {}
    for module, path in modules.items():
        used = graph[module] = set()
        for name in uses(path, sources[path]):
            owner = _owner(name, modules, passed_on)
            if owner is not None and owner != module:
                used.add(owner)
    return graph


def _owner(name: str, modules: dict[str, str], passed_on: dict[str, dict[str, str]]) -> str | None:
    """The module that has this item, or that is named; None for names that are not of the crate."""
    parts = name.split("::")
    for length in range(len(parts), 0, -1):
        module = "::".join(parts[:length])
        if module in modules:
            item = parts[length] if length < len(parts) else ""
            return passed_on[module].get(item, module)
    return None


def _passed_on(module: str, source: str, modules: dict[str, str]) -> dict[str, str]:
    """{name: the child that it comes from} of what a module takes from its children by `use`."""
    source = code(source)
    found: dict[str, str] = {}
    for match in re.finditer(r"\buse\s+(?:self\s*::\s*)?(\w+)\s*::\s*([^;]*);", source):
        child = f"{module}::{match[1]}" if module else match[1]
        if child in modules:
            rest = re.sub(r"\s", "", match[2])
            names = _expand(rest[1:-1]) if rest.startswith("{") else _expand(rest)
            found.update((name.split("::")[-1], child) for name in names)
    return found


def python_graph(sources: dict[str, str]) -> Graph:
    """{module: the modules that it imports, for a type checker too} of {path: source} of one package."""
    modules = {path.rsplit("/", 1)[-1].removesuffix(".py") for path in sources}
    graph: Graph = {}
    for path, source in sources.items():
        used = graph[path.rsplit("/", 1)[-1].removesuffix(".py")] = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                used.update(name.split(".")[0] for name in names if name.split(".")[0] in modules)
    return graph


def circles(graph: Graph, separator: str = "::") -> Iterator[str]:
    """Circles between the entries of a folder, for every folder.

    An entry is a file, or a folder with all that is in it. The folder's own file, such as mod.rs, is none: it may use
    its entries, and they may use it.
    """
    folders = {""} | {
        module.rsplit(separator, count)[0] for module in graph for count in range(1, module.count(separator) + 1)
    }
    for folder in sorted(folders):
        entries: Graph = {}
        for module, used in graph.items():
            entry = _entry(module, folder, separator)
            if entry:
                others = {_entry(name, folder, separator) for name in used} - {None, entry}
                entries.setdefault(entry, set()).update(other for other in others if other)
        for circle in _circles_of(entries):
            yield f"{folder or 'the top'}: {' <-> '.join(circle)}"


def _entry(module: str, folder: str, separator: str) -> str | None:
    """What is directly in the folder and is, or holds, the module."""
    if not folder:
        return module.split(separator)[0] or None
    inside = module.removeprefix(folder + separator)
    return inside.split(separator)[0] if inside != module else None


def _circles_of(graph: Graph) -> Iterator[list[str]]:
    """The sets of two and more nodes that reach each other."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        left = [start]
        while left:
            for node in graph.get(left.pop(), ()):
                if node not in found:
                    found.add(node)
                    left.append(node)
        return found

    reach = {node: reached(node) for node in graph}
    seen: set[str] = set()
    for node in sorted(graph):
        circle = {other for other in reach[node] if node in reach.get(other, ())}
        if circle and node not in seen:
            seen |= circle
            yield sorted(circle)


# --- sizes ---


def rust_functions(source: str) -> Iterator[tuple[str, int]]:
    """(name, lines) of each function of a file that rustfmt has formatted, tests aside."""
    lines = source.split("\n")
    if "#[cfg(test)]" in lines:
        lines = lines[: lines.index("#[cfg(test)]")]
    for number, line in enumerate(lines):
        match = re.match(r'(\s*)(?:pub(?:\([^)]*\))? )?(?:const )?(?:unsafe )?(?:extern "C" )?fn (\w+)', line)
        if match and not line.endswith((";", "}")):
            end = next((at for at in range(number, len(lines)) if lines[at].startswith(match[1] + "}")), number)
            yield match[2], end - number + 1


def python_functions(source: str) -> Iterator[tuple[str, int]]:
    """(name, lines) of each function of a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1
