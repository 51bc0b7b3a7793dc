//! Hiding objects from the garbage collector while it need not see them.
//!
//! A collection looks at every tracked object. A handle that waits in its loop's queue is reached from there, so that
//! it cannot be garbage: it is untracked until it leaves the queue, and tracked then if anybody still refers to it.
//! For a handle that nobody else refers to the loop shows the collector what is inside, as if it were the loop's own.
//! The price: a loop that is dropped without being closed is not collected while handles that the program keeps as
//! well wait in it.

use pyo3::ffi;
use pyo3::prelude::*;

/// Hides an object of a class with garbage collection. Harmless if it is hidden already.
#[inline]
pub fn untrack<T>(object: &Bound<'_, T>) {
    // SAFETY: a live object, and the interpreter is held.
    unsafe { ffi::PyObject_GC_UnTrack(object.as_ptr().cast()) }
}

/// Shows the object to the collector again. Harmless if it is shown already.
#[inline]
pub fn track<T>(object: &Bound<'_, T>) {
    // SAFETY: a live object of a class with garbage collection, whose fields are all valid; the interpreter is held.
    unsafe {
        if ffi::PyObject_GC_IsTracked(object.as_ptr()) == 0 {
            ffi::PyObject_GC_Track(object.as_ptr().cast());
        }
    }
}

/// True if this reference is the only one to the object (weak ones aside), so that nobody can see it change.
#[inline]
pub fn is_only_reference<T>(object: &Bound<'_, T>) -> bool {
    reference_count(object) == 1
}

/// How many references there are to the object, this one included.
#[inline]
pub fn reference_count<T>(object: &Bound<'_, T>) -> isize {
    // SAFETY: a live object, and the interpreter is held: nobody counts at the same time.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}
