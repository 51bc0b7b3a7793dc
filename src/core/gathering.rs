//! Which transports keep a write back, and until when. What makes them do so is `transports/habit.rs`.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::prelude::*;

use super::{Kind, LoopCore, Native};
use crate::reactor::moment::Moment;

/// [`LoopCore::gather_due`] where nothing is kept back.
pub const NOTHING: u64 = u64::MAX;

impl LoopCore {
    /// The poll is over, callbacks follow.
    pub fn begin_turn(&self) {
        // 0 would not be a turn.
        let turn = self.turns.load(Relaxed).wrapping_add(1).max(1);
        self.turns.store(turn, Relaxed);
        self.moment.store(Moment::start_of(turn).to_bits(), Relaxed);
    }

    /// The next callback follows.
    #[inline]
    pub fn next_callback(&self) {
        if let Some(moment) = self.moment() {
            self.moment.store(moment.next().to_bits(), Relaxed);
        }
    }

    /// No callback follows in this turn. From here on every write is sent at once.
    pub fn end_turn(&self) {
        self.moment.store(0, Relaxed);
    }

    /// Which callback is running; None between two turns.
    #[inline]
    pub fn moment(&self) -> Option<Moment> {
        Moment::from_bits(self.moment.load(Relaxed))
    }

    /// Has `kind.flush` of `object` called when the current callback returns (`due` 0), or when a callback returns at
    /// this time or later, in nanoseconds of the clock.
    pub fn gather(&self, object: &Bound<'_, PyAny>, kind: &'static Kind, due: u64) {
        let native = Native { object: object.clone().unbind(), kind };
        self.state.with(object.py(), |state| match due {
            0 => state.gathered.push_back(native),
            _ => state.gathered_until.push_back((due, native)),
        });
        self.gather_due.store(self.gather_due.load(Relaxed).min(due), Relaxed);
    }

    /// Is there a transport that keeps a write back?
    #[inline]
    pub fn gathers(&self) -> bool {
        self.gather_due.load(Relaxed) != NOTHING
    }

    /// Is there a transport to flush as soon as the current callback has returned?
    #[inline]
    pub fn has_gathered(&self) -> bool {
        let due = self.gather_due.load(Relaxed);
        due != NOTHING && (due == 0 || due <= self.clock.now_ns())
    }

    /// The next transport to flush: one that is due, or any (`all`).
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
