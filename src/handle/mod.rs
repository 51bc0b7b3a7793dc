//! `Handle` and `TimerHandle`: a callback with its arguments and its context, run at most once by the loop.
//!
//! The model is `asyncio.events`. Nothing here knows of queues or of the clock; a timer only carries its deadline and
//! tells its heap's counter when it is cancelled.

mod nesting;
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
use crate::py::fastcall::Raised;
use crate::py::gc::{is_only_reference, track, untrack};
use crate::py::names::names;
use crate::py::new;
use running::RunningOn;
pub use timer::{Time, TimerHandle};

/// How many arguments a handle keeps in itself; more go to a tuple.
const INLINE: usize = 3;

/// A scheduled callback (`asyncio.Handle`).
///
/// Loops use their handles again once nobody else refers to them ([`Handle::recycle`]): making an object that the
/// garbage collector tracks costs more than running a callback, not least for the collections that it brings about.
#[pyclass(subclass, frozen, weakref, module = "rloop._rloop")]
pub struct Handle {
    event_loop: Py<PyAny>,
    call: LoopCell<Call>,
    cancelled: AtomicBool,
    running_on: RunningOn,
}

/// What to call, and where. Without callback and arguments once the handle is cancelled.
#[derive(Default)]
struct Call {
    callback: Option<Py<PyAny>>,
    args: [Option<Py<PyAny>>; INLINE],
    /// How many of `args` are in use; `INLINE + 1`: the first one is a tuple that holds them all.
    count: usize,
    /// None: an empty context that nobody has asked for yet.
    context: Option<Py<PyAny>>,
    rare: Option<Box<Rare>>,
}

/// What few handles have. One with any of it is not used again.
#[derive(Default)]
struct Rare {
    /// None: not made in debug mode.
    debug: Option<Debug>,
    /// The time of a timer as given by the program, where it was not a float.
    when: Option<Py<PyAny>>,
}

/// What debug mode adds to a handle.
struct Debug {
    /// `traceback.StackSummary` of where the handle was made.
    source_traceback: Py<PyAny>,
    /// The repr at the time of the cancel, while there still was a callback to name.
    repr: Option<String>,
}

/// What a handle is made for: `callback(*args)` in `context`.
pub struct Callback<'a, 'py> {
    pub callback: Bound<'py, PyAny>,
    /// Borrowed references, alive for as long as this is.
    pub args: &'a [*mut ffi::PyObject],
    /// None: in a copy of the current context.
    pub context: Option<Bound<'py, PyAny>>,
}

impl Call {
    /// Fills an empty call. Field by field: a whole one, made elsewhere and moved here, costs 10 ns of store-to-load
    /// stalls.
    #[inline]
    fn fill(place: &LoopCell<Self>, callback: Callback<'_, '_>) -> PyResult<()> {
        let Callback { callback, args, context } = callback;
        let py = callback.py();
        let context = match context {
            Some(context) => Some(context),
            None => context::copy_unless_empty(py)?,
        };
        // SAFETY: the references are alive (see `Callback::args`); each gets one of our own.
        let own = |&arg: &*mut ffi::PyObject| unsafe { Bound::from_borrowed_ptr(py, arg) };
        let many = if args.len() > INLINE { Some(new::tuple(py, args.iter().map(own))?) } else { None };
        // Forgotten is what was there before, which is nothing.
        place.with(py, |call| {
            std::mem::forget(call.callback.replace(callback.unbind()));
            std::mem::forget(std::mem::replace(&mut call.context, context.map(Bound::unbind)));
            if let Some(many) = many {
                call.count = INLINE + 1;
                std::mem::forget(call.args[0].replace(many.into_any().unbind()));
            } else {
                call.count = args.len();
                for (slot, arg) in call.args.iter_mut().zip(args) {
                    std::mem::forget(slot.replace(own(arg).unbind()));
                }
            }
        });
        Ok(())
    }

    /// Takes everything out of a call, to be dropped: the same that dropping the fields would do, less a look per
    /// field at whether the interpreter is held. False if the call had something rare.
    #[inline]
    fn empty(place: &LoopCell<Self>, py: Python<'_>) -> bool {
        let (callback, context, count, rare) = place.with(py, |call| {
            (call.callback.take(), call.context.take(), std::mem::take(&mut call.count), call.rare.take())
        });
        drop(callback.map(|callback| callback.into_bound(py)));
        drop(context.map(|context| context.into_bound(py)));
        if count > 0 {
            for arg in place.with(py, |call| std::mem::take(&mut call.args)).into_iter().flatten() {
                drop(arg.into_bound(py));
            }
        }
        rare.is_none()
    }

    fn debug(&self) -> Option<&Debug> {
        self.rare.as_ref()?.debug.as_ref()
    }

    fn debug_mut(&mut self) -> Option<&mut Debug> {
        self.rare.as_mut()?.debug.as_mut()
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.context)?;
        visit.call(&self.callback)?;
        self.args.iter().try_for_each(|arg| visit.call(arg))?;
        self.rare.iter().try_for_each(|rare| {
            visit.call(&rare.when)?;
            rare.debug.iter().try_for_each(|debug| visit.call(&debug.source_traceback))
        })
    }
}

