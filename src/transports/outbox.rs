//! The outbox of a transport: what it still has to send, and when it sends it.
//!
//! An outbox takes these decisions, each of them in one call, so that a transport borrows its state once for it:
//!
//! - [`Outbox::next`]: does a write leave at once, or wait for more writes of the same callback, or for the kernel?
//! - [`Outbox::grown`] and [`Outbox::settled`]: is the protocol to pause its writing, or to resume it?
//! - [`Outbox::lose`]: is the program to be warned that it goes on writing to a lost connection?
//!
//! This file is pure. It knows no socket, no interpreter and no clock: the transport makes the system calls, reads the
//! clock, and tells the outbox what the kernel has taken. What is particular to one kind of transport has no place
//! here.

use std::io::{self, IoSlice};

use super::flow::{Flow, Queue, Signal};
use super::habit::{Habit, When};
use super::write_queue::WriteQueue;
use crate::reactor::moment::Moment;

/// After so many writes to a lost connection the program is warned
/// (`asyncio.constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES`).
pub const LOST_WRITES_BEFORE_WARNING: u32 = 5;

/// What is to be done with a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send it now, behind what is queued.
    Send,
    /// Queue it: the kernel takes no more, and will report when it does.
    Wait,
    /// Queue it, for the loop to send it by a call of the transport's `flush`: when the current callback returns (0),
    /// or when a callback returns at this time or later, in nanoseconds of the clock.
    Keep(u64),
}

/// What follows once a write is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Send what is queued.
    Send,
    /// Have the loop call the transport's `flush` at this time, as [`Next::Keep`] has it.
    Flush(u64),
    /// Tell the protocol, if there is something to tell it.
    Tell(Option<Signal>),
}

/// What a transport has to send, and all that decides when.
pub struct Outbox<Q> {
    pub queue: Q,
    /// The kernel takes no more. Nothing is tried until it reports that the file is writable again. Invariant: while
    /// the protocol is paused, this is set, or the queue is about to be sent.
    pub blocked: bool,
    /// The loop will call the transport's `flush`, and will not do so again unless it is asked to.
    pub deferred: bool,
    pub flow: Flow,
    habit: Habit,
    /// How many writes have gone to the lost connection: asyncio's `_conn_lost`.
    pub lost: u32,
}

impl<Q: Queue> Outbox<Q> {
    /// An empty outbox. `lost`: where the count of writes to the lost connection begins. asyncio's socket transports
    /// count the loss itself as the first one.
    pub fn new(queue: Q, flow: Flow, lost: u32) -> Self {
        Self { queue, blocked: false, deferred: false, flow, habit: Habit::default(), lost }
    }

    /// What to do with one write of `added` bytes, which is not queued yet. `may_wait`: may it be kept back for what
    /// the same callback writes next? `moment`: which callback of which turn writes; none between two turns.
    #[inline(always)]
    pub fn next(
        &mut self,
        added: usize,
        may_wait: bool,
        moment: Option<Moment>,
        now: impl Fn() -> u64,
    ) -> Next {
        if self.blocked {
            return Next::Wait;
        }
        match self.habit.write(moment, &now) {
            When::With(due) if may_wait && !self.queue.is_worth_a_call(added, &self.flow) => Next::Keep(due),
            _ => {
                self.habit.sent(now);
                Next::Send
            }
        }
    }

    /// What follows once the write is queued for which [`Outbox::next`] has given this answer.
    pub fn queued(&mut self, next: Next) -> Follow {
        match next {
            Next::Send => Follow::Send,
            Next::Keep(due) if !std::mem::replace(&mut self.deferred, true) => Follow::Flush(due),
            // The loop knows already.
            Next::Keep(_) => Follow::Tell(None),
            Next::Wait => Follow::Tell(self.grown()),
        }
    }

    /// For a write that can be sent, but not be kept back as it is: is it to be sent now? If not, nothing has changed,
    /// and [`Outbox::next`] is to be asked.
    pub fn sends_at_once(&mut self, moment: Option<Moment>, now: impl FnOnce() -> u64) -> bool {
        self.is_clear() && self.habit.sends_at_once(moment, now)
    }

    /// True if nothing is in the way of a write: it may be sent without being queued.
    #[inline]
    pub fn is_clear(&self) -> bool {
        !self.blocked && self.queue.is_empty()
    }

    /// True if something is queued that the kernel may take.
    #[inline]
    pub fn has_sendable(&self) -> bool {
        !self.blocked && !self.queue.is_empty()
    }

    /// The program asks the transport something: it is to find that all has left which the kernel takes. True if there
    /// is something to send for that.
    pub fn asked(&mut self) -> bool {
        self.habit.asked();
        self.has_sendable()
    }

    /// The transport has sent what the kernel takes, and nothing is kept back any more.
    #[inline]
    pub fn sent(&mut self, now: impl FnOnce() -> u64) {
        self.habit.sent(now);
    }

