//! The ready queue, and the inbox through which other threads add to it.
//!
//! [`ReadyQueue`] belongs to the loop. [`Inbox`] is shared: other threads leave their entries there, under its lock.
//! Before the loop adds or takes an entry, it moves the whole inbox into the queue, which keeps the order of arrival.
//! Entries are only moved here. None is run, and none is dropped under the lock.

use std::collections::{TryReserveError, VecDeque};

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering, PoisonError};

/// How much memory a queue keeps after a burst, in bytes: that of tens of thousands of entries.
const KEPT: usize = 1024 * 1024;

fn is_large<T>(queue: &VecDeque<T>) -> bool {
    queue.capacity() * size_of::<T>() > KEPT
}

/// The entries that are to run, in order.
pub struct ReadyQueue<T> {
    queue: VecDeque<T>,
    /// When the earliest entry was posted that has come through the inbox since [`ReadyQueue::take_posted`].
    posted: Option<u64>,
}

impl<T> ReadyQueue<T> {
    pub fn new() -> Self {
        Self { queue: VecDeque::new(), posted: None }
    }

    /// Adds an entry at the end. Gives it back if there is no memory.
    #[inline]
    pub fn push(&mut self, entry: T) -> Result<(), T> {
        if self.queue.len() == self.queue.capacity() && !self.make_room() {
            return Err(entry);
        }
        self.queue.push_back(entry);
        Ok(())
    }

    /// The rare part of `push`, apart from it so that the compiler inlines the rest. False if there is no memory.
    #[cold]
    fn make_room(&mut self) -> bool {
        self.queue.try_reserve(1).is_ok()
    }

    /// Makes room for so many entries.
    pub fn reserve(&mut self, more: usize) -> Result<(), TryReserveError> {
        self.queue.try_reserve(more)
    }

    /// Gives back the memory of a burst. To be called when the loop has nothing to do.
    #[inline]
    pub fn shrink(&mut self) {
        if self.queue.is_empty() && is_large(&self.queue) {
            self.queue = VecDeque::new();
        }
    }

    pub fn pop(&mut self) -> Option<T> {
        self.queue.pop_front()
    }

    /// Adds an entry before all others.
    pub fn push_front(&mut self, entry: T) -> Result<(), T> {
        if self.queue.try_reserve(1).is_err() {
            return Err(entry);
        }
        self.queue.push_front(entry);
        Ok(())
    }

    /// Takes the last entry.
    pub fn pop_back(&mut self) -> Option<T> {
        self.queue.pop_back()
    }

    /// Takes out the first entry for which `is_it` is true.
    pub fn remove(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let at = self.queue.iter().position(is_it)?;
        self.queue.remove(at)
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Adds the entries that other threads have sent, in their order. If there is no memory, they stay in the inbox for
    /// now.
    #[inline]
    pub fn receive(&mut self, inbox: &Inbox<T>) {
        if !inbox.is_empty() {
            self.receive_from(inbox);
        }
    }

    /// Moves what other threads have put into the inbox to the end of the queue.
    fn receive_from(&mut self, inbox: &Inbox<T>) {
        let mut sent = inbox.lock();
        self.posted = self.posted.or(Some(sent.posted));
        if self.queue.is_empty() {
            std::mem::swap(&mut self.queue, &mut sent.queue);
        } else if self.queue.try_reserve(sent.queue.len()).is_ok() {
            self.queue.append(&mut sent.queue);
        } else {
            return;
        }
        if is_large(&sent.queue) {
            // It has no entries, but the memory of a burst.
            sent.queue = VecDeque::new();
        }
        inbox.filled.store(false, Ordering::SeqCst);
    }

    /// When the earliest entry was posted that has come through the inbox since the last call of this. None if none
    /// has.
    #[inline]
    pub fn take_posted(&mut self) -> Option<u64> {
        self.posted.take()
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> VecDeque<T> {
        std::mem::take(&mut self.queue)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.queue.iter()
    }
}

impl<T> Default for ReadyQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The inbox: entries that other threads have left for the loop.
pub struct Inbox<T> {
    sent: Mutex<Sent<T>>,
    /// True while `sent` holds entries; written under the lock, read without it.
    filled: AtomicBool,
}

/// Why an inbox does not accept an entry. The entry is given back.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<T> {
    Closed(T),
    NoMemory(T),
}

struct Sent<T> {
    queue: VecDeque<T>,
    /// When the first entry of `queue` was left, by the clock of the senders.
    posted: u64,
    closed: bool,
}

impl<T> Inbox<T> {
    pub fn new() -> Self {
        Self {
            sent: Mutex::new(Sent { queue: VecDeque::new(), posted: 0, closed: false }),
            filled: AtomicBool::new(false),
        }
    }

