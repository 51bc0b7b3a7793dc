//! Adding callbacks and timers to a loop, and using their handles again.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::PyFloat;

use super::{Entry, LoopCore, closed_error, is_live};
use crate::error::{no_memory, os_error};
use crate::handle::{Callback, Handle, Time, TimerHandle};
use crate::py::gc::untrack;
use crate::py::new::{self, intern};
use crate::py::thread_end;
use crate::reactor::clock::deadline_ns;
use crate::reactor::ready::Refused;

/// Most handles, and most timers, that a loop keeps to use again.
const SPARE_HANDLES: usize = 8192;

impl LoopCore {
    /// `BaseEventLoop._check_closed`.
    #[inline]
    pub fn check_closed(&self) -> PyResult<()> {
        if self.closed.load(Relaxed) { Err(closed_error()) } else { Ok(()) }
    }

    /// Schedules a callback for the next turn.
    #[inline]
    pub fn call_soon<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        callback: Callback<'_, 'py>,
    ) -> PyResult<Bound<'py, Handle>> {
        let handle = self.handle(event_loop, callback)?;
        self.push(event_loop.py(), Entry::Handle(handle.clone().unbind()))?;
        Ok(handle)
    }

    /// Schedules a callback from any thread, and wakes the loop.
    pub fn call_soon_threadsafe<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        callback: Callback<'_, 'py>,
    ) -> PyResult<Bound<'py, Handle>> {
        let py = event_loop.py();
        thread_end::stop_instead(py);
        let handle = self.handle(event_loop, callback)?;
        if self.names.cancel_waits {
            handle.get().track_running();
        }
        let entry = Entry::Handle(handle.clone().unbind());
        if self.is_own_thread() {
            self.push(py, entry)?;
        } else {
            match self.inbox.send(entry) {
                Ok(()) => self.wake(py)?,
                Err(Refused::Closed(_)) => return Err(closed_error()),
                Err(Refused::NoMemory(_)) => return Err(no_memory()),
            }
        }
        Ok(handle)
    }

    /// Schedules a callback for `when`, a number of seconds of the loop's clock.
    pub fn call_at<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        when: Bound<'py, PyAny>,
        callback: Callback<'_, 'py>,
    ) -> PyResult<Bound<'py, TimerHandle>> {
        let seconds = match when.extract::<f64>() {
            Err(error) if error.is_instance_of::<PyOverflowError>(when.py()) => {
                if when.lt(0)? {
                    f64::NEG_INFINITY
                } else {
                    f64::INFINITY
                }
            }
            seconds => seconds?,
        };
        let given = if when.is_exact_instance_of::<PyFloat>() { None } else { Some(when.unbind()) };
        self.call_at_time(event_loop, Time { seconds, given }, callback)
    }

    pub fn call_at_time<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        time: Time,
        callback: Callback<'_, 'py>,
    ) -> PyResult<Bound<'py, TimerHandle>> {
        let (py, debug) = (event_loop.py(), self.debug.load(Relaxed));
        let deadline = deadline_ns(time.seconds);
        let mut garbage = Vec::new();
        let spare = self.state.with(py, |state| {
            if state.timers.is_mostly_dead() {
                state.timers.compact(is_live, &mut garbage);
            }
            if debug { None } else { state.spare_timers.pop() }
        });
        self.discard(py, garbage);
        let timer = match spare {
            Some(timer) => {
                let timer = timer.into_bound(py);
                TimerHandle::renew(&timer, callback, time)?;
                timer
            }
            None => {
                let handle = Handle::new(event_loop, callback, debug)?;
                let dead = self.state.with(py, |state| state.timers.dead().clone());
                let timer = Bound::new(py, TimerHandle::new(py, handle, time, dead))?;
                untrack(&timer);
                timer
            }
        };
        let entry = timer.clone().unbind();
        let refused = self.state.with(py, |state| state.timers.push(deadline, entry));
        refused.map_err(|_| no_memory())?;
        Ok(timer)
    }

    /// A handle, not scheduled yet.
    #[inline]
    pub fn handle<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        callback: Callback<'_, 'py>,
    ) -> PyResult<Bound<'py, Handle>> {
        let py = event_loop.py();
        if !self.debug.load(Relaxed)
            && let Some(spare) = self.state.with(py, |state| state.spare_handles.pop())
        {
            let handle = spare.into_bound(py);
            handle.get().renew(callback)?;
            return Ok(handle);
        }
        let handle = Bound::new(py, Handle::new(event_loop, callback, self.debug.load(Relaxed))?)?;
        untrack(&handle);
        Ok(handle)
    }

    /// Takes a handle back that has run or never will, to use it again if nobody else refers to it.
    #[inline]
    pub fn recycle(&self, handle: Bound<'_, Handle>) {
        let py = handle.py();
        if !Handle::recycle(&handle) {
            return;
        }
        // One too many is dropped here, where nothing is borrowed.
        if handle.is_exact_instance_of::<Handle>() {
            drop(self.state.with(py, |state| keep(&mut state.spare_handles, handle.unbind())));
        } else if let Ok(timer) = handle.cast_into::<TimerHandle>() {
            drop(self.state.with(py, |state| keep(&mut state.spare_timers, timer.unbind())));
        }
    }

    /// Takes timers back that left the heap without having run. Outside of any borrow: what they hold may have
    /// finalizers.
    pub fn discard(&self, py: Python<'_>, timers: Vec<Py<TimerHandle>>) {
        for timer in timers {
            timer.get().unschedule();
            self.recycle(timer.into_bound(py).into_super());
        }
    }

    /// Adds an entry behind everything that any thread has added before.
    #[inline]
    pub fn push(&self, py: Python<'_>, entry: Entry) -> PyResult<()> {
        let refused = self.state.with(py, |state| {
            state.ready.receive(&self.inbox);
            state.ready.push(entry)
        });
        // What is refused is dropped here, where nothing is borrowed.
        refused.map_err(|_| no_memory())
    }

    /// Makes a loop that is parked in its poll go on; from any thread. What it is to find has been left for it already,
    /// so that a failure is no error of the caller's: in debug mode it is logged, as asyncio's.
    pub fn wake(&self, py: Python<'_>) -> PyResult<()> {
        match self.waker.wake() {
            Err(error) if self.debug.load(Relaxed) => self.log_failed_wake(&os_error(&error), py),
            _ => Ok(()),
        }
    }

    #[cold]
    fn log_failed_wake(&self, error: &PyErr, py: Python<'_>) -> PyResult<()> {
        let keywords = new::dict(py)?;
        keywords.set_item("exc_info", error.value(py))?;
        self.names
            .logger
            .bind(py)
            .call_method(intern!(py, "debug")?, ("The loop could not be woken",), Some(&keywords))
            .map(drop)
    }

    /// Nanoseconds by which timers go.
    #[inline]
    pub fn now_ns(&self, event_loop: &Bound<'_, PyAny>) -> PyResult<u64> {
        if !self.custom_time.load(Relaxed) {
            return Ok(self.clock.now_ns());
        }
        Ok(deadline_ns(event_loop.call_method0(&self.names.time)?.extract()?))
    }
}

/// Keeps a handle to use again, or gives it back if there are enough.
#[inline]
fn keep<T>(spare: &mut Vec<Py<T>>, handle: Py<T>) -> Option<Py<T>> {
    if spare.len() >= SPARE_HANDLES {
        return Some(handle);
    }
    spare.push(handle);
    None
}
