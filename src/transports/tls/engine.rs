//! How a connection's bytes are encrypted and decrypted, in one of two ways that behave the same.
//!
//! Direct: OpenSSL's functions on the `SSL*` of the user's own `ssl.SSLObject` (`openssl.rs`). Portable: the methods of
//! that object, and two `ssl.MemoryBIO`. Handshake, shutdown and everything else that happens once a connection is
//! Python's business on either (`_tls.py`), by methods of the same object. Nothing here knows of transports.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;

use super::openssl::{Connection, OpenSsl, Outcome};
use crate::core::Buffer;
use crate::py::bytes;
use crate::py::names::names;

/// Most bytes of a record, with its header and what OpenSSL may add (RFC 8446, 5.2; TLS 1.2 allows 2048 more).
const MAX_RECORD: usize = 16384 + 2048 + 5;

/// One connection's.
pub struct Engine {
    /// The `ssl.SSLObject`.
    object: Py<PyAny>,
    way: Way,
    /// OpenSSL is at work on this connection. A callback that it calls, which finds the `SSL` half-way, and another
    /// thread, which `_ssl` lets in while it has let go of the interpreter, are told to come again.
    busy: AtomicBool,
}

enum Way {
    Direct(Connection),
    /// `ssl.MemoryBIO`s.
    Portable {
        incoming: Py<PyAny>,
        outgoing: Py<PyAny>,
    },
}

/// What a read comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, at least one.
    Some(usize),
    /// Nothing before more has come from the peer.
    Nothing,
    /// The peer has sent close_notify.
    Closed,
}

impl Engine {
    /// For an object that was made by `context.wrap_bio(incoming, outgoing)`. `direct`: that way, if it is possible.
    pub fn new(
        object: &Bound<'_, PyAny>,
        context: &Bound<'_, PyAny>,
        incoming: &Bound<'_, PyAny>,
        outgoing: &Bound<'_, PyAny>,
        direct: bool,
    ) -> Self {
        let py = object.py();
        let connection = || {
            // A subclass may have methods of its own.
            if !direct || !object.get_type().is(classes(py).ok()?.object.bind(py)) {
                return None;
            }
            let library = OpenSsl::get(py)?;
            let ssl = library.ssl_of(object, context, incoming, outgoing)?;
            // SAFETY: just found. `self.object` keeps the Python object, and so the `SSL`, alive; all methods here
            // that use it take the interpreter's token.
            unsafe { Connection::new(library, ssl) }
        };
        let way = match connection() {
            Some(connection) => Way::Direct(connection),
            None => {
                Way::Portable { incoming: incoming.clone().unbind(), outgoing: outgoing.clone().unbind() }
            }
        };
        Self { object: object.clone().unbind(), way, busy: AtomicBool::new(false) }
    }

    pub fn is_direct(&self) -> bool {
        matches!(self.way, Way::Direct(_))
    }

    /// Adds to what was received.
    pub fn feed(&self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        match &self.way {
            Way::Direct(connection) => connection.feed(data),
            Way::Portable { incoming, .. } => {
                incoming.call_method1(py, &names(py)?.write, (PyBytes::new(py, data),))?;
            }
        }
        Ok(())
    }

    /// Adds a whole buffer to what was received; it may be kept until [`Engine::take_back`].
    pub fn lend(&self, py: Python<'_>, buffer: Buffer) -> PyResult<Option<Buffer>> {
        match &self.way {
            Way::Direct(connection) if connection.input_is_empty() => {
                connection.lend(buffer);
                Ok(None)
            }
            _ => self.feed(py, buffer.as_slice()).map(|()| Some(buffer)),
        }
    }

    /// Gets a lent buffer back, if it is read to the end.
    pub fn take_back(&self) -> Option<Buffer> {
        match &self.way {
            Way::Direct(connection) => connection.take_back(),
            Way::Portable { .. } => None,
        }
    }

    /// How many encrypted bytes wait to be read.
    pub fn input_len(&self, py: Python<'_>) -> PyResult<usize> {
        match &self.way {
            Way::Direct(connection) => Ok(connection.input_len()),
            Way::Portable { incoming, .. } => incoming.getattr(py, &names(py)?.pending)?.extract(py),
        }
    }

    /// False if there is certainly nothing to read before more is received.
    pub fn may_hold_input(&self) -> bool {
        match &self.way {
            Way::Direct(connection) => connection.holds_input(),
            Way::Portable { .. } => true,
        }
    }

    /// How many bytes the next reads can give at most, together.
    pub fn readable_at_most(&self, py: Python<'_>) -> PyResult<usize> {
        let held = if self.may_hold_input() { MAX_RECORD } else { 0 };
        Ok(self.input_len(py)? + held)
    }

