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

    /// `len` pseudo-random bytes, always the same.
    pub fn noise(len: usize) -> Self {
        let mut block = Self::zeroed(len);
        let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
        for byte in block.iter_mut() {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        block
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

/// The messages, and the requests that carry them. Each message is a part of one block of pseudo-random bytes, so
/// nothing is built per request. Neighbouring messages differ, so that the echo of another connection or of an earlier
/// request is seen to be wrong.
pub struct Messages {
    block: PageAligned,
    size: usize,
    /// What is sent for each message, if that is more than the message.
    requests: Vec<PageAligned>,
}

impl Messages {
    const WINDOWS: usize = 64;
    const STEP: usize = 64;

    pub fn new(size: usize) -> Self {
        let block = PageAligned::noise(size + Self::WINDOWS * Self::STEP);
        Self { block, size, requests: Vec::new() }
    }

    /// The same messages, each sent behind `head`.
    pub fn with_head(size: usize, head: &[u8]) -> Self {
        let mut messages = Self::new(size);
        let request = |number| {
            let mut request = PageAligned::zeroed(head.len() + size);
            request[..head.len()].copy_from_slice(head);
            request[head.len()..].copy_from_slice(messages.get(number));
            request
        };
        messages.requests = (0..Self::WINDOWS).map(request).collect();
        messages
    }

    /// What is sent for the message with this number.
    pub fn request(&self, number: usize) -> &[u8] {
        match self.requests.get(number % Self::WINDOWS) {
            Some(request) => request,
            None => self.get(number),
        }
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

    #[test]
    fn a_request_is_the_message_or_has_it_behind_the_head() {
        let (plain, headed) = (Messages::new(100), Messages::with_head(100, b"head"));
        for number in [0, 1, 63, 64, 1000] {
            assert_eq!(plain.request(number), plain.get(number));
            assert_eq!(headed.get(number), plain.get(number));
            assert_eq!(headed.request(number), [b"head", plain.get(number)].concat());
        }
    }
}
