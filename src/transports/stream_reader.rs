//! Feeding asyncio's `StreamReader`: what `StreamReaderProtocol.data_received` and `StreamReader.feed_data` do with
//! bytes, without their Python frames. It is done only where nobody could tell the difference (`py::streams`); a
//! subclass, a method that the program has replaced, and a tracer get asyncio's way. Everything that reads from a
//! reader is asyncio's own code.

use pyo3::exceptions::PyNotImplementedError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyByteArray, PyByteArrayMethods, PyInt};

use crate::py::calls;
use crate::py::names::Names;
use crate::py::new;

/// A reader that can be fed.
pub struct Reader<'py> {
    reader: Bound<'py, PyAny>,
    buffer: Bound<'py, PyByteArray>,
}

impl<'py> Reader<'py> {
    /// The reader of `protocol`, if it can be fed as it is now. A reader that was told of the end cannot: `feed_data`
    /// raises then.
    #[inline]
    pub fn of(names: &Names, protocol: &Bound<'py, PyAny>) -> Option<Self> {
        let reader = names.streams.as_ref()?.reader_of(protocol)?;
        let eof = reader.getattr(&names._eof).ok()?;
        if !eof.is(PyBool::new(reader.py(), false)) {
            return None;
        }
        let buffer = reader.getattr(&names._buffer).ok()?.cast_into_exact::<PyByteArray>().ok()?;
        Some(Self { reader, buffer })
    }

    /// Adds a copy of `data`. False if that cannot be done, and then nothing has changed: a `memoryview` of the buffer
    /// exists, or there is no memory, or `data` is empty, which `feed_data` ignores.
    pub fn extend(&self, data: &[u8]) -> bool {
        let len = self.buffer.len();
        if data.is_empty() || self.buffer.resize(len.saturating_add(data.len())).is_err() {
            return false;
        }
        // SAFETY: the buffer has just been made `data.len()` bytes longer than `len`. No Python code runs here, and the
        // GIL is held, so that nobody else resizes it. `data` is not in it: its memory may have moved, and whoever
        // receives bytes has them elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.buffer.data().add(len), data.len()) };
        true
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
