//! `PyTask`: a Python coroutine on the loop as a Rust future, for any executor.
//!
//! The task and its future share one [`Outcome`]. The loop's thread fills it; whoever awaits empties it. Python
//! objects are called and dropped outside of its lock.

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

use super::LoopClosed;
use super::guard::caught;
use super::handle::LoopHandle;
use crate::core::{AtClose, LoopCore};
use crate::py::cell::LoopCell;
use crate::py::new::intern;
use crate::reactor::token::Token;

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

struct Outcome<T> {
    state: Mutex<State<T>>,
    core: Arc<LoopCore>,
}

struct State<T> {
    result: Option<PyResult<T>>,
    /// True once there was a result.
    settled: bool,
    waker: Option<Waker>,
    /// The `asyncio.Task`, from its creation to its end.
    task: Option<Py<PyAny>>,
    /// True once nobody wants the task any more.
    cancelled: bool,
}

impl<T> Outcome<T> {
    /// Nothing that can panic runs under this lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the first result, and wakes whoever waits for it.
    fn settle(&self, result: PyResult<T>) {
        let (task, waker) = {
            let mut state = self.lock();
            if state.settled {
                return;
            }
            state.settled = true;
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
        self.settle(Err(LoopClosed.into()));
    }
}

/// The two ends of a new task.
pub(super) fn pair<T: Send + 'static>(handle: LoopHandle) -> (PyTask<T>, Promise<T>) {
    let state = State { result: None, settled: false, waker: None, task: None, cancelled: false };
    let outcome = Arc::new(Outcome { state: Mutex::new(state), core: handle.core().clone() });
    handle.core().host.tasks_spawned.fetch_add(1, Relaxed);
    let waiting = handle.core().host.wait(outcome.clone());
    let promise = Promise { outcome: outcome.clone(), handle: handle.clone(), waiting };
    (PyTask { outcome, handle, detached: false }, promise)
}

impl<T> PyTask<T> {
    /// Asks Python to cancel the task; it ends with `asyncio.CancelledError`, if it does not catch that.
    pub fn cancel(&self) {
        let task = {
            let mut state = self.outcome.lock();
            if state.settled {
                return;
            }
            state.cancelled = true;
            state.task.take()
        };
        if let Some(task) = task {
            // Refused by a closed loop only, whose tasks have ended.
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
        self.outcome.lock().settled
    }
}

impl<T> Future for PyTask<T> {
    type Output = PyResult<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<PyResult<T>> {
        let mut state = self.outcome.lock();
        if let Some(result) = state.result.take() {
            return Poll::Ready(result);
        }
        if state.settled {
            return Poll::Ready(Err(PyRuntimeError::new_err("the task's result has been taken already")));
        }
        let replaced = state.waker.replace(context.waker().clone());
        drop(state);
        // Not under the lock: it may be the last that keeps its executor's task, and that task this future.
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

/// The loop's end of a task. Dropped without a result, it fails the task with [`LoopClosed`].
pub(super) struct Promise<T> {
    outcome: Arc<Outcome<T>>,
    handle: LoopHandle,
    /// The outcome's place among those that are told of the loop's end.
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
            // Before it came to anything: what it was to be made of is dropped.
            self.outcome.settle(Err(CancelledError::new_err(())));
            return Ok(());
        }
        if self.handle.is_closed() {
            return Ok(());
        }
        let handle = self.handle.clone();
        match caught(|| schedule(&handle, make(py)?)) {
            Ok(task) => self.follow(&task, convert),
            Err(error) => {
                self.outcome.settle(Err(error));
                Ok(())
            }
        }
    }

    /// Has the task's end fill the outcome.
    fn follow<C>(self, task: &Bound<'_, PyAny>, convert: C) -> PyResult<()>
    where
        C: FnOnce(Bound<'_, PyAny>) -> PyResult<T> + Send + 'static,
    {
        let py = task.py();
        let outcome = self.outcome.clone();
        on_done(task, move |task| {
            let result = caught(|| convert(result_of(&task)?));
            self.outcome.settle(result);
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
        self.outcome.settle(Err(LoopClosed.into()));
        self.handle.core().host.leave(self.waiting);
    }
}

/// Runs a coroutine as a task; whatever else can be awaited as asyncio's `ensure_future` does.
fn schedule<'py>(handle: &LoopHandle, coroutine: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = coroutine.py();
    let event_loop = handle.event_loop(py);
    // SAFETY: a live object, and the interpreter is held.
    if unsafe { ffi::PyCoro_CheckExact(coroutine.as_ptr()) } != 0 {
        return event_loop.call_method1(intern!(py, "create_task")?, (coroutine,));
    }
    let keywords = pyo3::types::PyDict::new(py);
    keywords.set_item(intern!(py, "loop")?, event_loop)?;
    py.import("asyncio")?.call_method("ensure_future", (coroutine,), Some(&keywords))
}

/// What a future that is done has come to.
fn result_of<'py>(future: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = future.py();
    // Looked at rather than raised: pyo3 panics when Rust catches a PanicException.
    let exception = future.call_method0(intern!(py, "exception")?)?;
    if !exception.is_none() {
        return Err(PyErr::from_value(exception));
    }
    future.call_method0(intern!(py, "result")?)
}

// ---------------------------------------------------------------------------------------------- done callbacks

type DoneCallback = Box<dyn for<'py> FnOnce(Bound<'py, PyAny>) -> PyResult<()> + Send>;

/// A callback of the host's for `add_done_callback`.
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

/// Calls `callback` on the loop's thread once `future` is done; drops it if that never comes.
pub(super) fn on_done<F>(future: &Bound<'_, PyAny>, callback: F) -> PyResult<()>
where
    F: for<'py> FnOnce(Bound<'py, PyAny>) -> PyResult<()> + Send + 'static,
{
    let py = future.py();
    let done = Bound::new(py, Done(LoopCell::new(Some(Box::new(callback)))))?;
    future.call_method1(intern!(py, "add_done_callback")?, (done,)).map(drop)
}

// ---------------------------------------------------------------------------------------------- coroutines

/// A coroutine on its way to the loop; closed if it gets nowhere, so that Python need not warn that it was never
/// awaited.
pub(super) struct Coroutine(Option<Py<PyAny>>);

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
            if let Ok(name) = intern!(py, "close")
                && let Ok(close) = coroutine.getattr(name)
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

/// Blocks the thread, which does not hold the interpreter, until `task` has ended.
pub(super) fn wait<T>(task: PyTask<T>) -> PyResult<T> {
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
