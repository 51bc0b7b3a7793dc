//! Which interpreters rloop can live in: the main one of the process, with its GIL.

use pyo3::exceptions::{PyImportError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;

/// ImportError in a subinterpreter. CPython itself refuses those that are isolated; the others (mod_wsgi has them)
/// would share classes and names with the main interpreter, and take them along when they end.
pub fn refuse_subinterpreter(_py: Python<'_>) -> PyResult<()> {
    // SAFETY: the interpreter is held; both only read a pointer.
    if unsafe { ffi::PyInterpreterState_Get() == ffi::PyInterpreterState_Main() } {
        return Ok(());
    }
    Err(PyImportError::new_err(
        "rloop does not support subinterpreters: it can be imported in the main interpreter only",
    ))
}

/// RuntimeError where the GIL is off. Importing the module turns it on, unless the program forbids that
/// (PYTHON_GIL=0), or made the module by other means (`embed`).
pub fn require_gil(py: Python<'_>) -> PyResult<()> {
    let enabled = match py.import("sys")?.getattr("_is_gil_enabled") {
        Ok(ask) => ask.call0()?.is_truthy()?,
        // CPython 3.12 and before always have it.
        Err(_) => true,
    };
    if enabled {
        Ok(())
    } else {
        Err(PyRuntimeError::new_err("rloop needs the GIL, which is disabled in this process"))
    }
}