    /// Notes the outcome of a system call that was given `offered` bytes; returns how many of them the kernel has
    /// taken.
    #[inline(always)]
    pub fn taken(&mut self, result: io::Result<usize>, offered: usize) -> io::Result<usize> {
        let count = match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            result => result?,
        };
        self.blocked = count < offered;
        Ok(count)
    }

    /// What to tell the protocol after the queue has grown, or the marks were changed.
    pub fn grown(&mut self) -> Option<Signal> {
        // What is kept back does not count: the kernel may take all of it.
        self.flow.grown(if self.blocked { self.queue.size() } else { 0 })
    }

    /// What to tell the protocol after the transport has sent what the kernel takes. `may_resume`: false once the
    /// connection is lost, after which asyncio never calls `resume_writing()`.
    pub fn settled(&mut self, may_resume: bool) -> Option<Signal> {
        match self.flow.is_paused() {
            false => self.grown(),
            true if may_resume => self.flow.shrunk(self.queue.size()),
            true => None,
        }
    }

    /// Counts a write to the lost connection. True if the program is to be warned of it.
    pub fn lose(&mut self) -> bool {
        let warn = self.lost >= LOST_WRITES_BEFORE_WARNING;
        self.lost = self.lost.saturating_add(1);
        warn
    }
}

impl<C: AsRef<[u8]>> Outbox<WriteQueue<C>> {
    /// Gives the kernel what it takes of the queue, by as many calls of `write` as that needs. `by_record`: each call
    /// gets one chunk. `grow`: called when the kernel takes no more; true if it made room.
    #[inline]
    pub fn send(
        &mut self,
        by_record: bool,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
        mut grow: impl FnMut() -> bool,
        now: impl FnOnce() -> u64,
    ) -> io::Result<()> {
        while self.has_sendable() {
            let (result, offered) = self.queue.with_front(|slices| {
                let slices = if by_record { &slices[..1] } else { slices };
                (write(slices), slices.iter().map(|slice| slice.len()).sum())
            });
            let count = self.taken(result, offered)?;
            self.queue.advance(count);
            // A stream that takes less is full. A device that takes less of a record may take the rest by another call.
            let full = self.blocked && (!by_record || count == 0);
            self.blocked = full && !grow();
        }
        self.sent(now);
        Ok(())
    }
}

