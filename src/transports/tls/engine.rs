//! How a connection's bytes are encrypted and decrypted, in one of two ways that behave the same.
//!
//! The direct way calls OpenSSL's own functions on the `SSL*` of the user's `ssl.SSLObject` (`direct.rs`). The
//! portable way calls the methods of that object, with two `ssl.MemoryBIO` (`portable.rs`). Either way the handshake,
//! the shutdown and everything else that happens once in a connection is done in Python (`_tls.py`), by methods of the
//! same object. Nothing here knows of transports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::direct::{Connection, Failed};
use super::ends::Ends;
use super::outcome::{Outcome, classes, unless_again};
use super::portable::Portable;
use crate::error::no_memory;
use crate::py::bytes::Target;
use crate::py::names::names;
use crate::py::new;
use crate::py::openssl::{Objects, OpenSsl};

/// Most bytes that OpenSSL can hold of a record: clear bytes, header and what encryption adds (RFC 8446, 5.2; TLS 1.2
/// allows 2048 bytes more).
const MAX_RECORD: usize = 16384 + 2048 + 5;

/// What encrypts and decrypts for one connection.
pub struct Engine {
    /// The `ssl.SSLObject`.
    object: Py<PyAny>,
    way: Way,
    ends: Arc<Ends>,
    /// A read or a write is under way. Another one can be asked for meanwhile: by a callback of the user's SSLContext,
    /// which OpenSSL calls in the middle of its work, or by another thread, which runs while `_ssl` has let go of the
    /// interpreter. It is told to come again.
    busy: AtomicBool,
    /// How many bytes OpenSSL has answered by itself while it read: new keys of TLS 1.3 are answered by new keys.
    answers: AtomicUsize,
}

/// How the work is done, decided once for a connection.
enum Way {
    Direct(Connection),
    Portable(Portable),
}

impl Engine {
    /// For these objects of a connection. `direct`: by OpenSSL's own functions, if that is possible.
    pub fn new(objects: &Objects<'_>, direct: bool) -> Self {
        let object = &objects[0];
        let (py, ends) = (object.py(), Arc::<Ends>::default());
        let connection = || {
            // A subclass may have methods of its own, which must be called.
            if !direct || !object.get_type().is(classes(py).ok()?.object.bind(py)) {
                return None;
            }
            let library = OpenSsl::get(py)?;
            Connection::new(library, library.ssl_of(objects)?, ends.clone())
        };
        let way = match connection() {
            Some(connection) => Way::Direct(connection),
            None => Way::Portable(Portable::new(objects, ends.clone())),
        };
        Self {
            object: object.clone().unbind(),
            way,
            ends,
            busy: AtomicBool::new(false),
            answers: AtomicUsize::new(0),
        }
    }

    /// True if OpenSSL's own functions are called.
    pub fn is_direct(&self) -> bool {
        matches!(self.way, Way::Direct(_))
    }

    /// Where received bytes are put, and bytes to be sent are taken from.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Lets the object's own methods see what was received. To be called before the steps that Python makes.
    pub fn hand_over(&self, py: Python<'_>) -> PyResult<()> {
        match &self.way {
            Way::Direct(_) => Ok(()),
            Way::Portable(portable) => portable.hand_over(py),
        }
    }

    /// Puts what is to be sent into the ends, wherever it was written; returns how many bytes are there.
    pub fn output_len(&self, py: Python<'_>) -> PyResult<usize> {
        if let Way::Portable(portable) = &self.way {
            portable.collect(py)?;
        }
        Ok(self.ends.output_len())
    }

    /// True if there is certainly nothing to read before more is received. A read that finds nothing costs as much as a
    /// small one, so that it is worth asking first.
    pub fn is_drained(&self, py: Python<'_>) -> bool {
        self.ends.input_len() == 0 && !self.may_hold_input(py)
    }

    /// Does OpenSSL itself have something that was received? It reads a record's header first, and keeps what does not
    /// fit into the reader's buffer.
    fn may_hold_input(&self, py: Python<'_>) -> bool {
        match &self.way {
            Way::Direct(connection) => connection.holds_input(py),
            Way::Portable(portable) => portable.holds_input(py),
        }
    }

    /// How many bytes the next reads can give at most, together.
    pub fn readable_at_most(&self, py: Python<'_>) -> usize {
        if !self.may_hold_input(py) {
            return self.ends.input_len();
        }
        let handed_over = match &self.way {
            Way::Direct(_) => 0,
            Way::Portable(portable) => portable.handed_over(py),
        };
        self.ends.input_len() + handed_over.max(MAX_RECORD)
    }

    /// Decrypts into `buffer`, which must not be empty: one record at most. Python's code may run meanwhile: the
    /// methods of the `ssl.SSLObject`, and callbacks of the user's SSLContext.
    pub fn read(&self, py: Python<'_>, buffer: Target<'_>) -> PyResult<Outcome> {
        let before = self.ends.output_len();
        let outcome = self.alone(|| match &self.way {
            Way::Direct(connection) => connection.read(py, buffer).or_else(|Failed| {
                // OpenSSL can do nothing but fail on this connection from now on. So `_ssl` meets the same error, and
                // makes its exception of it.
                let read = self.object.call_method1(py, &names(py)?.read, (1,));
                unless_again(py, read).map(|_| Outcome::Again)
            }),
            Way::Portable(portable) => portable.read(py, buffer),
        });
        let answered = self.ends.output_len().saturating_sub(before);
        if answered > 0 {
            self.answers.fetch_add(answered, Relaxed);
        }
        outcome
    }

    /// True if more than `limit` bytes of what OpenSSL has answered by itself may still wait to be sent. `waits` tells
    /// how many bytes wait at all.
    pub fn answers_exceed(&self, limit: usize, waits: impl FnOnce() -> usize) -> bool {
        let answers = self.answers.load(Relaxed);
        if answers <= limit {
            return false;
        }
        let rest = answers.min(waits());
        self.answers.store(rest, Relaxed);
        rest > limit
    }

    /// Encrypts the beginning of `data`, which must not be empty. After [`Outcome::Again`] the same data must be
    /// offered again.
    pub fn write(&self, py: Python<'_>, data: &[u8]) -> PyResult<Outcome> {
        self.alone(|| match &self.way {
            Way::Direct(connection) => connection.write(py, data).or_else(|Failed| {
                if self.ends.take_failed() {
                    return Err(no_memory());
                }
                // As in `read`.
                let written = self.object.call_method1(py, &names(py)?.write, (new::bytes(py, data)?,));
                Outcome::of_write(py, written)
            }),
            Way::Portable(portable) => portable.write(py, data),
        })
    }

    /// Does `work`, unless some is under way.
    fn alone(&self, work: impl FnOnce() -> PyResult<Outcome>) -> PyResult<Outcome> {
        if self.busy.swap(true, Relaxed) {
            return Ok(Outcome::Again);
        }
        /// Ends the work when it is dropped, so that a panic ends it too.
        struct Work<'a>(&'a AtomicBool);
        impl Drop for Work<'_> {
            fn drop(&mut self) {
                self.0.store(false, Relaxed);
            }
        }
        let _work = Work(&self.busy);
        work()
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)?;
        match &self.way {
            Way::Direct(connection) => connection.traverse(visit),
            Way::Portable(portable) => portable.traverse(visit),
        }
    }
}
