//! The owners of registrations, whom readiness concerns: the program's callbacks and coroutines, or a native object
//! such as a transport. Which fd is registered in which way is not known here.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use crate::handle::Handle;
use crate::reactor::readiness::Readiness;

/// The owner of a registration.
pub enum Source {
    /// The program: callbacks of `add_reader` and `add_writer`, or futures of `sock_*`. They are on the heap, so that
    /// a registration takes no more memory than a native object's, of which there can be very many.
    Callbacks(Box<FdCallbacks>),
    /// A native object.
    Native(Native),
    /// A native object that waits for nothing. The garbage collector may take it, which ends the registration.
    Idle(Idle),
}

/// What is to be called because a registration is ready.
pub enum Due {
    /// These callbacks, and the futures to be completed.
    Callbacks(FdCallbacks),
    /// This object, with its readiness.
    Native(Native, Readiness),
}

/// Who waits for one fd on behalf of the program: callbacks of `add_reader` and `add_writer`, or futures of the
/// `sock_*` coroutines, which are completed once. Invariant: at most one of the two waits for a direction. As on
/// asyncio, the later one replaces the earlier one.
#[derive(Default)]
pub struct FdCallbacks {
    /// The callback of `add_reader`.
    pub reader: Option<Py<Handle>>,
    /// The callback of `add_writer`.
    pub writer: Option<Py<Handle>>,
    /// The future that is completed when the fd is readable.
    pub read_waiter: Option<Py<PyAny>>,
    /// The future that is completed when the fd is writable.
    pub write_waiter: Option<Py<PyAny>>,
    /// The file object that the program gave instead of a number. Once it is closed, it does not know its number any
    /// more.
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

    /// True if the fd was given as this same object, or as a number (None) both times.
    pub fn is_of(&self, file: Option<&Py<PyAny>>) -> bool {
        match (&self.file, file) {
            (Some(known), Some(file)) => known.is(file),
            (None, None) => true,
            _ => false,
        }
    }

    /// The two places for one direction: that of the callback and that of the future.
    pub fn places(&mut self, direction: Readiness) -> (&mut Option<Py<Handle>>, &mut Option<Py<PyAny>>) {
        if direction == Readiness::READABLE {
            (&mut self.reader, &mut self.read_waiter)
        } else {
            (&mut self.writer, &mut self.write_waiter)
        }
    }

    /// What is to be called now that the fd is ready in these directions. Callbacks stay here, too; futures are taken
    /// out.
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
    /// The object.
    pub object: Py<PyAny>,
    /// How it is called.
    pub kind: &'static Kind,
}

/// A [`Native`] that is held by a weak reference.
pub struct Idle {
    reference: Py<PyWeakrefReference>,
    kind: &'static Kind,
}

impl Idle {
    /// Err: the object's class allows no weak references.
    pub fn new(object: &Bound<'_, PyAny>, kind: &'static Kind) -> PyResult<Self> {
        Ok(Self { reference: PyWeakrefReference::new(object)?.unbind(), kind })
    }

    /// The object, with a strong reference. None if it is being deallocated.
    pub fn upgrade(&self, py: Python<'_>) -> Option<Native> {
        let object = self.reference.bind(py).upgrade()?.unbind();
        Some(Native { object, kind: self.kind })
    }
}

/// What the loop calls of a [`Native`]: a table of plain functions, one for each class. The core calls transports by it
/// without knowing their classes.
pub struct Kind {
    /// Called when the fd is ready. An error is SystemExit or KeyboardInterrupt, which leave the loop.
    pub on_ready: fn(&Bound<'_, PyAny>, Readiness) -> PyResult<()>,
    /// Called to send what was kept back: see [`LoopCore::gather`](super::LoopCore::gather).
    pub flush: fn(&Bound<'_, PyAny>) -> PyResult<()>,
    /// True if the program must not watch the fd: `add_reader` refuses it then.
    pub owns_fd: fn(&Bound<'_, PyAny>) -> bool,
    /// True if asyncio has a callback of `add_reader` in the place of the object. The program may remove or replace that.
    pub is_reader: bool,
}

impl Kind {
    /// A table for what has no fd and keeps nothing back. Others are made from it: `Kind { on_ready, ..Kind::NOTHING
    /// }`.
    pub const NOTHING: Self =
        Self { on_ready: |_, _| Ok(()), flush: |_| Ok(()), owns_fd: |_| false, is_reader: false };
}

impl Native {
    /// As `Clone`, which cannot copy a reference to a Python object: that needs the token.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        Self { object: self.object.clone_ref(py), kind: self.kind }
    }
}

impl Source {
    /// The native object, if the owner is one and is still there.
    pub fn native(&self, py: Python<'_>) -> Option<Native> {
        match self {
            Self::Native(native) => Some(native.clone_ref(py)),
            Self::Idle(idle) => idle.upgrade(py),
            Self::Callbacks(_) => None,
        }
    }

    /// True if asyncio has a callback of `add_reader` in the place of this native object.
    pub fn is_native_callback(&self, direction: Readiness) -> bool {
        matches!(self, Self::Native(native) if native.kind.is_reader) && direction == Readiness::READABLE
    }

    /// True if these are callbacks that were given with this file object.
    pub fn is_of(&self, file: &Bound<'_, PyAny>) -> bool {
        let Self::Callbacks(callbacks) = self else {
            return false;
        };
        callbacks.file.as_ref().is_some_and(|known| known.is(file))
    }

    /// Cancels the callbacks of the program. Nothing is done to a native object.
    pub fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        if let Self::Callbacks(callbacks) = self {
            for handle in [&callbacks.reader, &callbacks.writer].into_iter().flatten() {
                Handle::cancel_once(handle.bind(py))?;
            }
        }
        Ok(())
    }

    /// Shows the garbage collector what this refers to.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Callbacks(callbacks) => {
                visit.call(&callbacks.reader)?;
                visit.call(&callbacks.writer)?;
                visit.call(&callbacks.read_waiter)?;
                visit.call(&callbacks.write_waiter)?;
                visit.call(&callbacks.file)
            }
            Self::Native(native) => visit.call(&native.object),
            Self::Idle(idle) => visit.call(&idle.reference),
        }
    }
}
