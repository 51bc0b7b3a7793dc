//! `Handle` and `TimerHandle`: a callback with its arguments and its context, which the loop runs at most once.
//!
//! The model is `asyncio.events`. Queues and the clock are not known here. A timer only has its deadline, and counts
//! itself as dead in its heap's counter when it is cancelled.

mod call;
mod nesting;
mod origin;
mod running;
mod timer;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::error::leaves_the_loop;
use crate::py::calls;
use crate::py::cell::LoopCell;
use crate::py::context::{self, EmptyBatch, EmptyContext};
use crate::py::names::names;
use crate::py::new;
use crate::py::references::is_only_reference;
pub use call::Callback;
use call::{Call, Debug, Invocation};
use origin::Origin;
use running::RunningOn;
pub use timer::{Time, TimerHandle};

/// A scheduled callback (`asyncio.Handle`).
///
/// Loops use their handles again once nobody else refers to them ([`Handle::recycle`]). To make an object that the
/// garbage collector tracks costs more than to run a callback, not least because it brings about collections.
#[pyclass(subclass, frozen, weakref, module = "rloop._rloop")]
pub struct Handle {
    event_loop: Py<PyAny>,
    /// What is called. Without callback and arguments once the handle is cancelled.
    call: LoopCell<Call>,
    cancelled: AtomicBool,
    /// The thread that runs the callback, if other threads wait for that.
    running_on: RunningOn,
}

impl Handle {
    /// A handle of `event_loop`.
    #[inline]
    pub fn new(event_loop: &Bound<'_, PyAny>, callback: Callback<'_, '_>, debug: bool) -> PyResult<Self> {
        let py = event_loop.py();
        let call = LoopCell::default();
        Call::fill(&call, callback)?;
        if debug {
            let origin = Origin::here(py, names(py)?)?;
            call.with(py, |call| call.set_debug(origin));
        }
        Ok(Self {
            event_loop: event_loop.clone().unbind(),
            call,
            cancelled: AtomicBool::new(false),
            running_on: RunningOn::default(),
        })
    }

    /// Gives a recycled handle of the same loop a new callback.
    #[inline]
    pub fn renew(&self, callback: Callback<'_, '_>) -> PyResult<()> {
        // Everything else is as in a new handle: see `recycle`.
        self.cancelled.store(false, Relaxed);
        self.running_on.track(false);
        Call::fill(&self.call, callback)
    }

    /// Empties a handle that has left its queue, if nobody else refers to it. True if it can be renewed.
    #[inline]
    pub fn recycle(slf: &Bound<'_, Self>) -> bool {
        if !is_only_reference(slf) || has_weak_references(slf.as_any()) {
            return false;
        }
        // Dropping what the handle held may run user code, but that has no reference to the handle.
        Call::empty(&slf.get().call, slf.py())
    }

