//! The timer heap: timers ordered by deadline, and by their order of arrival where deadlines are equal.
//!
//! A cancelled timer is *dead*. It stays in the heap until it is the earliest one, or until more than half of the heap
//! is dead. Its owner drops the callback at once, so that only the empty entry remains. No clock is read here, and
//! nothing is called.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// How much memory a heap keeps after a burst, in bytes: that of tens of thousands of timers.
const KEPT: usize = 1024 * 1024;

/// Timers with owners of type `T`, by their deadlines in nanoseconds of the loop's clock.
pub struct TimerHeap<T> {
    heap: BinaryHeap<Timer<T>>,
    /// Counts the pushes, to order timers with equal deadlines.
    sequence: u64,
    dead: Arc<Dead>,
}

/// Counts the dead timers of a heap. Whoever holds the GIL changes it, and any thread may read it.
#[derive(Default)]
pub struct Dead {
    /// How many are in the heap. Whoever cancels one adds to it.
    now: AtomicUsize,
    /// How many have left the heap.
    swept: AtomicU64,
}

impl Dead {
    /// Notes that a timer of the heap was cancelled. To be called once for each.
    #[inline(always)]
    pub fn add(&self) {
        self.now.fetch_add(1, Relaxed);
    }

    /// How many timers have ever been cancelled while they were in the heap. A thread that does not hold the GIL may
    /// miss those that leave the heap at the moment.
    pub fn total(&self) -> u64 {
        let swept = self.swept.load(Acquire);
        swept + self.now.load(Relaxed) as u64
    }
}

struct Timer<T> {
    deadline: u64,
    sequence: u64,
    owner: T,
}

impl<T> TimerHeap<T> {
    pub fn new() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0, dead: Arc::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Adds a timer that is due at `deadline`. Gives its owner back if there is no memory.
    pub fn push(&mut self, deadline: u64, owner: T) -> Result<(), T> {
        if self.heap.len() == self.heap.capacity() && self.heap.try_reserve(1).is_err() {
            return Err(owner);
        }
        self.sequence += 1;
        self.heap.push(Timer { deadline, sequence: self.sequence, owner });
        Ok(())
    }

    /// Gives back the memory of a burst. To be called when the loop has nothing to do.
    #[inline]
    pub fn shrink(&mut self) {
        let capacity = self.heap.capacity();
        if capacity * size_of::<Timer<T>>() > KEPT && self.heap.len() < capacity / 4 {
            self.heap.shrink_to(self.heap.len() * 2);
        }
    }

    /// The counter of dead timers.
    pub fn dead(&self) -> &Arc<Dead> {
        &self.dead
    }

    /// The deadline of the earliest live timer. Dead timers before it are put into `garbage`, for the caller to drop.
    pub fn next_deadline(&mut self, is_live: impl Fn(&T) -> bool, garbage: &mut Vec<T>) -> Option<u64> {
        while let Some(timer) = self.heap.peek() {
            if is_live(&timer.owner) {
                return Some(timer.deadline);
            }
            garbage.extend(self.heap.pop().map(|timer| timer.owner));
            self.sweep(1);
        }
        None
    }

    /// Takes out the earliest live timer and its deadline, if it is due at `now`. Dead timers before it are put into `garbage`.
    pub fn pop_due(
        &mut self,
        now: u64,
        is_live: impl Fn(&T) -> bool,
        garbage: &mut Vec<T>,
    ) -> Option<(u64, T)> {
        if self.next_deadline(is_live, garbage)? > now {
            return None;
        }
        self.heap.pop().map(|timer| (timer.deadline, timer.owner))
    }

    /// True when more than half of the heap is dead.
    pub fn is_mostly_dead(&self) -> bool {
        self.dead.now.load(Relaxed) * 2 > self.heap.len()
    }

    /// Moves every dead timer to `garbage`. Called when [`TimerHeap::is_mostly_dead`], it removes more than half of the
    /// timers that it looks at, so that each cancelled timer costs constant time.
    pub fn compact(&mut self, is_live: impl Fn(&T) -> bool, garbage: &mut Vec<T>) {
        if garbage.try_reserve(self.dead.now.load(Relaxed)).is_err() {
            // There is no memory. The dead timers stay for now.
            return;
        }
        let mut timers = std::mem::take(&mut self.heap).into_vec();
        let mut at = 0;
        while at < timers.len() {
            if is_live(&timers[at].owner) {
                at += 1;
            } else {
                garbage.push(timers.swap_remove(at).owner);
            }
        }
        self.heap = BinaryHeap::from(timers);
        self.sweep(self.dead.now.load(Relaxed));
        self.shrink();
    }

    /// Notes that so many dead timers have left the heap.
    fn sweep(&mut self, count: usize) {
        self.dead.now.fetch_sub(count, Relaxed);
        self.dead.swept.store(self.dead.swept.load(Relaxed) + count as u64, Release);
    }

    /// How many timers are alive.
    pub fn live(&self) -> usize {
        self.heap.len().saturating_sub(self.dead.now.load(Relaxed))
    }

    /// The earliest timer, dead or alive.
    pub fn peek(&self) -> Option<&T> {
        self.heap.peek().map(|timer| &timer.owner)
    }

    /// The owners, earliest first.
    pub fn sorted(&self) -> Vec<&T> {
        let mut timers: Vec<_> = self.heap.iter().collect();
        timers.sort_unstable_by(|a, b| b.cmp(a));
        timers.into_iter().map(|timer| &timer.owner).collect()
    }

