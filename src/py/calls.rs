//! Calling the user's code.
//!
//! When the interpreter ends, CPython before 3.14 ends every other thread that wants to go on by `pthread_exit`, which
//! unwinds its stack. Where that is a loop's thread in the middle of a callback, the stack holds frames of Rust, and
//! the process aborts (rust-lang/rust#135929). So the innermost of these frames stops the thread for good, as CPython
//! does since 3.14 (python/cpython#87135), and PyO3 where it takes the interpreter back itself. The normal way pays
//! nothing for it.

use std::mem;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::fastcall::Raised;

type Object = *mut ffi::PyObject;
/// `PyObject_Vectorcall` and `PyObject_VectorcallMethod`, in the ABI that PyO3 declares, and as they are.
type Declared = unsafe extern "C" fn(Object, *const Object, usize, Object) -> Object;
type Unwinding = unsafe extern "C-unwind" fn(Object, *const Object, usize, Object) -> Object;

static FUNCTION: Declared = ffi::PyObject_Vectorcall;
static METHOD: Declared = ffi::PyObject_VectorcallMethod;

/// Most arguments of [`method`].
const MOST: usize = 2;

/// Calls `callable` with `count` arguments (`PY_VECTORCALL_ARGUMENTS_OFFSET` included) that `args` points to.
///
/// # Safety
/// As `PyObject_Vectorcall`: live references, for the duration of the call, and the interpreter held.
#[inline(always)]
pub unsafe fn vectorcall(callable: Object, args: *const Object, count: usize) -> Result<Object, Raised> {
    // SAFETY: the caller's promise.
    unsafe { guarded(&FUNCTION, callable, args, count) }
}

/// Calls `callable(*args)`.
pub fn function<'py>(
    callable: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
) -> Result<Bound<'py, PyAny>, Raised> {
    let py = callable.py();
    // The first slot is for the callee.
    let stack: Vec<Object> =
        std::iter::once(std::ptr::null_mut()).chain(args.iter_borrowed().map(|arg| arg.as_ptr())).collect();
    let count = args.len() | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
    // SAFETY: `args` holds references to the arguments; the slot before them is ours, for the callee to use.
    unsafe {
        let result = vectorcall(callable.as_ptr(), stack.as_ptr().add(1), count)?;
        Ok(Bound::from_owned_ptr(py, result))
    }
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
    // SAFETY: the caller holds references to all of these; the slot before them is ours, for the callee to use.
    match unsafe { guarded(&METHOD, name.as_ptr(), stack[1..].as_ptr(), count) } {
        // SAFETY: a new reference.
        Ok(result) => Ok(unsafe { Bound::from_owned_ptr(py, result) }),
        Err(raised) => Err(raised.fetch(py)),
    }
}

/// # Safety
/// As the function that `declared` points to.
#[inline(always)]
unsafe fn guarded(
    declared: &Declared,
    called: Object,
    args: *const Object,
    count: usize,
) -> Result<Object, Raised> {
    // SAFETY: a function may be called by a type that lets it unwind. Read so that the compiler does not see which
    // function it is: it would go by PyO3's declaration, and take the guard out.
    let call = unsafe { mem::transmute::<Declared, Unwinding>(std::ptr::read_volatile(declared)) };
    let guard = StopThread;
    // SAFETY: the caller's promise; no keywords.
    let result = unsafe { call(called, args, count, std::ptr::null_mut()) };
    mem::forget(guard);
    if result.is_null() { Err(Raised) } else { Ok(result) }
}

/// Dropped only when C unwinds the stack: that is the end of the interpreter.
struct StopThread;

impl Drop for StopThread {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}