    /// Shows the garbage collector what the handle holds: the loop, the callback, its arguments and its context.
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        self.call.peek(visit, |call| call.traverse(visit)).unwrap_or(Ok(()))
    }

    /// True for a handle of this loop.
    pub fn belongs_to(&self, event_loop: &Py<PyAny>) -> bool {
        self.event_loop.is(event_loop)
    }

    /// True once the handle was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// Runs the callback, unless the handle was cancelled. An exception goes to the loop's exception handler.
    /// SystemExit and KeyboardInterrupt are returned instead.
    #[inline]
    pub fn run(slf: &Bound<'_, Self>, empty: &mut EmptyBatch<'_, '_>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if this.is_cancelled() {
            return Ok(());
        }
        let mut invocation = Invocation::default();
        let context = this.call.with(py, |call| {
            invocation.take_from(py, call);
            call.context.as_ref().map(|context| context.bind(py).clone())
        });
        if invocation.is_empty() {
            return Ok(());
        }
        let context = match context {
            // Somebody else has the handle and can ask for its context, with what the callback leaves in it.
            None if !is_only_reference(slf) => Some(this.get_context(py)?.into_bound(py)),
            context => context,
        };
        // Only handles of `call_soon_threadsafe` are tracked, and only since CPython 3.14.
        let tracked = this.running_on.is_tracked();
        if tracked {
            this.running_on.started();
        }
        let result = match &context {
            Some(context) => context::enter(context).and_then(|_inside| invocation.invoke(py)),
            None => empty.run(|| invocation.invoke(py)),
        };
        if let Err(raised) = result {
            let error = raised.fetch(py);
            if let (None, Some(used)) = (&context, empty.leave()) {
                // Since CPython 3.12 the exception handler runs in the handle's context.
                this.call.with(py, |call| call.context = Some(used.unbind()));
            }
            return Self::failed(slf, error);
        }
        if tracked {
            this.running_on.finished();
        }
        Ok(())
    }

    /// Sets the time of a timer as the program gave it, if it was not a float.
    #[inline]
    fn set_when(&self, py: Python<'_>, when: Option<Py<PyAny>>) {
        if when.is_some() {
            self.call.with(py, |call| call.set_when(when));
        }
    }

    /// The time of [`Handle::set_when`].
    fn given_when(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.call.with(py, |call| call.when(py))
    }

    /// Makes other threads that cancel the handle wait for the callback, if it is running.
    pub fn track_running(&self) {
        self.running_on.track(true);
    }

    /// The callback has raised `error`.
    #[cold]
    fn failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let result = if leaves_the_loop(py, &error) {
            Err(error)
        } else {
            let failed = &names(py)?._callback_failed;
            let error = error.into_value(py).into_bound(py).into_any();
            calls::method(this.event_loop.bind(py), failed, [slf.as_any(), &error]).map(drop)
        };
        this.running_on.finished();
        result
    }

    /// Cancels the handle: callback and arguments are dropped at once. False if it was cancelled already.
    pub fn cancel_once(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        if this.is_cancelled() {
            return Ok(false);
        }
        // As on asyncio, in debug mode the repr of a cancelled handle still names the callback.
        let repr = match this.call.with(py, |call| call.debug().is_some()) {
            true => {
                this.cancelled.store(true, Relaxed);
                Some(slf.repr()?.to_string())
            }
            false => None,
        };
        this.cancelled.store(true, Relaxed);
        let dropped = this.call.with(py, |call| {
            if let Some(debug) = call.debug_mut() {
                debug.repr = repr;
            }
            (call.callback.take(), std::mem::take(&mut call.args), std::mem::take(&mut call.count))
        });
        drop(dropped);
        Ok(true)
    }

    /// The callback. None once the handle is cancelled.
    fn callback<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.call.with(py, |call| call.callback.as_ref().map(|callback| callback.bind(py).clone()))
    }

    /// The arguments as a tuple. None once the handle is cancelled.
    fn args<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let (live, args, has_tuple) = self.call.with(py, |call| {
            let args = call.args.each_ref().map(|arg| arg.as_ref().map(|arg| arg.bind(py).clone()));
            (call.callback.is_some(), args, call.has_tuple())
        });
        if !live {
            return Ok(None);
        }
        if has_tuple {
            let [tuple, ..] = args;
            return Ok(tuple.map(|tuple| tuple.cast_into()).transpose()?);
        }
        new::tuple(py, args.into_iter().flatten().collect::<Vec<_>>()).map(Some)
    }

    /// The repr, with its parts in asyncio's order.
    fn repr_of(slf: &Bound<'_, Self>, name: &str, when: Option<Py<PyAny>>) -> PyResult<String> {
        let (py, this) = (slf.py(), slf.get());
        let kept = this.call.with(py, |call| call.debug().and_then(|debug| debug.repr.clone()));
        if let Some(repr) = kept {
            return Ok(repr);
        }
        let mut parts = vec![name.to_owned()];
        if this.is_cancelled() {
            parts.push("cancelled".to_owned());
        }
        if let Some(when) = when {
            parts.push(format!("when={}", when.bind(py).str()?));
        }
        if let Some(callback) = this.callback(py) {
            let debug = this.call.with(py, |call| call.debug().is_some());
            parts.push(
                names(py)?.format_callback.bind(py).call1((callback, this.args(py)?, debug))?.to_string(),
            );
        }
        if let Some(origin) = this.origin(py)?
            && let Some(place) = origin.place(py)?
        {
            parts.push(format!("created at {place}"));
        }
        Ok(format!("<{}>", parts.join(" ")))
    }

    /// Where the handle was made, in debug mode.
    fn origin(&self, py: Python<'_>) -> PyResult<Option<Origin>> {
        self.call.with(py, |call| call.debug().map(|debug| debug.origin.clone_ref(py))).transpose()
    }
}

