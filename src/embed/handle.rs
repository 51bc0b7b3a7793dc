//! `LoopHandle`: a loop as every thread of the host sees it.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::LoopClosed;
use super::guard::{caught, copied_context, detached, report};
use super::task::{self, PyTask};
use super::thread::ShutdownError;
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

/// What the host has had a loop do so far; each number is exact once the loop is at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Coroutines that were accepted by `spawn` and its kin.
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

    /// True once the loop has ended or has been asked to: what is asked of it now is refused.
    pub fn is_closed(&self) -> bool {
        self.core().host.is_ending()
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

    // ------------------------------------------------------------------------------------------ coroutines

    /// Runs a coroutine (or any other awaitable) on the loop, as a task in a copy of the caller's context.
    ///
    /// Dropping the future that this returns cancels the task, unless it was [detached](PyTask::detach).
    pub fn spawn(&self, coroutine: Bound<'_, PyAny>) -> Result<PyTask, LoopClosed> {
        let coroutine = task::Coroutine::new(coroutine.unbind());
        self.spawn_converted(move |py| Ok(coroutine.take(py)), |result| Ok(result.unbind()))
    }

    /// As [`LoopHandle::spawn`], of a coroutine that `make` makes on the loop's thread: the calling thread needs no
    /// Python.
    pub fn spawn_with<F>(&self, make: F) -> Result<PyTask, LoopClosed>
    where
        F: for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send + 'static,
    {
        self.spawn_converted(make, |result| Ok(result.unbind()))
    }

    /// As [`LoopHandle::spawn_with`], for a result of a Rust type: it is converted on the loop's thread, so that
    /// whoever awaits it needs no Python either.
    pub fn spawn_as<T, F>(&self, make: F) -> Result<PyTask<T>, LoopClosed>
    where
        T: for<'a, 'py> FromPyObject<'a, 'py> + Send + 'static,
        F: for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send + 'static,
    {
        self.spawn_converted(make, |result| result.extract::<T>().map_err(Into::into))
    }

    fn spawn_converted<T, F, C>(&self, make: F, convert: C) -> Result<PyTask<T>, LoopClosed>
    where
        T: Send + 'static,
        F: for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send + 'static,
        C: FnOnce(Bound<'_, PyAny>) -> PyResult<T> + Send + 'static,
    {
        let (task, promise) = task::pair(self.clone());
        self.send(move |py| promise.start(py, make, convert))?;
        Ok(task)
    }

    /// Runs a coroutine as [`LoopHandle::spawn`] does and waits for its result, with the interpreter let go of.
    ///
    /// # Errors
    /// What the coroutine raises; RuntimeError when the loop is closed, or when called on the loop's own thread,
    /// which would wait for itself.
    pub fn block_on(&self, coroutine: Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        if let Err(error) = self.refuse_own_thread() {
            drop(task::Coroutine::new(coroutine.unbind()));
            return Err(error);
        }
        wait(self.spawn(coroutine)?)
    }

    /// [`LoopHandle::block_on`] for [`LoopHandle::spawn_with`].
    pub fn block_on_with<F>(&self, make: F) -> PyResult<Py<PyAny>>
    where
        F: for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send + 'static,
    {
        self.refuse_own_thread()?;
        wait(self.spawn_with(make)?)
    }

    /// [`LoopHandle::block_on`] for [`LoopHandle::spawn_as`].
    pub fn block_on_as<T, F>(&self, make: F) -> PyResult<T>
    where
        T: for<'a, 'py> FromPyObject<'a, 'py> + Send + 'static,
        F: for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send + 'static,
    {
        self.refuse_own_thread()?;
        wait(self.spawn_as(make)?)
    }

    fn refuse_own_thread(&self) -> PyResult<()> {
        if self.core().is_own_thread() {
            return Err(PyRuntimeError::new_err(
                "block_on() would wait for the loop on the loop's own thread",
            ));
        }
        Ok(())
    }

    // ------------------------------------------------------------------------------------------ the end

    /// Asks the loop to end, without waiting: it completes its turn, cancels its tasks, and closes.
    pub fn stop(&self) -> Result<(), LoopClosed> {
        let core = self.core();
        if !core.host.end() {
            return Err(LoopClosed);
        }
        core.stopping.store(true, SeqCst);
        self.wake();
        Ok(())
    }

    /// [Stops](LoopHandle::stop) the loop and waits until it is closed, with the interpreter let go of.
    ///
    /// # Errors
    /// [`ShutdownError::Closed`] when it is closed already; `TimedOut` when a task or an executor takes longer than
    /// `timeout` to end (the loop goes on ending, and this can be called again); `OwnThread` when called on the
    /// loop's own thread, which is asked to stop all the same.
    pub fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        let host = &self.core().host;
        if self.stop().is_err() && host.wait_closed(Duration::ZERO) {
            return Err(ShutdownError::Closed);
        }
        if self.core().is_own_thread() {
            return Err(ShutdownError::OwnThread);
        }
        if detached(|| host.wait_closed(timeout)) { Ok(()) } else { Err(ShutdownError::TimedOut) }
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

    // ------------------------------------------------------------------------------------------ for this layer

    pub(super) fn core(&self) -> &Arc<LoopCore> {
        &self.inner.core
    }

    /// Has `run` called on the loop's thread, unless the loop is ending.
    pub(super) fn send<F>(&self, run: F) -> Result<(), LoopClosed>
    where
        F: FnOnce(Python<'_>) -> PyResult<()> + Send + 'static,
    {
        if self.is_closed() {
            return Err(LoopClosed);
        }
        self.send_to_the_end(copied_context().unwrap_or(None), run)
    }

    /// As `send`, also to a loop that is ending: for what belongs to earlier work, such as its cancellation.
    pub(super) fn send_to_the_end<F>(&self, context: Option<Py<PyAny>>, run: F) -> Result<(), LoopClosed>
    where
        F: FnOnce(Python<'_>) -> PyResult<()> + Send + 'static,
    {
        let job = Job { context, run: Box::new(run) };
        self.core().inbox.send(Entry::Job(Box::new(job))).map_err(|_refused| LoopClosed)?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        // Fails only where the loop's own fd is gone, and with it the loop.
        let _ = self.core().waker.wake();
    }
}

/// Waits for a task, with the interpreter let go of.
fn wait<T: Send>(task: PyTask<T>) -> PyResult<T> {
    detached(|| task::wait(task))
}

pub(super) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // Called per awaitable, for which an import each time is too slow.
    static GET_RUNNING_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GET_RUNNING_LOOP.import(py, "asyncio", "get_running_loop")?.call0()
}

/// The state of a loop of ours.
pub(super) fn core_of<'a>(event_loop: &'a Bound<'_, PyAny>) -> PyResult<&'a Arc<LoopCore>> {
    match event_loop.cast::<EventLoop>() {
        Ok(event_loop) => Ok(event_loop.get().core()),
        Err(_) => Err(PyTypeError::new_err(format!("an rloop.Loop is required, not {event_loop}"))),
    }
}
