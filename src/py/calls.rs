//! The fastest ways to call Python, for calls that are made once for each callback or packet. Others are made by PyO3's
//! methods.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::fastcall::Raised;
use super::new::intern;

// Exported by CPython, but not declared by PyO3.
unsafe extern "C" {
    static mut PyMethod_Type: ffi::PyTypeObject;
    fn PyMethod_Function(method: Object) -> Object;
    fn _PyObject_GetMethod(object: Object, name: Object, method: *mut Object) -> std::ffi::c_int;
}

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

/// True if `object.name()` would call exactly `function`, which the object's class defines: neither the class nor the
/// object itself has something else by that name.
#[inline]
pub fn is_method(object: &Bound<'_, PyAny>, name: &Py<PyString>, function: &Py<PyAny>) -> bool {
    let mut found = std::ptr::null_mut();
    // SAFETY: both references are alive. CPython puts null or a new reference into `found`. It returns 1 if that is a
    // function of the class, and 0 if it is anything else.
    let (is_function, found) = unsafe {
        let is_function = _PyObject_GetMethod(object.as_ptr(), name.as_ptr(), &mut found);
        (is_function == 1, Bound::from_owned_ptr_or_err(object.py(), found))
    };
    is_function && found.is_ok_and(|found| found.as_ptr() == function.as_ptr())
}

/// True if asyncio's `_check_callback` would certainly accept this callback: if it is a function written in C, or one
/// written in Python that is no coroutine function. A flag of a function's code tells that it is a coroutine function,
/// or an attribute does. A Python function that has any attribute gets false, without a look at the attribute. A bound
/// method is treated as its function.
pub fn is_plain_function(callback: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = callback.py();
    // SAFETY: the type of an object is read while the object is alive. A bound method has a function, which it keeps
    // alive; so it does as long as `callback` lives. A Python function has code, and its attributes, or null.
    unsafe {
        let mut function = callback.as_ptr();
        if ffi::Py_TYPE(function) == &raw mut PyMethod_Type {
            function = PyMethod_Function(function);
        }
        let class = ffi::Py_TYPE(function);
        if class == &raw mut ffi::PyCFunction_Type {
            return Ok(true);
        }
        if class != &raw mut ffi::PyFunction_Type
            || !(*function.cast::<ffi::PyFunctionObject>()).func_dict.is_null()
        {
            return Ok(false);
        }
        let code = Bound::from_borrowed_ptr(py, ffi::PyFunction_GetCode(function));
        let flags: i32 = code.getattr(intern!(py, "co_flags")?)?.extract()?;
        Ok(flags & ffi::CO_COROUTINE == 0)
    }
}
