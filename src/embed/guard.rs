//! What stands between the code of the host and that of Python: panics become exceptions, errors are reported, and the
//! GIL is released while a thread blocks. Nothing here knows handles or tasks.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::error::leaves_the_loop;
use crate::py::context;
use crate::py::exception_handler;
use crate::py::fastcall::panic_text;
use crate::py::names::names;

/// Runs code of the host. A panic becomes a RuntimeError. It does not become PyO3's PanicException, which panics again
/// when Rust fetches it.
pub fn caught<R>(call: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        Err(PyRuntimeError::new_err(format!("panic in Rust: {}", panic_text(payload))))
    })
}

/// Drops a value of the host. Its destructor is the host's code, and may panic.
pub fn drop_quietly<T>(value: T) {
    // Nobody can be given the panic of a destructor. The panic hook has shown it.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

/// Gives `error` to the loop's exception handler. SystemExit and KeyboardInterrupt are returned instead: they leave the
/// loop.
pub fn report(event_loop: &Bound<'_, PyAny>, message: &str, error: PyErr) -> PyResult<()> {
    let py = event_loop.py();
    if leaves_the_loop(py, &error) {
        return Err(error);
    }
    exception_handler::call(event_loop, names(py)?, message, error, &[])
}

/// True if this thread holds the GIL.
pub fn is_attached() -> bool {
    // SAFETY: both functions can be called from any thread at any time.
    unsafe { ffi::Py_IsInitialized() != 0 && ffi::PyGILState_Check() != 0 }
}

/// Runs a call that blocks. If this thread holds the GIL, it is released meanwhile.
pub fn detached<R: Send>(call: impl FnOnce() -> R + Send) -> R {
    let mut call = Some(call);
    if is_attached()
        && let Some(Some(result)) = Python::try_attach(|py| call.take().map(|call| py.detach(call)))
    {
        return result;
    }
    // If it was taken above, the result was returned above.
    call.take().expect("not called yet")()
}

/// A copy of the current context. None if it is empty, or if this thread has no Python.
pub fn copied_context() -> PyResult<Option<Py<PyAny>>> {
    if !is_attached() {
        return Ok(None);
    }
    let copied = Python::try_attach(|py| Ok(context::copy_unless_empty(py)?.map(Bound::unbind)));
    copied.unwrap_or(Ok(None))
}
