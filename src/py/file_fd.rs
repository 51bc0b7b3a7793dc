//! The number that a Python socket or file has at the moment, without a call of Python.
//!
//! A program can take the fd away from an object that a transport uses: by `detach()`, or by closing it. The number may
//! stand for another file from then on. asyncio asks a socket at each call; so do we, and a file as well, by looking
//! where the object keeps the number.

use std::ffi::c_int;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::names::names;
use super::new::intern;

/// The fd of a Python socket or file.
pub struct FileFd {
    number: RawFd,
    object: Py<PyAny>,
    /// The file inside of a buffered or text file.
    inner: Option<Py<PyAny>>,
    /// Where `inner` or else `object` has its number. None for objects of other kinds, whose number is believed.
    place: Option<NonNull<c_int>>,
}

// SAFETY: the place is in an object that this struct keeps alive, wherever it is.
unsafe impl Send for FileFd {}
// SAFETY: the place is only read, and atomically.
unsafe impl Sync for FileFd {}

impl FileFd {
    /// That of `object`, which is `object.fileno()`.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let number = object.call_method0(&names(object.py())?.fileno)?.extract()?;
        Self::with_number(object, number)
    }

    /// The same, for who knows the number.
    pub fn with_number(object: &Bound<'_, PyAny>, number: RawFd) -> PyResult<Self> {
        let inner = innermost(object)?;
        let place = place(inner.as_ref().unwrap_or(object))?.filter(|&place| read(place) == number);
        Ok(Self { number, object: object.clone().unbind(), inner: inner.map(Bound::unbind), place })
    }

    /// The number, whatever has become of the object.
    pub fn number(&self) -> RawFd {
        self.number
    }

    pub fn object(&self) -> &Py<PyAny> {
        &self.object
    }

    /// The fd; EBADF if it is not the object's any more.
    #[inline]
    pub fn get(&self) -> io::Result<BorrowedFd<'_>> {
        match self.place {
            Some(place) if read(place) != self.number => Err(io::Error::from_raw_os_error(libc::EBADF)),
            // SAFETY: the object has the fd now. It closes it, or gives it away, only when Python code runs, which is
            // not before the caller's system call is over: it is made with the interpreter held. An object of another
            // kind is the program's to keep open, as it is for asyncio.
            _ => Ok(unsafe { BorrowedFd::borrow_raw(self.number) }),
        }
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)?;
        visit.call(&self.inner)
    }
}

#[inline]
fn read(place: NonNull<c_int>) -> c_int {
    // SAFETY: an aligned int in a live object (see `place`). CPython writes to it with the interpreter held, as it is
    // here.
    unsafe { AtomicI32::from_ptr(place.as_ptr()).load(Relaxed) }
}

/// The raw file of a buffered or text file, which has the fd.
fn innermost<'py>(object: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = object.py();
    let buffer = object.getattr(intern!(py, "buffer")?).ok();
    let raw = buffer.as_ref().unwrap_or(object).getattr(intern!(py, "raw")?).ok();
    Ok(raw.or(buffer))
}

/// Where `_socket.socket` and `_io.FileIO` have their number in every CPython so far: first of all.
fn place(object: &Bound<'_, PyAny>) -> PyResult<Option<NonNull<c_int>>> {
    static SOCKETS: PyOnceLock<bool> = PyOnceLock::new();
    static FILES: PyOnceLock<bool> = PyOnceLock::new();
    let names = names(object.py())?;
    for (class, is_first) in [(&names.native_socket, &SOCKETS), (&names.native_file, &FILES)] {
        let class = class.bind(object.py());
        if object.is_instance(class)? {
            let is_first = is_first.get_or_try_init(object.py(), || number_is_first(class))?;
            return Ok(if *is_first { first_int(object) } else { None });
        }
    }
    Ok(None)
}

/// Asks an object without an fd, which says so there.
fn number_is_first(class: &Bound<'_, PyAny>) -> PyResult<bool> {
    let empty = class.call_method1(intern!(class.py(), "__new__")?, (class,))?;
    Ok(first_int(&empty).is_some_and(|place| read(place) == -1))
}

/// The first int behind an object's header, if the object is that large.
fn first_int(object: &Bound<'_, PyAny>) -> Option<NonNull<c_int>> {
    let start = size_of::<ffi::PyObject>();
    // SAFETY: `tp_basicsize` bytes belong to a live object, whose class lives as long as it does.
    unsafe {
        let size = (*ffi::Py_TYPE(object.as_ptr())).tp_basicsize as usize;
        if start + size_of::<c_int>() > size {
            return None;
        }
        NonNull::new(object.as_ptr().byte_add(start).cast())
    }
}