impl Handle {
    /// A handle of `event_loop`.
    #[inline]
    pub fn new(event_loop: &Bound<'_, PyAny>, callback: Callback<'_, '_>, debug: bool) -> PyResult<Self> {
        let py = event_loop.py();
        let call = LoopCell::default();
        Call::fill(&call, callback)?;
        if debug {
            let source_traceback = names(py)?.extract_stack.call0(py)?;
            let rare = Rare { debug: Some(Debug { source_traceback, repr: None }), when: None };
            call.with(py, |call| call.rare = Some(Box::new(rare)));
        }
        Ok(Self {
            event_loop: event_loop.clone().unbind(),
            call,
            cancelled: AtomicBool::new(false),
            running_on: RunningOn::default(),
        })
    }

    /// Makes a recycled handle of the same loop new.
    #[inline]
    pub fn renew(&self, callback: Callback<'_, '_>) -> PyResult<()> {
        self.cancelled.store(false, Relaxed);
        self.running_on.track(false);
        Call::fill(&self.call, callback)
    }

    /// Empties a handle that has left its queue. True if nobody else can see it, so that it can be renewed.
    #[inline]
    pub fn recycle(slf: &Bound<'_, Self>) -> bool {
        if !is_only_reference(slf) || has_weak_references(slf.as_any()) {
            track(slf);
            return false;
        }
        untrack(slf);
        // Dropping what it held may run user code, which cannot find it.
        Call::empty(&slf.get().call, slf.py())
    }

    /// What the owner of a queue shows the garbage collector of a handle in it. If the handle is hidden and nobody else
    /// has it, that is what it holds. One that is not hidden shows it itself: twice would be a count too many.
    pub fn traverse_from_queue(handle: &Py<Self>, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // SAFETY: a live object; the collector runs with the interpreter held.
        let only_here = unsafe {
            ffi::Py_REFCNT(handle.as_ptr()) == 1 && ffi::PyObject_GC_IsTracked(handle.as_ptr()) == 0
        };
        if only_here { handle.get().traverse(visit) } else { visit.call(handle) }
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        self.call.peek(|call| call.traverse(visit)).unwrap_or(Ok(()))
    }

    pub fn belongs_to(&self, event_loop: &Py<PyAny>) -> bool {
        self.event_loop.is(event_loop)
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// Runs the callback, unless the handle was cancelled. An exception goes to the loop's exception handler; only
    /// SystemExit and KeyboardInterrupt come back.
    #[inline]
    pub fn run(slf: &Bound<'_, Self>, empty: &mut EmptyBatch<'_, '_>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if this.is_cancelled() {
            return Ok(());
        }
        let mut call = Running::default();
        let context = this.call.with(py, |call_of_handle| {
            call.borrow(py, call_of_handle);
            call_of_handle.context.as_ref().map(|context| context.bind(py).clone())
        });
        if call.callback.is_null() {
            return Ok(());
        }
        let context = match context {
            // Somebody can ask for it, and is to see what the callback leaves in it.
            None if !is_only_reference(slf) => Some(this.get_context(py)?.into_bound(py)),
            context => context,
        };
        let tracked = this.running_on.is_tracked();
        if tracked {
            this.running_on.started();
        }
        let result = match &context {
            Some(context) => context::enter(context).and_then(|_inside| call.invoke(py)),
            None => empty.run(|| call.invoke(py)),
        };
        if let Err(raised) = result {
            let error = raised.fetch(py);
            if let (None, Some(used)) = (&context, empty.leave()) {
                // Since CPython 3.12 the exception handler runs in it.
                this.call.with(py, |call| call.context = Some(used.unbind()));
            }
            return Self::failed(slf, error);
        }
        if tracked {
            this.running_on.finished();
        }
        Ok(())
    }

    /// Notes the time of a timer, where it is an object.
    #[inline]
    fn set_when(&self, py: Python<'_>, when: Option<Py<PyAny>>) {
        if when.is_some() {
            // A new or recycled handle has no other one.
            self.call.with(py, |call| call.rare.get_or_insert_default().when = when);
        }
    }

    /// What [`Handle::set_when`] has noted.
    fn given_when(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.call.with(py, |call| call.rare.as_ref()?.when.as_ref().map(|when| when.clone_ref(py)))
    }

    /// Has other threads wait for the callback when they cancel the handle.
    pub fn track_running(&self) {
        self.running_on.track(true);
    }

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

    /// Cancels the handle: callback and arguments are let go of at once. False if it was cancelled already.
    pub fn cancel_once(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        if this.is_cancelled() {
            return Ok(false);
        }
        // As asyncio does: in debug mode the repr of a cancelled handle still names the callback.
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
        // It may stay in a queue for long, but nothing there needs it any more.
        track(slf);
        Ok(true)
    }

