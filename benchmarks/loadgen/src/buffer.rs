//! Memory that starts at the start of a page, and the messages in it. The kernel copies up to twice as slowly if an
//! address is 16 modulo 64, as those of a large malloc are. Without aligned memory, that would decide what is measured.

use std::ops::{Deref, DerefMut};

const PAGE: usize = 4096;

/// `len` bytes from the start of a page.
pub struct PageAligned {
    // Invariant: never resized, so that `start` stays on a page.
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl PageAligned {
    pub fn zeroed(len: usize) -> Self {
        let storage = vec![0; len + PAGE];
        let start = storage.as_ptr().align_offset(PAGE);
        Self { storage, start, len }
    }
}

impl Deref for PageAligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl DerefMut for PageAligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

/// The messages. Each is a part of one block of pseudo-random bytes, so no message is built per request. Neighbouring
/// messages differ, so that the echo of another connection or of an earlier request is seen to be wrong.
pub struct Messages {
    block: PageAligned,
    size: usize,
}

impl Messages {
    const WINDOWS: usize = 64;
    const STEP: usize = 64;

    pub fn new(size: usize) -> Self {
        let mut block = PageAligned::zeroed(size + Self::WINDOWS * Self::STEP);
        let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
        for byte in block.iter_mut() {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        Self { block, size }
    }

    /// The message with this number. Numbers that are 64 apart have the same message.
    pub fn get(&self, number: usize) -> &[u8] {
        let start = number % Self::WINDOWS * Self::STEP;
        &self.block[start..start + self.size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_page() {
        for len in [1, 4096, 100_000] {
            let buffer = PageAligned::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr().addr() % PAGE, 0);
        }
    }

    #[test]
    fn neighbouring_messages_differ() {
        for size in [8, 64, 1024, 100_000] {
            let messages = Messages::new(size);
            for number in 0..1000 {
                assert_eq!(messages.get(number).len(), size);
                assert_ne!(messages.get(number), messages.get(number + 1));
            }
        }
    }
}
