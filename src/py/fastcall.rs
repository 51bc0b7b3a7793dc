//! Raw methods (`METH_FASTCALL | METH_KEYWORDS`), for the few methods that are called once for each callback or packet;
//! and what becomes of panics. All other methods are ordinary `#[pymethods]`.

use std::any::Any;
use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};
use pyo3::{PyTypeInfo, ffi};

use crate::error::{Message, no_memory};

/// The C function of a raw method.
pub type RawMethod = unsafe extern "C" fn(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// Puts `entry` on `class` as a method. `doc` begins with the signature, in the form of `__text_signature__`.
pub fn add_method(
    class: &Bound<'_, PyType>,
    name: &'static CStr,
    doc: &'static CStr,
    entry: RawMethod,
) -> PyResult<()> {
    let definition = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: entry },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: doc.as_ptr(),
    }));
    // SAFETY: `class` is a type object. The definition is leaked, and so outlives the descriptor.
    let method = unsafe {
        Bound::from_owned_ptr_or_err(class.py(), ffi::PyDescr_NewMethod(class.as_type_ptr(), definition))?
    };
    class.setattr(name.to_string_lossy(), method)
}

/// Runs the body of a raw method. Its error is raised, and a panic becomes an exception.
///
/// # Safety
/// To be called in a function that CPython calls through a descriptor of [`add_method`] for `T`, with the arguments of
/// that function.
#[inline]
pub unsafe fn enter<T: PyTypeInfo>(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
    body: impl for<'py> FnOnce(&Bound<'py, T>, &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>>,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls methods with the GIL held.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: CPython has references to `slf` and to all arguments during the call, and the descriptor has checked that
    // `slf` is a `T`. If there are arguments, `args` is not null.
    let (slf, arguments) = unsafe {
        let total = count as usize + keyword_count(keywords);
        let values = if total == 0 { &[] } else { std::slice::from_raw_parts(args, total) };
        let names = Bound::from_borrowed_ptr_or_opt(py, keywords).map(|names| names.cast_into_unchecked());
        let slf = Bound::from_borrowed_ptr(py, slf).cast_into_unchecked::<T>();
        (slf, Arguments { py, values, positional: count as usize, names })
    };
    // `catch_unwind` copies what goes in and out of the closure through memory. Here that is two references and a
    // pointer.
    let call = || match body(&slf, &arguments) {
        Ok(value) => value.into_ptr(),
        Err(error) => raise(py, error),
    };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(value) => value,
        Err(payload) => raise(py, panic_error(payload)),
    }
}

/// Puts methods of the Rust type `$class`, which take [`Arguments`], on the Python class `$on`, with their signatures
/// and docstrings. To be used in a function that returns a `PyResult`.
macro_rules! raw_methods {
    ($class:ty, $on:expr, $($method:ident($signature:literal): $doc:literal),* $(,)?) => {$({
        unsafe extern "C" fn entry(
            slf: *mut pyo3::ffi::PyObject,
            args: *const *mut pyo3::ffi::PyObject,
            count: pyo3::ffi::Py_ssize_t,
            keywords: *mut pyo3::ffi::PyObject,
        ) -> *mut pyo3::ffi::PyObject {
            // SAFETY: CPython calls this through the descriptor made below.
            unsafe { $crate::py::fastcall::enter::<$class>(slf, args, count, keywords, <$class>::$method) }
        }
        use $crate::py::fastcall::{add_method, c_str};
        let name = concat!(stringify!($method), "\0");
        let doc = concat!(stringify!($method), $signature, "\n--\n\n", $doc, "\0");
        add_method($on, c_str(name), c_str(doc), entry)?;
    })*};
}
pub(crate) use raw_methods;

/// An error: an exception is set in the interpreter, for the caller to fetch. It is used instead of a `PyErr` where
/// every nanosecond counts, because it fits into a register.
#[must_use]
pub struct Raised;

impl Raised {
    /// Sets `error`.
    #[cold]
    pub fn set(py: Python<'_>, error: PyErr) -> Self {
        error.restore(py);
        Self
    }

    /// The exception, which is no longer set.
    #[cold]
    pub fn fetch(self, py: Python<'_>) -> PyErr {
        PyErr::fetch(py)
    }
}

/// A literal that ends in NUL as a C string, for [`add_method`].
pub const fn c_str(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    }
}