    /// Takes out the timer for which `is_it` is true. This looks at the whole heap, unless the timer is the earliest.
    pub fn remove(&mut self, is_it: impl Fn(&T) -> bool, is_live: impl Fn(&T) -> bool) -> Option<T> {
        let removed = if self.heap.peek().is_some_and(|timer| is_it(&timer.owner)) {
            self.heap.pop()
        } else {
            let mut timers = std::mem::take(&mut self.heap).into_vec();
            let at = timers.iter().position(|timer| is_it(&timer.owner));
            let removed = at.map(|at| timers.swap_remove(at));
            self.heap = BinaryHeap::from(timers);
            removed
        };
        let owner = removed?.owner;
        if !is_live(&owner) {
            self.sweep(1);
        }
        Some(owner)
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> Vec<T> {
        self.sweep(self.dead.now.load(Relaxed));
        std::mem::take(&mut self.heap).into_iter().map(|timer| timer.owner).collect()
    }

    /// The owners, in any order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.heap.iter().map(|timer| &timer.owner)
    }
}

impl<T> Default for TimerHeap<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The earliest timer is the greatest, because `BinaryHeap` gives out the greatest first.
impl<T> Ord for Timer<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.deadline, other.sequence).cmp(&(self.deadline, self.sequence))
    }
}

impl<T> PartialOrd for Timer<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Timer<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Timer<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    fn drain_due(timers: &mut TimerHeap<u32>, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| timers.pop_due(now, |_| true, &mut Vec::new()))
            .map(|(deadline, owner)| {
                assert!(deadline <= now);
                owner
            })
            .collect()
    }

    #[test]
    fn by_deadline_and_first_in_first_out_among_equals() {
        let mut timers = TimerHeap::new();
        for (deadline, owner) in [(30, 1), (10, 2), (30, 3), (20, 4), (10, 5)] {
            timers.push(deadline, owner).expect("memory");
        }
        assert_eq!(timers.next_deadline(|_| true, &mut Vec::new()), Some(10));
        assert_eq!(drain_due(&mut timers, 30), [2, 5, 4, 1, 3]);
        assert!(timers.is_empty());
    }

    #[test]
    fn what_is_removed_is_not_due() {
        let mut timers = TimerHeap::new();
        for (deadline, owner) in [(30, 3), (10, 1), (40, 4), (20, 2)] {
            timers.push(deadline, owner).expect("memory");
        }
        timers.dead().add();
        let is_live = |&owner: &u32| owner != 4;
        assert_eq!((timers.live(), timers.sorted()), (3, vec![&1, &2, &3, &4]));
        assert_eq!(timers.remove(|&owner| owner == 1, is_live), Some(1));
        assert_eq!(timers.remove(|&owner| owner == 3, is_live), Some(3));
        assert_eq!(timers.remove(|&owner| owner == 3, is_live), None);
        assert_eq!((timers.live(), timers.peek()), (1, Some(&2)));
        assert_eq!(timers.remove(|&owner| owner == 4, is_live), Some(4));
        assert_eq!((timers.live(), timers.heap.len()), (1, 1));
        assert_eq!(drain_due(&mut timers, 100), [2]);
    }

    #[test]
    fn never_early() {
        let mut timers = TimerHeap::new();
        timers.push(100, 1).expect("memory");
        assert!(drain_due(&mut timers, 99).is_empty());
        assert_eq!(drain_due(&mut timers, 100), [1]);
    }

    #[test]
    fn cancelled_head_does_not_set_the_deadline() {
        let mut timers = TimerHeap::new();
        timers.push(10, 1).expect("memory");
        timers.push(20, 2).expect("memory");
        timers.dead().add();
        let mut garbage = Vec::new();
        assert_eq!(timers.next_deadline(|&owner| owner != 1, &mut garbage), Some(20));
        assert_eq!(garbage, [1]);
        assert!(!timers.is_mostly_dead());
    }

    #[test]
    #[cfg_attr(miri, ignore = "so many entries take miri minutes")]
    fn the_memory_of_a_burst_is_given_back() {
        let mut timers = TimerHeap::new();
        (0..200_000).for_each(|n| timers.push(n, n).expect("memory"));
        timers.shrink();
        assert!(timers.heap.capacity() >= 200_000, "not while it is used");
        let dead = |&owner: &u64| owner % 20 != 0;
        timers.dead().now.fetch_add(190_000, Relaxed);
        timers.compact(|owner| !dead(owner), &mut Vec::new());
        assert!(timers.heap.capacity() <= 20_000, "{}", timers.heap.capacity());
        assert_eq!(timers.drain().len(), 10_000);
    }

    #[test]
    fn compaction_when_more_than_half_are_dead() {
        let mut timers = TimerHeap::new();
        let flags: Vec<_> = (0..1000).map(|_| Rc::new(Cell::new(true))).collect();
        for (at, flag) in flags.iter().enumerate() {
            timers.push(at as u64, flag.clone()).expect("memory");
        }
        let (mut garbage, mut compactions) = (Vec::new(), 0);
        for flag in flags.iter().take(600) {
            flag.set(false);
            timers.dead().add();
            if timers.is_mostly_dead() {
                compactions += 1;
                timers.compact(|flag| flag.get(), &mut garbage);
            }
        }
        assert_eq!((compactions, garbage.len(), timers.heap.len()), (1, 501, 499));
        timers.compact(|flag| flag.get(), &mut garbage);
        assert_eq!((garbage.len(), timers.dead().total()), (600, 600));
        assert_eq!(timers.drain().len(), 400);
    }
}
