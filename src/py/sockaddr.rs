//! Socket addresses as Python's `socket` module shows them.

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::reactor::sys::{Address, SocketAddress};

/// The Python form of an address: (host, port), (host, port, flowinfo, scope id), a path or an abstract name.
/// As in CPython's `makesockaddr`; a family that it does not know either gives (family, b"").
pub fn to_python<'py>(py: Python<'py>, address: &SocketAddress) -> PyResult<Bound<'py, PyAny>> {
    match address.parse() {
        Address::V4(host, port) => (host, port).into_bound_py_any(py),
        Address::V6(host, port, flow, scope) => (host, port, flow, scope).into_bound_py_any(py),
        // An abstract name is bytes, a path is decoded as a file name is (PEP 383).
        Address::Unix(path) if path.first() == Some(&0) => Ok(PyBytes::new(py, &path).into_any()),
        Address::Unix(path) => {
            use std::os::unix::ffi::OsStringExt;
            Ok(std::ffi::OsString::from_vec(path).into_pyobject(py)?.cast_into::<PyString>()?.into_any())
        }
        Address::Other(family) => (family, PyBytes::new(py, b"")).into_bound_py_any(py),
    }
}
