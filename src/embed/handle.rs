//! `LoopHandle`: a loop as the threads of the host see it. What it can run (tasks, futures, sources) is added to it by
//! the files of these.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::error::{LoopClosed, ShutdownError};
use super::guard::{caught, copied_context, detached, report};
use crate::core::{Entry, Job, LoopCore};
use crate::event_loop::EventLoop;

/// A loop, for any thread to give work to. Cheap to clone.
#[derive(Clone)]
pub struct LoopHandle {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<LoopCore>,
    event_loop: Py<PyAny>,
}

/// What the host has had a loop do so far. Each number is exact once the loop is idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Coroutines that were accepted by `spawn` and similar methods.
    pub tasks_spawned: u64,
    /// How many of them have not ended.
    pub tasks_alive: u64,
    /// Callbacks of `call_soon` that have run.
    pub callbacks: u64,
    /// Rust futures that were given to `spawn_local`.
    pub futures_spawned: u64,
    /// How many of them have not ended.
    pub futures_alive: u64,
    /// Awaitables that a `Completer` has completed.
    pub completions: u64,
    /// Sources that are registered now.
    pub sources: u64,
}

impl LoopHandle {
    /// The handle of an `rloop.Loop`, running or not.
    ///
    /// # Errors
    /// TypeError for a loop that is not rloop's.
    pub fn of(event_loop: &Bound<'_, PyAny>) -> PyResult<Self> {
        let core = core_of(event_loop)?.clone();
        Ok(Self { inner: Arc::new(Inner { core, event_loop: event_loop.clone().unbind() }) })
    }

    /// The handle of the loop that runs on this thread.
    ///
    /// # Errors
    /// RuntimeError when none does, TypeError when it is not rloop's.
    pub fn current(py: Python<'_>) -> PyResult<Self> {
        Self::of(&running_loop(py)?)
    }

    /// The Python object: an `rloop.Loop`.
    pub fn event_loop<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.inner.event_loop.bind(py)
    }

    /// True once the loop has ended, or was asked to end: it accepts no work any more.
    pub fn is_closed(&self) -> bool {
        self.core().host.ending.has_begun()
    }

    // ------------------------------------------------------------------------------------------ callbacks

    /// Has `callback` called on the loop's thread, in a copy of the caller's context, behind everything that was
    /// scheduled before. What it raises, and a panic, goes to the loop's exception handler.
    ///
    /// A loop that ends drops the callbacks that it has had no turn for.
    pub fn call_soon<F>(&self, callback: F) -> Result<(), LoopClosed>
    where
        F: FnOnce(Python<'_>) -> PyResult<()> + Send + 'static,
    {
        let handle = self.clone();
        self.send(move |py| {
            handle.core().host.callbacks.fetch_add(1, Relaxed);
            caught(|| callback(py))
                .or_else(|error| report(handle.event_loop(py), "Exception in a callback of the host", error))
        })
    }

    // ------------------------------------------------------------------------------------------ the end

    /// Asks the loop to end, without waiting: it completes its turn, cancels its tasks, and closes.
    pub fn stop(&self) -> Result<(), LoopClosed> {
        let core = self.core();
        if !core.host.ending.begin() {
            return Err(LoopClosed);
        }
        core.stopping.store(true, SeqCst);
        core.wake_quietly();
        Ok(())
    }

    /// [Stops](LoopHandle::stop) the loop and waits until it is closed. The GIL is released meanwhile.
    ///
    /// # Errors
    /// [`ShutdownError::Closed`] when it is closed already; `TimedOut` when a task or an executor takes longer than
    /// `timeout` to end (the loop goes on ending, and this can be called again); `OwnThread` when called on the
    /// loop's own thread, which is asked to stop all the same.
    pub fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        let ending = &self.core().host.ending;
        if self.stop().is_err() && ending.wait_closed(Duration::ZERO) {
            return Err(ShutdownError::Closed);
        }
        if self.core().is_own_thread() {
            return Err(ShutdownError::OwnThread);
        }
        if detached(|| ending.wait_closed(timeout)) { Ok(()) } else { Err(ShutdownError::TimedOut) }
    }

    /// What the host has had the loop do so far. Works after close too.
    pub fn metrics(&self) -> Metrics {
        let host = &self.core().host;
        let (tasks_finished, futures_finished) =
            (host.tasks_finished.load(Relaxed), host.futures_finished.load(Relaxed));
        let (tasks_spawned, futures_spawned) =
            (host.tasks_spawned.load(Relaxed), host.futures_spawned.load(Relaxed));
        Metrics {
            tasks_spawned,
            tasks_alive: tasks_spawned.saturating_sub(tasks_finished),
            callbacks: host.callbacks.load(Relaxed),
            futures_spawned,
            futures_alive: futures_spawned.saturating_sub(futures_finished),
            completions: host.completions.load(Relaxed),
            sources: host.sources.load(Relaxed),
        }
    }

    // ------------------------------------------------------------------------------------------ for this folder

    pub(super) fn core(&self) -> &Arc<LoopCore> {
        &self.inner.core
    }

    /// Has `run` called on the loop's thread, in a copy of the caller's context. Refused once the loop was asked to
    /// end.
    pub(super) fn send<F>(&self, run: F) -> Result<(), LoopClosed>
    where
        F: FnOnce(Python<'_>) -> PyResult<()> + Send + 'static,
    {
        if self.is_closed() {
            return Err(LoopClosed);
        }
        self.send_to_the_end(copied_context().unwrap_or(None), run)
    }

    /// As `send`, but refused only once the loop is closed: for what belongs to earlier work, such as its cancellation.
    pub(super) fn send_to_the_end<F>(&self, context: Option<Py<PyAny>>, run: F) -> Result<(), LoopClosed>
    where
        F: FnOnce(Python<'_>) -> PyResult<()> + Send + 'static,
    {
        let job = Job { context, run: Box::new(run) };
        self.core().send(Entry::Job(Box::new(job))).map_err(|_refused| LoopClosed)
    }
}

/// The loop that runs on this thread.
pub(super) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // This is called once for each awaitable; an import each time would be too slow.
    static GET_RUNNING_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GET_RUNNING_LOOP.import(py, "asyncio", "get_running_loop")?.call0()
}

/// The core of a loop, which must be rloop's.
pub(super) fn core_of<'a>(event_loop: &'a Bound<'_, PyAny>) -> PyResult<&'a Arc<LoopCore>> {
    match event_loop.cast::<EventLoop>() {
        Ok(event_loop) => Ok(event_loop.get().core()),
        Err(_) => Err(PyTypeError::new_err(format!("an rloop.Loop is required, not {event_loop}"))),
    }
}
