//! What a loop keeps for the program that hosts Python (the feature `embed`): work from the host's threads, the state
//! of the loop's end (in `ending.rs`), and counters. The API for the host is in `src/embed/`, which this file does not know.

use std::sync::atomic::AtomicU64;

use pyo3::prelude::*;

use super::ending::Ending;
use crate::py::context::{self, EmptyBatch};

/// One piece of work from a thread of the host. It is dropped without having run if the loop is closed first.
pub struct Job {
    /// The context that it runs in. None: an empty one.
    pub context: Option<Py<PyAny>>,
    /// What is run, on the loop's thread. An error is SystemExit or KeyboardInterrupt, which leave the loop; the job
    /// has reported all others itself.
    pub run: Box<dyn FnOnce(Python<'_>) -> PyResult<()> + Send>,
}

impl Job {
    /// Runs it in its context.
    pub fn run(self, py: Python<'_>, empty: &mut EmptyBatch<'_, '_>) -> PyResult<()> {
        let Self { context, run } = self;
        if let Some(context) = context {
            return context::run_in(&context.into_bound(py), || run(py));
        }
        let mut result = Ok(());
        let entered = empty.run(|| {
            result = run(py);
            Ok(())
        });
        entered.map_err(|raised| raised.fetch(py)).and(result)
    }
}

/// What the loop and the threads of the host share besides work.
#[derive(Default)]
pub struct Host {
    /// Whether the loop ends, and who waits for that.
    pub ending: Ending,
    // The counters of `embed::Metrics`.
    pub tasks_spawned: AtomicU64,
    pub tasks_finished: AtomicU64,
    pub callbacks: AtomicU64,
    pub futures_spawned: AtomicU64,
    pub futures_finished: AtomicU64,
    pub completions: AtomicU64,
    pub sources: AtomicU64,
}