#[cold]
fn raise(py: Python<'_>, error: PyErr) -> *mut ffi::PyObject {
    error.restore(py);
    std::ptr::null_mut()
}

/// The exception for a panic that was caught. A panic is a bug of rloop, and no reason to end the process. One is none:
/// PyO3's constructors panic if there is no memory.
pub fn panic_error(payload: Box<dyn Any + Send>) -> PyErr {
    let text = panic_text(payload);
    if text == "PyObject pointer is null" {
        return no_memory();
    }
    PyRuntimeError::new_err(Message(format!("rloop: internal error: {text}")))
}

/// Runs `body`. A panic becomes an exception, as in a raw method. In an ordinary method it would become a
/// PanicException, which leaves the loop.
pub fn caught<R>(body: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(panic_error(payload)))
}

/// The text of a panic.
pub fn panic_text(payload: Box<dyn Any + Send>) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}

unsafe fn keyword_count(keywords: *mut ffi::PyObject) -> usize {
    // SAFETY: CPython passes null, or a tuple of the keywords' names.
    if keywords.is_null() { 0 } else { unsafe { ffi::PyTuple_GET_SIZE(keywords) as usize } }
}

/// The arguments of a raw method.
pub struct Arguments<'a, 'py> {
    py: Python<'py>,
    /// Borrowed references: first the positional arguments, then the values of the keywords.
    values: &'a [*mut ffi::PyObject],
    /// How many arguments are positional.
    positional: usize,
    /// The names of the keywords.
    names: Option<Bound<'py, PyTuple>>,
}

impl<'a, 'py> Arguments<'a, 'py> {
    /// How many positional arguments there are.
    pub fn len(&self) -> usize {
        self.positional
    }

    /// True if there are keywords.
    pub fn has_keywords(&self) -> bool {
        self.names.is_some()
    }

