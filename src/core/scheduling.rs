//! Adding callbacks and timers to a loop, from its own thread and from others, and using their handles again. Nothing
//! is run here.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::PyFloat;

use super::{Entry, LoopCore, closed_error, is_live};
use crate::error::{no_memory, os_error};
use crate::handle::{Callback, Handle, Time, TimerHandle};
use crate::py::new::{self, intern};
use crate::py::thread_end;
use crate::reactor::clock::deadline_ns;
use crate::reactor::ready::Refused;

/// The largest number of handles, and of timers, that a loop keeps to use again.
const SPARE_HANDLES: usize = 8192;

impl LoopCore {
    /// `BaseEventLoop._check_closed`.
    #[inline]
    pub fn check_closed(&self) -> PyResult<()> {
        if self.closed.load(Relaxed) { Err(closed_error()) } else { Ok(()) }
    }

    /// Schedules a callback for the next turn: `loop.call_soon`.
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

    /// Schedules a callback from any thread, and wakes the loop: `loop.call_soon_threadsafe`.
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
        // On the loop's own thread nobody has to be woken.
        if self.is_own_thread() {
            self.push(py, entry)?;
        } else {
            match self.inbox.send(entry, || self.clock.now_ns()) {
                Ok(()) => self.wake(py)?,
                Err(Refused::Closed(_)) => return Err(closed_error()),
                Err(Refused::NoMemory(_)) => return Err(no_memory()),
            }
        }
        Ok(handle)
    }

    /// Schedules a callback for `when`, a number of seconds of the loop's clock: `loop.call_at`.
    pub fn call_at<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        when: Bound<'py, PyAny>,
        callback: Callback<'_, 'py>,
    ) -> PyResult<Bound<'py, TimerHandle>> {
        // An int that is too large for a float is a time that never comes, or has always been. asyncio's heap compares
        // such ints as they are.
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
        // `TimerHandle.when()` returns the object that the program gave. A float can be made again.
        let given = if when.is_exact_instance_of::<PyFloat>() { None } else { Some(when.unbind()) };
        self.call_at_time(event_loop, Time { seconds, given }, callback)
    }

    /// The same with a time that was converted already.
    pub fn call_at_time<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        time: Time,
        callback: Callback<'_, 'py>,
    ) -> PyResult<Bound<'py, TimerHandle>> {
        let (py, debug) = (event_loop.py(), self.debug.load(Relaxed));
        let deadline = deadline_ns(time.seconds);
        let mut garbage = Vec::new();
        // A timer of debug mode has a traceback, and is not made from a recycled one.
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
                Bound::new(py, TimerHandle::new(py, handle, time, dead))?
            }
        };
        let entry = timer.clone().unbind();
        let refused = self.state.with(py, |state| state.timers.push(deadline, entry));
        refused.map_err(|_| no_memory())?;
        Ok(timer)
    }

    /// Schedules `callback`, `delay` seconds from now.
    pub fn call_later<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        delay: f64,
        callback: Callback<'_, 'py>,
    ) -> PyResult<Bound<'py, TimerHandle>> {
        let when = new::float(event_loop.py(), self.clock.now() + delay)?.into_any();
        self.call_at(event_loop, when, callback)
    }

    /// A handle that is not scheduled yet.
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
        Bound::new(py, Handle::new(event_loop, callback, self.debug.load(Relaxed))?)
    }

    /// Takes back a handle that has run, or never will. It is used again if nobody else refers to it.
    #[inline]
    pub fn recycle(&self, handle: Bound<'_, Handle>) {
        let py = handle.py();
        if !Handle::recycle(&handle) {
            return;
        }
        // A handle that is one too many is dropped here, where nothing is borrowed.
        if handle.is_exact_instance_of::<Handle>() {
            drop(self.state.with(py, |state| keep(&mut state.spare_handles, handle.unbind())));
        } else if let Ok(timer) = handle.cast_into::<TimerHandle>() {
            drop(self.state.with(py, |state| keep(&mut state.spare_timers, timer.unbind())));
        }
    }

    /// Takes back timers that have left the heap without having run. Nothing may be borrowed: dropping what they hold
    /// can run finalizers.
    pub fn discard(&self, py: Python<'_>, timers: Vec<Py<TimerHandle>>) {
        for timer in timers {
            timer.get().unschedule();
            self.recycle(timer.into_bound(py).into_super());
        }
    }

    /// Adds an entry to the ready queue, behind everything that any thread has added before.
    #[inline]
    pub fn push(&self, py: Python<'_>, entry: Entry) -> PyResult<()> {
        let refused = self.state.with(py, |state| {
            state.ready.receive(&self.inbox);
            state.ready.push(entry)
        });
        // What is refused is dropped here, where nothing is borrowed.
        refused.map_err(|_| no_memory())
    }

    /// Leaves an entry for the loop from any thread, with or without Python, and wakes the loop. Gives the entry back
    /// if the loop is closed or there is no memory.
    #[cfg(feature = "embed")]
    pub fn send(&self, entry: Entry) -> Result<(), Refused<Entry>> {
        self.inbox.send(entry, || self.clock.now_ns())?;
        self.wake_quietly();
        Ok(())
    }

    /// As [`LoopCore::wake`], for threads without Python.
    #[cfg(feature = "embed")]
    pub fn wake_quietly(&self) {
        // Fails only if the loop's own fd is gone, and with it the loop.
        let _ = self.waker.wake();
    }

    /// Wakes a loop that waits in its poll, from any thread. The caller has left something for the loop before. A
    /// failure is not the caller's: as on asyncio, it is logged in debug mode.
    pub fn wake(&self, py: Python<'_>) -> PyResult<()> {
        match self.waker.wake() {
            Err(error) if self.debug.load(Relaxed) => self.log_failed_wake(&os_error(&error), py),
            _ => Ok(()),
        }
    }

    /// As `BaseSelectorEventLoop._write_to_self`, where a write to the self-pipe can fail.
    #[cold]
    fn log_failed_wake(&self, error: &PyErr, py: Python<'_>) -> PyResult<()> {
        let keywords = new::dict(py)?;
        keywords.set_item(intern!(py, "exc_info")?, error.value(py))?;
        self.names
            .logger
            .bind(py)
            .call_method(
                intern!(py, "debug")?,
                (new::string(py, "The loop could not be woken")?,),
                Some(&keywords),
            )
            .map(drop)
    }

    /// The time that timers are compared with, in nanoseconds: that of the clock, or of the program's own `time()`.
    #[inline]
    pub fn now_ns(&self, event_loop: &Bound<'_, PyAny>) -> PyResult<u64> {
        if !self.custom_time.load(Relaxed) {
            return Ok(self.clock.now_ns());
        }
        Ok(deadline_ns(event_loop.call_method0(&self.names.time)?.extract()?))
    }
}

/// Keeps a handle to use it again. Gives it back if there are enough.
#[inline]
fn keep<T>(spare: &mut Vec<Py<T>>, handle: Py<T>) -> Option<Py<T>> {
    if spare.len() >= SPARE_HANDLES {
        return Some(handle);
    }
    spare.push(handle);
    None
}
