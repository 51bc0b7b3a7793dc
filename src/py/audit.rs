//! Audit events (PEP 578) for what is done here in the place of CPython's own modules. If a hook raises an exception,
//! the caller passes it on.

use std::ffi::{CStr, c_char, c_int};

use pyo3::prelude::*;

// Public in CPython's C API, but not declared by PyO3.
unsafe extern "C" {
    fn PySys_Audit(event: *const c_char, format: *const c_char, ...) -> c_int;
}

fn unless_refused(py: Python<'_>, status: c_int) -> PyResult<()> {
    if status < 0 { Err(PyErr::fetch(py)) } else { Ok(()) }
}

/// `socket.connect`
pub fn connect(socket: &Bound<'_, PyAny>, address: &Bound<'_, PyAny>) -> PyResult<()> {
    const FORMAT: &CStr = c"OO";
    // SAFETY: the arguments are those of the format: two objects, which the caller keeps alive.
    let status = unsafe {
        PySys_Audit(c"socket.connect".as_ptr(), FORMAT.as_ptr(), socket.as_ptr(), address.as_ptr())
    };
    unless_refused(socket.py(), status)
}

/// `socket.getaddrinfo`
pub fn getaddrinfo(
    host: &Bound<'_, PyAny>,
    port: &Bound<'_, PyAny>,
    family: i32,
    kind: i32,
    protocol: i32,
) -> PyResult<()> {
    const FORMAT: &CStr = c"OOiii";
    // SAFETY: the arguments are those of the format: two objects, which the caller keeps alive, and three ints.
    let status = unsafe {
        let event = c"socket.getaddrinfo".as_ptr();
        PySys_Audit(event, FORMAT.as_ptr(), host.as_ptr(), port.as_ptr(), family, kind, protocol)
    };
    unless_refused(host.py(), status)
}
