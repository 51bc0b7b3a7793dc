//! contextvars: copying, entering and leaving a `contextvars.Context` (PEP 567).

use pyo3::ffi;
use pyo3::prelude::*;

/// A copy of the current context: `contextvars.copy_context()`.
#[inline]
pub fn copy_current(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the interpreter is held; the call returns a new reference or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A copy of `context`: `context.copy()`.
pub fn copy<'py>(context: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the interpreter is held; anything but a context is refused with an exception.
    unsafe { Bound::from_owned_ptr_or_err(context.py(), ffi::PyContext_Copy(context.as_ptr())) }
}

/// Runs `call` inside `context`, as `context.run` does. Fails if the context is not a context, or is entered already.
#[inline]
pub fn run_in<'py, R>(context: &Bound<'py, PyAny>, call: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    let py = context.py();
    // SAFETY: the interpreter is held and `context` outlives the call.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } < 0 {
        return Err(PyErr::fetch(py));
    }
    let leave = Leave(context);
    let result = call();
    drop(leave);
    result
}

/// Leaves the context, on a panic too.
struct Leave<'a, 'py>(&'a Bound<'py, PyAny>);

impl Drop for Leave<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this thread entered the context in `run_in`; errors of `call` were fetched, none is set.
        if unsafe { ffi::PyContext_Exit(self.0.as_ptr()) } < 0 {
            PyErr::fetch(self.0.py()).write_unraisable(self.0.py(), Some(self.0));
        }
    }
}
