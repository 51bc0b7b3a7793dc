//! Looking into the queues and changing them in ways that no turn does: for the views that a program gets of
//! `loop._ready` and `loop._scheduled`. The classes of these views are in `event_loop/inside.rs`.

use std::collections::VecDeque;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::{Entry, LoopCore, is_live};
use crate::error::{Message, no_memory};
use crate::handle::{Handle, TimerHandle};
use crate::reactor::clock::deadline_ns;

impl LoopCore {
    // ------------------------------------------------------------------------------------------ the ready queue

    /// Takes the first entry, or the last one.
    pub fn pop_from(&self, py: Python<'_>, first: bool) -> Option<Entry> {
        self.state.with(py, |state| {
            state.ready.receive(&self.inbox);
            if first { state.ready.pop() } else { state.ready.pop_back() }
        })
    }

    /// Takes every entry.
    pub fn drain_ready(&self, py: Python<'_>) -> VecDeque<Entry> {
        self.state.with(py, |state| {
            state.ready.receive(&self.inbox);
            state.ready.drain()
        })
    }

    /// Adds an entry before all others.
    pub fn push_front(&self, py: Python<'_>, entry: Entry) -> PyResult<()> {
        // What is refused is dropped here, where nothing is borrowed.
        let refused = self.state.with(py, |state| state.ready.push_front(entry));
        refused.map_err(|_| no_memory())
    }

    /// Takes the entry of this handle out of the queue.
    pub fn remove_ready(&self, handle: &Bound<'_, PyAny>) -> Option<Py<Handle>> {
        let removed = self.state.with(handle.py(), |state| {
            state.ready.remove(|entry| matches!(entry, Entry::Handle(queued) if queued.is(handle)))
        });
        match removed {
            Some(Entry::Handle(handle)) => Some(handle),
            _ => None,
        }
    }

    // ------------------------------------------------------------------------------------------ timers

    /// How many timers wait.
    pub fn timer_count(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.timers.live())
    }

    /// The earliest timer.
    pub fn first_timer(&self, py: Python<'_>) -> Option<Py<TimerHandle>> {
        let mut garbage = Vec::new();
        let first = self.state.with(py, |state| {
            state.timers.next_deadline(is_live, &mut garbage)?;
            state.timers.peek().map(|timer| timer.clone_ref(py))
        });
        self.discard(py, garbage);
        first
    }

    /// All timers that wait, earliest first.
    pub fn all_timers(&self, py: Python<'_>) -> Vec<Py<TimerHandle>> {
        self.state.with(py, |state| {
            let timers = state.timers.sorted().into_iter();
            timers.filter(|timer| is_live(timer)).map(|timer| timer.clone_ref(py)).collect()
        })
    }

    /// Puts a timer of this loop into the heap again, which it must have left.
    pub fn add_timer(&self, event_loop: &Py<PyAny>, timer: &Bound<'_, TimerHandle>) -> PyResult<()> {
        let py = timer.py();
        self.check_closed()?;
        if !timer.as_super().get().belongs_to(event_loop) || timer.get().is_scheduled() {
            return Err(PyValueError::new_err(Message("not a timer of this loop, or scheduled already")));
        }
        let deadline = deadline_ns(timer.get().seconds(py));
        let refused = self.state.with(py, |state| state.timers.push(deadline, timer.clone().unbind()));
        refused.map_err(|_| no_memory())?;
        timer.get().schedule();
        Ok(())
    }

    /// Takes a timer out of the heap without cancelling it. False if it is not in there.
    pub fn remove_timer(&self, timer: &Bound<'_, TimerHandle>) -> bool {
        if !timer.get().is_scheduled() {
            return false;
        }
        let is_it = |queued: &Py<TimerHandle>| queued.is(timer);
        let removed = self.state.with(timer.py(), |state| state.timers.remove(is_it, is_live));
        let found = removed.is_some();
        if found {
            timer.get().unschedule();
        }
        drop(removed);
        found
    }

    /// Takes every timer out of the heap.
    pub fn clear_timers(&self, py: Python<'_>) {
        let timers = self.state.with(py, |state| state.timers.drain());
        timers.iter().for_each(|timer| timer.get().unschedule());
    }
}
