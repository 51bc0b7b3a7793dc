//! Adapters for hosts that have a tokio runtime.
//!
//! To await Python from a tokio task there is nothing to adapt: a [`PyTask`](super::PyTask) is a future.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use pyo3::prelude::*;
use tokio::runtime::Handle;

use super::guard::caught;
use super::handle::LoopHandle;
use super::task::on_done;

/// Runs a future on a tokio runtime; returns an awaitable for the loop that runs on this thread. Cancelling the
/// awaitable aborts the tokio task; an error, and a panic, becomes the awaitable's exception.
///
/// # Errors
/// RuntimeError when no loop runs on this thread, TypeError when it is not rloop's.
///
/// ```
/// use pyo3::prelude::*;
/// use rloop::embed::LoopThread;
///
/// # fn main() -> PyResult<()> {
/// let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
/// let event_loop = LoopThread::start()?;
/// let tokio = runtime.handle().clone();
/// let answer: i64 = runtime.block_on(event_loop.spawn_as(move |py| {
///     rloop::embed::tokio::spawn(py, &tokio, async { PyResult::Ok(42) })
/// })?)?;
/// assert_eq!(answer, 42);
/// # Ok(())
/// # }
/// ```
pub fn spawn<'py, F, T, E>(py: Python<'py>, runtime: &Handle, future: F) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: for<'a> IntoPyObject<'a> + Send + 'static,
    E: Into<PyErr>,
{
    let (completer, awaitable) = LoopHandle::current(py)?.completer(py)?;
    let task = runtime.spawn(async move { completer.complete(Caught(Box::pin(future)).await) });
    let task = task.abort_handle();
    on_done(&awaitable, move |_| {
        // Does nothing to a task that has ended.
        task.abort();
        Ok(())
    })?;
    Ok(awaitable)
}

/// A future whose panics are errors.
struct Caught<F>(Pin<Box<F>>);

impl<F, T, E> Future for Caught<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<PyErr>,
{
    type Output = PyResult<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<PyResult<T>> {
        let polled = caught(
            AssertUnwindSafe(|| match self.0.as_mut().poll(context) {
                Poll::Pending => Ok(None),
                Poll::Ready(result) => result.map(Some).map_err(Into::into),
            })
            .0,
        );
        polled.transpose().map_or(Poll::Pending, Poll::Ready)
    }
}

/// Makes `future` find the runtime's timers and sockets wherever it is polled: for
/// [`spawn_local`](super::spawn_local), which polls it on the loop's thread.
pub fn within<F: Future>(runtime: Handle, future: F) -> Within<F> {
    Within { runtime, future: Box::pin(future) }
}

/// Made by [`within`].
pub struct Within<F> {
    runtime: Handle,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _entered = this.runtime.enter();
        this.future.as_mut().poll(context)
    }
}
