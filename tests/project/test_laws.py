"""The laws of ARCHITECTURE.md that a look at the sources can check; the layers are in test_layering.py.

Each law is also shown what it must refuse.
"""

import ast
import re

import pytest

from support.layering import code, python_functions, python_sources, rust_functions, rust_sources

# Decisions that are tested without Python.
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

# Files that promise the compiler what it cannot see: that a type may be shared, or sent, between threads.
PROMISES = {
    "py/bytes.rs",  # Chunk: its bytes do not change
    "py/cell.rs",  # LoopCell: guarded by the GIL
    "py/file_fd.rs",  # FileFd: a number that is read atomically
    "transports/tls/direct.rs",  # a connection, whose callers hold the GIL
}

# Files that call C functions which no crate declares.
DECLARATIONS = {
    "py/audit.rs",
    "py/bytes.rs",
    "py/calls.rs",
    "py/thread_end.rs",
    "reactor/sys/addresses.rs",
}

# Functions of libc that cannot fail, or whose failure has no errno: they need not be made to fail.
CANNOT_FAIL = (
    "FD_ISSET FD_SET clock_gettime dlopen dlsym gettid pthread_atfork pthread_sigmask sigaction sigaddset sigemptyset "
    "sigfillset sigismember sigpending sigwait strerror_r"
)

# What asyncio calls of a protocol.
CALLED = (
    "buffer_updated connection_lost connection_made data_received datagram_received eof_received error_received "
    "get_buffer pause_writing resume_writing"
)

LONGEST_FUNCTION, LONGEST_FILE = 60, 520


# --- the laws: each takes {path: source} and tells what is wrong ---


def python_in_pure_code(sources):
    for path, source in sources.items():
        if path.startswith(PURE) and re.search(r"\bpyo3\b|crate::py\b", code(source)):
            yield f"{path}: pyo3"


def mio_outside_the_reactor(sources):
    """mio's types are the reactor's, and those of the API for hosts, whose sources are mio's."""
    for path, source in sources.items():
        if not path.startswith(("reactor/", "embed/")) and re.search(r"\bmio\s*::", code(source)):
            yield f"{path}: mio"


def system_calls_outside_sys(sources):
    for path, source in sources.items():
        if not path.startswith("reactor/sys/"):
            calls = re.findall(r"\blibc::\w+\s*\(|\buse libc\b", code(source))
            yield from (f"{path}: {call}" for call in calls)


def system_calls_that_cannot_be_made_to_fail(sources):
    """Every call in `reactor/sys` that can fail goes through `attempt.rs` by its own name, so that the laboratory can
    make it fail. A function of libc is not passed around either, where this test would not see its call.
    """
    for path, source in sources.items():
        if not path.startswith("reactor/sys/") or path == "reactor/sys/faults.rs":
            continue
        source = code(source)
        attempts = list(attempts_in(source))
        for match in re.finditer(r"\blibc::(\w+)\s*\(", source):
            name = "epoll_pwait2" if match[1] == "syscall" else match[1]
            if name not in CANNOT_FAIL.split() and (name, True) not in [
                (call, start < match.start() < end) for call, start, end in attempts
            ]:
                yield f"{path}: {match[0]}"
        values = re.findall(r"[(,=]\s*libc::(?!sockaddr|pollfd)[a-z]\w*\s*[),;]", source)
        yield from (f"{path}: {value}" for value in values)


def attempts_in(source):
    """(call, start, end) of each `attempt...(Call::name, ...)`; a closure that is named before counts as part of it."""
    for match in re.finditer(r"\battempt(?:_some|_io)?\s*\(\s*Call::(\w+)\s*,\s*(\w+\s*\))?", source):
        depth, end = 1, match.start() + match[0].index("(") + 1
        while depth and end < len(source):
            depth += {"(": 1, ")": -1}.get(source[end], 0)
            end += 1
        start = match.start()
        if match[2]:
            start = source.rfind(f"let {match[2].rstrip(' )')} = |", 0, start)
        yield match[1], start, end


def polls_of_mio_outside_sys(sources):
    """mio's own system calls are made by `reactor/sys`, for the same reason. A source of a host registers itself."""
    for path, source in sources.items():
        if path.startswith("reactor/") and not path.startswith("reactor/sys/"):
            calls = re.findall(r"\bPoll::new\b|\bregistry\s*\.\s*\w*register\s*\(|\.\s*try_clone\s*\(", code(source))
            yield from (f"{path}: {call}" for call in calls)


