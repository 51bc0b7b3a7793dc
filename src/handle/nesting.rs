//! Dropping what handles hold with a stack of limited depth.
//!
//! What a handle holds can have the last reference to another handle, and so on. To drop such a chain takes one nested
//! call for each handle, until the stack is full. CPython has its "trashcan" for this, but before 3.14 only for its own
//! classes. Ours is here: below a certain depth, what is to be dropped is put into a list, and the call at that depth
//! drops it.

use std::cell::{Cell, RefCell};

use pyo3::prelude::*;

use super::call::Call;
use crate::py::cell::LoopCell;

/// How many handles may be dropped inside of each other (CPython's own limit is 50 containers).
const DEEPEST: u32 = 50;

thread_local! {
    /// How many drops are under way on this thread, inside of each other.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// What is still to be dropped. It is empty when no drop is under way on this thread.
    static WAITING: RefCell<Vec<Call>> = const { RefCell::new(Vec::new()) };
}

/// Drops what is in `place`: at once, or soon if that is too deep inside of other drops.
#[inline]
pub fn drop_bounded(py: Python<'_>, place: &LoopCell<Call>) {
    // At the end of a thread its locals are gone. What it drops then is dropped at once.
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

/// Drops what waits. Whatever is dropped in here is one level deeper, and so waits, too: the stack does not grow.
fn drop_waiting(py: Python<'_>) {
    let next = || WAITING.try_with(|waiting| waiting.borrow_mut().pop()).ok().flatten();
    while let Some(call) = next() {
        Call::empty(&LoopCell::new(call), py);
    }
    // The list's memory is given back.
    let _ = WAITING.try_with(|waiting| waiting.borrow_mut().shrink_to(0));
}
