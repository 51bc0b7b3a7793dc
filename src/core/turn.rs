//! What one turn of the loop takes from the state, and puts back: each method here is one borrow of it, or none.
//!
//! `run.rs` puts these steps together. Nothing here calls Python or drops a Python object: what is to be dropped is
//! handed out to the caller.

use std::collections::TryReserveError;
use std::io;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use pyo3::prelude::*;

use super::{Entry, LoopCore, Source, is_live};
use crate::error::no_memory;
use crate::handle::TimerHandle;
use crate::reactor::Poller;
use crate::reactor::metrics::Figure;
use crate::reactor::token::Token;

/// What [`LoopCore::look`] has found.
pub enum Look {
    /// Entries are ready: the poll must not wait.
    Ready,
    /// No entry is ready, and there is no timer.
    Nothing,
    /// [`LoopCore::next_deadline`] is to be asked: there are timers.
    Timers,
}

impl LoopCore {
    // ------------------------------------------------------------------------------------------ the ready queue

    /// What decides how long the poll may wait.
    #[inline]
    pub fn look(&self, py: Python<'_>) -> Look {
        self.state.with(py, |state| {
            state.ready.receive(&self.inbox);
            if state.timers.is_mostly_dead() {
                Look::Timers
            } else if !state.ready.is_empty() {
                Look::Ready
            } else if state.timers.is_empty() {
                Look::Nothing
            } else {
                Look::Timers
            }
        })
    }