def clock_reads_outside_clock(sources):
    for path, source in sources.items():
        if path == "reactor/clock.rs":
            continue
        reads = r"\b(?:Instant|SystemTime)::now\b"
        if path != "reactor/sys/mod.rs":  # where the call is that clock.rs makes
            reads += r"|\bclock_gettime\b|\bmonotonic_ns\b"
        yield from (f"{path}: {match}" for match in re.findall(reads, code(source)))


def callbacks_outside_run(sources):
    """Handles are run by `run.rs`. A handle's own `_run()` is for programs."""
    for path, source in sources.items():
        if path != "run.rs" and not path.startswith("handle/"):
            yield from (f"{path}: {match}" for match in re.findall(r"\bHandle::run\b", code(source)))


def protocols_called_elsewhere(sources):
    """Protocols are called by `transports/protocol.rs`."""
    names = "|".join(CALLED.split())
    for path, source in sources.items():
        if path != "transports/protocol.rs":
            yield from (f"{path}: {match}" for match in re.findall(rf"\bnames\s*\.\s*(?:{names})\b", code(source)))


def reports_made_elsewhere(sources):
    """The exception handler of a loop is called by `py/exception_handler.rs`."""
    for path, source in sources.items():
        if path not in ("py/exception_handler.rs", "py/names.rs"):
            yield from (f"{path}: {match}" for match in re.findall(r"\bcall_exception_handler\b", code(source)))


def runs_begun_elsewhere(sources):
    """A thread that runs a loop is marked as such by `run.rs`."""
    for path, source in sources.items():
        if path != "run.rs":
            yield from (f"{path}: {match}" for match in re.findall(r"\bthread_end::running\b", code(source)))


def unsafe_in_pure_code(sources):
    for path, source in sources.items():
        if path.startswith(PURE) and not path.startswith("reactor/") and re.search(r"\bunsafe\b", code(source)):
            yield f"{path}: unsafe"


def promises_to_the_compiler(sources):
    for path, source in sources.items():
        if path not in PROMISES:
            found = re.findall(r"\bunsafe impl\b[^{]*\b(?:Send|Sync)\b", code(source))
            yield from (f"{path}: {match}" for match in found)


def declared_functions(sources):
    for path, source in sources.items():
        if path not in DECLARATIONS:
            yield from (f"{path}: {match}" for match in re.findall(r'\bextern ""\s*\{', code(source)))


def objects_that_panic_without_memory(sources):
    """Python's own types are made by `py/new.rs`, and texts of exceptions by `error.rs`: PyO3's constructors panic if
    there is no memory.
    """
    types = "Bytes|ByteArray|Dict|Float|Int|List|Set|String|Tuple"
    for path, source in sources.items():
        # Programs that host Python get PanicException as any other; the laboratory's own feature is in no wheel.
        if path.startswith("embed/") or path in ("py/new.rs", "event_loop/faults.rs"):
            continue
        found = re.findall(rf"\bPy(?:{types})::(?:new|empty)\w*\s*\(|\bpyo3::intern\b", code(source))
        found += re.findall(r"\bnew_err\s*\((?!\s*(?:Message|Errno)\s*\(|\s*\(\s*\)\s*\))", code(source))
        yield from (f"{path}: {match}" for match in found)


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


def too_long(sources):
    for path, source in sources.items():
        lines = source.count("\n")
        if lines > LONGEST_FILE:
            yield f"{path}: {lines} lines"
        functions = rust_functions if path.endswith(".rs") else python_functions
        for name, lines in functions(source):
            if lines > LONGEST_FUNCTION:
                yield f"{path}: {name} has {lines} lines"


# --- the sources keep them ---


@pytest.mark.parametrize(
    "law",
    [
        python_in_pure_code,
        mio_outside_the_reactor,
        system_calls_outside_sys,
        system_calls_that_cannot_be_made_to_fail,
        polls_of_mio_outside_sys,
        clock_reads_outside_clock,
        callbacks_outside_run,
        protocols_called_elsewhere,
        reports_made_elsewhere,
        runs_begun_elsewhere,
        unsafe_in_pure_code,
        promises_to_the_compiler,
        declared_functions,
        objects_that_panic_without_memory,
        unwraps,
        no_opening,
        too_long,
    ],
)
def test_rust(law):
    sources = rust_sources()
    assert "lib.rs" in sources
    assert list(law(sources)) == []


