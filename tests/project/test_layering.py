"""The sources keep to the layers of ARCHITECTURE.md. Each rule is also shown what it must refuse."""

import ast
import pathlib
import re

import pytest

from support.layering import code, module_of, uses

ROOT = pathlib.Path(__file__).resolve().parents[2]

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

SYS = ("reactor/sys.rs", "reactor/sys/")

PURE = (
    "reactor/",
    "transports/datagram_queue.rs",
    "transports/flow.rs",
    "transports/framing.rs",
    "transports/habit.rs",
    "transports/lifecycle.rs",
    "transports/outbox.rs",
    "transports/peers.rs",
    "transports/write_queue.rs",
)


def rust():
    """{path below src/: source}"""
    folder = ROOT / "src"
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.rs"))}


def python():
    folder = ROOT / "python"
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.py"))}


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


def python_in_pure_code(sources):
    for path, source in sources.items():
        if path.startswith(PURE) and re.search(r"\bpyo3\b|crate::py\b", code(source)):
            yield f"{path}: pyo3"


def mio_in_py(sources):
    for path, source in sources.items():
        if path.startswith("py/") and re.search(r"\bmio\b", code(source)):
            yield f"{path}: mio"


def system_calls_outside_sys(sources):
    for path, source in sources.items():
        if path.startswith("reactor/") and not path.startswith(SYS):
            calls = re.findall(r"\blibc::\w+\s*\(|\buse libc\b", code(source))
            yield from (f"{path}: {call}" for call in calls)


def clock_reads_outside_clock(sources):
    for path, source in sources.items():
        if path == "reactor/clock.rs":
            continue
        reads = r"\b(?:Instant|SystemTime)::now\b"
        if path != "reactor/sys.rs":  # where the call is that clock.rs makes
            reads += r"|\bclock_gettime\b|\bmonotonic_ns\b"
        yield from (f"{path}: {match}" for match in re.findall(reads, code(source)))


def unwraps(sources):
    for path, source in sources.items():
        yield from (f"{path}: {match}" for match in re.findall(r"\.\s*unwrap\s*\(\s*\)", code(source)))


def no_opening(sources):
    for path, source in sources.items():
        if not re.match(r"//! \S", source):
            yield f"{path}: does not open with //!"


def no_docstring(sources):
    for path, source in sources.items():
        if not ast.get_docstring(ast.parse(source)):
            yield f"{path}: does not open with a docstring"


def not_embedded(embedded, files):
    """Python files that `embed` would not find in a host: they are not in its list."""
    listed = dict(re.findall(r'"(rloop[.\w]*)": "(\w+\.py)"', embedded))
    for file in files:
        name = file.removeprefix("rloop/")
        module = "rloop" if name == "__init__.py" else "rloop." + name.removesuffix(".py")
        if listed.get(module) != name:
            yield f"{file}: not in src/embed/package.rs"


# --- the sources keep them ---


@pytest.mark.parametrize(
    "rule",
    [
        uses_the_right,
        python_in_pure_code,
        mio_in_py,
        system_calls_outside_sys,
        clock_reads_outside_clock,
        unwraps,
        no_opening,
    ],
)
def test_rust(rule):
    sources = rust()
    assert "lib.rs" in sources
    assert list(rule(sources)) == []


def test_python():
    sources = python()
    assert "rloop/__init__.py" in sources
    assert list(no_docstring(sources)) == []


def test_embedded():
    embedded = rust()["embed/package.rs"]
    assert list(not_embedded(embedded, python())) == []
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
        (uses_the_right, "reactor/sys.rs", "use crate::handle;"),
        (uses_the_right, "strange.rs", ""),
        (python_in_pure_code, "reactor/mod.rs", "use pyo3::prelude::*;"),
        (python_in_pure_code, "transports/flow.rs", "fn f(py: pyo3::Python) {}"),
        (mio_in_py, "py/cell.rs", "use mio::Token;"),
        (system_calls_outside_sys, "reactor/waker.rs", "unsafe { libc::write(1, p, 1) };"),
        (system_calls_outside_sys, "reactor/waker.rs", "use libc::write;"),
        (clock_reads_outside_clock, "core.rs", "let now = Instant::now();"),
        (clock_reads_outside_clock, "reactor/sys.rs", "let now = std::time::SystemTime::now();"),
        (clock_reads_outside_clock, "transports/stream.rs", "libc::clock_gettime(clock, &mut now)"),
        (clock_reads_outside_clock, "core.rs", "let now = sys::monotonic_ns();"),
        (unwraps, "core.rs", "let x = y\n    .unwrap();"),
        (unwraps, "core.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nfn g() { x.unwrap() }"),
        (no_opening, "core.rs", "// a comment\nuse std::fmt;"),
        (no_opening, "core.rs", "use std::fmt;\n//! late"),
        (no_docstring, "rloop/x.py", "import os\n'late'"),
        (no_docstring, "rloop/x.py", ""),
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
        (python_in_pure_code, "transports/stream.rs", "use pyo3::prelude::*;"),
        (python_in_pure_code, "reactor/mod.rs", "//! no pyo3 here"),
        (system_calls_outside_sys, "reactor/sys.rs", "unsafe { libc::write(1, p, 1) };"),
        (system_calls_outside_sys, "reactor/waker.rs", "let error: libc::c_int = libc::EINTR;"),
        (clock_reads_outside_clock, "reactor/clock.rs", "sys::monotonic_ns()"),
        (clock_reads_outside_clock, "reactor/sys.rs", "pub fn monotonic_ns() -> u64 {}"),
        (unwraps, "core.rs", "x.unwrap_or(1); #[cfg(test)]\nmod tests { fn f() { x.unwrap() } }"),
        (unwraps, "core.rs", 'let x = r#"a " .unwrap() "#;'),
        (no_opening, "core.rs", "//! What lives here."),
    ],
)
def test_left_alone(rule, path, source):
    assert list(rule({path: source})) == []
