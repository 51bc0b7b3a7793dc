//! Bytes of Python: making them in place, keeping them unchanged, and writing into buffers that others own. Where the
//! bytes come from or go to is not known here.

use std::collections::TryReserveError;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

use super::cell::LoopCell;
use super::new::{self, intern};
use crate::error::Message;
use crate::reactor::sys::ReadBuf;

// Public in CPython's C API, but not declared by PyO3.
unsafe extern "C" {
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> std::ffi::c_int;
}

/// Makes a `bytes` of what `fill` puts into a buffer of `capacity` bytes. Returns also what `fill` returns. No garbage
/// collection can start in here, because the collector does not track bytes.
pub fn fill_new<T, E>(
    py: Python<'_>,
    capacity: usize,
    fill: impl FnOnce(&mut ReadBuf<'_>) -> Result<T, E>,
) -> PyResult<Result<(Bound<'_, PyBytes>, T), E>> {
    // SAFETY: nobody else has the object until it is returned, and what is not filled is cut off before.
    unsafe {
        let bytes = new_uninit(py, capacity)?;
        let mut buffer = ReadBuf::new(memory_of(&bytes));
        match fill(&mut buffer) {
            Ok(result) => {
                let filled = buffer.filled().len();
                Ok(Ok((cut(bytes, filled)?, result)))
            }
            Err(error) => Ok(Err(error)),
        }
    }
}

/// A `bytes` of `size` bytes, or MemoryError.
///
/// # Safety
/// The bytes are not initialised: nobody may read them, nor be given the object, before they are written or cut off.
unsafe fn new_uninit(py: Python<'_>, size: usize) -> PyResult<Bound<'_, PyBytes>> {
    // SAFETY: without a source CPython allocates `size` bytes that are not initialised, or raises MemoryError.
    unsafe {
        let object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), size as ffi::Py_ssize_t);
        Bound::from_owned_ptr_or_err(py, object).map(|object| object.cast_into_unchecked())
    }
}

/// The number of its bytes, which need not be initialised.
fn size(bytes: &Bound<'_, PyBytes>) -> usize {
    // SAFETY: a `bytes`.
    unsafe { ffi::PyBytes_Size(bytes.as_ptr()) as usize }
}

/// Its bytes, for writing to them.
///
/// # Safety
/// Nobody else has the object, and its hash was not computed.
#[allow(clippy::mut_from_ref, reason = "the interpreter owns the memory, not the reference")]
unsafe fn memory_of<'a>(bytes: &'a Bound<'_, PyBytes>) -> &'a mut [MaybeUninit<u8>] {
    // SAFETY: a `bytes` has as many bytes as it says. Nobody else reads or writes them meanwhile.
    unsafe { std::slice::from_raw_parts_mut(ffi::PyBytes_AsString(bytes.as_ptr()).cast(), size(bytes)) }
}

/// The same `bytes` with only its first `filled` bytes.
///
/// # Safety
/// Nobody else has the object, and it has at least `filled` bytes.
unsafe fn cut(bytes: Bound<'_, PyBytes>, filled: usize) -> PyResult<Bound<'_, PyBytes>> {
    let py = bytes.py();
    debug_assert!(filled <= size(&bytes));
    if filled == size(&bytes) {
        return Ok(bytes);
    }
    let mut object = bytes.into_ptr();
    // SAFETY: the only reference. Resizing may move the object, and drops the reference and leaves null if it fails.
    unsafe {
        if _PyBytes_Resize(&mut object, filled as ffi::Py_ssize_t) < 0 {
            return Err(PyErr::fetch(py));
        }
        Ok(Bound::from_owned_ptr(py, object).cast_into_unchecked())
    }
}

/// A `bytes` to receive into, which is kept from one call to the next. A small message is copied out of it. That costs
/// less than to allocate a large `bytes` for each call, and to cut it short.
#[derive(Default)]
pub struct Spare(LoopCell<Option<Py<PyBytes>>>);

impl Spare {
    /// The largest `bytes` that is kept, and from how many received bytes on a copy is not worth it.
    const MOST: usize = 256 * 1024;
    const LARGE: usize = 4096;

    /// As [`fill_new`]. Where there is no memory for the copy, what was received is not lost: it is given away in the
    /// `bytes` that it is in.
    pub fn fill<'py, T, E>(
        &self,
        py: Python<'py>,
        capacity: usize,
        fill: impl FnOnce(&mut ReadBuf<'_>) -> Result<T, E>,
    ) -> PyResult<Result<Bound<'py, PyBytes>, E>> {
        if capacity == 0 || capacity > Self::MOST {
            return Ok(fill_new(py, capacity, fill)?.map(|(bytes, _)| bytes));
        }
        let kept = self.0.with(py, Option::take).map(|kept| kept.into_bound(py));
        let bytes = match kept.filter(|kept| size(kept) == capacity) {
            Some(kept) => kept,
            // SAFETY: as in `fill_new`.
            None => unsafe { new_uninit(py, capacity)? },
        };
        // SAFETY: nobody else has this object: it was made here or in an earlier call, and never given away. So nobody
        // sees that its bytes change, and it has no hash that was computed from them.
        let mut buffer = ReadBuf::new(unsafe { memory_of(&bytes) });
        if let Err(error) = fill(&mut buffer) {
            self.keep(bytes);
            return Ok(Err(error));
        }
        let filled = buffer.filled().len();
        if filled < capacity.min(Self::LARGE)
            && let Ok(copy) = new::bytes(py, buffer.filled())
        {
            self.keep(bytes);
            return Ok(Ok(copy));
        }
        // SAFETY: nobody else has the object, and `filled` is not more than its size.
        unsafe { cut(bytes, filled).map(Ok) }
    }

    fn keep(&self, bytes: Bound<'_, PyBytes>) {
        let py = bytes.py();
        drop(self.0.with(py, |kept| kept.replace(bytes.unbind())));
    }

    /// Frees what is kept.
    pub fn clear(&self, py: Python<'_>) {
        drop(self.0.with(py, Option::take));
    }
}

