//! Loops that the host runs: `LoopThread` on a thread of its own, `run` on the current one; and their ends.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict};

use super::LoopClosed;
use super::guard::{caught, detached};
use super::handle::LoopHandle;
use super::package::install;

/// How long a `LoopThread` that is dropped, and the interpreter at its end, wait for a loop to end.
const GRACE: Duration = Duration::from_secs(10);

/// Why [`LoopHandle::shutdown`] has not closed the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownError {
    /// It was closed before.
    Closed,
    /// It has been asked to end, and has not come to it in time.
    TimedOut,
    /// It has been asked to end, and does so once this thread lets it.
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

/// A loop that runs on a thread of its own until it is stopped or this is dropped.
///
/// It ends as under `asyncio.run`: its tasks are cancelled, asynchronous generators and the default executor are shut
/// down, the loop is closed. Dropping waits up to ten seconds for that, with the interpreter let go of.
///
/// Derefs to its [`LoopHandle`].
pub struct LoopThread {
    handle: LoopHandle,
    /// None once it was waited for.
    thread: Option<JoinHandle<PyResult<()>>>,
}

impl LoopThread {
    /// Starts Python if it does not run yet, [installs](install) rloop in it, and starts a loop.
    ///
    /// # Errors
    /// What [`install`] raises; OSError when there is no thread or fd left for it.
    pub fn start() -> PyResult<Self> {
        Self::named("rloop")
    }

    /// As [`LoopThread::start`], with a name for the thread.
    pub fn named(name: &str) -> PyResult<Self> {
        Python::initialize();
        Python::try_attach(install).unwrap_or_else(|| Err(no_python()))?;
        let (started, starting): (Sender<PyResult<LoopHandle>>, Receiver<_>) = channel();
        let body = move || {
            let served = Python::try_attach(|py| caught(|| serve(py, &started)));
            served.unwrap_or_else(|| Err(no_python()))
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        match detached(move || starting.recv()) {
            Ok(started) => Ok(Self { handle: started?, thread: Some(thread) }),
            // It has failed before it could say so.
            Err(_) => Err(join(thread).err().unwrap_or_else(no_python)),
        }
    }

    /// The handle, to be cloned and sent to wherever work for the loop comes from.
    pub fn handle(&self) -> &LoopHandle {
        &self.handle
    }

    /// Waits until the loop has ended, whoever stops it, with the interpreter let go of.
    ///
    /// # Errors
    /// What made it end before it was stopped: SystemExit and KeyboardInterrupt, as they leave `run_forever()`.
    /// RuntimeError when called on the loop's own thread.
    pub fn join(mut self) -> PyResult<()> {
        if self.handle.core().is_own_thread() {
            return Err(PyRuntimeError::new_err("the event loop cannot be waited for on its own thread"));
        }
        self.thread.take().map_or(Ok(()), join)
    }
}

fn join(thread: JoinHandle<PyResult<()>>) -> PyResult<()> {
    // The thread's own code is guarded: it does not panic.
    detached(|| thread.join())
        .unwrap_or_else(|_| Err(PyRuntimeError::new_err("the event loop's thread panicked")))
}

impl std::ops::Deref for LoopThread {
    type Target = LoopHandle;

    fn deref(&self) -> &LoopHandle {
        &self.handle
    }
}

impl Drop for LoopThread {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        if matches!(self.handle.shutdown(GRACE), Ok(()) | Err(ShutdownError::Closed)) {
            // Closed, so that its thread is about to end. What made it end was for `join`.
            drop(join(thread));
        }
    }
}

/// The thread of a [`LoopThread`].
fn serve(py: Python<'_>, started: &Sender<PyResult<LoopHandle>>) -> PyResult<()> {
    let made = runner(py).and_then(|runner| {
        let event_loop = runner.call_method0("get_loop")?;
        Ok((LoopHandle::of(&event_loop)?, event_loop, runner))
    });
    let (handle, event_loop, runner) = match made {
        Ok(made) => made,
        Err(error) => {
            // Nobody listens any more only if the starting thread is gone.
            let _ = started.send(Err(error));
            return Ok(());
        }
    };
    remember(&handle);
    let _ = started.send(Ok(handle.clone()));
    let ran = event_loop.call_method0("run_forever");
    ran.map(drop).and(finish(&handle, &runner))
}

/// An `asyncio.Runner` with a loop of ours: the one who knows how a loop is to end.
fn runner(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let keywords = PyDict::new(py);
    keywords.set_item("loop_factory", py.import("rloop")?.getattr("new_event_loop")?)?;
    py.import("asyncio")?.call_method("Runner", (), Some(&keywords))
}

fn finish(handle: &LoopHandle, runner: &Bound<'_, PyAny>) -> PyResult<()> {
    // No work of the host's from here on: it would come too late to be cancelled.
    handle.core().host.end();
    runner.call_method0("close").map(drop)
}

/// Runs a coroutine on a new loop on the current thread, as `asyncio.run` does, and returns its result.
///
/// `main` makes the coroutine; it gets the loop's handle, for other threads to give it work. The main thread's loop
/// can handle signals; Ctrl-C cancels the coroutine if the host has left SIGINT to Python.
///
/// # Errors
/// What the coroutine raises, and what [`install`] does. RuntimeError when a loop runs on this thread already, or
/// when the loop was [stopped](LoopHandle::stop) before the coroutine had ended.
///
/// ```
/// use pyo3::prelude::*;
///
/// Python::initialize();
/// let slept = Python::attach(|py| {
///     let slept = rloop::embed::run(py, |_handle| {
///         let sleep = py.import("asyncio")?.getattr("sleep")?;
///         sleep.call1((0.001, "rested"))
///     })?;
///     slept.extract::<String>(py)
/// });
/// assert_eq!(slept.unwrap(), "rested");
/// ```
pub fn run<'py, F>(py: Python<'py>, main: F) -> PyResult<Py<PyAny>>
where
    F: FnOnce(&LoopHandle) -> PyResult<Bound<'py, PyAny>>,
{
    install(py)?;
    let runner = runner(py)?;
    let event_loop = runner.call_method0("get_loop")?;
    let handle = LoopHandle::of(&event_loop)?;
    let result = caught(|| main(&handle)).and_then(|coroutine| runner.call_method1("run", (coroutine,)));
    finish(&handle, &runner).and(result.map(Bound::unbind))
}

fn no_python() -> PyErr {
    PyRuntimeError::new_err("the Python interpreter is ending")
}

// ---------------------------------------------------------------------------------------------- the end of Python

/// The loops of all threads that were started, for the end of the interpreter: a thread that still runs Python then
/// is stopped wherever it is, and Rust's frames cannot be.
static STARTED: Mutex<Vec<LoopHandle>> = Mutex::new(Vec::new());

fn remember(handle: &LoopHandle) {
    let mut ended = Vec::new();
    {
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        ended.extend(started.extract_if(.., |handle| handle.core().host.wait_closed(Duration::ZERO)));
        started.push(handle.clone());
    }
    drop(ended);
}

/// Has the interpreter end all loops when it is finalized.
pub(super) fn end_at_exit(py: Python<'_>) -> PyResult<()> {
    let end = PyCFunction::new_closure(py, None, None, |_args, _keywords| {
        let started = std::mem::take(&mut *STARTED.lock().unwrap_or_else(PoisonError::into_inner));
        for handle in &started {
            // All are asked first, and end beside each other.
            let _ = handle.stop();
        }
        for handle in started {
            let _ = handle.shutdown(GRACE);
        }
    })?;
    py.import("atexit")?.call_method1("register", (end,)).map(drop)
}