    fn callback<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.call.with(py, |call| call.callback.as_ref().map(|callback| callback.bind(py).clone()))
    }

    /// The arguments as a tuple; `None` once the handle is cancelled.
    fn args<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let (live, args, count) = self.call.with(py, |call| {
            let args = call.args.each_ref().map(|arg| arg.as_ref().map(|arg| arg.bind(py).clone()));
            (call.callback.is_some(), args, call.count)
        });
        if !live {
            return Ok(None);
        }
        if count > INLINE {
            let [tuple, ..] = args;
            return Ok(tuple.map(|tuple| tuple.cast_into()).transpose()?);
        }
        new::tuple(py, args.into_iter().flatten().collect::<Vec<_>>()).map(Some)
    }

    /// The parts of the repr, in asyncio's order.
    fn repr_parts(slf: &Bound<'_, Self>, name: &str, when: Option<Py<PyAny>>) -> PyResult<String> {
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
        if let Some(traceback) = this.source_traceback(py)
            && !traceback.bind(py).is_empty()?
        {
            let frame = traceback.bind(py).get_item(-1)?;
            parts.push(format!("created at {}:{}", frame.get_item(0)?, frame.get_item(1)?));
        }
        Ok(format!("<{}>", parts.join(" ")))
    }

    fn source_traceback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.call.with(py, |call| call.debug().map(|debug| debug.source_traceback.clone_ref(py)))
    }
}

/// The callback and its arguments while they run: a cancel meanwhile takes them from the handle, not from here.
struct Running {
    /// Null: nothing.
    callback: *mut ffi::PyObject,
    /// The first slot is for the callee (`PY_VECTORCALL_ARGUMENTS_OFFSET`).
    stack: [*mut ffi::PyObject; 1 + INLINE],
    count: usize,
}

impl Default for Running {
    #[inline(always)]
    fn default() -> Self {
        Self { callback: std::ptr::null_mut(), stack: [std::ptr::null_mut(); 1 + INLINE], count: 0 }
    }
}

impl Running {
    /// Takes references to what `call` holds; called once.
    #[inline(always)]
    fn borrow(&mut self, _py: Python<'_>, call: &Call) {
        let Some(callback) = &call.callback else {
            return;
        };
        self.callback = callback.as_ptr();
        self.count = call.count;
        // SAFETY: `call` owns references to all of these, and the interpreter is held; Drop gives ours back.
        unsafe {
            ffi::Py_INCREF(self.callback);
            for (slot, arg) in self.stack[1..].iter_mut().zip(&call.args[..self.count.min(INLINE)]) {
                *slot = arg.as_ref().map_or(std::ptr::null_mut(), Py::as_ptr);
                ffi::Py_XINCREF(*slot);
            }
        }
    }

    #[inline(always)]
    fn invoke(&self, py: Python<'_>) -> Result<(), Raised> {
        let args = self.stack[1..].as_ptr();
        // SAFETY: this struct holds references to the callback and to `count` arguments (or to a tuple of them); the
        // slot before the first belongs to this struct and may be used by the callee.
        unsafe {
            if self.count > INLINE {
                return self.invoke_with_tuple(py);
            }
            let count = self.count | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
            ffi::Py_DECREF(calls::vectorcall(self.callback, args, count)?);
        }
        Ok(())
    }

    /// With more arguments than have a place of their own.
    #[cold]
    fn invoke_with_tuple(&self, py: Python<'_>) -> Result<(), Raised> {
        // SAFETY: this struct holds references to both, and the first argument is then a tuple of all of them.
        let (callback, args) = unsafe {
            let args = Bound::from_borrowed_ptr(py, self.stack[1]).cast_into_unchecked::<PyTuple>();
            (Bound::from_borrowed_ptr(py, self.callback), args)
        };
        callback.call1(args).map(drop).map_err(|error| Raised::set(py, error))
    }
}

impl Drop for Running {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: filled by `borrow` in the same function that drops it, with the interpreter held throughout.
        unsafe {
            ffi::Py_XDECREF(self.callback);
            for &arg in &self.stack[1..1 + self.count.min(INLINE)] {
                ffi::Py_XDECREF(arg);
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: a pyclass is only ever dropped by its tp_dealloc, which holds the interpreter.
        let py = unsafe { Python::assume_attached() };
        nesting::drop_bounded(py, &self.call);
    }
}

/// True if a weak reference to the object exists, or did and has left its list behind.
#[inline]
fn has_weak_references(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the class of a handle has a list of weak references at this offset, a pointer; since CPython 3.12 it may
    // stand before the object, at a negative one (MANAGED_WEAKREF_OFFSET).
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
        new::string(slf.py(), &Self::repr_parts(slf, "Handle", None)?)
    }

    /// `isinstance(handle, asyncio.Handle)` asks for this: asyncio's class has slots and cannot be a native base.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let names = names(py)?;
        let class = if self.running_on.is_tracked() { &names.threadsafe_handle } else { &names.handle };
        Ok(class.clone_ref(py))
    }

    #[getter(_callback)]
    fn get_callback<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.callback(py)
    }

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

    #[getter(_loop)]
    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.event_loop.clone_ref(py)
    }

    #[getter(_source_traceback)]
    fn get_source_traceback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.source_traceback(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.traverse(&visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.call.with(py, std::mem::take));
    }
}
