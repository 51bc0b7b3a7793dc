//! The cell for state that only the thread that holds the GIL touches. Loops, handles and transports keep theirs in it.
//!
//! A build without the GIL has to begin here: the `unsafe impl Sync` below relies on it.

use std::cell::RefCell;

use pyo3::gc::PyVisit;
use pyo3::prelude::*;

/// State that whoever holds the GIL can borrow.
///
/// The closure that is given to [`LoopCell::with`] must not run Python code: no call, no drop of a Python object (its
/// finalizer is user code), no allocation of an object that the garbage collector tracks (a collection runs
/// finalizers). Exact bytes, and handles that are empty, may be dropped. User code could come back to the same cell, or
/// let another thread have the GIL that does. If a closure breaks this rule, the second borrow panics; there are never
/// two references.
#[derive(Default)]
pub struct LoopCell<T>(RefCell<T>);

// SAFETY: each access is by `with`, `peek` or `get_mut`. The first two take a token, `Python` or `PyVisit`, which
// exists only on the thread that holds the GIL. So two threads cannot be inside at once, unless a closure releases the
// GIL, which is forbidden above; even then the other thread would find the RefCell borrowed. `get_mut` needs the only
// reference. `T: Send`, because the thread that holds the GIL changes.
unsafe impl<T: Send> Sync for LoopCell<T> {}

impl<T> LoopCell<T> {
    pub fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// Runs `access` on the state.
    #[inline(always)]
    pub fn with<R>(&self, _py: Python<'_>, access: impl FnOnce(&mut T) -> R) -> R {
        access(&mut self.0.borrow_mut())
    }

    /// Runs `access` on the state, unless the state is borrowed. For the garbage collector, which may come at any time.
    pub fn peek<R>(&self, _visit: &PyVisit<'_>, access: impl FnOnce(&T) -> R) -> Option<R> {
        self.0.try_borrow().ok().map(|value| access(&value))
    }

    /// The state, for the only one who has the cell.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}
