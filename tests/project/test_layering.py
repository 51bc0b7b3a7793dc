"""The sources keep to the layers of ARCHITECTURE.md, and no two files use each other in a circle.

Other laws that a test can check are in test_laws.py. Each rule is also shown what it must refuse.
"""

import re

import pytest

from support.layering import circles, module_of, python_graph, python_sources, rust_graph, rust_sources, uses

# From left to right: a module may use what is left of it. In one place, groups do not know each other.
LAYERS = [
    [{"error", "reactor::clock", "reactor::sys"}],
    [{"reactor"}, {"py"}],
    [{"handle"}],
    [{"core", "run"}],
    [{"transports"}],
    [{"event_loop"}],
    [{"embed", ""}],  # "" is lib.rs
]


# --- the rules: each takes {path: source} and tells what is wrong ---


def place(module):
    """(layer, group) of a module: that of the longest name in LAYERS that it begins with."""
    best = None
    for layer, groups in enumerate(LAYERS):
        for group in groups:
            for name in group:
                if name == module or (name and module.startswith(name + "::")):
                    if best is None or len(name) > len(best[0]):
                        best = name, layer, group
    return best and best[1:]


def uses_the_right(sources):
    """Uses of what stands to the right, or beside."""
    for path, source in sources.items():
        module = module_of(path)
        if place(module) is None:
            yield f"{path}: not in LAYERS"
            continue
        layer, group = place(module)
        for used in sorted(uses(path, source)):
            if used.split("::")[0] == module.split("::")[0] or used.split("::")[0] not in TOP:
                continue  # the module itself, or an item of the crate's root
            used_layer, used_group = place(used)
            if used_layer > layer or (used_layer == layer and used_group != group):
                yield f"{path}: uses crate::{used}"


TOP = {name.split("::")[0] for groups in LAYERS for group in groups for name in group if name}


def circles_in_rust(sources):
    graph = rust_graph(sources)
    graph.pop("", None)  # lib.rs, which is the whole crate's mod.rs
    return circles(graph)


def circles_in_python(sources):
    graph = python_graph(sources)
    graph.pop("__init__", None)
    return circles(graph)


# Each kind of transport, with those that it may know.
KINDS = {"stream": set(), "datagram": set(), "pipe": set(), "tls": {"stream"}}


def kinds_that_know_another(sources):
    for module, used in rust_graph(sources).items():
        kind = (module.split("::") + [""])[1]
        if module.startswith("transports::") and kind in KINDS:
            for other in sorted(used):
                parts = other.split("::")
                if parts[0] == "transports" and len(parts) > 1 and parts[1] in KINDS.keys() - KINDS[kind] - {kind}:
                    yield f"{module}: uses {other}"


def imports_of_rloop(sources):
    """Rust that imports the package, which imports the extension module. Hosts install it: that is `embed`."""
    for path, source in sources.items():
        if not path.startswith("embed/"):
            source = re.sub(r"//[^\n]*", "", source).replace('module = "rloop._rloop"', "")
            yield from (f"{path}: {match}" for match in re.findall(r'(?<!c)"rloop(?:\.\w+)*"', source))


def not_embedded(embedded, files):
    """Python files that `embed` would not find in a host: they are not in its list."""
    listed = dict(re.findall(r'"(rloop[.\w]*)": "(\w+\.py)"', embedded))
    for file in files:
        name = file.removeprefix("rloop/")
        if name.startswith(("contrib/", "_site/", "rloop_pytest/")):
            # For programs with other libraries, for the launcher, and for pytest: all need an installed package.
            continue
        module = "rloop" if name == "__init__.py" else "rloop." + name.removesuffix(".py")
        if listed.get(module) != name:
            yield f"{file}: not in src/embed/package.rs"


# --- the sources keep them ---


@pytest.mark.parametrize("rule", [uses_the_right, circles_in_rust, kinds_that_know_another, imports_of_rloop])
def test_rust(rule):
    sources = rust_sources()
    assert "lib.rs" in sources
    assert list(rule(sources)) == []


def test_python():
    sources = python_sources()
    assert "rloop/__init__.py" in sources
    assert list(circles_in_python(sources)) == []


def test_embedded():
    embedded = rust_sources()["embed/package.rs"]
    assert list(not_embedded(embedded, python_sources())) == []
    # Whatever else the list has does not compile.


# --- and the rules find what does not ---


def test_not_embedded_is_found():
    listed = '"rloop": "__init__.py",\n"rloop._a": "_a.py",'
    assert list(not_embedded(listed, ["rloop/__init__.py", "rloop/_a.py"])) == []
    assert list(not_embedded(listed, ["rloop/_b.py"])) != []


