//! New objects of Python's own types. Each function raises MemoryError where there is no memory for the object; PyO3's
//! constructors of the same types panic. Objects that live as long as the module (`names.rs`) are not made here.

use std::ffi::c_char;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

/// Takes over the new reference that a function of CPython has returned, or the exception that it has set.
///
/// # Safety
/// `object` is null with an exception set, or a new reference to an object of the type `T`.
unsafe fn owned<T>(py: Python<'_>, object: *mut ffi::PyObject) -> PyResult<Bound<'_, T>> {
    // SAFETY: the caller's promise. The cast is unchecked because the type is known.
    unsafe { Bound::from_owned_ptr_or_err(py, object).map(|object| object.cast_into_unchecked()) }
}

/// A `bytes` with a copy of `data`.
pub fn bytes<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    // SAFETY: CPython copies `data` before it returns; a slice is never longer than isize::MAX.
    unsafe {
        owned(
            py,
            ffi::PyBytes_FromStringAndSize(data.as_ptr().cast::<c_char>(), data.len() as ffi::Py_ssize_t),
        )
    }
}

/// A `str` with a copy of `text`.
pub fn string<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyString>> {
    // SAFETY: as in `bytes`, and a `str` of Rust is UTF-8.
    unsafe {
        owned(
            py,
            ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast::<c_char>(), text.len() as ffi::Py_ssize_t),
        )
    }
}

/// An empty `dict`.
pub fn dict(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    // SAFETY: a new reference or null.
    unsafe { owned(py, ffi::PyDict_New()) }
}

/// A `float`.
pub fn float(py: Python<'_>, value: f64) -> PyResult<Bound<'_, PyFloat>> {
    // SAFETY: a new reference or null.
    unsafe { owned(py, ffi::PyFloat_FromDouble(value)) }
}

/// An `int`.
pub fn int(py: Python<'_>, value: usize) -> PyResult<Bound<'_, PyInt>> {
    // SAFETY: a new reference or null.
    unsafe { owned(py, ffi::PyLong_FromSize_t(value)) }
}

/// A number of bytes that a method returns: an `int`.
#[derive(Default)]
pub struct Size(pub usize);

impl<'py> IntoPyObject<'py> for Size {
    type Target = PyInt;
    type Output = Bound<'py, PyInt>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyInt>> {
        int(py, self.0)
    }
}

/// A `list` of `items`.
pub fn list<'py, I>(py: Python<'py>, items: I) -> PyResult<Bound<'py, PyList>>
where
    I: IntoIterator<Item = Bound<'py, PyAny>>,
{
    // SAFETY: a new reference or null.
    let list: Bound<'_, PyList> = unsafe { owned(py, ffi::PyList_New(0))? };
    items.into_iter().try_for_each(|item| list.append(item))?;
    Ok(list)
}

/// A `str` of what is a file name to the system (PEP 383).
pub fn file_name<'py>(py: Python<'py>, name: &[u8]) -> PyResult<Bound<'py, PyString>> {
    // SAFETY: as in `bytes`. Bytes that are not valid in the encoding become lone surrogates.
    unsafe {
        owned(
            py,
            ffi::PyUnicode_DecodeFSDefaultAndSize(
                name.as_ptr().cast::<c_char>(),
                name.len() as ffi::Py_ssize_t,
            ),
        )
    }
}

/// A `tuple` of `items`.
pub fn tuple<'py, I>(py: Python<'py>, items: I) -> PyResult<Bound<'py, PyTuple>>
where
    I: IntoIterator<Item = Bound<'py, PyAny>, IntoIter: ExactSizeIterator>,
{
    let items = items.into_iter();
    // SAFETY: a new reference or null. The tuple is known to nobody else before it is returned; each place is filled
    // once with a reference that it takes over, and an iterator that ends early leaves null, which a tuple can hold.
    unsafe {
        let tuple: Bound<'py, PyTuple> = owned(py, ffi::PyTuple_New(items.len() as ffi::Py_ssize_t))?;
        for (index, item) in (0..items.len() as ffi::Py_ssize_t).zip(items) {
            ffi::PyTuple_SetItem(tuple.as_ptr(), index, item.into_ptr());
        }
        Ok(tuple)
    }
}

/// A `str` that Python keeps one copy of, so that looking up an attribute by it compares pointers.
pub fn interned<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyString>> {
    let mut object = string(py, text)?.into_ptr();
    // SAFETY: `object` is a new `str`. CPython may put another one with the same text in its place: it takes our
    // reference and gives one back. Where it fails it leaves `object` as it is.
    unsafe {
        ffi::PyUnicode_InternInPlace(&mut object);
        Ok(Bound::from_owned_ptr(py, object).cast_into_unchecked())
    }
}

/// For [`intern!`].
pub fn interned_once<'py>(
    py: Python<'py>,
    once: &'static PyOnceLock<Py<PyString>>,
    text: &str,
) -> PyResult<&'py Bound<'py, PyString>> {
    once.get_or_try_init(py, || interned(py, text).map(Bound::unbind)).map(|text| text.bind(py))
}

/// The interned `str` of a literal, made when the line is first run: `intern!(py, "close")?`. PyO3's macro of this name
/// panics where there is no memory for it.
macro_rules! intern {
    ($py:expr, $text:literal) => {{
        static TEXT: pyo3::sync::PyOnceLock<pyo3::Py<pyo3::types::PyString>> = pyo3::sync::PyOnceLock::new();
        $crate::py::new::interned_once($py, &TEXT, $text)
    }};
}
pub(crate) use intern;
