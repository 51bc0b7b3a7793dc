//! What stands between the host's code and Python's: panics as exceptions, reports, letting go of the interpreter.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::error::leaves_the_loop;
use crate::py::context;
use crate::py::exception_handler;
use crate::py::fastcall::panic_text;
use crate::py::names::names;

/// Runs code of the host; a panic becomes a RuntimeError. Not pyo3's PanicException: that one goes on to panic when
/// Rust fetches it.
pub fn caught<R>(call: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        Err(PyRuntimeError::new_err(format!("panic in Rust: {}", panic_text(payload))))
    })
}

/// Drops a value of the host, whose destructors are the host's code.
pub fn let_go<T>(value: T) {
    // The panic of a destructor has nowhere to go; the panic hook has shown it.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

/// Gives `error` to the loop's exception handler. Err: SystemExit or KeyboardInterrupt, which leave the loop.
pub fn report(event_loop: &Bound<'_, PyAny>, message: &str, error: PyErr) -> PyResult<()> {
    let py = event_loop.py();
    if leaves_the_loop(py, &error) {
        return Err(error);
    }
    exception_handler::call(event_loop, names(py)?, message, error, &[])
}

/// Does this thread hold the interpreter?
pub fn is_attached() -> bool {
    // SAFETY: both can be called from any thread at any time.
    unsafe { ffi::Py_IsInitialized() != 0 && ffi::PyGILState_Check() != 0 }
}

/// Runs what blocks, with the interpreter let go of if this thread holds it.
pub fn detached<R: Send>(call: impl FnOnce() -> R + Send) -> R {
    let mut call = Some(call);
    if is_attached()
        && let Some(Some(result)) = Python::try_attach(|py| call.take().map(|call| py.detach(call)))
    {
        return result;
    }
    // Taken only where the result was returned above.
    call.take().expect("not called yet")()
}

/// A copy of the calling thread's context. None: it is empty, or the thread has no Python.
pub fn copied_context() -> PyResult<Option<Py<PyAny>>> {
    if !is_attached() {
        return Ok(None);
    }
    let copied = Python::try_attach(|py| Ok(context::copy_unless_empty(py)?.map(Bound::unbind)));
    copied.unwrap_or(Ok(None))
}