@pytest.mark.parametrize(
    "rule, path, source",
    [
        (uses_the_right, "handle.rs", "use crate::core::Core;"),
        (uses_the_right, "handle.rs", "fn f() { crate::transports::stream::open() }"),
        (uses_the_right, "reactor/timers.rs", "use crate::{error::Error, py::names};"),
        (uses_the_right, "reactor/timers.rs", "use super::super::handle::Handle;"),
        (uses_the_right, "py/names.rs", "use crate::reactor::{sys, token::Token};"),
        (uses_the_right, "error.rs", "use super::py::{\n    names::{self, NAMES as ALL},\n};"),
        (uses_the_right, "reactor/sys/mod.rs", "use crate::handle;"),
        (uses_the_right, "strange.rs", ""),
        (imports_of_rloop, "py/names.rs", 'loop_class = "rloop._loop"."Loop"'),
        (imports_of_rloop, "run.rs", 'py.import("rloop")?'),
    ],
)
def test_found(rule, path, source):
    assert list(rule({path: source})) != []


@pytest.mark.parametrize(
    "rule, path, source",
    [
        (uses_the_right, "handle.rs", "use crate::{error::Error, py::names, reactor};"),
        (uses_the_right, "handle.rs", '// use crate::core::Core;\n/* crate::core */ f("crate::core::X")'),
        (uses_the_right, "handle.rs", "#[cfg(test)]\nmod tests { use crate::core::Core; fn f() {} }"),
        (uses_the_right, "handle.rs", "fn f<'a>(x: &'a str) -> char { '\"' } // '\n"),
        (uses_the_right, "core.rs", "use crate::run::run; use super::handle::Handle; use self::inner::X;"),
        (uses_the_right, "reactor/timers.rs", "use super::clock; use super::super::error;"),
        (uses_the_right, "py/sockaddr.rs", "use crate::reactor::sys::Address;"),
        (uses_the_right, "lib.rs", "use crate::event_loop::EventLoop; use crate::embed;"),
        (imports_of_rloop, "core.rs", '#[pyclass(module = "rloop._rloop")] // "rloop"'),
        (imports_of_rloop, "transports/tls/direct.rs", 'c"rloop".as_ptr()'),
        (imports_of_rloop, "embed/package.rs", '"rloop._loop": "_loop.py"'),
    ],
)
def test_left_alone(rule, path, source):
    assert list(rule({path: source})) == []


@pytest.mark.parametrize(
    "sources, found",
    [
        # Files of one folder, however they name each other.
        ({"a/mod.rs": "", "a/b.rs": "use super::c::C;", "a/c.rs": "use crate::a::b::B;"}, ["a: b <-> c"]),
        ({"a/mod.rs": "pub use b::{B, D};", "a/b.rs": "use super::c;", "a/c.rs": "use super::B;"}, ["a: b <-> c"]),
        (
            {"a/mod.rs": "", "a/b.rs": "super::c::f()", "a/c.rs": "super::d::f()", "a/d.rs": "super::b::f()"},
            ["a: b <-> c <-> d"],
        ),
        # Folders, by any of their files.
        (
            {
                "x/a/mod.rs": "",
                "x/a/f.rs": "use crate::x::b::B;",
                "x/b/mod.rs": "mod g;",
                "x/b/g.rs": "use super::super::a::A;",
            },
            ["x: a <-> b"],
        ),
        # A folder's own file and what is in it.
        ({"a/mod.rs": "use b::B; pub struct A;", "a/b.rs": "use super::A; pub struct B;"}, []),
        ({"a/mod.rs": "", "a/b.rs": "use super::c;", "a/c.rs": "#[cfg(test)]\nmod tests { use super::super::b; }"}, []),
    ],
)
def test_circles_in_rust_are_found(sources, found):
    assert list(circles_in_rust(sources)) == found


@pytest.mark.parametrize(
    "sources, found",
    [
        ({"p/_a.py": "from ._b import B", "p/_b.py": "from . import _a"}, ["the top: _a <-> _b"]),
        (
            {"p/_a.py": "from ._b import B", "p/_b.py": "if TYPE_CHECKING:\n    from ._a import A"},
            ["the top: _a <-> _b"],
        ),
        ({"p/_a.py": "from ._b import B", "p/_b.py": "def f():\n    from ._a import A"}, ["the top: _a <-> _b"]),
        ({"p/__init__.py": "from ._a import A", "p/_a.py": "from . import __version__"}, []),
    ],
)
def test_circles_in_python_are_found(sources, found):
    assert list(circles_in_python(sources)) == found


@pytest.mark.parametrize(
    "user, used, found",
    [
        ("stream", "tls", 1),
        ("datagram", "stream", 1),
        ("pipe", "datagram", 1),
        ("tls", "stream", 0),
        ("tls", "pipe", 1),
    ],
)
def test_kinds_that_know_another_are_found(user, used, found):
    sources = {f"transports/{user}/mod.rs": f"use crate::transports::{used}::x;", f"transports/{used}/mod.rs": ""}
    assert len(list(kinds_that_know_another(sources))) == found
