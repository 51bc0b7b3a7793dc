//! Reports to a loop's exception handler. Nothing else in the crate calls `loop.call_exception_handler`.

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::calls;
use super::names::Names;
use super::new;

/// Gives `error` to the loop's exception handler, with `message`, and with `details` under their names. The result is
/// an error if the handler raises one.
#[cold]
pub fn call(
    event_loop: &Bound<'_, PyAny>,
    names: &Names,
    message: &str,
    error: PyErr,
    details: &[(&Py<PyString>, &Bound<'_, PyAny>)],
) -> PyResult<()> {
    let py = event_loop.py();
    let context = new::dict(py)?;
    context.set_item(&names.message, new::string(py, message)?)?;
    context.set_item(&names.exception, error.into_value(py))?;
    for (name, value) in details {
        context.set_item(*name, value)?;
    }
    calls::method(event_loop, &names.call_exception_handler, [context.as_any()]).map(drop)
}
