//! The encrypted side of a connection: what was received and is still to be read, what is to be sent. Plain memory;
//! neither OpenSSL nor Python is called here.

use std::collections::TryReserveError;
use std::mem::MaybeUninit;

use crate::core::Buffer;
use crate::py::bytes::Target;

/// What an engine reads from and writes to.
#[derive(Default)]
pub struct Ends {
    /// Received in one piece; read before `more`.
    buffer: Option<Buffer>,
    /// Received at other times. Invariant: nothing is put into `buffer` while there is something here.
    more: Vec<u8>,
    more_read: usize,
    output: Vec<u8>,
    /// There was no memory for what was to be put into `output`.
    failed: bool,
}

impl Ends {
    /// How many bytes have been received and not been read.
    pub fn input_len(&self) -> usize {
        self.buffer.as_ref().map_or(0, Buffer::len) + self.more.len() - self.more_read
    }

    /// What has been received and not been read.
    pub fn input(&self) -> [&[u8]; 2] {
        [self.buffer.as_ref().map_or(&[], Buffer::as_slice), &self.more[self.more_read..]]
    }

    /// Adds to what was received.
    pub fn feed(&mut self, data: &[u8]) -> Result<(), TryReserveError> {
        self.more.try_reserve(data.len())?;
        self.more.extend_from_slice(data);
        Ok(())
    }

    /// Puts in a buffer with what was received, if there is no other input; else gives it back.
    pub fn lend(&mut self, buffer: Buffer) -> Result<(), Buffer> {
        if self.input_len() > 0 {
            return Err(buffer);
        }
        self.buffer = Some(buffer);
        Ok(())
    }

    /// Gets the buffer back. What has not been read of it is copied: a connection that is paused or has failed keeps
    /// as much memory as it has received, not a buffer. It does keep the buffer where there is no memory for the copy.
    pub fn take_back(&mut self) -> Option<Buffer> {
        let buffer = self.buffer.take()?;
        if buffer.is_empty() {
            return Some(buffer);
        }
        let mut more = Vec::new();
        if more.try_reserve_exact(self.more.len() - self.more_read + buffer.len()).is_err() {
            self.buffer = Some(buffer);
            return None;
        }
        more.extend_from_slice(buffer.as_slice());
        more.extend_from_slice(&self.more[self.more_read..]);
        (self.more, self.more_read) = (more, 0);
        Some(buffer)
    }

    /// Forgets what was received and what is to be sent.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Moves as many received bytes as fit to `target`; returns how many.
    pub fn read(&mut self, target: &mut [MaybeUninit<u8>]) -> usize {
        let count = self.buffer.as_mut().map_or(0, |buffer| buffer.read(target));
        if self.more.is_empty() {
            return count;
        }
        let more = Target::from(&mut target[count..]).copy(&self.more[self.more_read..]);
        self.more_read += more;
        if self.more_read == self.more.len() {
            (self.more, self.more_read) = (Vec::new(), 0);
        }
        count + more
    }

    /// Adds to what is to be sent; false if there is no memory for it.
    pub fn put(&mut self, data: &[u8]) -> bool {
        if self.output.try_reserve(data.len()).is_err() {
            self.failed = true;
            return false;
        }
        self.output.extend_from_slice(data);
        true
    }

    /// Was there no memory since this was asked last?
    pub fn take_failed(&mut self) -> bool {
        std::mem::take(&mut self.failed)
    }

    /// How many bytes are to be sent.
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// What is to be sent.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Gives memory for what is to be sent; whatever it holds is overwritten.
    pub fn lend_output(&mut self, mut memory: Vec<u8>) {
        memory.clear();
        if self.output.is_empty() {
            self.output = memory;
        }
    }
}