@pytest.mark.parametrize("law", [no_docstring, too_long])
def test_python(law):
    sources = python_sources()
    assert "rloop/__init__.py" in sources
    assert list(law(sources)) == []


# --- and the laws find what does not ---


def long_function(lines):
    return "    fn f() {\n" + "        g();\n" * (lines - 2) + "    }\n"


@pytest.mark.parametrize(
    "law, path, source",
    [
        (python_in_pure_code, "reactor/mod.rs", "use pyo3::prelude::*;"),
        (python_in_pure_code, "transports/flow.rs", "fn f(py: pyo3::Python) {}"),
        (mio_outside_the_reactor, "py/cell.rs", "use mio::Token;"),
        (mio_outside_the_reactor, "core/mod.rs", "fn f() -> mio::Registry {}"),
        (system_calls_outside_sys, "reactor/waker.rs", "unsafe { libc::write(1, p, 1) };"),
        (system_calls_outside_sys, "transports/pipe/mod.rs", "use libc::write;"),
        (system_calls_that_cannot_be_made_to_fail, "reactor/sys/files.rs", "unsafe { libc::write(1, p, 1) };"),
        (
            system_calls_that_cannot_be_made_to_fail,
            "reactor/sys/files.rs",
            "attempt(Call::read, || unsafe { libc::write(1, p, 1) as isize });",
        ),
        (
            system_calls_that_cannot_be_made_to_fail,
            "reactor/sys/files.rs",
            "attempt(Call::write, || 1); unsafe { libc::write(1, p, 1) };",
        ),
        (system_calls_that_cannot_be_made_to_fail, "reactor/sys/sockets.rs", "address_by(fd, libc::getsockname)"),
        (polls_of_mio_outside_sys, "reactor/mod.rs", "let poll = mio::Poll::new()?;"),
        (polls_of_mio_outside_sys, "reactor/mod.rs", "registry.register(&mut SourceFd(&fd), token, interest)?;"),
        (clock_reads_outside_clock, "core.rs", "let now = Instant::now();"),
        (clock_reads_outside_clock, "reactor/sys/mod.rs", "let now = std::time::SystemTime::now();"),
        (clock_reads_outside_clock, "transports/stream.rs", "libc::clock_gettime(clock, &mut now)"),
        (clock_reads_outside_clock, "core.rs", "let now = sys::monotonic_ns();"),
        (callbacks_outside_run, "transports/listener.rs", "Handle::run(&handle, &mut empty)?;"),
        (
            protocols_called_elsewhere,
            "transports/stream/mod.rs",
            "calls::method(protocol, &names.data_received, [data])",
        ),
        (reports_made_elsewhere, "run.rs", "calls::method(event_loop, &names.call_exception_handler, [context])"),
        (runs_begun_elsewhere, "core/mod.rs", "let _running = thread_end::running(py);"),
        (unsafe_in_pure_code, "transports/flow.rs", "unsafe { f() }"),
        (promises_to_the_compiler, "core/mod.rs", "unsafe impl Sync for LoopCore {}"),
        (promises_to_the_compiler, "core/mod.rs", "unsafe impl<T: Send> Send for Ready<T> {}"),
        (declared_functions, "core/mod.rs", 'unsafe extern "C" { fn getpid() -> i32; }'),
        (objects_that_panic_without_memory, "core/mod.rs", "let text = PyString::new(py, text);"),
        (objects_that_panic_without_memory, "core/mod.rs", "let none = PyTuple::empty(py);"),
        (objects_that_panic_without_memory, "core/mod.rs", 'PyValueError::new_err("no number")'),
        (objects_that_panic_without_memory, "core/mod.rs", "PyOSError::new_err((errno, text))"),
        (unwraps, "core.rs", "let x = y\n    .unwrap();"),
        (unwraps, "core.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nfn g() { x.unwrap() }"),
        (no_opening, "core.rs", "// a comment\nuse std::fmt;"),
        (no_opening, "core.rs", "use std::fmt;\n//! late"),
        (no_docstring, "rloop/x.py", "import os\n'late'"),
        (no_docstring, "rloop/x.py", ""),
        (too_long, "core.rs", "\n" * (LONGEST_FILE + 1)),
        (too_long, "core.rs", long_function(LONGEST_FUNCTION + 1)),
        (too_long, "rloop/x.py", "def f():\n" + "    g()\n" * LONGEST_FUNCTION),
    ],
)
def test_found(law, path, source):
    assert list(law({path: source})) != []