    /// How many entries are ready.
    pub fn ready_count(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| {
            state.ready.receive(&self.inbox);
            state.ready.len()
        })
    }

    /// How many entries are about to run, in a turn that has begun at `now`. They are noted in the figures.
    #[inline]
    pub fn begin_batch(&self, py: Python<'_>, now: u64) -> usize {
        self.state.with(py, |state| {
            state.ready.receive(&self.inbox);
            if let Some(posted) = state.ready.take_posted() {
                self.figures.delayed(now.saturating_sub(posted));
            }
            self.figures.ready(state.ready.len());
            state.ready.len()
        })
    }

    /// Takes the next entry.
    #[inline]
    pub fn pop(&self, py: Python<'_>) -> Option<Entry> {
        self.state.with(py, |state| state.ready.pop())
    }

    /// What debug mode names as the subject of an `Entry::Io`: the native object, or one of the callbacks.
    pub fn subject_of<'py>(&self, py: Python<'py>, token: Token) -> Option<Bound<'py, PyAny>> {
        self.state.with(py, |state| match state.reactor.source(token)? {
            source @ (Source::Native(_) | Source::Idle(_)) => {
                source.native(py).map(|native| native.object.into_bound(py))
            }
            Source::Callbacks(callbacks) => {
                let handle = callbacks.reader.as_ref().or(callbacks.writer.as_ref());
                handle.map(|handle| handle.bind(py).clone().into_any())
            }
        })
    }

    // ------------------------------------------------------------------------------------------ timers

    /// The time of the earliest timer, in nanoseconds of the clock. 0 if the poll must not wait at all, `None` if there
    /// is no timer. Dead timers that are found on the way are put into `garbage`.
    #[inline]
    pub fn next_deadline(&self, py: Python<'_>, garbage: &mut Vec<Py<TimerHandle>>) -> Option<u64> {
        self.state.with(py, |state| {
            state.ready.receive(&self.inbox);
            if state.timers.is_mostly_dead() {
                state.timers.compact(is_live, garbage);
            }
            if !state.ready.is_empty() || self.stopping.load(SeqCst) {
                return Some(0);
            }
            state.timers.next_deadline(is_live, garbage)
        })
    }

    /// True if there are timers, dead ones included.
    #[inline]
    pub fn has_timers(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| !state.timers.is_empty())
    }

    /// Queues the timers that are due at `now`, earliest first. Dead timers are put into `garbage`.
    #[inline]
    pub fn queue_due(&self, py: Python<'_>, now: u64, garbage: &mut Vec<Py<TimerHandle>>) -> PyResult<()> {
        let queued = self.state.with(py, |state| {
            loop {
                // Room first: a timer that has been taken out and finds no room would be lost.
                state.ready.reserve(1)?;
                let Some((deadline, timer)) = state.timers.pop_due(now, is_live, garbage) else {
                    return Ok(());
                };
                self.figures.add(Figure::TimersFired, 1);
                // A deadline of 0 is one before the clock's beginning, which says nothing of when it could have run.
                if deadline != 0 {
                    self.figures.delayed(now - deadline);
                }
                timer.get().unschedule();
                drop(state.ready.push(Entry::Handle(timer.into_bound(py).into_super().unbind())));
            }
        });
        queued.map_err(|_: TryReserveError| no_memory())
    }

    // ------------------------------------------------------------------------------------------ the poll

    /// False if a poll that does not wait has nothing to find: no fd but the loop's own is registered.
    #[inline]
    pub fn needs_poll(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.reactor.watches_io() || state.reactor.has_found())
    }

    /// Looks again at the fds of `add_reader` that were ready in the turn before: see
    /// [`Reactor::recheck_level`](crate::reactor::Reactor::recheck_level).
    #[inline]
    pub fn recheck_level(&self, py: Python<'_>) -> io::Result<bool> {
        self.state.with(py, |state| state.reactor.recheck_level())
    }

    /// Takes the poll out, to wait on it; [`LoopCore::put_poller`] follows. `None` if somebody else has it. `idle`: the
    /// loop may be about to sleep, and gives back the memory of its last burst.
    #[inline]
    pub fn take_poller(&self, py: Python<'_>, idle: bool) -> Option<Box<Poller>> {
        self.state.with(py, |state| {
            if idle {
                state.ready.shrink();
                state.timers.shrink();
            }
            state.reactor.take_poller()
        })
    }

    /// Puts the poll back.
    #[inline]
    pub fn put_poller(&self, py: Python<'_>, poller: Box<Poller>) {
        // Before anything else: a wake-up from here on needs no system call.
        self.awake();
        self.state.with(py, |state| state.reactor.put_poller(poller));
    }

    /// Queues an entry for each registration that was found ready. If there is no memory for the entries, what was
    /// found stays for the next turn.
    #[inline]
    pub fn queue_found(&self, py: Python<'_>) -> PyResult<()> {
        let queued = self.state.with(py, |state| {
            state.ready.receive(&self.inbox);
            let ready = &mut state.ready;
            ready.reserve(state.reactor.found_count())?;
            // There is room for all of them.
            state.reactor.report_found(|token| drop(ready.push(Entry::Io(token))));
            Ok(())
        });
        queued.map_err(|_: TryReserveError| no_memory())
    }

    /// Notes that the loop is awake and looks at its inbox next: that answers every wake-up so far.
    #[inline]
    pub fn awake(&self) {
        if self.waker.unpark() {
            self.figures.add(Figure::Wakeups, 1);
        }
    }

    /// Announces that the loop is about to block. False if it must not, because another thread has left an entry, or
    /// has stopped the loop.
    pub fn park(&self) -> bool {
        self.waker.park() && self.inbox.is_empty() && !self.stopping.load(SeqCst)
    }

    // ------------------------------------------------------------------------------------------ a program's own turn

    /// Begins the wait of a turn that the program runs by itself. True if the wait must not block.
    pub fn begin_program_wait(&self, py: Python<'_>) -> bool {
        self.awake();
        self.state.with(py, |state| {
            state.ready.receive(&self.inbox);
            !state.ready.is_empty() || !state.reactor.found_fds().is_empty() || self.stopping.load(SeqCst)
        })
    }

    /// What was found and is not queued yet, as (fd, readable, writable). The fd is -1 for entries of other threads.
    pub fn found_fds(&self, py: Python<'_>) -> Vec<(i32, bool, bool)> {
        let mut found = self.state.with(py, |state| state.reactor.found_fds());
        if !self.inbox.is_empty() {
            found.push((-1, true, false));
        }
        found
    }

    // ------------------------------------------------------------------------------------------ figures

    /// The figures as they are at `now`, in the order of `reactor/metrics.rs`. Two of them are counted elsewhere, and
    /// are looked up only here. Callable without the GIL.
    pub fn read_figures(&self, now: u64) -> Vec<u64> {
        let mut all = self.figures.read_all(now);
        all[Figure::FdsRegistered as usize] = self.fd_count.load(Relaxed) as u64;
        all[Figure::TimersCancelled as usize] = self.dead_timers.total();
        all
    }
}
