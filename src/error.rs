//! From Rust's errors to Python's exceptions, in one place.

use std::io;

use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyOSError, PySystemExit};
use pyo3::prelude::*;

/// The OSError for a failed system call, with errno and its text; Python picks the subclass by errno (PEP 3151). A
/// MemoryError for what has failed without a system call because a `try_reserve` had.
pub fn os_error(error: &io::Error) -> PyErr {
    let Some(errno) = error.raw_os_error() else {
        let no_room = error.kind() == io::ErrorKind::OutOfMemory;
        return if no_room { no_memory() } else { PyOSError::new_err(error.to_string()) };
    };
    // std adds the number to the text of strerror(3).
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.strip_suffix(&format!(" (os error {errno})")).unwrap_or(&text);
    PyOSError::new_err((errno, text.to_owned()))
}

/// What is raised where there is no memory for something large. Rust itself would end the process: nothing that grows
/// with what a program or its peers do may be allocated in another way than by `try_reserve`.
#[cold]
pub fn no_memory() -> PyErr {
    PyMemoryError::new_err(())
}

/// True for the two exceptions that asyncio never swallows: they leave `run_forever`.
pub fn leaves_the_loop(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py)
}