@pytest.mark.parametrize(
    "law, path, source",
    [
        (python_in_pure_code, "transports/stream.rs", "use pyo3::prelude::*;"),
        (python_in_pure_code, "reactor/mod.rs", "//! no pyo3 here"),
        (mio_outside_the_reactor, "embed/source.rs", "use mio::Interest;"),
        (mio_outside_the_reactor, "core/mod.rs", "let token = token.to_mio();"),
        (system_calls_outside_sys, "reactor/sys/mod.rs", "unsafe { libc::write(1, p, 1) };"),
        (system_calls_outside_sys, "reactor/waker.rs", "let error: libc::c_int = libc::EINTR;"),
        (
            system_calls_that_cannot_be_made_to_fail,
            "reactor/sys/files.rs",
            "attempt_some(Call::write, size, |size| unsafe { libc::write(1, p, size as libc::size_t) });",
        ),
        (
            system_calls_that_cannot_be_made_to_fail,
            "reactor/sys/files.rs",
            "let look = || unsafe { libc::poll(p, 1, 0) }; attempt(Call::poll, look);",
        ),
        (system_calls_that_cannot_be_made_to_fail, "reactor/sys/sigpipe.rs", "unsafe { libc::sigemptyset(p) };"),
        (polls_of_mio_outside_sys, "reactor/mod.rs", "let poll = sys::new_poll()?; sys::register(registry, fd);"),
        (clock_reads_outside_clock, "reactor/clock.rs", "sys::monotonic_ns()"),
        (clock_reads_outside_clock, "reactor/sys/mod.rs", "pub fn monotonic_ns() -> u64 {}"),
        (callbacks_outside_run, "handle/mod.rs", "Self::run(slf); Handle::run(slf)"),
        (protocols_called_elsewhere, "transports/protocol.rs", "self.call(&names.data_received, [data])"),
        (protocols_called_elsewhere, "transports/tls/mod.rs", "fn data_received(&self) {} names.data"),
        (objects_that_panic_without_memory, "core/mod.rs", 'PyValueError::new_err(Message("no number"))'),
        (objects_that_panic_without_memory, "core/mod.rs", "PyMemoryError::new_err(())"),
        (objects_that_panic_without_memory, "core/mod.rs", "let text = new::string(py, text)?;"),
        (reports_made_elsewhere, "py/exception_handler.rs", "&names.call_exception_handler"),
        (runs_begun_elsewhere, "core/mod.rs", "thread_end::stop_instead(py);"),
        (unsafe_in_pure_code, "transports/flow.rs", "// unsafe"),
        (unsafe_in_pure_code, "reactor/poller.rs", "unsafe { f() }"),
        (promises_to_the_compiler, "py/cell.rs", "unsafe impl<T: Send> Sync for LoopCell<T> {}"),
        (promises_to_the_compiler, "core/mod.rs", "struct A; impl Send for A {} // unsafe impl Sync"),
        (declared_functions, "py/audit.rs", 'unsafe extern "C" { fn PySys_Audit() -> i32; }'),
        (declared_functions, "core/mod.rs", 'unsafe extern "C" fn entry() -> i32 { 0 }'),
        (unwraps, "core.rs", "x.unwrap_or(1); #[cfg(test)]\nmod tests { fn f() { x.unwrap() } }"),
        (unwraps, "core.rs", 'let x = r#"a " .unwrap() "#;'),
        (no_opening, "core.rs", "//! What lives here."),
        (too_long, "core.rs", "\n" * LONGEST_FILE),
        (too_long, "core.rs", long_function(LONGEST_FUNCTION)),
        (too_long, "core.rs", "#[cfg(test)]\nmod tests {\n" + long_function(LONGEST_FUNCTION + 1) + "}\n"),
        (too_long, "rloop/x.py", "def f():\n" + "    g()\n" * (LONGEST_FUNCTION - 1)),
    ],
)
def test_left_alone(law, path, source):
    assert list(law({path: source})) == []