    /// Decrypts into `buffer`, which must not be empty: one record at most.
    pub fn read(&self, py: Python<'_>, buffer: &mut [MaybeUninit<u8>]) -> PyResult<Read> {
        self.alone(|| match &self.way {
            Way::Direct(connection) => match connection.read(buffer) {
                Outcome::Done(count) => Ok(Read::Some(count)),
                Outcome::Again => Ok(Read::Nothing),
                Outcome::Closed => Ok(Read::Closed),
                // The connection is in its error state now, in which OpenSSL does nothing but fail: `_ssl` finds the
                // same error, and makes its exception of it.
                Outcome::Failed => self.read_by_object(py, 1).map(|_| Read::Nothing),
            },
            Way::Portable { .. } => {
                let Some(data) = self.read_by_object(py, buffer.len())? else {
                    return Ok(Read::Nothing);
                };
                let data = data.bind(py).cast::<PyBytes>()?.as_bytes();
                Ok(if data.is_empty() { Read::Closed } else { Read::Some(bytes::copy(buffer, data)) })
            }
        })
        .unwrap_or(Ok(Read::Nothing))
    }

    /// Encrypts `data`, which must not be empty; returns how much of it, or `None` if not before more has come from
    /// the peer: then the same data must be offered again.
    pub fn write(&self, py: Python<'_>, data: &[u8]) -> PyResult<Option<usize>> {
        self.alone(|| match &self.way {
            Way::Direct(connection) => match connection.write(data) {
                Outcome::Done(count) => Ok(Some(count)),
                Outcome::Again => Ok(None),
                Outcome::Closed | Outcome::Failed => self.write_by_object(py, data),
            },
            Way::Portable { .. } => self.write_by_object(py, data),
        })
        .unwrap_or(Ok(None))
    }

    /// Does `work`, unless some is under way.
    fn alone<R>(&self, work: impl FnOnce() -> R) -> Option<R> {
        if self.busy.swap(true, Relaxed) {
            return None;
        }
        let result = work();
        self.busy.store(false, Relaxed);
        Some(result)
    }

    fn read_by_object(&self, py: Python<'_>, size: usize) -> PyResult<Option<Py<PyAny>>> {
        forgive(py, self.object.call_method1(py, &names(py)?.read, (size,)))
    }

    fn write_by_object(&self, py: Python<'_>, data: &[u8]) -> PyResult<Option<usize>> {
        let written = self.object.call_method1(py, &names(py)?.write, (PyBytes::new(py, data),));
        forgive(py, written)?.map(|count| count.extract(py)).transpose()
    }

    /// How many encrypted bytes are to be sent.
    pub fn output_len(&self, py: Python<'_>) -> PyResult<usize> {
        match &self.way {
            Way::Direct(connection) => Ok(connection.output_len()),
            Way::Portable { outgoing, .. } => outgoing.getattr(py, &names(py)?.pending)?.extract(py),
        }
    }

    /// Gives memory for what is to be sent.
    pub fn lend_output(&self, memory: Vec<u8>) {
        if let Way::Direct(connection) = &self.way {
            connection.lend_output(memory);
        }
    }

    /// What is to be sent.
    pub fn take_output(&self, py: Python<'_>) -> PyResult<Vec<u8>> {
        match &self.way {
            Way::Direct(connection) => Ok(connection.take_output()),
            Way::Portable { outgoing, .. } => {
                let data = outgoing.call_method0(py, &names(py)?.read)?;
                Ok(data.bind(py).cast::<PyBytes>()?.as_bytes().to_vec())
            }
        }
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)?;
        match &self.way {
            Way::Direct(_) => Ok(()),
            Way::Portable { incoming, outgoing } => {
                visit.call(incoming)?;
                visit.call(outgoing)
            }
        }
    }
}

/// "Not now" is no error: `ssl.SSLWantReadError`, and `ssl.SSLSyscallError`, which asyncio takes for the same.
fn forgive(py: Python<'_>, result: PyResult<Py<PyAny>>) -> PyResult<Option<Py<PyAny>>> {
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

/// What is needed of the module `ssl`, which an interpreter can be without.
struct Classes {
    object: Py<PyAny>,
    want_read: Py<PyAny>,
    syscall_error: Py<PyAny>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

fn classes(py: Python<'_>) -> PyResult<&'static Classes> {
    CLASSES.get_or_try_init(py, || {
        let ssl = py.import("ssl")?;
        Ok(Classes {
            object: ssl.getattr("SSLObject")?.unbind(),
            want_read: ssl.getattr("SSLWantReadError")?.unbind(),
            syscall_error: ssl.getattr("SSLSyscallError")?.unbind(),
        })
    })
}
