//! What `python/rloop/_transports.py` makes the attributes of, such as `_sock_fd` and `_buffer`, that programs read of
//! asyncio's transports.

use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::py::new;

/// The number of the fd; whether it is closed; `_conn_lost`; `_extra`; what is queued.
pub type Inside<'py> = (RawFd, bool, u32, Bound<'py, PyDict>, Vec<Bound<'py, PyAny>>);

/// Chunks as Python has them.
pub fn chunks(py: Python<'_>, chunks: Vec<Vec<u8>>) -> PyResult<Vec<Bound<'_, PyAny>>> {
    chunks.into_iter().map(|chunk| Ok(new::bytes(py, &chunk)?.into_any())).collect()
}