    /// The positional arguments from `from` on.
    pub fn from(&self, from: usize) -> &'a [*mut ffi::PyObject] {
        &self.values[from.min(self.positional)..self.positional]
    }

    /// The argument at index `at`, given by position or by name. If it is missing, the error is that of Python.
    #[inline(always)]
    pub fn required(&self, at: usize, method: &str, name: &str) -> PyResult<Bound<'py, PyAny>> {
        match self.at(at) {
            Some(value) => Ok(value),
            None => self.required_by_name(method, name),
        }
    }

    #[cold]
    fn required_by_name(&self, method: &str, name: &str) -> PyResult<Bound<'py, PyAny>> {
        self.keyword(name)?.ok_or_else(|| {
            PyTypeError::new_err(Message(format!(
                "{method}() missing required positional argument: '{name}'"
            )))
        })
    }

    /// The argument of a method that takes one argument, whose name is `name`.
    #[inline(always)]
    pub fn single(&self, method: &str, name: &str) -> PyResult<Bound<'py, PyAny>> {
        match self.at(0) {
            Some(value) if self.values.len() == 1 => Ok(value),
            _ => self.single_by_name(method, name),
        }
    }

    #[cold]
    fn single_by_name(&self, method: &str, name: &str) -> PyResult<Bound<'py, PyAny>> {
        self.accept(method, &[name], 1)?;
        self.required(0, method, name)
    }

    /// Refuses more positional arguments than there are `parameters`, of which `required` must be given, and all
    /// keywords that are none of them.
    #[inline]
    pub fn accept(&self, method: &str, parameters: &[&str], required: usize) -> PyResult<()> {
        if self.positional > parameters.len() {
            return Err(self.too_many(method, required, parameters.len()));
        }
        if self.names.is_none() { Ok(()) } else { self.check_keywords(method, parameters) }
    }

    #[cold]
    fn check_keywords(&self, method: &str, parameters: &[&str]) -> PyResult<()> {
        self.keywords().try_for_each(|(name, _)| self.check_keyword(method, &name.to_string(), parameters))
    }

    /// Python's error for that. It counts `self`, too.
    #[cold]
    fn too_many(&self, method: &str, least: usize, most: usize) -> PyErr {
        let (least, most, given) = (least + 1, most + 1, self.positional + 1);
        let takes = if least < most { format!("from {least} to {most}") } else { most.to_string() };
        PyTypeError::new_err(Message(format!(
            "{method}() takes {takes} positional arguments but {given} were given"
        )))
    }

    /// The argument at index `at`, given by position or by name, if it is given.
    #[inline]
    pub fn optional(&self, at: usize, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.at(at) {
            Some(value) => Ok(Some(value)),
            None if self.names.is_none() => Ok(None),
            None => self.keyword(name),
        }
    }

    /// The positional argument at index `at`.
    #[inline(always)]
    fn at(&self, at: usize) -> Option<Bound<'py, PyAny>> {
        // SAFETY: a borrowed reference that the caller keeps alive.
        self.from(at).first().map(|&value| unsafe { Bound::from_borrowed_ptr(self.py, value) })
    }

    #[cold]
    fn keyword(&self, wanted: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        for (name, value) in self.keywords() {
            if name.eq(wanted)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The keyword `known`, if it is given and not None. All other keywords are refused, except those that give missing
    /// positional `parameters` by name.
    #[inline]
    pub fn only_keyword(
        &self,
        method: &str,
        known: &Bound<'py, PyString>,
        parameters: &[&str],
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match &self.names {
            None => Ok(None),
            Some(names) => match self.value_of_only(names, known) {
                Some(value) => Ok(Some(value).filter(|value| !value.is_none())),
                None => self.find_keyword(names, method, known, parameters),
            },
        }
    }

    /// The value of the keyword `known`, if it is the only one. A step of a task calls `call_soon` like this. asyncio's
    /// name is not interned, so that it is another object than ours.
    #[inline(always)]
    fn value_of_only(
        &self,
        names: &Bound<'py, PyTuple>,
        known: &Bound<'py, PyString>,
    ) -> Option<Bound<'py, PyAny>> {
        let [value] = self.values[self.positional..] else {
            return None;
        };
        // SAFETY: there is one name for each value, and CPython's convention for calls says that names are strings. Two
        // strings can be compared without an error. The caller keeps the value alive.
        unsafe {
            let name = ffi::PyTuple_GET_ITEM(names.as_ptr(), 0);
            let is_known = name == known.as_ptr() || ffi::PyUnicode_Compare(name, known.as_ptr()) == 0;
            is_known.then(|| Bound::from_borrowed_ptr(self.py, value))
        }
    }

    fn find_keyword(
        &self,
        names: &Bound<'py, PyTuple>,
        method: &str,
        known: &Bound<'py, PyString>,
        parameters: &[&str],
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut found = None;
        for (at, name) in names.iter_borrowed().enumerate() {
            if name.is(known) || name.eq(known)? {
                // SAFETY: a borrowed reference that the caller keeps alive. There is one value for each name.
                found = Some(unsafe { Bound::from_borrowed_ptr(self.py, self.values[self.positional + at]) });
            } else {
                self.check_keyword(method, &name.to_string(), parameters)?;
            }
        }
        Ok(found.filter(|value| !value.is_none()))
    }

    /// Refuses a keyword that is not one of the positional `parameters`, or was given by position as well.
    #[cold]
    pub fn check_keyword(&self, method: &str, name: &str, parameters: &[&str]) -> PyResult<()> {
        let problem = match parameters.iter().position(|&parameter| parameter == name) {
            Some(at) if at >= self.positional => return Ok(()),
            Some(_) => format!("{method}() got multiple values for argument '{name}'"),
            None => format!("{method}() got an unexpected keyword argument '{name}'"),
        };
        Err(PyTypeError::new_err(Message(problem)))
    }

    /// The keywords with their values.
    pub fn keywords(&self) -> impl Iterator<Item = (Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let values = &self.values[self.positional..];
        // SAFETY: borrowed references that the caller keeps alive.
        let value = |&value: &*mut ffi::PyObject| unsafe { Bound::from_borrowed_ptr(self.py, value) };
        self.names.iter().flatten().zip(values.iter().map(value).collect::<Vec<_>>())
    }

    /// Calls `callable` with the same arguments, `first` before them.
    pub fn forward(
        &self,
        callable: &Bound<'py, PyAny>,
        first: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut stack = vec![first.as_ptr()];
        stack.extend_from_slice(self.values);
        let names = self.names.as_ref().map_or(std::ptr::null_mut(), |names| names.as_ptr());
        // SAFETY: the stack has live references: to `first`, to the positional arguments, and to a value for each name.
        unsafe {
            let result =
                ffi::PyObject_Vectorcall(callable.as_ptr(), stack.as_ptr(), self.positional + 1, names);
            Bound::from_owned_ptr_or_err(self.py, result)
        }
    }
}
