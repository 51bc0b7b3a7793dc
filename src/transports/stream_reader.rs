//! Feeding asyncio's `StreamReader`: what `StreamReaderProtocol.data_received` and `StreamReader.feed_data` do with
//! bytes, without their Python frames. It is done only where nobody could tell the difference (`py::streams`); a
//! subclass, a method that the program has replaced, and a tracer get asyncio's way. Everything that reads from a
//! reader is asyncio's own code.

use std::mem::MaybeUninit;

use pyo3::exceptions::PyNotImplementedError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyByteArrayMethods, PyInt};

use crate::py::calls;
use crate::py::names::Names;
use crate::py::new;
use crate::py::streams::Streams;
use crate::reactor::sys::ReadBuf;

/// A reader that can be fed.
pub struct Reader<'py> {
    reader: Bound<'py, PyAny>,
    buffer: Bound<'py, PyByteArray>,
    /// As in `Streams`.
    failure_keeps_bytes: bool,
}

/// Why the buffer could not be made longer.
pub enum NoRoom {
    /// A `memoryview` of the buffer exists, or there is no memory. The buffer is as it was.
    Unchanged,
    /// There is no memory, and CPython has emptied the buffer (from 3.15 on).
    Lost,
}

impl<'py> Reader<'py> {
    /// The reader of `protocol`, if it can be fed as it is now.
    #[inline(always)]
    pub fn of(names: &Names, protocol: &Bound<'py, PyAny>) -> Option<Self> {
        let streams = names.streams.as_ref().filter(|streams| streams.has_class_of(protocol))?;
        Self::of_streams(names, streams, protocol)
    }

    /// The same, of a protocol of asyncio's class. A reader that was told of the end cannot be fed: `feed_data` raises
    /// then.
    fn of_streams(names: &Names, streams: &Streams, protocol: &Bound<'py, PyAny>) -> Option<Self> {
        let reader = streams.reader_of(protocol)?;
        let eof = reader.getattr(&names._eof).ok()?;
        if !eof.is(PyBool::new(reader.py(), false)) {
            return None;
        }
        let buffer = reader.getattr(&names._buffer).ok()?.cast_into_exact::<PyByteArray>().ok()?;
        Some(Self { reader, buffer, failure_keeps_bytes: streams.failure_keeps_bytes })
    }

    /// Adds a copy of `data`, of which there is some.
    ///
    /// No Python code runs in here, and nothing is allocated that the garbage collector tracks.
    pub fn extend(&self, data: &[u8]) -> Result<(), NoRoom> {
        self.room(data.len())?.fill(|buffer| buffer.put(data));
        Ok(())
    }

    /// Room for `size` more bytes.
    pub fn room(&self, size: usize) -> Result<Room<'_, 'py>, NoRoom> {
        let start = self.buffer.len();
        // Asked first, because CPython would make an exception, which the garbage collector tracks.
        if self.is_exported() {
            return Err(NoRoom::Unchanged);
        }
        match self.buffer.resize(start.saturating_add(size)) {
            Ok(()) => Ok(Room { reader: self, start, size, filled: 0 }),
            Err(_) if self.buffer.len() == start => Err(NoRoom::Unchanged),
            Err(_) => Err(NoRoom::Lost),
        }
    }

    /// True if a `memoryview` of the buffer exists.
    fn is_exported(&self) -> bool {
        // SAFETY: a `bytearray`; the GIL is held.
        unsafe { (*self.buffer.as_ptr().cast::<ffi::PyByteArrayObject>()).ob_exports != 0 }
    }

    /// What `feed_data` does once the bytes are in the buffer: it wakes who waits, and pauses a transport that is too
    /// far ahead of who reads.
    pub fn fed(&self, names: &Names) -> PyResult<()> {
        let (py, reader) = (self.reader.py(), &self.reader);
        let none = py.None();
        let waiter = reader.getattr(&names._waiter)?;
        if !waiter.is_none() {
            reader.setattr(&names._waiter, &none)?;
            if !calls::method(&waiter, &names.cancelled, [])?.is_truthy()? {
                calls::method(&waiter, &names.set_result, [none.bind(py)])?;
            }
        }
        let transport = reader.getattr(&names._transport)?;
        if transport.is_none()
            || reader.getattr(&names._paused)?.is_truthy()?
            || !self.exceeds_limit(names)?
        {
            return Ok(());
        }
        match calls::method(&transport, &names.pause_reading, []) {
            Ok(_) => reader.setattr(&names._paused, true),
            Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
                reader.setattr(&names._transport, &none)
            }
            Err(error) => Err(error),
        }
    }

    /// `len(_buffer) > 2 * _limit`
    fn exceeds_limit(&self, names: &Names) -> PyResult<bool> {
        let (py, len) = (self.reader.py(), self.buffer.len());
        let limit = self.reader.getattr(&names._limit)?;
        if limit.is_exact_instance_of::<PyInt>()
            && let Ok(limit) = limit.extract::<usize>()
        {
            return Ok(len > limit.saturating_mul(2));
        }
        new::int(py, len)?.gt(new::int(py, 2)?.mul(limit)?)
    }
}

/// Room behind the bytes of a reader's buffer. What is not filled is cut off when this is dropped.
///
/// While it exists, the buffer has bytes that are not initialised. So no Python code may run.
pub struct Room<'a, 'py> {
    reader: &'a Reader<'py>,
    start: usize,
    size: usize,
    filled: usize,
}

impl Room<'_, '_> {
    /// Has `fill` put bytes into the room, and returns what it returns. It must not run Python code.
    pub fn fill<T>(mut self, fill: impl FnOnce(&mut ReadBuf<'_>) -> T) -> T {
        // SAFETY: `Reader::room` has made the buffer `size` bytes longer than `start`. No Python code runs until this is
        // dropped, and the GIL is held, so that nobody else reads, writes or resizes the buffer.
        let memory = unsafe {
            let start = self.reader.buffer.data().add(self.start).cast::<MaybeUninit<u8>>();
            std::slice::from_raw_parts_mut(start, self.size)
        };
        let mut buffer = ReadBuf::new(memory);
        let result = fill(&mut buffer);
        self.filled = buffer.filled().len();
        result
    }
}

impl Drop for Room<'_, '_> {
    fn drop(&mut self) {
        let (len, buffer) = (self.start + self.filled, &self.reader.buffer);
        if self.filled == self.size || self.reader.failure_keeps_bytes && buffer.resize(len).is_ok() {
            return;
        }
        // CPython had no memory for a smaller block, or must not be asked, because it empties the buffer if it has none.
        // The bytes stay in the larger block, as they do where CPython finds a smaller one not to be worth it.
        // SAFETY: the block has more bytes than `len`, so that there is a place for the NUL that ends them. Nobody else
        // has the buffer: the GIL is held.
        unsafe {
            *buffer.data().add(len) = 0;
            (*buffer.as_ptr().cast::<ffi::PyVarObject>()).ob_size = len as ffi::Py_ssize_t;
        }
    }
}
