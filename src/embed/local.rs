//! `spawn_local`: Rust futures on the loop's thread, polled by its ready queue.
//!
//! A future stays in a table of the thread that it was given to, as it need not be `Send`. What travels is its token:
//! a registration without an fd, whose entry in the ready queue has it polled. A waker sends that entry by the inbox,
//! from any thread; when the future is gone, the token's generation has passed, and a late wake finds nothing.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::guard::{caught, let_go, report};
use super::handle::{core_of, running_loop};
use super::task::on_done;
use crate::core::{Entry, Kind, LoopCore, Native, Source};
use crate::py::context;
use crate::py::new::intern;
use crate::reactor::readiness::Readiness;
use crate::reactor::token::{Slots, Token};

type LocalBox = Pin<Box<dyn Future<Output = PyResult<Py<PyAny>>>>>;

thread_local! {
    /// The futures of this thread's loops.
    static FUTURES: RefCell<Slots<Kept>> = RefCell::new(Slots::new());
}

/// A future in its thread's table.
struct Kept {
    /// None while it is being polled.
    future: Option<LocalBox>,
    core: Arc<LoopCore>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.core.host.futures_finished.fetch_add(1, Relaxed);
        let_go(self.future.take());
    }
}

/// Runs a Rust future on the loop that runs on this thread; returns an `asyncio.Future` for its result.
///
/// The future is polled on this thread only, so that it need not be `Send`, in a copy of the current context, with the
/// interpreter held: first at once, then whenever its waker was called, from whichever thread. Cancelling the
/// awaitable drops it. An error, and a panic, becomes the awaitable's exception.
///
/// # Errors
/// RuntimeError when no loop runs on this thread, TypeError when it is not rloop's.
///
/// ```
/// use pyo3::prelude::*;
///
/// /// What Python sees: `await compute(20)`.
/// #[pyfunction]
/// fn compute(py: Python<'_>, x: i64) -> PyResult<Bound<'_, PyAny>> {
///     let local = std::rc::Rc::new(x); // !Send
///     rloop::embed::spawn_local(py, async move { PyResult::Ok(*local + 1) })
/// }
///
/// Python::initialize();
/// let answer = Python::attach(|py| {
///     let code = c"async def main(compute): return 2 * await compute(20)";
///     let main = PyModule::from_code(py, code, c"app.py", c"app")?.getattr("main")?;
///     rloop::embed::run(py, |_| main.call1((wrap_pyfunction!(compute, py)?,)))?.extract::<i64>(py)
/// });
/// assert_eq!(answer.unwrap(), 42);
/// ```
pub fn spawn_local<'py, F, T, E>(py: Python<'py>, future: F) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = Result<T, E>> + 'static,
    T: for<'a> IntoPyObject<'a>,
    E: Into<PyErr>,
{
    let event_loop = running_loop(py)?;
    let core = core_of(&event_loop)?.clone();
    let converted = async move {
        let value = future.await.map_err(Into::into)?;
        Python::try_attach(|py| value.into_py_any(py)).unwrap_or_else(|| Err(elsewhere()))
    };
    LocalFuture::start(&event_loop, core, Box::pin(converted))
}

/// One future, as the reactor's table knows it.
#[pyclass(frozen, module = "rloop._rloop")]
struct LocalFuture {
    ticket: Ticket,
    wake: Arc<WakeLocal>,
    /// The `asyncio.Future` that Python awaits.
    awaitable: Py<PyAny>,
    event_loop: Py<PyAny>,
    /// None: it was empty.
    context: Option<Py<PyAny>>,
}

/// What finds a future, and does not keep it.
#[derive(Clone)]
struct Ticket {
    core: Arc<LoopCore>,
    /// The registration by which it is polled.
    token: Token,
    /// Whose table it is in, and where.
    thread: ThreadId,
    slot: Token,
}

static KIND: Kind = Kind { on_ready: LocalFuture::on_ready, flush: |_| Ok(()), owns_fd: |_| false };

