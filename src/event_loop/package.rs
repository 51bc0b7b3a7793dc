//! What the Python half of rloop hands in when it is imported, and the function that makes its loops. With this,
//! nothing in Rust imports the package `rloop`.

use pyo3::prelude::*;
use pyo3::types::PyType;

use super::scheduling::add_raw_methods;
use crate::py::names::{Package, names, set_package};

/// Completes the extension module with what the package has in Python: the class of loops, the classes that transports
/// pass for, and functions that Rust calls.
///
/// The raw methods are put on the class of loops as well as on `EventLoop`, because CPython's fast calls of native
/// methods (PEP 659) are only for objects of exactly the class that has the method.
#[pyfunction]
#[pyo3(signature = (*, loop_class, stream_transport, tls_transport, datagram_transport, read_pipe_transport,
    write_pipe_transport, format_callback, source_traceback, outside_tasks))]
#[allow(clippy::too_many_arguments, reason = "a table, by keywords")]
pub fn complete(
    loop_class: Bound<'_, PyType>,
    stream_transport: Py<PyAny>,
    tls_transport: Py<PyAny>,
    datagram_transport: Py<PyAny>,
    read_pipe_transport: Py<PyAny>,
    write_pipe_transport: Py<PyAny>,
    format_callback: Py<PyAny>,
    source_traceback: Py<PyAny>,
    outside_tasks: Py<PyAny>,
) -> PyResult<()> {
    add_raw_methods(&loop_class)?;
    set_package(
        loop_class.py(),
        Package {
            loop_class: loop_class.clone().into_any().unbind(),
            stream_transport,
            tls_transport,
            datagram_transport,
            read_pipe_transport,
            write_pipe_transport,
            format_callback,
            source_traceback,
            outside_tasks,
        },
    )
}

/// Make a new loop: the `loop_factory` for `asyncio.run()`, `asyncio.Runner` and every server that takes one.
///
/// A built-in function, because these are no methods: `loop_factory = rloop.new_event_loop` in the body of a class
/// makes a loop without being given the class's instance.
#[pyfunction]
pub fn new_event_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    names(py)?.loop_class.bind(py).call0()
}
