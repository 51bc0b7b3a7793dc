//! The fastest ways to call Python, for calls that are made once for each callback or packet. Others are made by PyO3's
//! methods.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::fastcall::Raised;

type Object = *mut ffi::PyObject;

/// The largest number of arguments of [`method`].
const MOST: usize = 2;

/// Calls `callable` with the `count` arguments that `args` points to. `count` includes
/// `PY_VECTORCALL_ARGUMENTS_OFFSET`.
///
/// # Safety
/// As for `PyObject_Vectorcall`: the references are alive during the call, and the GIL is held.
#[inline(always)]
pub unsafe fn vectorcall(callable: Object, args: *const Object, count: usize) -> Result<Object, Raised> {
    // SAFETY: the caller's promise. There are no keywords.
    let result = unsafe { ffi::PyObject_Vectorcall(callable, args, count, std::ptr::null_mut()) };
    if result.is_null() { Err(Raised) } else { Ok(result) }
}

/// Calls `object.name(*args)`.
#[inline]
pub fn method<'py, const N: usize>(
    object: &Bound<'py, PyAny>,
    name: &Py<PyString>,
    args: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    const { assert!(N <= MOST) };
    let py = object.py();
    // The first slot is for the callee, the second is `self`.
    let mut stack = [std::ptr::null_mut(); 2 + MOST];
    stack[1] = object.as_ptr();
    for (slot, arg) in stack[2..].iter_mut().zip(args) {
        *slot = arg.as_ptr();
    }
    let count = (1 + N) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
    // SAFETY: the caller has references to all of these. The slot before them is ours, and the callee may use it. The
    // result is a new reference, or null with an exception set.
    unsafe {
        let (args, no_keywords) = (stack[1..].as_ptr(), std::ptr::null_mut());
        let result = ffi::PyObject_VectorcallMethod(name.as_ptr(), args, count, no_keywords);
        Bound::from_owned_ptr_or_err(py, result)
    }
}
