//! What a loop keeps for the program that hosts Python (the feature `embed`): work from the host's threads, the state
//! of the loop's end, and counters. The API for the host is in `src/embed/`, which this file does not know.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;

use crate::py::context::{self, EmptyBatch};
use crate::reactor::token::{Slots, Token};

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

/// Somebody who wants to be called when the loop has closed.
pub trait AtClose: Send + Sync {
    /// Called once the loop is closed.
    fn at_close(&self);
}

/// What the loop and the threads of the host share besides work.
#[derive(Default)]
pub struct Host {
    /// True once the loop was asked to end. No work of the host is accepted any more.
    ending: AtomicBool,
    /// True once the loop is closed. `changed` is notified then.
    closed: Mutex<bool>,
    changed: Condvar,
    /// Those who wait for something that a closed loop will never do.
    waiting: Mutex<Slots<Arc<dyn AtClose>>>,
    // The counters of `embed::Metrics`.
    pub tasks_spawned: AtomicU64,
    pub tasks_finished: AtomicU64,
    pub callbacks: AtomicU64,
    pub futures_spawned: AtomicU64,
    pub futures_finished: AtomicU64,
    pub completions: AtomicU64,
    pub sources: AtomicU64,
}

impl Host {
    /// True once the loop was asked to end, or is closed.
    pub fn is_ending(&self) -> bool {
        self.ending.load(SeqCst)
    }

    /// Asks the loop to end: work is refused from here on. True for the first caller.
    pub fn end(&self) -> bool {
        !self.ending.swap(true, SeqCst)
    }

    /// Has `who` called when the loop has closed, unless [`Host::leave`] comes first.
    pub fn wait(&self, who: Arc<dyn AtClose>) -> Token {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(who)
    }

    /// Takes back a [`Host::wait`].
    pub fn leave(&self, token: Token) {
        let left = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
        drop(left);
    }

    /// Called when the loop is closed: everybody who waits goes on.
    pub fn closed(&self) {
        self.ending.store(true, SeqCst);
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain();
        waiting.iter().for_each(|who| who.at_close());
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits until the loop is closed. False if that takes longer than `timeout`. The caller must not hold the GIL.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let (closed, _) = self
            .changed
            .wait_timeout_while(closed, timeout, |closed| !*closed)
            .unwrap_or_else(PoisonError::into_inner);
        *closed
    }
}