/// For a pipe, whose count of lost writes begins at 0.
impl<Q: Queue + Default> Default for Outbox<Q> {
    fn default() -> Self {
        Self::new(Q::default(), Flow::default(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue of so many bytes, that is worth a call from 100 bytes on.
    struct Bytes(usize);

    impl Queue for Bytes {
        fn is_empty(&self) -> bool {
            self.0 == 0
        }

        fn size(&self) -> usize {
            self.0
        }

        fn take(&mut self) -> Self {
            Self(std::mem::take(&mut self.0))
        }

        fn is_worth_a_call(&self, added: usize, _flow: &Flow) -> bool {
            self.0 + added >= 100
        }
    }

    const NOW: u64 = 1_000_000_000;

    fn outbox(queued: usize) -> Outbox<Bytes> {
        Outbox::new(Bytes(queued), Flow::default(), 0)
    }

    fn moment(turn: u32) -> Option<Moment> {
        Some(Moment::start_of(turn).next())
    }

    /// An outbox whose connection has the habit of writing in pieces: two turns of two writes have shown it.
    fn in_pieces() -> Outbox<Bytes> {
        let mut outbox = outbox(0);
        for turn in [1, 1, 2, 2] {
            assert_eq!(outbox.next(1, true, moment(turn), || NOW), Next::Send);
        }
        outbox
    }

    /// The truth table: what becomes of a write by all that it depends on.
    #[test]
    fn each_write_has_one_next_step() {
        for case in 0..64 {
            let is = |bit: u32| case & (1 << bit) != 0;
            let (habit, blocked, may_wait, large, deferred, in_turn) =
                (is(0), is(1), is(2), is(3), is(4), is(5));
            let mut outbox = if habit { in_pieces() } else { outbox(0) };
            (outbox.blocked, outbox.deferred) = (blocked, deferred);
            let added = if large { 100 } else { 99 };
            let next = outbox.next(added, may_wait, if in_turn { moment(3) } else { None }, || NOW);
            let follow = outbox.queued(next);
            let expected = if blocked {
                (Next::Wait, Follow::Tell(None))
            } else if !(habit && in_turn && may_wait && !large) {
                (Next::Send, Follow::Send)
            } else if deferred {
                (Next::Keep(0), Follow::Tell(None))
            } else {
                (Next::Keep(0), Follow::Flush(0))
            };
            assert_eq!((next, follow), expected, "case {case:06b}");
            assert_eq!(outbox.deferred, deferred || follow == Follow::Flush(0), "case {case:06b}");
        }
    }

    #[test]
    fn what_is_queued_counts_to_what_is_worth_a_call() {
        let mut outbox = in_pieces();
        assert_eq!(outbox.next(60, true, moment(3), || NOW), Next::Keep(0));
        outbox.queue.0 = 60;
        assert_eq!(outbox.next(39, true, moment(3), || NOW), Next::Keep(0));
        assert_eq!(outbox.next(40, true, moment(3), || NOW), Next::Send);
    }

    /// What the protocol is told, by what is queued, whether the kernel takes more, and whether it is paused already.
    #[test]
    fn only_what_waits_for_the_kernel_pauses_the_protocol() {
        for (blocked, queued, pause) in [(true, 101, true), (true, 100, false), (false, 101, false)] {
            let mut outbox = outbox(queued);
            outbox.flow.set_limits(Some(100), Some(50)).expect("valid");
            outbox.blocked = blocked;
            assert_eq!(outbox.queued(Next::Wait), Follow::Tell(pause.then_some(Signal::Pause)));
            assert_eq!(outbox.settled(true), None, "told once");
        }
    }

    #[test]
    fn the_protocol_resumes_at_the_low_mark_unless_the_connection_is_lost() {
        let mut outbox = outbox(101);
        outbox.flow.set_limits(Some(100), Some(50)).expect("valid");
        outbox.blocked = true;
        assert_eq!(outbox.grown(), Some(Signal::Pause));
        outbox.queue.0 = 51;
        assert_eq!((outbox.settled(true), outbox.grown()), (None, None));
        outbox.queue.0 = 50;
        assert_eq!(outbox.settled(false), None);
        assert_eq!(outbox.settled(true), Some(Signal::Resume));
    }

    #[test]
    fn a_write_passes_an_empty_queue_only() {
        let mut outbox = outbox(0);
        assert!(outbox.is_clear() && !outbox.has_sendable());
        assert_eq!(outbox.taken(Ok(7), 7).expect("taken"), 7);
        assert!(outbox.is_clear());
        assert_eq!(outbox.taken(Err(io::ErrorKind::WouldBlock.into()), 7).expect("nothing taken"), 0);
        assert!(outbox.blocked && !outbox.is_clear() && !outbox.asked());
        outbox.queue.0 = 7;
        assert!(!outbox.has_sendable() && !outbox.sends_at_once(moment(1), || NOW));
        outbox.blocked = false;
        assert!(outbox.asked() && !outbox.sends_at_once(moment(1), || NOW));
        assert!(outbox.taken(Err(io::ErrorKind::BrokenPipe.into()), 7).is_err());
    }

    #[test]
    fn five_lost_writes_are_forgiven() {
        for (first, warned_at) in [(0, 5), (1, 4)] {
            let mut outbox = Outbox::new(Bytes(0), Flow::default(), first);
            let warned: Vec<bool> = (0..8).map(|_| outbox.lose()).collect();
            assert_eq!(warned.iter().position(|&warned| warned), Some(warned_at));
            assert_eq!(outbox.lost, first + 8);
        }
    }

    /// A kernel that takes so many bytes a call, and `room` bytes in all; each growth makes 10 more.
    fn send(
        outbox: &mut Outbox<WriteQueue<&'static str>>,
        by_record: bool,
        per_call: usize,
        growths: usize,
    ) -> Vec<String> {
        let (mut calls, mut room, mut left) = (Vec::new(), 4, growths);
        let room_of = std::cell::Cell::new(0);
        let write = |slices: &[IoSlice<'_>]| {
            room += room_of.take();
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let count = all.len().min(per_call).min(room);
            room -= count;
            calls.push(String::from_utf8_lossy(&all[..count]).into_owned());
            if count == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
        };
        let grow = || {
            let grows = left > 0;
            left -= usize::from(grows);
            room_of.set(if grows { 10 } else { 0 });
            grows
        };
        outbox.send(by_record, write, grow, || NOW).expect("no error");
        calls
    }

    #[test]
    fn the_queue_is_sent_until_the_kernel_takes_no_more() {
        let filled = || {
            let mut outbox = Outbox::new(WriteQueue::default(), Flow::default(), 0);
            ["ab", "cde", "f"].into_iter().for_each(|chunk| outbox.queue.push(chunk).expect("memory"));
            outbox
        };
        let mut outbox = filled();
        assert_eq!(send(&mut outbox, false, 9, 0), ["abcd"], "a short write says that it is full");
        assert!(outbox.blocked && outbox.queue.size() == 2);
        let mut outbox = filled();
        assert_eq!(send(&mut outbox, false, 9, 1), ["abcd", "ef"], "it has grown");
        assert!(outbox.is_clear());
        let mut outbox = filled();
        assert_eq!(send(&mut outbox, true, 2, 0), ["ab", "cd", ""], "a record at a time, and its rest");
        assert!(outbox.blocked && outbox.queue.size() == 2);
        assert!(send(&mut outbox, true, 2, 0).is_empty(), "nothing is tried while it is blocked");
    }
}
