//! Memory that a read fills in. Which call reads, and from what, is not known here.

use std::mem::MaybeUninit;

/// Memory to read into, and how much of it has been filled. Whoever has called a function that reads into it need not
/// believe a number: only bytes that were written count as filled.
pub struct ReadBuf<'a> {
    memory: &'a mut [MaybeUninit<u8>],
    /// Invariant: the first `filled` bytes of `memory` are initialised.
    filled: usize,
}

impl<'a> ReadBuf<'a> {
    /// All of `memory`, with nothing filled yet.
    pub fn new(memory: &'a mut [MaybeUninit<u8>]) -> Self {
        Self { memory, filled: 0 }
    }

    /// What has been filled.
    pub fn filled(&self) -> &[u8] {
        // SAFETY: these bytes are initialised (see the invariant).
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.filled) }
    }

    /// The memory behind that, to write to.
    pub fn unfilled(&mut self) -> &mut [MaybeUninit<u8>] {
        &mut self.memory[self.filled..]
    }

    /// Fills in a copy of `data`. Panics if there is not that much room.
    pub fn put(&mut self, data: &[u8]) {
        let room = &mut self.unfilled()[..data.len()];
        // SAFETY: `room` has as many bytes as `data`, and is borrowed for writing, so that `data` is elsewhere. They are
        // initialised then.
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), room.as_mut_ptr().cast(), data.len());
            self.advance(data.len());
        }
    }

    /// Counts the next `count` bytes as filled.
    ///
    /// # Safety
    /// The first `count` bytes of [`ReadBuf::unfilled`] are initialised.
    pub unsafe fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.memory.len() - self.filled);
        self.filled += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_counts_as_filled() {
        let mut memory = [MaybeUninit::uninit(); 8];
        let mut buffer = ReadBuf::new(&mut memory);
        assert_eq!(buffer.filled(), b"");
        for part in [b"ab", b"cd"] {
            for (to, from) in buffer.unfilled().iter_mut().zip(part) {
                to.write(*from);
            }
            // SAFETY: both bytes have just been written.
            unsafe { buffer.advance(part.len()) };
        }
        assert_eq!(buffer.filled(), b"abcd");
        buffer.put(b"efg");
        buffer.put(b"");
        assert_eq!(buffer.filled(), b"abcdefg");
        assert_eq!(buffer.unfilled().len(), 1);
    }
}
