//! contextvars: copying, entering and leaving a `contextvars.Context` (PEP 567).

use pyo3::ffi;
use pyo3::prelude::*;

use super::cell::LoopCell;
use super::gc::is_only_reference;

/// A copy of the current context: `contextvars.copy_context()`.
#[inline]
pub fn copy_current(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the interpreter is held; the call returns a new reference or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A copy of the current context, or `None` where it is empty: whoever needs it can make an empty one then. Most
/// programs have no context variables, and a context per pending callback is work for the garbage collector.
#[inline]
pub fn copy_unless_empty(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let context = copy_current(py)?;
    Ok(if is_empty(&context) { None } else { Some(context) })
}

/// A new context without variables.
pub fn new_empty(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the interpreter is held; the call returns a new reference or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_New()) }
}

#[inline]
fn is_empty(context: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live context, whose length is a field and cannot fail.
    unsafe { ffi::PyObject_Size(context.as_ptr()) == 0 }
}

/// An empty context that callbacks use one after the other, for as long as none of them leaves anything in it.
#[derive(Default)]
pub struct EmptyContext(LoopCell<Option<Py<PyAny>>>);

impl EmptyContext {
    /// A context that is empty and that nobody else knows.
    #[inline]
    pub fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.0.with(py, Option::take) {
            Some(context) => Ok(context.into_bound(py)),
            None => new_empty(py),
        }
    }

    /// Takes it back. A variable set in it, or a reference to it (a `contextvars.Token` has one), is the callback's to
    /// keep: then the context is returned.
    #[inline]
    pub fn take_back<'py>(&self, context: Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        if !is_only_reference(&context) || !is_empty(&context) {
            return Some(context);
        }
        let py = context.py();
        drop(self.0.with(py, |spare| spare.replace(context.unbind())));
        None
    }

    pub fn clear(&self, py: Python<'_>) {
        drop(self.0.with(py, Option::take));
    }
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
