//! The queue in the outbox of a stream, of a pipe and of a TLS layer: chunks of bytes in order, of which the first may
//! be sent in part. Pure. When they are sent is decided in `outbox.rs`.

use std::collections::{TryReserveError, VecDeque};
use std::io::IoSlice;

use super::flow::{Flow, Queue};
use super::habit::LARGE;

/// Up to so many chunks are sent from a short array.
const FEW: usize = 4;
/// How many chunks one system call sends at most. More would gain little, and the array of them is on the stack.
const SLICES: usize = 64;

/// How much memory an empty queue keeps, in bytes. A program may have many connections, each with a queue.
const KEPT: usize = 8192;

/// Chunks of bytes waiting to be sent.
pub struct WriteQueue<C> {
    chunks: VecDeque<C>,
    /// How much of the first chunk has been sent. Invariant: less than its length.
    sent: usize,
    /// Bytes still to send.
    len: usize,
}

impl<C: AsRef<[u8]>> WriteQueue<C> {
    /// Adds a chunk at the end. An empty one is dropped. Err: there is no memory.
    pub fn push(&mut self, chunk: C) -> Result<(), TryReserveError> {
        let len = chunk.as_ref().len();
        if len > 0 {
            self.chunks.try_reserve(1)?;
            self.chunks.push_back(chunk);
            self.len += len;
        }
        Ok(())
    }

    /// Adds all of these, or none where there is no memory.
    pub fn push_all<I>(&mut self, chunks: I) -> Result<(), TryReserveError>
    where
        I: IntoIterator<Item = C, IntoIter: ExactSizeIterator>,
    {
        let mut chunks = chunks.into_iter();
        self.chunks.try_reserve(chunks.len())?;
        chunks.try_for_each(|chunk| self.push(chunk))
    }

    /// A chunk has gone. Once none is left, a connection does not keep the memory of a long queue.
    #[inline]
    fn shrink(&mut self) {
        if self.chunks.is_empty() && self.chunks.capacity() * size_of::<C>() > KEPT {
            self.chunks = VecDeque::new();
        }
    }

    /// Calls `send` with as much of what comes next as one system call should send.
    pub fn with_front<R>(&self, send: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        // Most messages are one chunk or two. To clear a long array for them would cost more than to queue them.
        if self.chunks.len() <= FEW {
            send(self.front(&mut [IoSlice::new(&[]); FEW]))
        } else {
            send(self.front(&mut [IoSlice::new(&[]); SLICES]))
        }
    }

    /// Fills `slices` with what comes next; returns those that are in use.
    fn front<'a, 's>(&'a self, slices: &'s mut [IoSlice<'a>]) -> &'s [IoSlice<'a>] {
        let mut skip = self.sent;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(&chunk.as_ref()[std::mem::take(&mut skip)..]);
        }
        &slices[..self.chunks.len().min(slices.len())]
    }

    /// Notes that `count` bytes were sent, and lets go of the chunks that this finishes.
    pub fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.len);
        self.len -= count;
        self.sent += count;
        while let Some(first) = self.chunks.front() {
            let len = first.as_ref().len();
            if self.sent < len {
                return;
            }
            self.sent -= len;
            self.chunks.pop_front();
        }
        self.shrink();
    }

    /// How much is left of the first chunk.
    pub fn front_len(&self) -> usize {
        self.chunks.front().map_or(0, |chunk| chunk.as_ref().len() - self.sent)
    }

    /// Takes the first chunk out, with how much of it has been sent.
    pub fn take_front(&mut self) -> Option<(C, usize)> {
        let chunk = self.chunks.pop_front()?;
        let sent = std::mem::take(&mut self.sent);
        self.len -= chunk.as_ref().len() - sent;
        self.shrink();
        Some((chunk, sent))
    }

    /// Puts a chunk before all others. The first one must not have been sent in part.
    pub fn put_back(&mut self, chunk: C) {
        debug_assert!(self.sent == 0);
        let len = chunk.as_ref().len();
        if len > 0 {
            self.chunks.push_front(chunk);
            self.len += len;
        }
    }

    /// Takes out what comes next, up to `limit` bytes, as a copy in one piece.
    pub fn gather(&mut self, limit: usize) -> Result<Vec<u8>, TryReserveError> {
        let mut gathered = Vec::new();
        gathered.try_reserve_exact(limit.min(self.len))?;
        while let Some(chunk) = self.chunks.front().filter(|_| gathered.len() < limit) {
            let rest = &chunk.as_ref()[self.sent..];
            let count = rest.len().min(limit - gathered.len());
            gathered.extend_from_slice(&rest[..count]);
            self.advance(count);
        }
        Ok(gathered)
    }

    /// Copies of the chunks, without what has been sent.
    pub fn copies(&self) -> Vec<Vec<u8>> {
        let mut sent = self.sent;
        self.chunks.iter().map(|chunk| chunk.as_ref()[std::mem::take(&mut sent)..].to_vec()).collect()
    }
}

