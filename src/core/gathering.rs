//! Transports that keep a write back, and when they are flushed. Which transport does that, and why, is decided by
//! `transports/habit.rs`.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::prelude::*;

use super::{Kind, LoopCore, Native};
use crate::reactor::moment::Moment;

/// The value of `LoopCore::gather_due` while no transport keeps a write back.
pub const NOTHING: u64 = u64::MAX;

impl LoopCore {
    /// Begins a turn: the poll is over, and callbacks follow.
    pub fn begin_turn(&self) {
        // The number 0 would mean "between two turns".
        let turn = self.turns.load(Relaxed).wrapping_add(1).max(1);
        self.turns.store(turn, Relaxed);
        self.moment.store(Moment::start_of(turn).to_bits(), Relaxed);
    }

    /// Notes that the next callback follows.
    #[inline]
    pub fn next_callback(&self) {
        if let Some(moment) = self.moment() {
            self.moment.store(moment.next().to_bits(), Relaxed);
        }
    }

    /// Ends a turn: no callback follows. From here on every write is sent at once.
    pub fn end_turn(&self) {
        self.moment.store(0, Relaxed);
    }

    /// The callback that is running now; None between two turns.
    #[inline]
    pub fn moment(&self) -> Option<Moment> {
        Moment::from_bits(self.moment.load(Relaxed))
    }

    /// Has `kind.flush` of `object` called later. With `due` 0 that is when the current callback has returned.
    /// Otherwise it is when a callback has returned and the clock has reached `due`, in nanoseconds.
    pub fn gather(&self, object: &Bound<'_, PyAny>, kind: &'static Kind, due: u64) {
        let native = Native { object: object.clone().unbind(), kind };
        self.state.with(object.py(), |state| match due {
            0 => state.gathered.push_back(native),
            _ => state.gathered_until.push_back((due, native)),
        });
        self.gather_due.store(self.gather_due.load(Relaxed).min(due), Relaxed);
    }

    /// True if a transport keeps a write back.
    #[inline]
    pub fn gathers(&self) -> bool {
        self.gather_due.load(Relaxed) != NOTHING
    }

    /// True if a transport is to be flushed now that a callback has returned.
    #[inline]
    pub fn has_gathered(&self) -> bool {
        let due = self.gather_due.load(Relaxed);
        due != NOTHING && (due == 0 || due <= self.clock.now_ns())
    }

    /// The next transport to flush: one that is due, or with `all` any that keeps a write back.
    pub fn next_gathered(&self, py: Python<'_>, all: bool) -> Option<Native> {
        if !self.gathers() {
            return None;
        }
        self.state.with(py, |state| {
            let next = state.gathered.pop_front().or_else(|| {
                let (due, _) = state.gathered_until.front()?;
                let is_due = all || *due <= self.clock.now_ns();
                if is_due { state.gathered_until.pop_front().map(|(_, native)| native) } else { None }
            });
            let due = match state.gathered_until.front() {
                _ if !state.gathered.is_empty() => 0,
                Some((due, _)) => *due,
                None => NOTHING,
            };
            self.gather_due.store(due, Relaxed);
            next
        })
    }
}
