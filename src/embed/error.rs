//! The errors that the host gets of a loop as Rust types. What Python code raises is a `PyErr`.

use std::fmt;

use pyo3::PyErr;
use pyo3::exceptions::PyRuntimeError;

/// The loop has ended, or is about to. Becomes Python's `RuntimeError("Event loop is closed")`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopClosed;

impl fmt::Display for LoopClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Event loop is closed")
    }
}

impl std::error::Error for LoopClosed {}

impl From<LoopClosed> for PyErr {
    fn from(closed: LoopClosed) -> Self {
        PyRuntimeError::new_err(closed.to_string())
    }
}

/// Why [`LoopHandle::shutdown`](super::LoopHandle::shutdown) has not closed the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownError {
    /// It was closed before.
    Closed,
    /// It was asked to end, and has not ended in time.
    TimedOut,
    /// It was asked to end, and does so once this thread, which is the loop's own, returns to it.
    OwnThread,
}

impl fmt::Display for ShutdownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => LoopClosed.fmt(f),
            Self::TimedOut => f.write_str("the event loop has not ended in time"),
            Self::OwnThread => f.write_str("the event loop cannot be waited for on its own thread"),
        }
    }
}

impl std::error::Error for ShutdownError {}