/// Memory to write to. Other code may read it or write to it while this lives. So there is never a Rust reference to
/// the bytes; they are written through a pointer.
pub struct Target<'a> {
    start: *mut u8,
    len: usize,
    /// The memory is valid and writable for this lifetime.
    _memory: PhantomData<&'a mut [MaybeUninit<u8>]>,
}

impl Target<'_> {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where it begins: for a C function that writes at most `len` bytes there.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start
    }

    /// The same without its first `count` bytes.
    pub fn skip(&mut self, count: usize) -> Target<'_> {
        let count = count.min(self.len);
        // SAFETY: within the memory, or just behind it.
        Target { start: unsafe { self.start.add(count) }, len: self.len - count, _memory: PhantomData }
    }

    /// Copies as many bytes of `data` as there is room for, and returns their number.
    pub fn copy(&mut self, data: &[u8]) -> usize {
        let count = self.len.min(data.len());
        // SAFETY: both are valid for `count` bytes. They may overlap, which `copy` allows: the caller does not know
        // where this memory is.
        unsafe { std::ptr::copy(data.as_ptr(), self.start, count) };
        count
    }
}

impl<'a> From<&'a mut [MaybeUninit<u8>]> for Target<'a> {
    fn from(memory: &'a mut [MaybeUninit<u8>]) -> Self {
        Self { start: memory.as_mut_ptr().cast(), len: memory.len(), _memory: PhantomData }
    }
}

/// Bytes on their way to the kernel that nobody can change: an exact `bytes` object, or memory of our own.
pub struct Chunk {
    /// Keeps the payload alive.
    owner: Owner,
    start: *const u8,
    len: usize,
}

enum Owner {
    /// Bytes refer to nothing, so that the garbage collector need not see them.
    Bytes(Py<PyBytes>),
    Memory {
        _payload: Vec<u8>,
    },
}

// SAFETY: the pointer is into `owner`, which does not change, which this struct keeps alive, and which can be sent
// itself.
unsafe impl Send for Chunk {}

impl Chunk {
    fn keep(owner: Bound<'_, PyBytes>) -> Self {
        let (start, len) = (owner.as_bytes().as_ptr(), owner.as_bytes().len());
        Self { owner: Owner::Bytes(owner.unbind()), start, len }
    }

    /// Memory that is not from Python.
    pub fn from_vec(memory: Vec<u8>) -> Self {
        // When a vector is moved, its elements stay where they are.
        let (start, len) = (memory.as_ptr(), memory.len());
        Self { owner: Owner::Memory { _payload: memory }, start, len }
    }

