//! The fd of a Python socket or file that a transport uses, checked at each use without calling Python.
//!
//! A program can take the fd away from the object, by `detach()` or by closing it. From then on the number can belong
//! to another file. asyncio asks the socket for its number at each call. We read it, for sockets and files, from the
//! place where the object keeps it.

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
    /// The raw file in a buffered or text file.
    inner: Option<Py<PyAny>>,
    /// Where `inner`, or else `object`, keeps its number. None for objects of other classes, which are not checked.
    place: Option<NonNull<c_int>>,
}

// SAFETY: the pointer is into an object that this struct keeps alive on every thread.
unsafe impl Send for FileFd {}
// SAFETY: the pointer is only used to read a number, atomically.
unsafe impl Sync for FileFd {}

impl FileFd {
    /// The fd of `object`: its `fileno()`.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let number = object.call_method0(&names(object.py())?.fileno)?.extract()?;
        Self::with_number(object, number)
    }

    /// The same for a caller that knows the number.
    pub fn with_number(object: &Bound<'_, PyAny>, number: RawFd) -> PyResult<Self> {
        let inner = innermost(object)?;
        let place = place(inner.as_ref().unwrap_or(object))?.filter(|&place| read(place) == number);
        Ok(Self { number, object: object.clone().unbind(), inner: inner.map(Bound::unbind), place })
    }

    /// The number that the fd had at the beginning. It may not be the object's any more.
    pub fn number(&self) -> RawFd {
        self.number
    }

    /// The Python object.
    pub fn object(&self) -> &Py<PyAny> {
        &self.object
    }

    /// The fd. EBADF if the object does not have it any more.
    #[inline]
    pub fn get(&self) -> io::Result<BorrowedFd<'_>> {
        match self.place {
            Some(place) if read(place) != self.number => Err(io::Error::from_raw_os_error(libc::EBADF)),
            // SAFETY: the object has the fd now. It can close it, or give it away, only when Python code runs. That is
            // not before the caller's system call is over, because the caller holds the GIL. An object of another class
            // is not checked: as for asyncio, the program has to keep it open.
            _ => Ok(unsafe { BorrowedFd::borrow_raw(self.number) }),
        }
    }

    /// Shows the garbage collector the Python objects.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)?;
        visit.call(&self.inner)
    }
}

#[inline]
fn read(place: NonNull<c_int>) -> c_int {
    // SAFETY: an aligned int in a live object (see `place`). CPython writes to it with the GIL held, which is held
    // here, too.
    unsafe { AtomicI32::from_ptr(place.as_ptr()).load(Relaxed) }
}

/// The raw file in a buffered or text file: it has the fd.
fn innermost<'py>(object: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = object.py();
    let buffer = object.getattr(intern!(py, "buffer")?).ok();
    let raw = buffer.as_ref().unwrap_or(object).getattr(intern!(py, "raw")?).ok();
    Ok(raw.or(buffer))
}

/// Where the object keeps its number. In every CPython so far it is the first field of `_socket.socket` and of
/// `_io.FileIO`, which is verified once for each of the two.
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

/// True if the number is the first field: there a new object, which has no fd, has -1.
fn number_is_first(class: &Bound<'_, PyAny>) -> PyResult<bool> {
    let empty = class.call_method1(intern!(class.py(), "__new__")?, (class,))?;
    Ok(first_int(&empty).is_some_and(|place| read(place) == -1))
}

/// The first int behind an object's header. None if the object is too small.
fn first_int(object: &Bound<'_, PyAny>) -> Option<NonNull<c_int>> {
    let start = size_of::<ffi::PyObject>();
    // SAFETY: a live object has `tp_basicsize` bytes, and its class lives as long as the object.
    unsafe {
        let size = (*ffi::Py_TYPE(object.as_ptr())).tp_basicsize as usize;
        if start + size_of::<c_int>() > size {
            return None;
        }
        NonNull::new(object.as_ptr().byte_add(start).cast())
    }
}
