//! System calls of the `sock_*` coroutines that are not made by Python's socket methods, because an exception for
//! "would block" costs more than the call. Waiting in between is done by `watching.rs`.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt};

use super::EventLoop;
use crate::core::LoopCore;
use crate::error::{Message, os_error};
use crate::py::bytes::readable;
use crate::py::calls;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys;

/// True if the calls here can be used for `sock`. A subclass may have methods of its own, and debug mode checks more.
fn is_plain(core: &LoopCore, sock: &Bound<'_, PyAny>) -> bool {
    sock.get_type().is(core.names.socket_class.bind(sock.py())) && !core.debug.load(Relaxed)
}

/// True if `sock.send` is Python's own, and not that of a subclass such as `ssl.SSLSocket`.
fn has_usual_send(core: &LoopCore, sock: &Bound<'_, PyAny>) -> PyResult<bool> {
    let usual = core.names.native_socket.bind(sock.py()).getattr(&core.names.send)?;
    Ok(calls::is_method(sock, &core.names.send, &usual.unbind()))
}

/// The fd of a Python socket. EBADF if it is closed, as asyncio's call fails then.
fn fd_of(core: &LoopCore, sock: &Bound<'_, PyAny>) -> PyResult<i32> {
    match calls::method(sock, &core.names.fileno, [])?.extract()? {
        fd @ 0.. => Ok(fd),
        _ => Err(os_error(&io::Error::from_raw_os_error(libc::EBADF))),
    }
}

/// The result of a system call. None if it would block.
fn unless_blocked<T>(result: io::Result<T>) -> PyResult<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(os_error(&error)),
    }
}

impl EventLoop {
    /// `EventLoop._receive`: the bytes, or the future to wait for before the next call. None if it cannot be used for
    /// this socket and size.
    pub(super) fn receive<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        size: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (py, core) = (slf.py(), &slf.get().core);
        // For a size that is no plain int, Python's method raises an error of its own.
        let size = if size.is_exact_instance_of::<PyInt>() { size.extract().ok() } else { None };
        let Some(size) = size.filter(|&size: &usize| isize::try_from(size).is_ok() && is_plain(core, sock))
        else {
            return Ok(None);
        };
        let fd = fd_of(core, sock)?;
        // SAFETY: `sock` keeps the fd open, unless Python code closes it, which does not run during the call.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        let received = slf.get().spare_bytes.fill(py, size, |buffer| sys::recv(borrowed, buffer))?;
        if let Some(data) = unless_blocked(received)? {
            return Ok(Some(data.into_any()));
        }
        Self::wait(slf, sock, fd, Readiness::READABLE).map(Some)
    }

    /// `EventLoop._send`: sends `data` from byte `start` on. None if all of it was sent, otherwise the byte to go on
    /// with. If the socket's class has a `send` of its own, nothing is sent, and the result is -1.
    pub(super) fn send(
        slf: &Bound<'_, Self>,
        sock: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
        start: usize,
    ) -> PyResult<Option<isize>> {
        let core = &slf.get().core;
        if start == 0 && !is_plain(core, sock) {
            if !has_usual_send(core, sock)? {
                return Ok(Some(-1));
            }
            // Debug mode's check, which asyncio makes before it sends.
            slf.call_method1(&core.names._check_socket, (sock,))?;
        }
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            return send_slice(fd_of(core, sock)?, bytes.as_bytes(), start);
        }
        let buffer = PyUntypedBuffer::get(data)?;
        if !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err(Message("memoryview: underlying buffer is not C-contiguous")));
        }
        let fd = fd_of(core, sock)?;
        // SAFETY: no Python code runs while the slice lives, and the GIL is held.
        send_slice(fd, unsafe { readable(&buffer, sock.py()) }, start)
    }
}

/// Sends `all` from byte `start` on: see [`EventLoop::send`].
fn send_slice(fd: i32, all: &[u8], start: usize) -> PyResult<Option<isize>> {
    // SAFETY: `sock` keeps the fd open, unless Python code closes it, which does not run during the call.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    // A program can make a bytearray shorter between two calls: then nothing is left to send.
    let rest = all.get(start..).unwrap_or_default();
    let sent = unless_blocked(sys::send(fd, &[io::IoSlice::new(rest)]))?.unwrap_or(0);
    let next = start + sent;
    Ok((next < all.len()).then_some(next as isize))
}
