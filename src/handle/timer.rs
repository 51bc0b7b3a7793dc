//! `TimerHandle`: a handle with a time. It knows its heap's counter of cancelled entries, not the heap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use pyo3::class::basic::CompareOp;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::{Callback, Handle};
use crate::py::cell::LoopCell;
use crate::py::names::names;

/// A callback scheduled for a time (`asyncio.TimerHandle`).
#[pyclass(extends = Handle, frozen, module = "rloop._rloop")]
pub struct TimerHandle {
    time: LoopCell<Time>,
    /// True while the handle is in its loop's timer heap.
    scheduled: AtomicBool,
    /// The heap's counter of cancelled entries.
    dead: Arc<AtomicUsize>,
}

/// When a timer is due.
pub struct Time {
    /// Seconds of the loop's clock.
    pub seconds: f64,
    /// The same as given by the user, where it was not a float.
    pub given: Option<Py<PyAny>>,
}

impl TimerHandle {
    /// A timer about to go into the heap whose counter of cancelled entries is `dead`.
    pub fn new(handle: Handle, time: Time, dead: Arc<AtomicUsize>) -> PyClassInitializer<Self> {
        let timer = Self { time: LoopCell::new(time), scheduled: AtomicBool::new(true), dead };
        PyClassInitializer::from(handle).add_subclass(timer)
    }

    /// Makes a recycled timer of the same loop new; it is about to go into the heap.
    #[inline]
    pub fn renew(slf: &Bound<'_, Self>, callback: Callback<'_, '_>, time: Time) -> PyResult<()> {
        slf.as_super().get().renew(callback)?;
        slf.get().scheduled.store(true, Relaxed);
        drop(slf.get().time.with(slf.py(), |place| std::mem::replace(place, time)));
        Ok(())
    }

    /// The same object as a handle.
    pub fn as_handle(timer: &Py<Self>) -> &Py<Handle> {
        // SAFETY: `Py` is a pointer to the object whatever the type, and a TimerHandle is a Handle.
        unsafe { &*std::ptr::from_ref(timer).cast::<Py<Handle>>() }
    }

    /// Notes that the heap has let go of this timer: a cancel from here on is none of its business.
    pub fn unschedule(&self) {
        self.scheduled.store(false, Relaxed);
    }

    /// Notes that this timer is about to go into the heap.
    pub fn schedule(&self) {
        self.scheduled.store(true, Relaxed);
    }

    /// Is it in the heap?
    pub fn is_scheduled(&self) -> bool {
        self.scheduled.load(Relaxed)
    }

    pub fn seconds(&self, py: Python<'_>) -> f64 {
        self.time.with(py, |time| time.seconds)
    }

    /// Are the two equal in all that asyncio compares?
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
    fn when(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let given = self.time.with(py, |time| time.given.as_ref().map(|given| given.clone_ref(py)));
        match given {
            Some(given) => Ok(given),
            None => Ok(self.seconds(py).into_pyobject(py)?.into_any().unbind()),
        }
    }

    /// Cancels the callback. Callback and arguments are released at once.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<()> {
        if Handle::cancel_once(slf.as_super())? && slf.get().scheduled.load(Relaxed) {
            slf.get().dead.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        self.when(py)?.bind(py).hash()
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

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Handle::repr_parts(slf.as_super(), "TimerHandle", Some(slf.get().when(slf.py())?))
    }

    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(names(py)?.timer_handle.clone_ref(py))
    }

    #[getter(_when)]
    fn get_when(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.when(py)
    }

    #[getter(_scheduled)]
    fn get_scheduled(&self) -> bool {
        self.scheduled.load(Relaxed)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.time.peek(|time| visit.call(&time.given)).unwrap_or(Ok(()))
    }
}
