//! What every transport has to do with its protocol beside the bytes: pausing and resuming it, telling the loop of what
//! it raised, and the water marks that Python sets. When, is `flow.rs`'s and `lifecycle.rs`'s decision.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::flow::Signal;
use crate::core::LoopCore;
use crate::error::leaves_the_loop;

/// A transport and its protocol, for what is said about both.
pub struct Told<'a, 'py> {
    pub core: &'a LoopCore,
    pub event_loop: &'a Py<PyAny>,
    pub transport: &'a Bound<'py, PyAny>,
    /// None once `connection_lost` was called.
    pub protocol: Option<Bound<'py, PyAny>>,
}

impl Told<'_, '_> {
    /// Gives an exception to the loop's exception handler.
    #[cold]
    pub fn report(&self, message: &str, error: PyErr) -> PyResult<()> {
        let (py, names) = (self.transport.py(), self.core.names);
        let context = PyDict::new(py);
        context.set_item(&names.message, message)?;
        context.set_item(&names.exception, error.into_value(py))?;
        context.set_item(&names.transport, self.transport)?;
        context.set_item(&names.protocol, &self.protocol)?;
        self.event_loop.call_method1(py, &names.call_exception_handler, (context,))?;
        Ok(())
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
            let keywords = PyDict::new(py);
            keywords.set_item("exc_info", error.value(py))?;
            let args = ("%r: %s", self.transport, message);
            self.core.names.logger.bind(py).getattr("debug")?.call(args, Some(&keywords))?;
        }
        Ok(())
    }

    /// Pauses or resumes the protocol. Err: SystemExit or KeyboardInterrupt; all else is reported.
    pub fn tell(&self, signal: Signal) -> PyResult<()> {
        let names = self.core.names;
        let (method, message) = match signal {
            Signal::Pause => (&names.pause_writing, "protocol.pause_writing() failed"),
            Signal::Resume => (&names.resume_writing, "protocol.resume_writing() failed"),
        };
        match self.protocol.as_ref().map(|protocol| protocol.call_method0(method)) {
            Some(Err(error)) if leaves_the_loop(self.transport.py(), &error) => Err(error),
            Some(Err(error)) => self.report(message, error),
            _ => Ok(()),
        }
    }
}

/// The arguments of `set_write_buffer_limits`: any number, as in asyncio.
pub fn water_marks(
    high: Option<&Bound<'_, PyAny>>,
    low: Option<&Bound<'_, PyAny>>,
) -> PyResult<(Option<i64>, Option<i64>)> {
    Ok((high.map(whole_bytes).transpose()?, low.map(whole_bytes).transpose()?))
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
