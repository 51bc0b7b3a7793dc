//! What the rest of the crate needs of Python itself: interned names and imports, calls, contexts, buffers and
//! addresses. PyO3 and std only: no mio, and nothing that knows of an event loop.

pub mod bytes;
pub mod cell;
pub mod context;
pub mod fastcall;
pub mod names;
pub mod sockaddr;

use pyo3::ffi;
use pyo3::prelude::*;

/// True if this reference is the only one to the object (weak ones aside), so that nobody can see it change.
#[inline]
pub fn is_only_reference(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live object, and the interpreter is held: nobody counts at the same time.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) == 1 }
}
