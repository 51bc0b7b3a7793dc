//! From errors of Rust to exceptions of Python: the only place where that is decided.

use std::io;

use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyOSError, PySystemExit};
use pyo3::prelude::*;

/// The exception for an error of the system: an OSError with errno and its text, of which Python chooses the subclass
/// by errno (PEP 3151). A MemoryError if a `try_reserve` has failed.
pub fn os_error(error: &io::Error) -> PyErr {
    let Some(errno) = error.raw_os_error() else {
        let no_room = error.kind() == io::ErrorKind::OutOfMemory;
        return if no_room { no_memory() } else { PyOSError::new_err(error.to_string()) };
    };
    // `std` adds the number to the text of strerror(3).
    let text = error.to_string();
    let text = text.strip_suffix(&format!(" (os error {errno})")).unwrap_or(&text);
    PyOSError::new_err((errno, text.to_owned()))
}

/// The exception if there is no memory. Rust's usual ways to allocate end the process then. So whatever grows with what
/// a program or its peers do must be allocated by `try_reserve`.
#[cold]
pub fn no_memory() -> PyErr {
    PyMemoryError::new_err(())
}

/// True for the two exceptions that asyncio never catches, so that they leave `run_forever`: SystemExit and
/// KeyboardInterrupt.
pub fn leaves_the_loop(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py)
}
