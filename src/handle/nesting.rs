//! Dropping what a handle holds, without a stack that grows with it.
//!
//! What is dropped can hold the last reference to another handle, and so on: a chain of them would be one nested call
//! per link, until the stack is full. CPython has its "trashcan" for such chains (before 3.14 only in its own classes),
//! and this is ours: beyond a depth the contents wait in a list, which the last call within that depth works off.

use std::cell::{Cell, RefCell};

use pyo3::prelude::*;

use super::Call;
use crate::py::cell::LoopCell;

/// So many handles may be dropped inside of each other (CPython's own limit is 50 containers).
const DEEPEST: u32 = 50;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// What is still to be dropped. Only filled while a drop is under way on this thread.
    static WAITING: RefCell<Vec<Call>> = const { RefCell::new(Vec::new()) };
}

/// Drops what is in `place`, now or, deep inside of other such drops, soon.
#[inline]
pub fn drop_bounded(py: Python<'_>, place: &LoopCell<Call>) {
    // A thread at its end has lost its locals. What it drops then is dropped at once.
    let depth = DEPTH.try_with(|depth| depth.replace(depth.get() + 1)).unwrap_or(0);
    if depth >= DEEPEST {
        defer(py, place);
    } else {
        Call::empty(place, py);
    }
    if depth == DEEPEST - 1 {
        drop_waiting(py);
    }
    let _ = DEPTH.try_with(|place| place.set(depth));
}

#[cold]
fn defer(py: Python<'_>, place: &LoopCell<Call>) {
    let call = place.with(py, std::mem::take);
    let _ = WAITING.try_with(|waiting| waiting.borrow_mut().push(call));
}

/// Each drop in here is one level deeper, where everything waits: the stack does not grow.
fn drop_waiting(py: Python<'_>) {
    let next = || WAITING.try_with(|waiting| waiting.borrow_mut().pop()).ok().flatten();
    while let Some(call) = next() {
        Call::empty(&LoopCell::new(call), py);
    }
    // The memory goes, too.
    let _ = WAITING.try_with(|waiting| waiting.borrow_mut().shrink_to(0));
}
