//! What asyncio's `_ensure_resolved` answers for an address literal. `getaddrinfo` is a method of the loop (`mod.rs`).

use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::py::addrinfo;
use crate::py::names::names;

/// A list with the one tuple that asyncio's `_ensure_resolved` returns for an address literal. None for all other
/// addresses, about which asyncio's own code is to be asked.
#[pyfunction]
pub fn resolved<'py>(
    address: &Bound<'py, PyAny>,
    family: &Bound<'py, PyAny>,
    kind: &Bound<'py, PyAny>,
    protocol: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyList>>> {
    addrinfo::resolved(names(address.py())?, address, family, kind, protocol)
}
