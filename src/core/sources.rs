//! Whom the events of an fd concern: the user's callbacks and coroutines, or a native object such as a transport.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::handle::Handle;
use crate::reactor::readiness::Readiness;

/// Whom the events of a registration concern.
pub enum Source {
    /// Callbacks of `add_reader` and `add_writer`.
    Callbacks(FdCallbacks),
    Native(Native),
    /// A native object that waits for nothing: the collector may have it, which ends the registration.
    Idle(Idle),
}

/// Who waits for one fd on behalf of the user: callbacks of `add_reader` and `add_writer`, or futures of the `sock_*`
/// coroutines, which are completed once. Invariant: one of the two at most for a direction; as in asyncio the later
/// takes the place of the earlier.
#[derive(Default)]
pub struct FdCallbacks {
    pub reader: Option<Py<Handle>>,
    pub writer: Option<Py<Handle>>,
    pub read_waiter: Option<Py<PyAny>>,
    pub write_waiter: Option<Py<PyAny>>,
    /// The file object that the fd was given as: it can be looked up by it once it is closed.
    pub file: Option<Py<PyAny>>,
}

impl FdCallbacks {
    /// The directions that somebody waits for.
    pub fn wanted(&self) -> Readiness {
        let mut wanted = Readiness::NONE;
        if self.reader.is_some() || self.read_waiter.is_some() {
            wanted |= Readiness::READABLE;
        }
        if self.writer.is_some() || self.write_waiter.is_some() {
            wanted |= Readiness::WRITABLE;
        }
        wanted
    }

    /// Was the fd given as this object, or as a number and is again?
    pub fn is_of(&self, file: Option<&Py<PyAny>>) -> bool {
        match (&self.file, file) {
            (Some(known), Some(file)) => known.is(file),
            (None, None) => true,
            _ => false,
        }
    }

    /// The places for one direction: the callback's and the waiter's.
    pub fn places(&mut self, direction: Readiness) -> (&mut Option<Py<Handle>>, &mut Option<Py<PyAny>>) {
        if direction == Readiness::READABLE {
            (&mut self.reader, &mut self.read_waiter)
        } else {
            (&mut self.writer, &mut self.write_waiter)
        }
    }

    /// What to call now that the fd is ready in these directions: the callbacks stay, the waiters go.
    pub fn due(&mut self, py: Python<'_>, readiness: Readiness) -> Self {
        let clone = |handle: &Option<Py<Handle>>| handle.as_ref().map(|handle| handle.clone_ref(py));
        let mut due = Self::default();
        if readiness.contains(Readiness::READABLE) {
            due.reader = clone(&self.reader);
            due.read_waiter = self.read_waiter.take();
        }
        if readiness.contains(Readiness::WRITABLE) {
            due.writer = clone(&self.writer);
            due.write_waiter = self.write_waiter.take();
        }
        due
    }
}

/// A native object that takes part in the loop, such as a transport.
pub struct Native {
    pub object: Py<PyAny>,
    pub kind: &'static Kind,
}

/// A [`Native`] by a weak reference.
pub struct Idle {
    reference: Py<PyWeakrefReference>,
    kind: &'static Kind,
}

impl Idle {
    pub fn new(object: &Bound<'_, PyAny>, kind: &'static Kind) -> PyResult<Self> {
        Ok(Self { reference: PyWeakrefReference::new(object)?.unbind(), kind })
    }

    /// None: the object is being deallocated.
    pub fn upgrade(&self, py: Python<'_>) -> Option<Native> {
        let object = self.reference.bind(py).upgrade()?.unbind();
        Some(Native { object, kind: self.kind })
    }
}

/// How to call a [`Native`]: plain functions, so that the core need not know the classes.
pub struct Kind {
    /// The fd is ready. Err: SystemExit or KeyboardInterrupt, which leave the loop.
    pub on_ready: fn(&Bound<'_, PyAny>, Readiness) -> PyResult<()>,
    /// Send what was kept back ([`LoopCore::gather`](super::LoopCore::gather)).
    pub flush: fn(&Bound<'_, PyAny>) -> PyResult<()>,
    /// Must nobody else use the fd?
    pub owns_fd: fn(&Bound<'_, PyAny>) -> bool,
}

impl Native {
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        Self { object: self.object.clone_ref(py), kind: self.kind }
    }
}

impl Source {
    /// The native object, if it is one and still there.
    pub fn native(&self, py: Python<'_>) -> Option<Native> {
        match self {
            Self::Native(native) => Some(native.clone_ref(py)),
            Self::Idle(idle) => idle.upgrade(py),
            Self::Callbacks(_) => None,
        }
    }

    /// Cancels the callbacks, if that is what it is.
    pub fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        if let Self::Callbacks(callbacks) = self {
            for handle in [&callbacks.reader, &callbacks.writer].into_iter().flatten() {
                Handle::cancel_once(handle.bind(py))?;
            }
        }
        Ok(())
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Callbacks(callbacks) => {
                let handles = callbacks.reader.iter().chain(&callbacks.writer);
                handles.into_iter().try_for_each(|handle| Handle::traverse_from_queue(handle, visit))?;
                visit.call(&callbacks.read_waiter)?;
                visit.call(&callbacks.write_waiter)?;
                visit.call(&callbacks.file)
            }
            Self::Native(native) => visit.call(&native.object),
            Self::Idle(idle) => visit.call(&idle.reference),
        }
    }
}
