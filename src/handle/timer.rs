//! `TimerHandle`: a handle with a time. It knows the counter of dead timers of its heap, but not the heap.
//!
//! A timer holds no Python object of its own. If its time is an object, that is kept beside the callback in [`Handle`],
//! where the garbage collector sees it, and where all is dropped together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::class::basic::CompareOp;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::{Callback, Handle};
use crate::py::cell::LoopCell;
use crate::py::names::names;
use crate::py::new;
use crate::reactor::timers::Dead;

/// A callback scheduled for a time (`asyncio.TimerHandle`).
#[pyclass(extends = Handle, frozen, module = "rloop._rloop")]
pub struct TimerHandle {
    /// When it is due, in seconds of the loop's clock.
    seconds: LoopCell<f64>,
    /// True while the handle is in its loop's timer heap.
    scheduled: AtomicBool,
    /// The heap's counter of dead timers.
    dead: Arc<Dead>,
}

/// When a timer is due.
pub struct Time {
    /// Seconds of the loop's clock.
    pub seconds: f64,
    /// The same as the program gave it, if it was not a float.
    pub given: Option<Py<PyAny>>,
}

impl TimerHandle {
    /// A timer that is about to be put into the heap whose counter of dead timers is `dead`.
    pub fn new(py: Python<'_>, handle: Handle, time: Time, dead: Arc<Dead>) -> PyClassInitializer<Self> {
        handle.set_when(py, time.given);
        let seconds = LoopCell::new(time.seconds);
        PyClassInitializer::from(handle).add_subclass(Self {
            seconds,
            scheduled: AtomicBool::new(true),
            dead,
        })
    }

    /// Gives a recycled timer of the same loop a new callback and time. It is about to be put into the heap.
    #[inline]
    pub fn renew(slf: &Bound<'_, Self>, callback: Callback<'_, '_>, time: Time) -> PyResult<()> {
        let handle = slf.as_super().get();
        handle.renew(callback)?;
        handle.set_when(slf.py(), time.given);
        slf.get().scheduled.store(true, Relaxed);
        slf.get().seconds.with(slf.py(), |seconds| *seconds = time.seconds);
        Ok(())
    }

    /// The same object as a handle.
    pub fn as_handle(timer: &Py<Self>) -> &Py<Handle> {
        // SAFETY: `Py` is a pointer to the object whatever the type, and a TimerHandle is a Handle.
        unsafe { &*std::ptr::from_ref(timer).cast::<Py<Handle>>() }
    }

    /// Notes that this timer has left the heap. When it is cancelled from here on, it does not count as dead there.
    pub fn unschedule(&self) {
        self.scheduled.store(false, Relaxed);
    }

    /// Notes that this timer is about to be put into the heap.
    pub fn schedule(&self) {
        self.scheduled.store(true, Relaxed);
    }

    /// True while it is in the heap.
    pub fn is_scheduled(&self) -> bool {
        self.scheduled.load(Relaxed)
    }

    /// When it is due, in seconds of the loop's clock.
    pub fn seconds(&self, py: Python<'_>) -> f64 {
        self.seconds.with(py, |seconds| *seconds)
    }

    /// When the callback is due, as the program gave it.
    fn when_of(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        match slf.as_super().get().given_when(py) {
            Some(given) => Ok(given),
            None => Ok(new::float(py, slf.get().seconds(py))?.into_any().unbind()),
        }
    }

    /// True if the two are equal in all that asyncio compares.
    fn compare(slf: &Bound<'_, Self>, other: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let (a, b) = (slf.as_super().get(), other.as_super().get());
        let equal = |a: Option<Bound<'_, PyAny>>, b: Option<Bound<'_, PyAny>>| match (a, b) {
            (Some(a), Some(b)) => a.eq(b),
            (a, b) => Ok(a.is_none() && b.is_none()),
        };
        Ok(slf.get().seconds(py) == other.get().seconds(py)
            && equal(a.callback(py), b.callback(py))?
            && equal(a.args(py)?.map(Bound::into_any), b.args(py)?.map(Bound::into_any))?
            && a.is_cancelled() == b.is_cancelled())
    }
}

#[pymethods]
impl TimerHandle {
    /// When the callback is due, in seconds of `loop.time()`.
    fn when(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::when_of(slf)
    }

    /// Cancels the callback. Callback and arguments are released at once.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Handle::cancel_once(slf.as_super())? && slf.get().scheduled.load(Relaxed) {
            slf.get().dead.add();
        }
        Ok(())
    }

    fn __hash__(slf: &Bound<'_, Self>) -> PyResult<isize> {
        Self::when_of(slf)?.bind(slf.py()).hash()
    }

    fn __richcmp__<'py>(
        slf: &Bound<'py, Self>,
        other: &Bound<'py, PyAny>,
        op: CompareOp,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let Ok(other) = other.cast::<Self>() else {
            return Ok(py.NotImplemented());
        };
        let (a, b) = (slf.get().seconds(py), other.get().seconds(py));
        let result = match op {
            CompareOp::Lt => a < b,
            CompareOp::Le => a < b || Self::compare(slf, other)?,
            CompareOp::Gt => a > b,
            CompareOp::Ge => a > b || Self::compare(slf, other)?,
            CompareOp::Eq => Self::compare(slf, other)?,
            CompareOp::Ne => !Self::compare(slf, other)?,
        };
        Ok(result.into_pyobject(py)?.to_owned().into_any().unbind())
    }

    fn __repr__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyString>> {
        let text = Handle::repr_of(slf.as_super(), "TimerHandle", Some(Self::when_of(slf)?))?;
        new::string(slf.py(), &text)
    }

    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(names(py)?.timer_handle.clone_ref(py))
    }

    #[getter(_when)]
    fn get_when(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::when_of(slf)
    }

    #[getter(_scheduled)]
    fn get_scheduled(&self) -> bool {
        self.scheduled.load(Relaxed)
    }

    /// There is nothing to show. But the class must have this method for its instances to take part in garbage
    /// collection, as those of [`Handle`] do. The method of `Handle` is called, too.
    fn __traverse__(&self, _visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Ok(())
    }
}
