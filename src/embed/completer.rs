//! `Completer`: a Python awaitable that any thread completes.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::guard::{caught, report};
use super::handle::LoopHandle;
use super::local::complete_future;
use crate::py::new::intern;

/// Completes an `asyncio.Future` from any thread, once. The value becomes a Python object on the loop's thread, so
/// that the completing thread needs no Python.
///
/// A completer that is dropped without having completed fails the awaitable with RuntimeError: nobody waits for ever.
/// After the loop has closed, or the awaitable was cancelled, completing does nothing.
#[must_use = "dropping it fails the awaitable"]
pub struct Completer<T> {
    handle: LoopHandle,
    future: Option<Py<PyAny>>,
    value: std::marker::PhantomData<fn(T)>,
}

impl LoopHandle {
    /// A completer, and the awaitable for Python.
    ///
    /// ```
    /// use pyo3::prelude::*;
    /// use rloop::embed::{LoopHandle, LoopThread};
    ///
    /// /// What Python sees: `await answer()`.
    /// #[pyfunction]
    /// fn answer(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    ///     let (completer, awaitable) = LoopHandle::current(py)?.completer(py)?;
    ///     std::thread::spawn(move || completer.complete(PyResult::Ok(42)));
    ///     Ok(awaitable)
    /// }
    ///
    /// # fn main() -> PyResult<()> {
    /// let event_loop = LoopThread::start()?;
    /// let answer: i64 = event_loop.block_on_as(|py| wrap_pyfunction!(answer, py)?.call0())?;
    /// assert_eq!(answer, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub fn completer<'py, T>(&self, py: Python<'py>) -> PyResult<(Completer<T>, Bound<'py, PyAny>)>
    where
        T: for<'a> IntoPyObject<'a> + Send + 'static,
    {
        let awaitable = self.event_loop(py).call_method0(intern!(py, "create_future")?)?;
        let future = Some(awaitable.clone().unbind());
        Ok((Completer { handle: self.clone(), future, value: std::marker::PhantomData }, awaitable))
    }
}

impl<T> Completer<T> {
    /// Completes the awaitable with a value or an error.
    pub fn complete<E>(mut self, result: Result<T, E>)
    where
        T: for<'a> IntoPyObject<'a> + Send + 'static,
        E: Into<PyErr>,
    {
        let result = result.map_err(Into::into);
        self.send(move |py| caught(|| result?.into_py_any(py)));
    }

    /// Has the awaitable completed on the loop's thread, unless it was before.
    fn send<F>(&mut self, result: F)
    where
        F: FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send + 'static,
    {
        let Some(future) = self.future.take() else {
            return;
        };
        let handle = self.handle.clone();
        // Only a closed loop refuses it, and nobody waits on that.
        let _ = self.handle.send_to_the_end(None, move |py| {
            handle.core().host.completions.fetch_add(1, Relaxed);
            complete_future(future.bind(py), result(py)).or_else(|error| {
                report(handle.event_loop(py), "Exception in a completion of the host", error)
            })
        });
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        self.send(|_| Err(PyRuntimeError::new_err("dropped by Rust without having been completed")));
    }
}
