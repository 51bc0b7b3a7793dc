//! Which interpreters rloop can run in: the main interpreter of the process, with its GIL.

use pyo3::exceptions::{PyImportError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;

use super::new::intern;
use crate::error::Message;

/// ImportError in a subinterpreter. Isolated subinterpreters are refused by CPython itself. Others, as mod_wsgi has
/// them, would share classes and other objects with the main interpreter, and destroy them when they end.
pub fn refuse_subinterpreter(_py: Python<'_>) -> PyResult<()> {
    // SAFETY: the GIL is held, and both functions only read a pointer.
    if unsafe { ffi::PyInterpreterState_Get() == ffi::PyInterpreterState_Main() } {
        return Ok(());
    }
    Err(PyImportError::new_err(Message(
        "rloop does not support subinterpreters: it can be imported in the main interpreter only",
    )))
}

/// RuntimeError if the GIL is off. Importing the module turns it on, unless the program forbids that (PYTHON_GIL=0) or
/// has made the module by other means (`embed`).
pub fn require_gil(py: Python<'_>) -> PyResult<()> {
    let enabled = match py.import(intern!(py, "sys")?)?.getattr(intern!(py, "_is_gil_enabled")?) {
        Ok(ask) => ask.call0()?.is_truthy()?,
        // CPython 3.12 and earlier versions always have a GIL.
        Err(_) => true,
    };
    if enabled {
        Ok(())
    } else {
        Err(PyRuntimeError::new_err(Message("rloop needs the GIL, which is disabled in this process")))
    }
}
