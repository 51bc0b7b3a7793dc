//! `PyTask`: a Python coroutine on the loop as a Rust future, for any executor; and `spawn` and `block_on`, which make
//! them.
//!
//! The Python task and its Rust future share one [`Outcome`]. The loop's thread fills it in; whoever awaits the future
//! takes the result out. No Python object is called or dropped under its lock.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use pyo3::exceptions::PyRuntimeError;
use pyo3::exceptions::asyncio::CancelledError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::error::LoopClosed;
use super::guard::{caught, detached};
use super::handle::LoopHandle;
use crate::core::{AtClose, LoopCore};
use crate::py::cell::LoopCell;
use crate::py::new::intern;
use crate::reactor::token::Token;

impl LoopHandle {
    /// Runs a coroutine (or any other awaitable) on the loop, as a task in a copy of the caller's context.
    ///
    /// Dropping the future that this returns cancels the task, unless it was [detached](PyTask::detach).
    pub fn spawn(&self, coroutine: Bound<'_, PyAny>) -> Result<PyTask, LoopClosed> {
        let coroutine = Coroutine::new(coroutine.unbind());
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

    /// Runs what `make` makes, and converts the result on the loop's thread.
    fn spawn_converted<T, F, C>(&self, make: F, convert: C) -> Result<PyTask<T>, LoopClosed>
    where
        T: Send + 'static,
        F: for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send + 'static,
        C: FnOnce(Bound<'_, PyAny>) -> PyResult<T> + Send + 'static,
    {
        let (task, promise) = pair(self.clone());
        self.send(move |py| promise.start(py, make, convert))?;
        Ok(task)
    }

    /// Runs a coroutine as [`LoopHandle::spawn`] does and waits for its result. The GIL is released meanwhile.
    ///
    /// # Errors
    /// What the coroutine raises; RuntimeError when the loop is closed, or when called on the loop's own thread,
    /// which would wait for itself.
    pub fn block_on(&self, coroutine: Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        if let Err(error) = self.refuse_own_thread() {
            drop(Coroutine::new(coroutine.unbind()));
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

    /// RuntimeError on the loop's own thread.
    fn refuse_own_thread(&self) -> PyResult<()> {
        if self.core().is_own_thread() {
            return Err(PyRuntimeError::new_err(
                "block_on() would wait for the loop on the loop's own thread",
            ));
        }
        Ok(())
    }
}

/// A Python task on a loop, as a future: its result, or what it raised with its traceback.
///
/// Dropping it cancels the task; [`PyTask::detach`] lets it go on. If the loop closes before the task has ended, the
/// future fails with [`LoopClosed`] as a `PyErr`.
#[must_use = "dropping it cancels the task"]
pub struct PyTask<T = Py<PyAny>> {
    outcome: Arc<Outcome<T>>,
    handle: LoopHandle,
    detached: bool,
}

/// What a Python task and its Rust future share.
struct Outcome<T> {
    progress: Mutex<Progress<T>>,
    core: Arc<LoopCore>,
}

/// How far a task has come.
struct Progress<T> {
    /// The result, until it is taken.
    result: Option<PyResult<T>>,
    /// True once there was a result.
    ended: bool,
    /// Who awaits the result.
    waker: Option<Waker>,
    /// The `asyncio.Task`, from its creation to its end.
    task: Option<Py<PyAny>>,
    /// True once nobody wants the task any more.
    cancelled: bool,
}

impl<T> Outcome<T> {
    /// Nothing under this lock can panic, so that a poisoned lock can be used as any other.
    fn lock(&self) -> MutexGuard<'_, Progress<T>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the result, unless there was one already, and wakes whoever awaits it.
    fn finish(&self, result: PyResult<T>) {
        let (task, waker) = {
            let mut state = self.lock();
            if state.ended {
                return;
            }
            state.ended = true;
            state.result = Some(result);
            (state.task.take(), state.waker.take())
        };
        self.core.host.tasks_finished.fetch_add(1, Relaxed);
        drop(task);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T: Send> AtClose for Outcome<T> {
    fn at_close(&self) {
        self.finish(Err(LoopClosed.into()));
    }
}

/// The two ends of a new task.
fn pair<T: Send + 'static>(handle: LoopHandle) -> (PyTask<T>, Promise<T>) {
    let progress = Progress { result: None, ended: false, waker: None, task: None, cancelled: false };
    let outcome = Arc::new(Outcome { progress: Mutex::new(progress), core: handle.core().clone() });
    handle.core().host.tasks_spawned.fetch_add(1, Relaxed);
    let waiting = handle.core().host.ending.wait(outcome.clone());
    let promise = Promise { outcome: outcome.clone(), handle: handle.clone(), waiting };
    (PyTask { outcome, handle, detached: false }, promise)
}

impl<T> PyTask<T> {
    /// Asks Python to cancel the task; it ends with `asyncio.CancelledError`, if it does not catch that.
    pub fn cancel(&self) {
        let task = {
            let mut state = self.outcome.lock();
            if state.ended {
                return;
            }
            state.cancelled = true;
            state.task.take()
        };
        if let Some(task) = task {
            // Only a closed loop refuses this, and its tasks have ended.
            let _ = self.handle.send_to_the_end(None, move |py| {
                task.bind(py).call_method0(intern!(py, "cancel")?).map(drop)
            });
        }
    }

    /// Lets the task go on without its future.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// True once the task has ended.
    pub fn is_finished(&self) -> bool {
        self.outcome.lock().ended
    }
}

impl<T> Future for PyTask<T> {
    type Output = PyResult<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<PyResult<T>> {
        let mut state = self.outcome.lock();
        if let Some(result) = state.result.take() {
            return Poll::Ready(result);
        }
        if state.ended {
            return Poll::Ready(Err(PyRuntimeError::new_err("the task's result has been taken already")));
        }
        let replaced = state.waker.replace(context.waker().clone());
        drop(state);
        // Not under the lock: the waker may hold the last reference to a task of its executor, and that task this
        // future.
        drop(replaced);
        Poll::Pending
    }
}

impl<T> Drop for PyTask<T> {
    fn drop(&mut self) {
        if !self.detached {
            self.cancel();
        }
    }
}

/// The loop's end of a task. If it is dropped without a result, the task fails with [`LoopClosed`].
struct Promise<T> {
    outcome: Arc<Outcome<T>>,
    handle: LoopHandle,
    /// Names the outcome among those that are called when the loop has closed.
    waiting: Token,
}

impl<T: Send + 'static> Promise<T> {
    /// Makes the task, on the loop's thread.
    pub fn start<F, C>(self, py: Python<'_>, make: F, convert: C) -> PyResult<()>
    where
        F: for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send + 'static,
        C: FnOnce(Bound<'_, PyAny>) -> PyResult<T> + Send + 'static,
    {
        if self.outcome.lock().cancelled {
            // It was cancelled before it was made, and is not made.
            self.outcome.finish(Err(CancelledError::new_err(())));
            return Ok(());
        }
        if self.handle.is_closed() {
            return Ok(());
        }
        let handle = self.handle.clone();
        match caught(|| schedule(&handle, make(py)?)) {
            Ok(task) => self.follow(&task, convert),
            Err(error) => {
                self.outcome.finish(Err(error));
                Ok(())
            }
        }
    }

    /// Has the task's result put into the outcome when it ends.
    fn follow<C>(self, task: &Bound<'_, PyAny>, convert: C) -> PyResult<()>
    where
        C: FnOnce(Bound<'_, PyAny>) -> PyResult<T> + Send + 'static,
    {
        let py = task.py();
        let outcome = self.outcome.clone();
        on_done(task, move |task| {
            let result = caught(|| convert(result_of(&task)?));
            self.outcome.finish(result);
            Ok(())
        })?;
        let cancelled = {
            let mut state = outcome.lock();
            if !state.cancelled {
                state.task = Some(task.clone().unbind());
            }
            state.cancelled
        };
        if cancelled {
            task.call_method0(intern!(py, "cancel")?)?;
        }
        Ok(())
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        // Does nothing if there was a result.
        self.outcome.finish(Err(LoopClosed.into()));
        self.handle.core().host.ending.leave(self.waiting);
    }
}

/// Runs a coroutine as a task; whatever else can be awaited as asyncio's `ensure_future` does.
fn schedule<'py>(handle: &LoopHandle, coroutine: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = coroutine.py();
    let event_loop = handle.event_loop(py);
    // SAFETY: a live object, and the GIL is held.
    if unsafe { ffi::PyCoro_CheckExact(coroutine.as_ptr()) } != 0 {
        return event_loop.call_method1(intern!(py, "create_task")?, (coroutine,));
    }
    let keywords = pyo3::types::PyDict::new(py);
    keywords.set_item(intern!(py, "loop")?, event_loop)?;
    py.import("asyncio")?.call_method("ensure_future", (coroutine,), Some(&keywords))
}

/// The result of a future that is done.
fn result_of<'py>(future: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = future.py();
    // The exception is looked at and not raised, because PyO3 panics when Rust catches a PanicException.
    let exception = future.call_method0(intern!(py, "exception")?)?;
    if !exception.is_none() {
        return Err(PyErr::from_value(exception));
    }
    future.call_method0(intern!(py, "result")?)
}

// ---------------------------------------------------------------------------------------------- done callbacks

type DoneCallback = Box<dyn for<'py> FnOnce(Bound<'py, PyAny>) -> PyResult<()> + Send>;

/// A closure as a Python callable, for `add_done_callback`.
#[pyclass(frozen, module = "rloop._rloop")]
struct Done(LoopCell<Option<DoneCallback>>);

#[pymethods]
impl Done {
    fn __call__(&self, future: Bound<'_, PyAny>) -> PyResult<()> {
        match self.0.with(future.py(), Option::take) {
            Some(callback) => callback(future),
            None => Ok(()),
        }
    }
}

/// Calls `callback` on the loop's thread once `future` is done. It is dropped if that never happens.
pub(super) fn on_done<F>(future: &Bound<'_, PyAny>, callback: F) -> PyResult<()>
where
    F: for<'py> FnOnce(Bound<'py, PyAny>) -> PyResult<()> + Send + 'static,
{
    let py = future.py();
    let done = Bound::new(py, Done(LoopCell::new(Some(Box::new(callback)))))?;
    future.call_method1(intern!(py, "add_done_callback")?, (done,)).map(drop)
}

// ---------------------------------------------------------------------------------------------- coroutines

/// A coroutine on its way to the loop. If it does not arrive, it is closed, so that Python does not warn that it was
/// never awaited.
struct Coroutine(Option<Py<PyAny>>);

impl Coroutine {
    pub fn new(coroutine: Py<PyAny>) -> Self {
        Self(Some(coroutine))
    }

    pub fn take(mut self, py: Python<'_>) -> Bound<'_, PyAny> {
        self.0.take().map_or_else(|| py.None().into_bound(py), |coroutine| coroutine.into_bound(py))
    }
}

impl Drop for Coroutine {
    fn drop(&mut self) {
        let Some(coroutine) = self.0.take() else {
            return;
        };
        Python::try_attach(|py| {
            let coroutine = coroutine.into_bound(py);
            if let Ok(close) = intern!(py, "close").and_then(|name| coroutine.getattr(name))
                && let Err(error) = close.call0()
            {
                error.write_unraisable(py, Some(&coroutine));
            }
        });
    }
}

// ---------------------------------------------------------------------------------------------- waiting

/// Wakes a thread that waits for a future.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks the thread until `task` has ended. The GIL is released meanwhile.
fn wait<T: Send>(task: PyTask<T>) -> PyResult<T> {
    detached(|| wait_detached(task))
}

fn wait_detached<T>(task: PyTask<T>) -> PyResult<T> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut task = std::pin::pin!(task);
    loop {
        if let Poll::Ready(result) = task.as_mut().poll(&mut context) {
            return result;
        }
        std::thread::park();
    }
}
