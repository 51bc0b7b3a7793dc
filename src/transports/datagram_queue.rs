//! The queue in the outbox of a datagram transport: whole datagrams, in order. Pure. When they are sent is decided in
//! `outbox.rs`.

use std::collections::VecDeque;

use super::flow::{Flow, Queue};
use crate::reactor::sys::datagrams::SEND_BATCH;

/// How much memory an empty queue keeps, in bytes.
const KEPT: usize = 16 * 1024;

/// Datagrams waiting to be sent, and their size as asyncio counts it.
pub struct DatagramQueue<D> {
    datagrams: VecDeque<D>,
    /// Bytes, headers included.
    size: usize,
    /// What each datagram counts beyond its bytes.
    header: usize,
}

impl<D: AsRef<[u8]>> DatagramQueue<D> {
    /// An empty queue, in which each datagram counts `header` bytes beyond its own.
    pub fn new(header: usize) -> Self {
        Self { datagrams: VecDeque::new(), size: 0, header }
    }

    /// How many datagrams are queued.
    pub fn count(&self) -> usize {
        self.datagrams.len()
    }

    /// How a datagram of `len` bytes counts.
    pub fn size_of(&self, len: usize) -> usize {
        len + self.header
    }

    /// Adds a datagram at the end; gives it back if there is no memory.
    pub fn push(&mut self, datagram: D) -> Result<(), D> {
        if self.datagrams.try_reserve(1).is_err() {
            return Err(datagram);
        }
        self.size += self.size_of(datagram.as_ref().len());
        self.datagrams.push_back(datagram);
        Ok(())
    }

    /// Gives back what [`DatagramQueue::pop`] has taken.
    pub fn put_back(&mut self, datagram: D) {
        self.size += self.size_of(datagram.as_ref().len());
        self.datagrams.push_front(datagram);
    }

    /// Takes out the datagram that comes next.
    pub fn pop(&mut self) -> Option<D> {
        let datagram = self.datagrams.pop_front()?;
        self.size -= self.size_of(datagram.as_ref().len());
        if self.datagrams.is_empty() && self.datagrams.capacity() * size_of::<D>() > KEPT {
            // The memory of a long queue is given back.
            self.datagrams = VecDeque::new();
        }
        Some(datagram)
    }

    /// Those that come next.
    pub fn iter(&self) -> impl Iterator<Item = &D> {
        self.datagrams.iter()
    }
}

impl<D: AsRef<[u8]>> Queue for DatagramQueue<D> {
    #[inline]
    fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Headers included.
    #[inline]
    fn size(&self) -> usize {
        self.size
    }

    fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.header))
    }

    /// One call sends a batch. And a queue above the high-water mark would make the protocol pause for no reason.
    fn is_worth_a_call(&self, added: usize, flow: &Flow) -> bool {
        self.count() + 1 >= SEND_BATCH || flow.is_above_high(self.size + self.size_of(added))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_that_of_what_is_queued() {
        let mut queue = DatagramQueue::new(8);
        ["one", "", "three"].into_iter().for_each(|datagram| queue.push(datagram).expect("memory"));
        assert_eq!((queue.count(), queue.size()), (3, 8 + 3 * 8));
        let one = queue.pop().expect("three queued");
        assert_eq!((one, queue.size()), ("one", 5 + 2 * 8));
        queue.put_back(one);
        assert_eq!(queue.iter().copied().collect::<Vec<_>>(), ["one", "", "three"]);
        assert_eq!(queue.size(), 8 + 3 * 8);
        assert_eq!(queue.take().datagrams, ["one", "", "three"]);
        assert_eq!((queue.count(), queue.size(), queue.pop()), (0, 0, None));
    }

    #[test]
    fn the_memory_of_a_long_queue_is_given_back() {
        let mut queue = DatagramQueue::new(0);
        (0..10_000).for_each(|_| queue.push("x").expect("memory"));
        while queue.pop().is_some() {}
        assert_eq!(queue.datagrams.capacity(), 0);
    }
}