    /// A copy in memory that is not Python's.
    pub fn copy(data: &[u8]) -> Result<Self, TryReserveError> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(data.len())?;
        memory.extend_from_slice(data);
        Ok(Self::from_vec(memory))
    }

    /// The same without its first `count` bytes.
    pub fn skip(mut self, count: usize) -> Self {
        let count = count.min(self.len);
        // SAFETY: within the payload, or just behind it.
        self.start = unsafe { self.start.add(count) };
        self.len -= count;
        self
    }

    /// From an argument of `write()`. Bytes are kept. What somebody could change afterwards is copied. `None` for all
    /// other types than bytes, bytearray and memoryview.
    #[inline]
    pub fn from_write(data: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            return Ok(Some(Self::keep(bytes.clone())));
        }
        if data.is_instance_of::<PyBytes>()
            || data.is_instance_of::<PyByteArray>()
            || data.is_instance_of::<PyMemoryView>()
        {
            return Self::from_buffer(data).map(Some);
        }
        Ok(None)
    }

    /// A `bytes` of this: the object that was written, if nothing was skipped.
    pub fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        match &self.owner {
            Owner::Bytes(bytes) if bytes.as_bytes(py).len() == self.len => Ok(bytes.bind(py).clone()),
            _ => new::bytes(py, self.as_ref()),
        }
    }

    /// From an item of `writelines()`: any object that has a buffer.
    pub fn from_buffer(data: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            return Ok(Self::keep(bytes.clone()));
        }
        // SAFETY: the function only looks at the type of a live object.
        if unsafe { ffi::PyObject_CheckBuffer(data.as_ptr()) } == 0 {
            let kind = data.get_type().name()?;
            return Err(PyTypeError::new_err(Message(format!(
                "a bytes-like object is required, not '{kind}'"
            ))));
        }
        // SAFETY: the function returns a new reference, or null with an exception set. It copies buffers that are not
        // contiguous, too, and does not call the object's own `__bytes__`.
        let copy =
            unsafe { Bound::from_owned_ptr_or_err(data.py(), ffi::PyBytes_FromObject(data.as_ptr()))? };
        Ok(Self::keep(copy.cast_into::<PyBytes>()?))
    }
}

/// `b"".join(list_of_data)`: how asyncio joins the items of `writelines()` where it cannot send them as they are.
pub fn join<'py>(list_of_data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    new::bytes(list_of_data.py(), b"")?.call_method1(intern!(list_of_data.py(), "join")?, (list_of_data,))
}

impl AsRef<[u8]> for Chunk {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `start` and `len` are within the bytes of `owner`, which do not change and live as long as this.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

/// The bytes of a contiguous buffer.
///
/// # Safety
/// While the slice lives, no Python code may run, which could write to the buffer, and the GIL may not be released.
pub unsafe fn readable<'a>(buffer: &'a PyUntypedBuffer, _py: Python<'_>) -> &'a [u8] {
    if buffer.len_bytes() == 0 {
        return &[];
    }
    // SAFETY: the exporter keeps the memory valid until the buffer is released. The caller lets nobody write to it.
    unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>().cast_const(), buffer.len_bytes()) }
}

/// A writable buffer lent by a `BufferedProtocol`.
pub struct Writable(Box<ffi::Py_buffer>);

impl Writable {
    /// Borrows the buffer of `object`. TypeError if it has none, or none that can be written to.
    pub fn get(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        // SAFETY: all zeroes are a valid Py_buffer: null pointers and zero lengths.
        let mut view: Box<ffi::Py_buffer> = Box::new(unsafe { std::mem::zeroed() });
        // SAFETY: `view` is writable, and stays at its address until it is released, because CPython may refer to it.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &mut *view, ffi::PyBUF_WRITABLE) } < 0 {
            PyErr::fetch(object.py());
            let kind = object.get_type().name()?;
            return Err(PyTypeError::new_err(Message(format!(
                "get_buffer() must return a read-write bytes-like object, not {kind}"
            ))));
        }
        Ok(Self(view))
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len as usize
    }

    /// The memory, for writing to it while other code runs.
    pub fn target(&mut self) -> Target<'_> {
        // An empty buffer may have no address.
        let start = if self.len() == 0 { std::ptr::dangling_mut() } else { self.0.buf.cast() };
        Target { start, len: self.len(), _memory: PhantomData }
    }

    /// The memory as a slice.
    ///
    /// # Safety
    /// While the slice lives, no Python code may run, which could write to the buffer, and the GIL may not be released.
    #[allow(clippy::mut_from_ref, reason = "the exporter owns the memory, not this struct")]
    pub unsafe fn as_slice(&self, _py: Python<'_>) -> &mut [MaybeUninit<u8>] {
        if self.len() == 0 {
            return &mut [];
        }
        // SAFETY: a simple buffer is contiguous, and valid and writable until it is released. The caller lets nobody
        // else use it.
        unsafe { std::slice::from_raw_parts_mut(self.0.buf.cast(), self.len()) }
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        // SAFETY: PyObject_GetBuffer has filled it in. It is dropped with the GIL held, in the function that has made
        // it.
        unsafe { ffi::PyBuffer_Release(&mut *self.0) }
    }
}
