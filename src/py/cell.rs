//! The one cell for state that is touched with the interpreter held: the only `unsafe impl Sync` of the crate.
//!
//! A build without the GIL has to look here first.

use std::cell::RefCell;

use pyo3::prelude::*;

/// State that belongs to a loop, reachable by whoever holds the interpreter.
///
/// The closure given to [`LoopCell::with`] must not run Python code: no call, no drop of a Python object (its
/// finalizer is user code), no allocation of an object that the garbage collector tracks (collecting runs finalizers).
/// User code could come back to the same cell, or hand the interpreter to another thread that does. A closure that
/// breaks this rule panics at the second borrow; it never aliases.
#[derive(Default)]
pub struct LoopCell<T>(RefCell<T>);

// SAFETY: every access goes through `with` or `peek`, whose `Python` token proves that this thread holds the GIL, so
// that no two threads are inside at once; the closure does not give the GIL away (see above), and where one panics
// for trying, the RefCell still forbids the alias. `T: Send`, as the thread that holds the GIL changes.
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

    /// For the garbage collector, which may come at any time: runs `access` unless the state is in use.
    pub fn peek<R>(&self, access: impl FnOnce(&T) -> R) -> Option<R> {
        self.0.try_borrow().ok().map(|value| access(&value))
    }

    /// The state, when nobody else can reach it any more.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}
