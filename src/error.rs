//! From errors of Rust to exceptions of Python: the only place where that is decided.

use std::io;

use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError, PyOSError, PySystemExit};
use pyo3::prelude::*;
use pyo3::{PyErrArguments, ffi};

use crate::reactor::sys;

/// The exception for an error of the system: an OSError with errno and its text, of which Python chooses the subclass
/// by errno (PEP 3151). A MemoryError if a `try_reserve` has failed.
pub fn os_error(error: &io::Error) -> PyErr {
    let Some(errno) = error.raw_os_error() else {
        let no_room = error.kind() == io::ErrorKind::OutOfMemory;
        return if no_room { no_memory() } else { PyOSError::new_err(Message(error.to_string())) };
    };
    PyOSError::new_err(Errno(errno, sys::error_text(errno)))
}

/// The text of an exception. Where there is no memory for the text, the exception has none; a `str` in its place would
/// make PyO3 panic.
pub struct Message<T>(pub T);

impl<T: AsRef<str> + Send + Sync + 'static> PyErrArguments for Message<T> {
    fn arguments(self, py: Python<'_>) -> Py<PyAny> {
        // SAFETY: a new reference or null.
        unsafe { or_none(py, text(self.0.as_ref())) }
    }
}

/// The errno and the text of an OSError, as [`Message`].
pub struct Errno(pub i32, pub String);

impl PyErrArguments for Errno {
    fn arguments(self, py: Python<'_>) -> Py<PyAny> {
        // SAFETY: the format takes an int and a reference, which may be null and is taken over. Returned is a new
        // reference or null.
        unsafe { or_none(py, ffi::Py_BuildValue(c"(iN)".as_ptr(), self.0, text(&self.1))) }
    }
}

/// A new `str`, or null with an exception set. To be called with the interpreter held.
unsafe fn text(text: &str) -> *mut ffi::PyObject {
    // SAFETY: CPython copies the text before it returns; a `str` of Rust is UTF-8 and never longer than isize::MAX.
    unsafe { ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), text.len() as ffi::Py_ssize_t) }
}

/// Takes over a new reference; None instead of null, and of the exception that is set then.
///
/// # Safety
/// `object` is a new reference, or null with an exception set.
unsafe fn or_none(py: Python<'_>, object: *mut ffi::PyObject) -> Py<PyAny> {
    // SAFETY: the caller's promise.
    unsafe { Bound::from_owned_ptr_or_err(py, object) }.map_or_else(|_| py.None(), Bound::unbind)
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