/// A chain of handles that hold each other must not need a stack of the same depth: see `nesting.rs`.
impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: a pyclass is dropped by its tp_dealloc only, which CPython calls with the GIL held.
        let py = unsafe { Python::assume_attached() };
        nesting::drop_bounded(py, &self.call);
    }
}

/// True if a weak reference to the object exists, or existed once.
#[inline]
fn has_weak_references(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: an object of a class with weak references has a pointer to their list at this offset. Since CPython 3.12
    // the offset may be negative, before the object (MANAGED_WEAKREF_OFFSET).
    unsafe {
        let offset = (*ffi::Py_TYPE(object.as_ptr())).tp_weaklistoffset;
        offset == 0 || !object.as_ptr().byte_offset(offset).cast::<*mut ffi::PyObject>().read().is_null()
    }
}

#[pymethods]
impl Handle {
    /// Cancels the callback. Callback and arguments are released at once.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().running_on.wait(slf.py());
        Self::cancel_once(slf).map(drop)
    }

    /// True if the callback was cancelled.
    fn cancelled(&self, py: Python<'_>) -> bool {
        self.running_on.wait(py);
        self.is_cancelled()
    }

    /// The `contextvars.Context` in which the callback runs.
    fn get_context(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Some(context) =
            self.call.with(py, |call| call.context.as_ref().map(|context| context.clone_ref(py)))
        {
            return Ok(context);
        }
        let context = context::new_empty(py)?.unbind();
        self.call.with(py, |call| call.context = Some(context.clone_ref(py)));
        Ok(context)
    }

    /// Runs the callback now, as the loop would.
    fn _run(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::run(slf, &mut EmptyContext::default().batch(slf.py()))
    }

    fn __repr__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyString>> {
        new::string(slf.py(), &Self::repr_of(slf, "Handle", None)?)
    }

    /// `isinstance(handle, asyncio.Handle)` asks for this. asyncio's class has slots, and cannot be the base of a
    /// native class.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let names = names(py)?;
        let class = if self.running_on.is_tracked() { &names.threadsafe_handle } else { &names.handle };
        Ok(class.clone_ref(py))
    }

    /// The callback; None once the handle is cancelled, as on asyncio.
    #[getter(_callback)]
    fn get_callback<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.callback(py)
    }

    /// The arguments; None once the handle is cancelled, as on asyncio.
    #[getter(_args)]
    fn get_args<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        self.args(py)
    }

    #[getter(_cancelled)]
    fn get_cancelled(&self) -> bool {
        self.is_cancelled()
    }

    #[getter(_context)]
    fn get_context_attribute(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.get_context(py)
    }

    /// The loop that the handle belongs to.
    #[getter(_loop)]
    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.event_loop.clone_ref(py)
    }

    /// In debug mode, the stack of the place where the handle was made.
    #[getter(_source_traceback)]
    fn get_source_traceback(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let Some(origin) = self.origin(py)? else {
            return Ok(None);
        };
        let summary = origin.into_summary(py, names(py)?)?;
        // Everybody gets the same object. If another thread was faster, its object stays.
        let (summary, replaced) = self.call.with(py, |call| match call.debug_mut() {
            Some(Debug { origin: Origin::Summary(first), .. }) => (first.clone_ref(py), None),
            Some(debug) => {
                let kept = Origin::Summary(summary.clone_ref(py));
                (summary, Some(std::mem::replace(&mut debug.origin, kept)))
            }
            None => (summary, None),
        });
        drop(replaced);
        Ok(Some(summary))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.traverse(&visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.call.with(py, std::mem::take));
    }
}
