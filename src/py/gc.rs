//! Hiding objects from the garbage collector while it need not see them, and counting references.
//!
//! A collection looks at every tracked object. A handle that waits in its loop's queue cannot be garbage while the loop
//! is none. So it is untracked until it leaves the queue, and tracked then if somebody still refers to it. What a
//! handle in a queue holds is shown to the collector by the loop, if nobody else refers to the handle.
//!
//! This has a price. If the program refers to a handle that waits in a loop, and drops the loop without closing it, the
//! loop is not collected.

use pyo3::ffi;
use pyo3::prelude::*;

/// Hides an object of a class with garbage collection. Nothing happens if it is hidden already.
#[inline]
pub fn untrack<T>(object: &Bound<'_, T>) {
    // SAFETY: a live object, and the GIL is held.
    unsafe { ffi::PyObject_GC_UnTrack(object.as_ptr().cast()) }
}

/// Shows an object to the collector again. Nothing happens if it is shown already.
#[inline]
pub fn track<T>(object: &Bound<'_, T>) {
    // SAFETY: a live object of a class with garbage collection, all of whose fields are valid; the GIL is held.
    unsafe {
        if ffi::PyObject_GC_IsTracked(object.as_ptr()) == 0 {
            ffi::PyObject_GC_Track(object.as_ptr().cast());
        }
    }
}

/// True if this is the only reference to the object, weak ones aside.
#[inline]
pub fn is_only_reference<T>(object: &Bound<'_, T>) -> bool {
    reference_count(object) == 1
}

/// The number of references to the object, including this one.
#[inline]
pub fn reference_count<T>(object: &Bound<'_, T>) -> isize {
    // SAFETY: a live object. The GIL is held, so that nobody changes the count at the same time.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}
