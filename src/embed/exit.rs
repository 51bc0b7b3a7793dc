//! The end of the interpreter: all loops that were started on threads of their own end before it.
//!
//! A thread that still runs Python when the interpreter ends is stopped wherever it is, and Rust's frames on its stack
//! are never unwound. So an `atexit` function stops the loops, and waits for them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyCFunction;

use super::handle::LoopHandle;

/// How long a `LoopThread` that is dropped, and the interpreter at its end, wait for a loop to end.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// The loops of all threads that were started.
static STARTED: Mutex<Vec<LoopHandle>> = Mutex::new(Vec::new());

/// Has the loop ended with the interpreter. Forgets those that have ended before.
pub(super) fn remember(handle: &LoopHandle) {
    let mut ended = Vec::new();
    {
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        ended.extend(started.extract_if(.., |handle| handle.core().host.ending.wait_closed(Duration::ZERO)));
        started.push(handle.clone());
    }
    drop(ended);
}

/// Has the interpreter end all loops when it is finalized.
pub(super) fn end_at_exit(py: Python<'_>) -> PyResult<()> {
    let end = PyCFunction::new_closure(py, None, None, |_args, _keywords| {
        let started = std::mem::take(&mut *STARTED.lock().unwrap_or_else(PoisonError::into_inner));
        for handle in &started {
            // First all are asked, so that they end at the same time.
            let _ = handle.stop();
        }
        for handle in started {
            let _ = handle.shutdown(GRACE);
        }
    })?;
    py.import("atexit")?.call_method1("register", (end,)).map(drop)
}
