"""Reads Rust sources as text: what a file says besides comments, strings and tests, and what it uses.

No rule about rloop lives here; those are in project/test_layering.py.
"""

import re

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
