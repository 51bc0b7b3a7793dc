//! The water marks that a program gives to `set_write_buffer_limits`, as asyncio takes them: any number will do. What
//! the marks do is in `flow.rs`.

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::Message;
use crate::py::new::{self, intern};

/// The arguments of `set_write_buffer_limits`: any number, as in asyncio.
pub fn parse(
    high: Option<&Bound<'_, PyAny>>,
    low: Option<&Bound<'_, PyAny>>,
) -> PyResult<(Option<i64>, Option<i64>)> {
    let numbers = || PyResult::Ok((high.map(whole_bytes).transpose()?, low.map(whole_bytes).transpose()?));
    numbers().or_else(|error| Err(refusal_of_marks(high, low)?.unwrap_or(error)))
}

/// The error for marks that are no numbers: asyncio's own, of where it computes with them.
#[cold]
fn refusal_of_marks(
    high: Option<&Bound<'_, PyAny>>,
    low: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<PyErr>> {
    let Some(py) = high.or(low).map(|mark| mark.py()) else {
        return Ok(None);
    };
    let class = py.import("asyncio.transports")?.getattr(intern!(py, "_FlowControlMixin")?)?;
    let transport = class.call_method1(intern!(py, "__new__")?, (&class,))?;
    Ok(transport.call_method1(intern!(py, "_set_write_buffer_limits")?, (high, low)).err())
}

/// What `get_write_buffer_limits()` returns: (low, high), in bytes.
pub fn limits(py: Python<'_>, (low, high): (usize, usize)) -> PyResult<Bound<'_, PyTuple>> {
    new::tuple(py, [new::int(py, low)?.into_any(), new::int(py, high)?.into_any()])
}

/// The error for marks (high, low) that [`Flow::set_limits`](super::flow::Flow::set_limits) refuses.
pub fn refused((high, low): (i64, i64)) -> PyErr {
    PyValueError::new_err(Message(format!("high ({high}) must be >= low ({low}) must be >= 0")))
}

/// A mark in whole bytes. One beyond the range of i64 is taken for the largest or the smallest i64.
fn whole_bytes(limit: &Bound<'_, PyAny>) -> PyResult<i64> {
    match limit.extract::<i64>() {
        Ok(limit) => Ok(limit),
        Err(_) => match limit.extract::<f64>() {
            Ok(limit) => Ok(limit.floor() as i64),
            Err(error) if error.is_instance_of::<PyOverflowError>(limit.py()) => Ok(i64::MAX),
            Err(error) => Err(error),
        },
    }
}
