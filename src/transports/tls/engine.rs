//! How a connection's bytes are encrypted and decrypted, in one of two ways that behave the same.
//!
//! Direct: OpenSSL's functions on the `SSL*` of the user's own `ssl.SSLObject` (`openssl.rs`). Portable: the methods of
//! that object, and two `ssl.MemoryBIO` (`portable.rs`). Handshake, shutdown and everything else that happens once a
//! connection is Python's business on either (`_tls.py`), by methods of the same object. Nothing here knows of
//! transports.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::ends::Ends;
use super::openssl::{Connection, OpenSsl, Outcome};
use super::portable::{Portable, forgive};
use crate::core::Buffer;
use crate::error::no_memory;
use crate::py::bytes::Target;
use crate::py::names::names;
use crate::py::new;

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
    Portable(Portable),
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
            Connection::new(library, library.ssl_of(object, context, incoming, outgoing)?)
        };
        let way = match connection() {
            Some(connection) => Way::Direct(connection),
            None => Way::Portable(Portable::new(object, incoming, outgoing)),
        };
        Self { object: object.clone().unbind(), way, busy: AtomicBool::new(false) }
    }

    pub fn is_direct(&self) -> bool {
        matches!(self.way, Way::Direct(_))
    }

    /// Runs `access` on the ends. It calls neither OpenSSL nor Python.
    fn ends<R>(&self, py: Python<'_>, access: impl FnOnce(&mut Ends) -> R) -> R {
        match &self.way {
            Way::Direct(connection) => connection.ends(access),
            Way::Portable(portable) => portable.ends(py, access),
        }
    }

    /// Adds to what was received.
    pub fn feed(&self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        self.ends(py, |ends| ends.feed(data)).map_err(|_| no_memory())
    }

    /// Adds a whole buffer to what was received; it may be kept until [`Engine::take_back`].
    pub fn lend(&self, py: Python<'_>, buffer: Buffer) -> PyResult<Option<Buffer>> {
        let Err(buffer) = self.ends(py, |ends| ends.lend(buffer)) else {
            return Ok(None);
        };
        self.feed(py, buffer.as_slice())?;
        Ok(Some(buffer))
    }

    /// Gets a lent buffer back; what is left in it is kept.
    pub fn take_back(&self, py: Python<'_>) -> Option<Buffer> {
        self.ends(py, Ends::take_back)
    }

    /// Lets the object's own methods see what was received: to be called before Python's steps.
    pub fn hand_over(&self, py: Python<'_>) -> PyResult<()> {
        match &self.way {
            Way::Direct(_) => Ok(()),
            Way::Portable(portable) => portable.hand_over(py),
        }
    }

    /// How many encrypted bytes wait to be read.
    pub fn input_len(&self, py: Python<'_>) -> usize {
        match &self.way {
            Way::Direct(connection) => connection.input_len(),
            Way::Portable(portable) => portable.ends(py, |ends| ends.input_len()),
        }
    }

    /// True if there is certainly nothing to read before more is received.
    pub fn is_drained(&self, py: Python<'_>) -> bool {
        self.input_len(py) == 0 && !self.may_hold_input(py)
    }

    fn may_hold_input(&self, py: Python<'_>) -> bool {
        match &self.way {
            Way::Direct(connection) => connection.holds_input(py),
            Way::Portable(portable) => portable.holds_input(py),
        }
    }

    /// How many bytes the next reads can give at most, together.
    pub fn readable_at_most(&self, py: Python<'_>) -> usize {
        let held = if self.may_hold_input(py) { MAX_RECORD } else { 0 };
        self.input_len(py) + held
    }

    /// Decrypts into `buffer`, which must not be empty: one record at most. Python's code may run meanwhile: the methods
    /// of the `ssl.SSLObject`, and callbacks of the user's SSLContext.
    pub fn read(&self, py: Python<'_>, buffer: Target<'_>) -> PyResult<Read> {
        self.alone(|| match &self.way {
            Way::Direct(connection) => match connection.read(py, buffer) {
                Outcome::Done(count) => Ok(Read::Some(count)),
                Outcome::Again => Ok(Read::Nothing),
                Outcome::Closed => Ok(Read::Closed),
                // The connection is in its error state now, in which OpenSSL does nothing but fail: `_ssl` finds the
                // same error, and makes its exception of it.
                Outcome::Failed => {
                    let read = self.object.call_method1(py, &names(py)?.read, (1,));
                    forgive(py, read).map(|_| Read::Nothing)
                }
            },
            Way::Portable(portable) => portable.read(py, buffer),
        })
        .unwrap_or(Ok(Read::Nothing))
    }

    /// Encrypts the first of `data`, which must not be empty; returns how much of it, or `None` if not before more has
    /// come from the peer: then the same data must be offered again.
    pub fn write(&self, py: Python<'_>, data: &[u8]) -> PyResult<Option<usize>> {
        self.alone(|| match &self.way {
            Way::Direct(connection) => match connection.write(py, data) {
                Outcome::Done(count) => Ok(Some(count)),
                Outcome::Again => Ok(None),
                Outcome::Closed | Outcome::Failed => {
                    if connection.ends(Ends::take_failed) {
                        return Err(no_memory());
                    }
                    let written = self.object.call_method1(py, &names(py)?.write, (new::bytes(py, data)?,));
                    forgive(py, written)?.map(|count| count.extract(py)).transpose()
                }
            },
            Way::Portable(portable) => portable.write(py, data),
        })
        .unwrap_or(Ok(None))
    }

    /// Does `work`, unless some is under way.
    fn alone<R>(&self, work: impl FnOnce() -> R) -> Option<R> {
        if self.busy.swap(true, Relaxed) {
            return None;
        }
        /// Ends the work, also if it panics.
        struct Work<'a>(&'a AtomicBool);
        impl Drop for Work<'_> {
            fn drop(&mut self) {
                self.0.store(false, Relaxed);
            }
        }
        let _work = Work(&self.busy);
        Some(work())
    }

    /// Takes over what is to be sent, wherever it was written; returns how many bytes that is.
    pub fn output_len(&self, py: Python<'_>) -> PyResult<usize> {
        match &self.way {
            Way::Direct(connection) => Ok(connection.output_len()),
            Way::Portable(portable) => {
                portable.collect(py)?;
                Ok(portable.ends(py, |ends| ends.output_len()))
            }
        }
    }

    /// Gives memory for what is to be sent.
    pub fn lend_output(&self, py: Python<'_>, memory: Vec<u8>) {
        self.ends(py, |ends| ends.lend_output(memory));
    }

    /// Forgets what was received and what is to be sent: the connection is lost.
    pub fn clear(&self, py: Python<'_>) {
        self.ends(py, Ends::clear);
    }

    /// What is to be sent, as [`Engine::output_len`] has found it.
    pub fn take_output(&self, py: Python<'_>) -> Vec<u8> {
        self.ends(py, Ends::take_output)
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)?;
        match &self.way {
            Way::Direct(connection) => connection.traverse(visit),
            Way::Portable(portable) => portable.traverse(visit),
        }
    }
}

/// What is needed of the module `ssl`, which an interpreter can be without.
pub struct Classes {
    pub object: Py<PyAny>,
    pub want_read: Py<PyAny>,
    pub syscall_error: Py<PyAny>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

pub fn classes(py: Python<'_>) -> PyResult<&'static Classes> {
    CLASSES.get_or_try_init(py, || {
        let ssl = py.import("ssl")?;
        Ok(Classes {
            object: ssl.getattr("SSLObject")?.unbind(),
            want_read: ssl.getattr("SSLWantReadError")?.unbind(),
            syscall_error: ssl.getattr("SSLSyscallError")?.unbind(),
        })
    })
}
