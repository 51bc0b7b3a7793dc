//! `spawn_local`: Rust futures on the loop's thread, which the loop polls from its ready queue.
//!
//! A future need not be `Send`. So it stays in a table of the thread that it was given to, and what other threads get
//! is a token: that of a registration without an fd. An entry of the ready queue with this token polls the future. A
//! waker sends such an entry from any thread. Once the future is gone, the token is of an old generation, and a late
//! wake finds nothing.

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

use super::guard::{caught, drop_quietly, report};
use super::handle::{core_of, running_loop};
use super::task::on_done;
use crate::core::{Entry, Kind, LoopCore, Native};
use crate::py::context;
use crate::py::new::intern;
use crate::reactor::readiness::Readiness;
use crate::reactor::token::{Slots, Token};

type LocalBox = Pin<Box<dyn Future<Output = PyResult<Py<PyAny>>>>>;

thread_local! {
    /// The futures of this thread's loops.
    static FUTURES: RefCell<Slots<Kept>> = RefCell::new(Slots::new());
}

/// A future in the table of its thread.
struct Kept {
    /// None while it is being polled.
    future: Option<LocalBox>,
    core: Arc<LoopCore>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.core.host.futures_finished.fetch_add(1, Relaxed);
        drop_quietly(self.future.take());
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

/// One future, as the owner of its registration.
#[pyclass(frozen, module = "rloop._rloop")]
struct LocalFuture {
    place: Place,
    wake: Arc<WakeLocal>,
    /// The `asyncio.Future` that Python awaits.
    awaitable: Py<PyAny>,
    event_loop: Py<PyAny>,
    /// The context that the future is polled in. None: an empty one.
    context: Option<Py<PyAny>>,
}

/// Where a future is. It does not keep the future alive.
#[derive(Clone)]
struct Place {
    core: Arc<LoopCore>,
    /// The registration by which the future is polled.
    token: Token,
    /// The thread whose table it is in.
    thread: ThreadId,
    /// Its slot in that table.
    slot: Token,
}

static KIND: Kind = Kind { on_ready: LocalFuture::on_ready, ..Kind::NOTHING };

impl LocalFuture {
    /// Puts the future on the loop, and polls it for the first time. Returns the `asyncio.Future` that gets its result;
    /// cancelling that one drops the Rust future.
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
        let token = core.reserve_token(py);
        let place = Place { core, token, thread: std::thread::current().id(), slot };
        let this = Self {
            place: place.clone(),
            wake: Arc::new(WakeLocal { core: place.core.clone(), token, queued: AtomicBool::new(false) }),
            awaitable: awaitable.clone().unbind(),
            event_loop: event_loop.clone().unbind(),
            context,
        };
        let this = Bound::new(py, this)?;
        let object = this.clone().into_any().unbind();
        place.core.set_owner(py, token, Native { object, kind: &KIND });
        Self::poll(&this)?;
        if !awaitable.call_method0(intern!(py, "done")?)?.is_truthy()? {
            // When the awaitable is done, by its result or by a cancellation, the future is dropped.
            on_done(&awaitable, move |awaitable| {
                place.end(awaitable.py());
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
        // A wake that comes from here on leads to another poll.
        this.wake.queued.store(false, SeqCst);
        let result = if this.place.is_here() {
            let Some(mut future) = this.place.take() else {
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
                    // Back to its slot, which is gone if the future was cancelled while it was polled.
                    drop(this.place.put_back(future));
                    return Ok(());
                }
                Some(result) => {
                    drop_quietly(future);
                    result
                }
            }
        } else {
            Err(elsewhere())
        };
        this.place.end(py);
        let settled = complete_future(this.awaitable.bind(py), result);
        settled.or_else(|error| report(this.event_loop.bind(py), "Exception in a future of the host", error))
    }
}

impl Drop for LocalFuture {
    fn drop(&mut self) {
        // The loop was closed or collected.
        self.place.clear();
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

impl Place {
    /// Drops the future and its registration. Later wakes find nothing.
    fn end(&self, py: Python<'_>) {
        self.core.deregister(py, self.token);
        self.clear();
    }

    /// True on the future's own thread.
    fn is_here(&self) -> bool {
        self.thread == std::thread::current().id()
    }

    /// Takes the future out to poll it.
    fn take(&self) -> Option<LocalBox> {
        FUTURES.with(|futures| futures.borrow_mut().get_mut(self.slot).and_then(|kept| kept.future.take()))
    }

    /// Puts the future back. Returns it for the caller to drop if it was dropped meanwhile.
    fn put_back(&self, future: LocalBox) -> Option<LocalBox> {
        FUTURES.with(|futures| match futures.borrow_mut().get_mut(self.slot) {
            Some(kept) => kept.future.replace(future),
            None => Some(future),
        })
    }

    /// Drops the future. Other threads cannot; then it is dropped with its table, when its own thread ends.
    fn clear(&self) {
        if !self.is_here() {
            return;
        }
        // Dropped outside of the borrow. At the end of the thread the table is gone already.
        drop(FUTURES.try_with(|futures| futures.borrow_mut().remove(self.slot)));
    }
}

/// Completes an `asyncio.Future`, unless it is done already, as one that was cancelled is.
pub(super) fn complete_future(future: &Bound<'_, PyAny>, result: PyResult<Py<PyAny>>) -> PyResult<()> {
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

/// What the waker of a local future does.
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
        if !self.queued.swap(true, SeqCst) {
            // Only a closed loop refuses it, or there is no memory.
            let _ = self.core.send(Entry::Io(self.token));
        }
    }
}

fn elsewhere() -> PyErr {
    PyRuntimeError::new_err("a local future cannot be polled on another thread than the one it was given to")
}
