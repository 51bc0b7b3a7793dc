//! The engine that needs nothing but the public methods of the user's `ssl.SSLObject` and two `ssl.MemoryBIO`.
//!
//! Two things are expensive here. A call that finds nothing to do raises an exception. A memory BIO that has grown is
//! slow from then on: it is filled with zeroes before each use, and no longer fits into the processor's cache. So the
//! object gets one record at a time, it is asked only when there is one, and what it has written is taken out at once.

use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::ends::Ends;
use super::outcome::{Outcome, unless_again};
use crate::error::no_memory;
use crate::py::bytes::{self, Target};
use crate::py::calls;
use crate::py::cell::LoopCell;
use crate::py::names::names;
use crate::py::new;
use crate::py::openssl::Objects;
use crate::reactor::sys::ReadBuf;
use crate::transports::framing::Framing;

/// Most clear bytes of a record (RFC 8446, 5.1).
const RECORD: usize = 16 * 1024;

/// What encrypts and decrypts for one connection.
pub struct Portable {
    /// The `ssl.SSLObject`.
    object: Py<PyAny>,
    /// `ssl.MemoryBIO`s.
    incoming: Py<PyAny>,
    outgoing: Py<PyAny>,
    ends: Arc<Ends>,
    state: LoopCell<State>,
}

/// What is known of the object's own buffers, which cannot be asked without an exception.
#[derive(Default)]
struct State {
    /// How far the object has been given what was received.
    framing: Framing,
    /// The object may have something to read: it was given all of a record, or part of one that it can use at once.
    ready: bool,
    /// The object was given so many bytes, all that had come (`hand_over`), so that it may have several records, and
    /// parts of them. Then only a read that finds nothing shows that it has read everything.
    loose: usize,
}

impl Portable {
    /// For these objects of a connection, whatever their classes are.
    pub fn new([object, _, incoming, outgoing]: &Objects<'_>, ends: Arc<Ends>) -> Self {
        Self {
            object: object.clone().unbind(),
            incoming: incoming.clone().unbind(),
            outgoing: outgoing.clone().unbind(),
            ends,
            state: LoopCell::default(),
        }
    }

    /// True if the object holds part of a record, or decrypted bytes.
    pub fn holds_input(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.ready || state.framing.is_inside())
    }

    /// How many bytes the object was given by `hand_over`, if it may still have some of them.
    pub fn handed_over(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.loose)
    }

    /// Gives the object everything that was received, for its other methods.
    pub fn hand_over(&self, py: Python<'_>) -> PyResult<()> {
        loop {
            let len = self.give_record(py)?;
            if len == 0 {
                return Ok(());
            }
            self.state.with(py, |state| (state.ready, state.loose) = (true, state.loose + len));
        }
    }

    /// Gives the object one record, or as much of it as has come; returns how many bytes that is.
    fn give_record(&self, py: Python<'_>) -> PyResult<usize> {
        let len = self.state.with(py, |state| {
            let len = self.ends.look(|input| state.framing.advance(input));
            state.ready |= len > 0 && !state.framing.must_wait();
            len
        });
        if len > 0 {
            let fill = |target: &mut ReadBuf<'_>| Ok::<_, PyErr>(self.ends.read(target));
            let (record, _) = bytes::fill_new(py, len, fill)??;
            self.incoming.call_method1(py, &names(py)?.write, (record,))?;
        }
        Ok(len)
    }

    /// Decrypts into `buffer`, which must not be empty: one record at most. Python's code runs meanwhile, and may know
    /// the buffer.
    pub fn read(&self, py: Python<'_>, mut buffer: Target<'_>) -> PyResult<Outcome> {
        loop {
            while !self.state.with(py, |state| state.ready) {
                if self.give_record(py)? == 0 {
                    return Ok(Outcome::Again);
                }
            }
            let size = buffer.len().min(RECORD);
            let data = unless_again(py, {
                let size = new::int(py, size)?;
                calls::method(self.object.bind(py), &names(py)?.read, [size.as_any()]).map(Bound::unbind)
            })?;
            let Some(data) = data else {
                // The object has read all that it had, and there was nothing for the program in it. It may have
                // answered.
                self.collect(py)?;
                self.state.with(py, |state| (state.ready, state.loose) = (false, 0));
                continue;
            };
            let data = data.bind(py).cast::<PyBytes>()?.as_bytes();
            if data.is_empty() {
                return Ok(Outcome::Closed);
            }
            // There can be more of the record only if it did not fit.
            let more = data.len() == size && size < RECORD;
            self.state.with(py, |state| state.ready = more || state.loose > 0);
            return Ok(Outcome::Done(buffer.copy(data)));
        }
    }

    /// Encrypts the beginning of `data`, which must not be empty.
    pub fn write(&self, py: Python<'_>, data: &[u8]) -> PyResult<Outcome> {
        let piece = new::bytes(py, &data[..data.len().min(RECORD)])?;
        let written = Outcome::of_write(py, self.object.call_method1(py, &names(py)?.write, (piece,)))?;
        self.collect(py)?;
        Ok(written)
    }

    /// Takes over what the object wants to have sent.
    pub fn collect(&self, py: Python<'_>) -> PyResult<()> {
        let names = names(py)?;
        if self.outgoing.getattr(py, &names.pending)?.extract::<usize>(py)? > 0 {
            let data = self.outgoing.call_method0(py, &names.read)?;
            if !self.ends.put(data.bind(py).cast::<PyBytes>()?.as_bytes()) {
                return Err(no_memory());
            }
        }
        Ok(())
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)?;
        visit.call(&self.incoming)?;
        visit.call(&self.outgoing)
    }
}
