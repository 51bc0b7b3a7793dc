//! What a loop has for the program that hosts it (`embed`): work from its threads, the state of its end, counters.
//! Nothing here knows who the host is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;

use crate::py::context::{self, EmptyBatch};
use crate::reactor::token::{Slots, Token};

/// One piece of work from a host's thread. Dropped without having run when the loop closes first.
pub struct Job {
    /// None: in an empty context.
    pub context: Option<Py<PyAny>>,
    /// Err: SystemExit or KeyboardInterrupt, which leave the loop; everything else it has reported itself.
    pub run: Box<dyn FnOnce(Python<'_>) -> PyResult<()> + Send>,
}

impl Job {
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

/// Somebody who is told when the loop has closed.
pub trait AtClose: Send + Sync {
    fn at_close(&self);
}

/// What threads of the host and the loop tell each other besides work.
#[derive(Default)]
pub struct Host {
    /// True once the loop has been asked to end: no work of the host's is accepted any more.
    ending: AtomicBool,
    closed: Mutex<bool>,
    /// Who waits for something that a loop which is closed will never do.
    waiting: Mutex<Slots<Arc<dyn AtClose>>>,
    changed: Condvar,
    pub tasks_spawned: AtomicU64,
    pub tasks_finished: AtomicU64,
    pub callbacks: AtomicU64,
    pub futures_spawned: AtomicU64,
    pub futures_finished: AtomicU64,
    pub completions: AtomicU64,
    pub sources: AtomicU64,
}

impl Host {
    pub fn is_ending(&self) -> bool {
        self.ending.load(SeqCst)
    }

    /// Refuses work from here on. True for the first who asks.
    pub fn end(&self) -> bool {
        !self.ending.swap(true, SeqCst)
    }

    /// Adds somebody to be told when the loop has closed, until [`Host::leave`].
    pub fn wait(&self, who: Arc<dyn AtClose>) -> Token {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(who)
    }

    pub fn leave(&self, token: Token) {
        let left = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
        drop(left);
    }

    /// The loop is closed: whoever waits for that, or for the loop, goes on.
    pub fn closed(&self) {
        self.ending.store(true, SeqCst);
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain();
        waiting.iter().for_each(|who| who.at_close());
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits until the loop is closed; false if that took longer than `timeout`. Not to be called with the
    /// interpreter held.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let (closed, _) = self
            .changed
            .wait_timeout_while(closed, timeout, |closed| !*closed)
            .unwrap_or_else(PoisonError::into_inner);
        *closed
    }
}
