//! The system calls of the `sock_*` coroutines that are worth making without Python's socket methods: an exception for
//! "would block" costs more than the call. What to wait for in between is `watching.rs`'s business.

use std::io;
use std::os::fd::BorrowedFd;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;

use crate::core::LoopCore;
use crate::error::os_error;
use crate::py::bytes::{self, readable};
use crate::reactor::sys;

/// The fd of a Python socket; -1 when it is closed, which the kernel refuses as asyncio's call does (EBADF).
fn fd_of(core: &LoopCore, sock: &Bound<'_, PyAny>) -> PyResult<i32> {
    sock.call_method0(&core.names.fileno)?.extract()
}

fn unless_blocked<T>(py: Python<'_>, result: io::Result<T>) -> PyResult<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(os_error(py, &error)),
    }
}

pub fn try_recv<'py>(
    core: &LoopCore,
    sock: &Bound<'py, PyAny>,
    size: usize,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = sock.py();
    let fd = fd_of(core, sock)?;
    if fd < 0 {
        return Err(os_error(py, &io::Error::from_raw_os_error(libc::EBADF)));
    }
    // SAFETY: `sock` keeps the fd open during the call, in which no Python code runs.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let received = bytes::fill_new(py, size, |buffer| sys::recv_now(fd, buffer))?;
    Ok(unless_blocked(py, received)?.map(|(data, _)| data.into_any()))
}

pub fn try_send(
    core: &LoopCore,
    sock: &Bound<'_, PyAny>,
    data: &Bound<'_, PyAny>,
    start: usize,
) -> PyResult<Option<usize>> {
    let py = sock.py();
    let buffer = PyUntypedBuffer::get(data)?;
    if !buffer.is_c_contiguous() {
        return Err(PyBufferError::new_err("memoryview: underlying buffer is not C-contiguous"));
    }
    let fd = fd_of(core, sock)?;
    if fd < 0 {
        return Err(os_error(py, &io::Error::from_raw_os_error(libc::EBADF)));
    }
    // SAFETY: `sock` keeps the fd open during the call, in which no Python code runs.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    // SAFETY: no Python code runs while the slice lives.
    let all = unsafe { readable(&buffer, py) };
    let rest = all.get(start..).unwrap_or_default();
    let sent = unless_blocked(py, sys::send(fd, &[io::IoSlice::new(rest)]))?.unwrap_or(0);
    let next = start + sent;
    Ok((next < all.len()).then_some(next))
}
