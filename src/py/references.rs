//! How many references there are to an object: what nobody else refers to can be used again.

use pyo3::ffi;
use pyo3::prelude::*;

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
