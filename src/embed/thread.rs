//! Loops that the host runs: `LoopThread` on a thread of its own, `run` on the current one.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::error::ShutdownError;
use super::exit::{GRACE, remember};
use super::guard::{caught, detached};
use super::handle::LoopHandle;
use super::package::install;

/// A loop that runs on a thread of its own until it is stopped or this is dropped.
///
/// It ends as under `asyncio.run`: its tasks are cancelled, asynchronous generators and the default executor are shut
/// down, the loop is closed. Dropping waits up to ten seconds for that. The GIL is released meanwhile.
///
/// Derefs to its [`LoopHandle`].
pub struct LoopThread {
    handle: LoopHandle,
    /// None once the thread was joined.
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
            // The thread has ended before it could send anything.
            Err(_) => Err(join(thread).err().unwrap_or_else(no_python)),
        }
    }

    /// The handle, to be cloned and sent to wherever work for the loop comes from.
    pub fn handle(&self) -> &LoopHandle {
        &self.handle
    }

    /// Waits until the loop has ended, whoever stops it. The GIL is released meanwhile.
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
    // Panics of the host's code are caught before.
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
            // The loop is closed, so that its thread is about to end. Its error was for `join`.
            drop(join(thread));
        }
    }
}

/// What the thread of a [`LoopThread`] does.
fn serve(py: Python<'_>, started: &Sender<PyResult<LoopHandle>>) -> PyResult<()> {
    let made = runner(py).and_then(|runner| {
        let event_loop = runner.call_method0("get_loop")?;
        Ok((LoopHandle::of(&event_loop)?, event_loop, runner))
    });
    let (handle, event_loop, runner) = match made {
        Ok(made) => made,
        Err(error) => {
            // Fails only if the starting thread is gone.
            let _ = started.send(Err(error));
            return Ok(());
        }
    };
    remember(&handle);
    let _ = started.send(Ok(handle.clone()));
    let ran = event_loop.call_method0("run_forever");
    ran.map(drop).and(finish(&handle, &runner))
}

/// An `asyncio.Runner` with a loop of ours. Its `close()` ends a loop as `asyncio.run` does.
fn runner(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let keywords = PyDict::new(py);
    keywords.set_item("loop_factory", py.import("rloop")?.getattr("new_event_loop")?)?;
    py.import("asyncio")?.call_method("Runner", (), Some(&keywords))
}

/// Ends the loop.
fn finish(handle: &LoopHandle, runner: &Bound<'_, PyAny>) -> PyResult<()> {
    // Work that the host sent from here on would not be cancelled any more. So it is refused.
    handle.core().host.ending.begin();
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
