//! What a transport reports: to the loop's exception handler, to asyncio's log, and to its protocol about flow.
//! The texts are asyncio's.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{PyNotImplementedError, PyOSError, PyOverflowError, PyResourceWarning, PyValueError};
use pyo3::prelude::*;

use super::flow::Signal;
use crate::core::LoopCore;
use crate::error::leaves_the_loop;
use crate::py::calls;
use crate::py::new::{self, intern};

/// After so many writes to a lost connection the program is warned (`asyncio.constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES`).
pub const DROPPED_WRITES_BEFORE_WARNING: u32 = 5;

/// A transport as it is shown in reports.
pub struct Reporter<'a, 'py> {
    pub core: &'a LoopCore,
    pub event_loop: &'a Py<PyAny>,
    pub transport: &'a Bound<'py, PyAny>,
    pub protocol: Option<Bound<'py, PyAny>>,
}

impl Reporter<'_, '_> {
    /// Gives an exception to the loop's exception handler.
    #[cold]
    pub fn exception(&self, message: &str, error: PyErr) -> PyResult<()> {
        let (py, names) = (self.transport.py(), self.core.names);
        let context = new::dict(py)?;
        context.set_item(&names.message, message)?;
        context.set_item(&names.exception, error.into_value(py))?;
        context.set_item(&names.transport, self.transport)?;
        context.set_item(&names.protocol, &self.protocol)?;
        calls::method(self.event_loop.bind(py), &names.call_exception_handler, [context.as_any()])?;
        Ok(())
    }

    /// Tells of an error that ends the transport (`_SelectorTransport._fatal_error`): an OSError in debug mode only.
    #[cold]
    pub fn fatal(&self, message: &str, error: PyErr) -> PyResult<()> {
        if error.is_instance_of::<PyOSError>(self.transport.py()) {
            self.debug_error(message, &error)
        } else {
            self.exception(message, error)
        }
    }

    /// In debug mode, logs a line about the transport; `%r` in it is the transport's repr.
    pub fn debug(&self, format: &str) -> PyResult<()> {
        if self.core.debug.load(Relaxed) {
            self.core.names.logger.call_method1(self.transport.py(), "debug", (format, self.transport))?;
        }
        Ok(())
    }

    /// In debug mode, logs an error that is nothing to report.
    pub fn debug_error(&self, message: &str, error: &PyErr) -> PyResult<()> {
        if self.core.debug.load(Relaxed) {
            let py = self.transport.py();
            let keywords = new::dict(py)?;
            keywords.set_item("exc_info", error.value(py))?;
            let logger = self.core.names.logger.bind(py);
            logger.call_method(
                intern!(py, "debug")?,
                ("%r: %s", self.transport, message),
                Some(&keywords),
            )?;
        }
        Ok(())
    }

    /// Has the protocol pause or resume its writing. Err: what leaves the loop.
    pub fn flow(&self, signal: Signal) -> PyResult<()> {
        self.flow_of(self.protocol.as_ref(), signal)
    }

    /// As [`Reporter::flow`], for a protocol behind the one that reports name.
    pub fn flow_of(&self, protocol: Option<&Bound<'_, PyAny>>, signal: Signal) -> PyResult<()> {
        let names = self.core.names;
        let (method, message) = match signal {
            Signal::Pause => (&names.pause_writing, "protocol.pause_writing() failed"),
            Signal::Resume => (&names.resume_writing, "protocol.resume_writing() failed"),
        };
        match protocol.map(|protocol| calls::method(protocol, method, [])) {
            Some(Err(error)) if leaves_the_loop(self.transport.py(), &error) => Err(error),
            Some(Err(error)) => self.exception(message, error),
            _ => Ok(()),
        }
    }
}

/// For a finalizer: warns of a transport that nobody closed, and has it closed. The exception that may be under way
/// is left alone.
pub fn unclosed(py: Python<'_>, text: &str, close: impl FnOnce() -> PyResult<()>) {
    let raised = PyErr::take(py);
    let warning = std::ffi::CString::new(format!("unclosed transport {text}")).unwrap_or_default();
    let warned = PyErr::warn(py, &py.get_type::<PyResourceWarning>(), &warning, 1);
    let closed = close();
    for error in [warned, closed].into_iter().filter_map(Result::err) {
        error.write_unraisable(py, None);
    }
    if let Some(raised) = raised {
        raised.restore(py);
    }
}

/// What asyncio's base classes answer for a method that a kind of transport has only because its base has it.
#[cold]
pub fn not_implemented<T>() -> PyResult<T> {
    Err(PyNotImplementedError::new_err(()))
}

/// The arguments of `set_write_buffer_limits`: any number, as in asyncio.
pub fn water_marks(
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

/// The error for marks (high, low) that [`Flow::set_limits`](super::flow::Flow::set_limits) refuses.
pub fn wrong_marks((high, low): (i64, i64)) -> PyErr {
    PyValueError::new_err(format!("high ({high}) must be >= low ({low}) must be >= 0"))
}

/// Beyond the range of i64 it makes no difference how far.
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
