//! The encrypted side of one connection: what was received and is still to be decrypted, and what was encrypted and is
//! still to be sent. Both engines read and write here. This is plain memory behind a lock; neither OpenSSL nor Python
//! is called while the lock is held.
//!
//! The large buffers belong to the loop (`core::TlsIo`). The connection that is at work borrows them, and keeps
//! no more memory than it has bytes left.
//!
//! Why a lock: `_ssl` lets go of the interpreter during a handshake, and OpenSSL reads and writes here meanwhile, while
//! another thread may ask the transport how much was received.

use std::collections::TryReserveError;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::core::Buffer;
use crate::reactor::sys::ReadBuf;

/// What was received and what is to be sent.
#[derive(Default)]
pub struct Ends {
    memory: Mutex<Memory>,
    /// How many bytes `memory` has at each end. They can be read without the lock, as they are several times for each
    /// record.
    input_len: AtomicUsize,
    output_len: AtomicUsize,
}

/// What the lock guards.
#[derive(Default)]
struct Memory {
    /// What was received; the part that was read is left out.
    input: Buffer,
    /// `input` is the loop's buffer.
    is_lent: bool,
    output: Vec<u8>,
    /// There was no memory for what was to be put into `output`.
    failed: bool,
}

impl Ends {
    /// The only access to the memory. Notes afterwards how many bytes are at each end.
    fn with<R>(&self, access: impl FnOnce(&mut Memory) -> R) -> R {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let result = access(&mut memory);
        self.input_len.store(memory.input.len(), Relaxed);
        self.output_len.store(memory.output.len(), Relaxed);
        result
    }

    /// How many bytes were received and not read.
    pub fn input_len(&self) -> usize {
        self.input_len.load(Relaxed)
    }

    /// How many bytes are to be sent.
    pub fn output_len(&self) -> usize {
        self.output_len.load(Relaxed)
    }

    /// Adds a copy of `data` to what was received.
    pub fn feed(&self, data: &[u8]) -> Result<(), TryReserveError> {
        self.with(|memory| memory.input.append(data))
    }

    /// Adds what `buffer` holds to what was received. If nothing else is left to read, `buffer` itself is taken, until
    /// [`Ends::take_back`]; otherwise its bytes are copied.
    pub fn lend(&self, buffer: &mut Buffer) -> Result<(), TryReserveError> {
        self.with(|memory| {
            if !memory.input.is_empty() {
                return memory.input.append(buffer.as_slice());
            }
            std::mem::swap(&mut memory.input, buffer);
            memory.is_lent = true;
            Ok(())
        })
    }

    /// Gives the lent buffer back, in the place of `buffer`. What was not read of it is copied first: a connection that
    /// is paused or has failed keeps as much memory as it has bytes, not a whole buffer. Only where there is no memory
    /// for the copy does it keep the buffer.
    pub fn take_back(&self, buffer: &mut Buffer) {
        self.with(|memory| {
            if memory.is_lent
                && let Ok(rest) = memory.input.copy()
            {
                *buffer = std::mem::replace(&mut memory.input, rest);
                memory.is_lent = false;
            }
        });
    }

    /// Forgets what was received and what is to be sent.
    pub fn clear(&self) {
        self.with(|memory| *memory = Memory::default());
    }

    /// Shows what was received and not read.
    pub fn look<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        self.with(|memory| look(memory.input.as_slice()))
    }

    /// Moves as many received bytes as fit to `target`; returns how many.
    pub fn read(&self, target: &mut ReadBuf<'_>) -> usize {
        self.with(|memory| {
            let count = memory.input.read(target);
            if memory.input.is_empty() && !memory.is_lent {
                memory.input = Buffer::default();
            }
            count
        })
    }

    /// Adds to what is to be sent; false if there is no memory for it.
    pub fn put(&self, data: &[u8]) -> bool {
        self.with(|memory| {
            let has_room = memory.output.try_reserve(data.len()).is_ok();
            if has_room {
                memory.output.extend_from_slice(data);
            }
            memory.failed |= !has_room;
            has_room
        })
    }

    /// Has [`Ends::put`] failed since this was asked last?
    pub fn take_failed(&self) -> bool {
        self.with(|memory| std::mem::take(&mut memory.failed))
    }

    /// Gives memory, which must be empty, for what is to be sent.
    pub fn lend_output(&self, output: Vec<u8>) {
        self.with(|memory| {
            if memory.output.is_empty() {
                memory.output = output;
            }
        });
    }

    /// Takes out what is to be sent.
    pub fn take_output(&self) -> Vec<u8> {
        self.with(|memory| std::mem::take(&mut memory.output))
    }
}
