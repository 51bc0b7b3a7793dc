//! From Rust's errors to Python's exceptions, in one place.

use std::io;

use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PySystemExit};
use pyo3::prelude::*;

/// The OSError for a failed system call, with errno and its text; Python picks the subclass by errno (PEP 3151).
pub fn os_error(py: Python<'_>, error: &io::Error) -> PyErr {
    let Some(errno) = error.raw_os_error() else {
        return PyOSError::new_err(error.to_string());
    };
    let text = py.import("os").and_then(|os| os.call_method1("strerror", (errno,)));
    match text {
        Ok(text) => PyOSError::new_err((errno, text.unbind())),
        Err(error) => error,
    }
}

/// True for the two exceptions that asyncio never swallows: they leave `run_forever`.
pub fn leaves_the_loop(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py)
}