impl LocalFuture {
    fn start<'py>(
        event_loop: &Bound<'py, PyAny>,
        core: Arc<LoopCore>,
        future: LocalBox,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = event_loop.py();
        let awaitable = event_loop.call_method0(intern!(py, "create_future")?)?;
        let context = context::copy_unless_empty(py)?.map(Bound::unbind);
        core.host.futures_spawned.fetch_add(1, Relaxed);
        let kept = Kept { future: Some(future), core: core.clone() };
        let slot = FUTURES.with(|futures| futures.borrow_mut().insert(kept));
        // The object needs its token and the table its object: the token comes first, for an owner of no effect.
        let nobody = Native { object: py.None(), kind: &KIND };
        let token = core.state.with(py, |state| state.reactor.insert(Source::Native(nobody)));
        let ticket = Ticket { core, token, thread: std::thread::current().id(), slot };
        let this = Self {
            ticket: ticket.clone(),
            wake: Arc::new(WakeLocal { core: ticket.core.clone(), token, queued: AtomicBool::new(false) }),
            awaitable: awaitable.clone().unbind(),
            event_loop: event_loop.clone().unbind(),
            context,
        };
        let this = Bound::new(py, this)?;
        let object = this.clone().into_any().unbind();
        let nobody = ticket.core.state.with(py, |state| match state.reactor.source_mut(token) {
            Some(Source::Native(native)) => Some(std::mem::replace(&mut native.object, object)),
            _ => None,
        });
        drop(nobody);
        Self::poll(&this)?;
        if !awaitable.call_method0(intern!(py, "done")?)?.is_truthy()? {
            // It is the awaitable's from here on to say that nobody wants it any more.
            on_done(&awaitable, move |awaitable| {
                ticket.end(awaitable.py());
                Ok(())
            })?;
        }
        Ok(awaitable)
    }

    fn on_ready(object: &Bound<'_, PyAny>, _: Readiness) -> PyResult<()> {
        match object.cast::<Self>() {
            Ok(this) => Self::poll(this),
            Err(_) => Ok(()),
        }
    }

    fn poll(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        // Wakes from here on are answered by another poll.
        this.wake.queued.store(false, SeqCst);
        let result = if this.ticket.is_here() {
            let Some(mut future) = this.ticket.take() else {
                return Ok(());
            };
            let waker = Waker::from(this.wake.clone());
            let mut poll = || match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => Ok(None),
                Poll::Ready(result) => result.map(Some),
            };
            let polled = caught(|| match &this.context {
                Some(context) => context::run_in(context.bind(py), poll),
                None => poll(),
            });
            match polled.transpose() {
                None => {
                    // Back to its place, which is gone if it was cancelled from within.
                    drop(this.ticket.put_back(future));
                    return Ok(());
                }
                Some(result) => {
                    let_go(future);
                    result
                }
            }
        } else {
            Err(elsewhere())
        };
        this.ticket.end(py);
        let settled = settle(this.awaitable.bind(py), result);
        settled.or_else(|error| report(this.event_loop.bind(py), "Exception in a future of the host", error))
    }
}

impl Drop for LocalFuture {
    fn drop(&mut self) {
        // The loop was closed, or is garbage.
        self.ticket.clear();
    }
}

#[pymethods]
impl LocalFuture {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.awaitable)?;
        visit.call(&self.event_loop)?;
        visit.call(&self.context)
    }
}

impl Ticket {
    /// Drops the future and its registration; later wakes find nothing.
    fn end(&self, py: Python<'_>) {
        drop(self.core.state.with(py, |state| state.reactor.deregister(self.token)));
        self.clear();
    }

    fn is_here(&self) -> bool {
        self.thread == std::thread::current().id()
    }

    /// Takes the future out to poll it.
    fn take(&self) -> Option<LocalBox> {
        FUTURES.with(|futures| futures.borrow_mut().get_mut(self.slot).and_then(|kept| kept.future.take()))
    }

    /// Puts it back, or returns it for the caller to drop.
    fn put_back(&self, future: LocalBox) -> Option<LocalBox> {
        FUTURES.with(|futures| match futures.borrow_mut().get_mut(self.slot) {
            Some(kept) => kept.future.replace(future),
            None => Some(future),
        })
    }

    /// Drops the future. On another thread that has to wait until the future's own one ends, which drops its table.
    fn clear(&self) {
        if !self.is_here() {
            return;
        }
        // Outside of the borrow, and not at the end of the thread, when the table is gone.
        drop(FUTURES.try_with(|futures| futures.borrow_mut().remove(self.slot)));
    }
}

/// Completes an `asyncio.Future`, unless it is done, such as cancelled.
pub(super) fn settle(future: &Bound<'_, PyAny>, result: PyResult<Py<PyAny>>) -> PyResult<()> {
    let py = future.py();
    if future.call_method0(intern!(py, "done")?)?.is_truthy()? {
        return Ok(());
    }
    match result {
        Ok(value) => future.call_method1(intern!(py, "set_result")?, (value,)),
        Err(error) => {
            let cancelled = py.import("asyncio")?.getattr("CancelledError")?;
            if error.is_instance(py, &cancelled) {
                future.call_method0(intern!(py, "cancel")?)
            } else {
                future.call_method1(intern!(py, "set_exception")?, (error.into_value(py),))
            }
        }
    }
    .map(drop)
}

/// The waker's side of a local future.
struct WakeLocal {
    core: Arc<LoopCore>,
    token: Token,
    /// True while the token is on its way to the loop.
    queued: AtomicBool,
}

impl Wake for WakeLocal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, SeqCst) && self.core.inbox.send(Entry::Io(self.token)).is_ok() {
            // Fails only where the loop's own fd is gone, and with it the loop.
            let _ = self.core.waker.wake();
        }
    }
}

fn elsewhere() -> PyErr {
    PyRuntimeError::new_err("a local future cannot be polled on another thread than the one it was given to")
}
