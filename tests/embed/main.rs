//! `rloop::embed` as a host uses it: an interpreter in this process, loops on threads, Python coroutines as Rust
//! futures and the other way round. Needs `--features tokio` and a Python that can be linked to.

#![allow(clippy::unwrap_used, clippy::panic, clippy::unit_arg, reason = "tests")]

mod end;
mod futures;
mod many;
mod setup;
mod sources;
mod tasks;
mod with_tokio;

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use rloop::embed::LoopThread;

/// How long tests wait for something that must happen.
const SOON: Duration = Duration::from_secs(20);

/// A new module of the given source.
fn module(source: &str) -> Py<PyModule> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    Python::initialize();
    let source = std::ffi::CString::new(source).unwrap();
    // With a name that exists already, Python would return that module.
    let name = std::ffi::CString::new(format!("app{}", COUNT.fetch_add(1, Relaxed))).unwrap();
    Python::attach(|py| PyModule::from_code(py, &source, c"app.py", &name).unwrap().unbind())
}

/// A function of a new module of the given source.
fn function(source: &str, name: &str) -> Py<PyAny> {
    let module = module(source);
    Python::attach(|py| module.bind(py).getattr(name).unwrap().unbind())
}

fn start() -> LoopThread {
    LoopThread::start().unwrap()
}

fn text_of(error: &PyErr) -> String {
    Python::attach(|_| error.to_string())
}

/// Collects what goes to the loop's exception handler.
fn collect_reports(event_loop: &LoopThread) -> Py<PyAny> {
    Python::attach(|py| {
        let reports = pyo3::types::PyList::empty(py);
        let scope = PyDict::new(py);
        scope.set_item("reports", &reports).unwrap();
        let handler = c"lambda loop, context: reports.append(repr(context['exception']))";
        let handler = py.eval(handler, Some(&scope), None).unwrap();
        event_loop.event_loop(py).call_method1("set_exception_handler", (handler,)).unwrap();
        reports.into_any().unbind()
    })
}

fn strings(list: &Py<PyAny>) -> Vec<String> {
    Python::attach(|py| list.extract(py).unwrap())
}
