//! The engine that needs nothing but the public methods of the user's `ssl.SSLObject` and two `ssl.MemoryBIO`.
//!
//! A call that comes to nothing raises, which is dear; so is a memory BIO that has grown: it is zeroed before each use
//! and falls out of the cache. So the object gets one record at a time, is asked only when there is one, and what it
//! has written is taken out at once.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::ends::Ends;
use super::engine::{Read, classes};
use crate::error::no_memory;
use crate::py::bytes::{self, Target};
use crate::py::cell::LoopCell;
use crate::py::names::names;
use crate::py::new;
use crate::transports::framing::Framing;

/// Most clear bytes of a record (RFC 8446, 5.1).
const RECORD: usize = 16 * 1024;

/// One connection's.
pub struct Portable {
    /// The `ssl.SSLObject`.
    object: Py<PyAny>,
    /// `ssl.MemoryBIO`s.
    incoming: Py<PyAny>,
    outgoing: Py<PyAny>,
    state: LoopCell<State>,
}

#[derive(Default)]
struct State {
    ends: Ends,
    /// How far the object has been given what was received.
    framing: Framing,
    /// The object may have something to read.
    ready: bool,
    /// It may have several records, or parts of them.
    loose: bool,
}

impl Portable {
    pub fn new(object: &Bound<'_, PyAny>, incoming: &Bound<'_, PyAny>, outgoing: &Bound<'_, PyAny>) -> Self {
        let (object, incoming) = (object.clone().unbind(), incoming.clone().unbind());
        Self { object, incoming, outgoing: outgoing.clone().unbind(), state: LoopCell::default() }
    }

    /// Runs `access` on the ends. It calls no Python.
    pub fn ends<R>(&self, py: Python<'_>, access: impl FnOnce(&mut Ends) -> R) -> R {
        self.state.with(py, |state| access(&mut state.ends))
    }

    /// True if the object holds part of a record, or decrypted bytes.
    pub fn holds_input(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.ready || state.framing.is_inside())
    }

    /// Gives the object everything that was received, for its other methods.
    pub fn hand_over(&self, py: Python<'_>) -> PyResult<()> {
        while self.give_record(py)? > 0 {
            self.state.with(py, |state| (state.ready, state.loose) = (true, true));
        }
        Ok(())
    }

    /// Gives the object one record, or what has come of it; returns how many bytes that is.
    fn give_record(&self, py: Python<'_>) -> PyResult<usize> {
        let len = self.state.with(py, |state| {
            let len = state.framing.advance(state.ends.input());
            state.ready |= len > 0 && !state.framing.must_wait();
            len
        });
        if len == 0 {
            return Ok(0);
        }
        let fill = |target: &mut [_]| Ok::<_, PyErr>(self.ends(py, |ends| ends.read(target)));
        let (record, _) = bytes::fill_new(py, len, fill)??;
        self.incoming.call_method1(py, &names(py)?.write, (record,))?;
        Ok(len)
    }

    /// Decrypts into `buffer`, which must not be empty: one record at most. Python's code runs meanwhile, which may know
    /// the buffer.
    pub fn read(&self, py: Python<'_>, mut buffer: Target<'_>) -> PyResult<Read> {
        loop {
            while !self.state.with(py, |state| state.ready) {
                if self.give_record(py)? == 0 {
                    return Ok(Read::Nothing);
                }
            }
            let size = buffer.len().min(RECORD);
            let data = forgive(py, self.object.call_method1(py, &names(py)?.read, (size,)))?;
            let Some(data) = data else {
                // Read to the end; in none of it was there data for the program.
                self.state.with(py, |state| (state.ready, state.loose) = (false, false));
                continue;
            };
            let data = data.bind(py).cast::<PyBytes>()?.as_bytes();
            if data.is_empty() {
                return Ok(Read::Closed);
            }
            // There can be more of the record only if it did not fit.
            let more = data.len() == size && size < RECORD;
            self.state.with(py, |state| state.ready = more || state.loose);
            return Ok(Read::Some(buffer.copy(data)));
        }
    }

    /// Encrypts the first of `data`, which must not be empty; returns how much, or `None` if not before more has come
    /// from the peer.
    pub fn write(&self, py: Python<'_>, data: &[u8]) -> PyResult<Option<usize>> {
        let piece = new::bytes(py, &data[..data.len().min(RECORD)])?;
        let written = forgive(py, self.object.call_method1(py, &names(py)?.write, (piece,)))?;
        self.collect(py)?;
        written.map(|count| count.extract(py)).transpose()
    }

    /// Takes over what the object wants to have sent.
    pub fn collect(&self, py: Python<'_>) -> PyResult<()> {
        let names = names(py)?;
        if self.outgoing.getattr(py, &names.pending)?.extract::<usize>(py)? > 0 {
            let data = self.outgoing.call_method0(py, &names.read)?;
            let data = data.bind(py).cast::<PyBytes>()?.as_bytes();
            if !self.ends(py, |ends| ends.put(data)) {
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

/// "Not now" is no error: `ssl.SSLWantReadError`, and `ssl.SSLSyscallError`, which asyncio takes for the same.
pub fn forgive(py: Python<'_>, result: PyResult<Py<PyAny>>) -> PyResult<Option<Py<PyAny>>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let classes = classes(py)?;
            let again = error.is_instance(py, classes.want_read.bind(py))
                || error.is_instance(py, classes.syscall_error.bind(py));
            if again { Ok(None) } else { Err(error) }
        }
    }
}