impl<C: AsRef<[u8]>> Queue for WriteQueue<C> {
    #[inline]
    fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    fn size(&self) -> usize {
        self.len
    }

    fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// From so many bytes on the kernel is given what there is: to join more would only delay it.
    fn is_worth_a_call(&self, added: usize, _flow: &Flow) -> bool {
        self.len + added >= LARGE
    }
}

impl<C: AsRef<[u8]>> Default for WriteQueue<C> {
    fn default() -> Self {
        Self { chunks: VecDeque::new(), sent: 0, len: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a send of everything would put on the wire.
    fn wire(queue: &WriteQueue<&'static str>) -> String {
        let mut slices = [IoSlice::new(b""); 8];
        queue.front(&mut slices).iter().map(|slice| String::from_utf8_lossy(slice).into_owned()).collect()
    }

    #[test]
    fn any_split_sends_the_same_bytes_once() {
        for step in 1..=9 {
            let mut queue = WriteQueue::default();
            ["ab", "", "c", "defg", "hi"].into_iter().for_each(|chunk| queue.push(chunk).expect("memory"));
            let mut sent = String::new();
            while !queue.is_empty() {
                let rest = wire(&queue);
                assert_eq!(rest.len(), queue.size());
                let count = step.min(rest.len());
                sent.push_str(&rest[..count]);
                queue.advance(count);
            }
            assert_eq!(sent, "abcdefghi");
            assert!(queue.chunks.is_empty());
        }
    }

    #[test]
    fn slices_are_filled_in_order_as_far_as_they_go() {
        let mut queue = WriteQueue::default();
        ["abc", "de", "f"].into_iter().for_each(|chunk| queue.push(chunk).expect("memory"));
        queue.advance(1);
        let mut slices = [IoSlice::new(b""); 2];
        let used: Vec<&[u8]> = queue.front(&mut slices).iter().map(|slice| &**slice).collect();
        assert_eq!(used, [b"bc", b"de"]);
    }

    #[test]
    fn chunks_are_gathered_across_their_borders() {
        let mut queue = WriteQueue::default();
        ["abc", "de", "fgh"].into_iter().for_each(|chunk| queue.push(chunk).expect("memory"));
        queue.advance(1);
        assert_eq!(queue.gather(5).expect("memory"), b"bcdef");
        assert_eq!((queue.size(), queue.front_len()), (2, 2));
        assert_eq!(queue.take_front(), Some(("fgh", 1)));
        queue.put_back("xyz");
        queue.push("!").expect("memory");
        assert_eq!(queue.gather(100).expect("memory"), b"xyz!");
        assert!(queue.is_empty() && queue.take_front().is_none());
    }

    #[test]
    fn take_forgets_a_partly_sent_chunk() {
        let mut queue = WriteQueue::default();
        queue.push("abc").expect("memory");
        queue.advance(1);
        drop(queue.take());
        queue.push("xy").expect("memory");
        assert_eq!((wire(&queue).as_str(), queue.size()), ("xy", 2));
    }

    #[test]
    fn the_memory_of_a_long_queue_is_given_back() {
        // miri is some thousand times slower.
        const LONG: usize = if cfg!(miri) { 2_000 } else { 100_000 };
        for take in [false, true] {
            let mut queue = WriteQueue::default();
            queue.push_all(vec!["x"; LONG]).expect("memory");
            queue.advance(LONG - 1);
            assert!(queue.chunks.capacity() >= LONG, "not while it is used");
            if take {
                assert_eq!(queue.take_front(), Some(("x", 0)));
            } else {
                queue.advance(1);
            }
            assert_eq!((queue.size(), queue.chunks.capacity()), (0, 0));
            // That of a short one is used again.
            queue.push_all(vec!["x"; 10]).expect("memory");
            queue.advance(10);
            assert!(queue.chunks.capacity() >= 10);
        }
    }
}