    pub fn is_empty(&self) -> bool {
        !self.filled.load(Ordering::SeqCst)
    }

    /// Leaves `entry` for the loop, or gives it back. The caller wakes the loop afterwards. `now` is asked for the time
    /// if the inbox was empty.
    pub fn send(&self, entry: T, now: impl FnOnce() -> u64) -> Result<(), Refused<T>> {
        let mut sent = self.lock();
        if sent.closed {
            return Err(Refused::Closed(entry));
        }
        if sent.queue.len() == sent.queue.capacity() && sent.queue.try_reserve(1).is_err() {
            return Err(Refused::NoMemory(entry));
        }
        if sent.queue.is_empty() {
            sent.posted = now();
        }
        sent.queue.push_back(entry);
        self.filled.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Refuses every entry from here on. Returns the entries that are left, for the caller to drop.
    pub fn close(&self) -> VecDeque<T> {
        let mut sent = self.lock();
        sent.closed = true;
        self.filled.store(false, Ordering::SeqCst);
        std::mem::take(&mut sent.queue)
    }

    /// Calls `visit` with every entry until it returns an error. It runs under the lock.
    pub fn try_visit<E>(&self, visit: impl FnMut(&T) -> Result<(), E>) -> Result<(), E> {
        self.lock().queue.iter().try_for_each(visit)
    }

    /// Nothing under this lock can panic, so that a poisoned lock can be used as any other.
    fn lock(&self) -> MutexGuard<'_, Sent<T>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn order_of_arrival_is_kept_across_threads() {
        let inbox = Inbox::new();
        let mut ready = ReadyQueue::new();
        ready.push(1).expect("memory");
        inbox.send(2, || 7).expect("open");
        ready.receive(&inbox);
        ready.push(3).expect("memory");
        assert_eq!(ready.drain(), [1, 2, 3]);
        assert!(inbox.is_empty());
        assert_eq!((ready.take_posted(), ready.take_posted()), (Some(7), None));
    }

    #[test]
    fn both_ends_and_the_middle() {
        let mut ready = ReadyQueue::new();
        [1, 2, 3, 4].into_iter().for_each(|entry| ready.push(entry).expect("memory"));
        ready.push_front(0).expect("memory");
        assert_eq!(
            (ready.pop_back(), ready.remove(|&entry| entry == 2), ready.remove(|&entry| entry == 9)),
            (Some(4), Some(2), None)
        );
        assert_eq!(ready.drain(), [0, 1, 3]);
    }

    #[test]
    fn closed_inbox_gives_the_entry_back() {
        let inbox = Inbox::new();
        inbox.send(1, || 7).expect("open");
        assert_eq!(inbox.close(), [1]);
        assert_eq!(inbox.send(2, || 7), Err(Refused::Closed(2)));
        assert!(inbox.is_empty());
    }

    #[test]
    fn many_senders_lose_nothing() {
        // miri is some thousand times slower.
        const EACH: usize = if cfg!(miri) { 200 } else { 10_000 };
        let inbox = Arc::new(Inbox::new());
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let inbox = inbox.clone();
                std::thread::spawn(move || {
                    (0..EACH).for_each(|n| inbox.send((sender, n), || 7).expect("open"))
                })
            })
            .collect();
        let mut ready = ReadyQueue::new();
        let mut next = [0; 4];
        let mut received = 0;
        while received < 4 * EACH {
            ready.receive(&inbox);
            while let Some((sender, n)) = ready.pop() {
                assert_eq!(n, next[sender]);
                next[sender] += 1;
                received += 1;
            }
        }
        senders.into_iter().for_each(|sender| sender.join().expect("sender"));
    }

    #[test]
    #[cfg_attr(miri, ignore = "so many entries take miri minutes")]
    fn the_memory_of_a_burst_is_given_back() {
        let inbox = Inbox::new();
        let mut ready = ReadyQueue::new();
        (0..200_000_u64).for_each(|n| ready.push(n).expect("memory"));
        (0..200_000_u64).for_each(|n| inbox.send(n, || 7).expect("open"));
        ready.receive(&inbox);
        assert_eq!(ready.len(), 400_000);
        assert_eq!(inbox.lock().queue.capacity(), 0);
        while ready.len() > 1 {
            ready.pop();
        }
        ready.shrink();
        assert!(ready.queue.capacity() >= 400_000, "not while it is used");
        ready.pop();
        ready.shrink();
        assert_eq!(ready.queue.capacity(), 0);
        // The inbox's memory is not copied, and does not stay with either.
        (0..200_000_u64).for_each(|n| inbox.send(n, || 7).expect("open"));
        ready.receive(&inbox);
        assert_eq!((ready.len(), inbox.lock().queue.capacity()), (200_000, 0));
    }
}
