//! Memory that all transports of a loop receive into: the scratch for small reads, and the buffer of the TLS layers.
//! Who reads from what, and how much, is not known here.

use std::collections::TryReserveError;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::sync::Once;

use crate::reactor::sys;

/// The size of the scratch, in bytes.
pub const SCRATCH: usize = 64 * 1024;
/// The size of a TLS layer's buffer, in bytes (asyncio's `max_size`). Pages that are never used take no memory.
const BUFFER: usize = 256 * 1024;

/// The size of a block that is larger than any that the loop asks for again and again, in bytes.
const LARGE_BLOCK: usize = 1024 * 1024;

/// Makes the C library take large blocks from its heap. Called once in a process.
///
/// glibc maps memory for each block of 128 KiB or more, and unmaps it when the block is freed, until the program has
/// freed a block that is as large (mallopt(3), "dynamic mmap threshold"). Reads of up to 256 KiB go into such blocks. A
/// read cuts off what it has not filled before the block is freed, so that reads alone may never raise the threshold.
/// Then each read costs a page fault for every 4 KiB, which is several times the cost of the read itself.
pub fn serve_large_blocks_from_the_heap() {
    static ONCE: Once = Once::new();
    // The compiler could leave out an allocation that nobody uses: hence the black box.
    ONCE.call_once(|| drop(black_box(sys::uninit_slice::<u8>(LARGE_BLOCK))));
}

/// Memory to receive into, aligned to a page. The kernel copies up to twice as slowly into memory that begins 16 bytes
/// behind a multiple of 64, as a large block of the allocator does.
pub struct Scratch(Box<[MaybeUninit<Page>]>);

#[repr(C, align(4096))]
struct Page([u8; 4096]);

impl Scratch {
    pub fn new() -> Result<Self, TryReserveError> {
        Self::with_capacity(SCRATCH)
    }

    fn with_capacity(bytes: usize) -> Result<Self, TryReserveError> {
        Ok(Self(sys::uninit_slice(bytes / 4096)?))
    }

    pub fn as_mut_slice(&mut self) -> &mut [MaybeUninit<u8>] {
        let len = self.0.len() * 4096;
        // SAFETY: the pages are one contiguous block of `len` bytes, which may be uninitialised.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

/// Memory to receive into that remembers what was received and how much of that was read.
pub struct Buffer {
    memory: Scratch,
    /// Invariant: `read <= filled`, and the first `filled` bytes are initialised.
    read: usize,
    filled: usize,
}

impl Buffer {
    pub fn new() -> Result<Self, TryReserveError> {
        Ok(Self { memory: Scratch::with_capacity(BUFFER)?, read: 0, filled: 0 })
    }

    /// Replaces the contents by what `receive` writes to the start of the memory. `receive` returns the number of
    /// bytes, all of which it must have initialised.
    pub fn fill<E>(
        &mut self,
        receive: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        (self.read, self.filled) = (0, 0);
        let memory = self.memory.as_mut_slice();
        let count = receive(memory)?.min(memory.len());
        self.filled = count;
        Ok(count)
    }

    /// The number of bytes that were not read yet.
    pub fn len(&self) -> usize {
        self.filled - self.read
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves as many bytes as fit to `target`, and returns their number.
    pub fn read(&mut self, target: &mut [MaybeUninit<u8>]) -> usize {
        let count = target.len().min(self.len());
        let from = self.read;
        target[..count].copy_from_slice(&self.memory.as_mut_slice()[from..from + count]);
        self.read += count;
        count
    }

    /// The bytes that were not read yet.
    pub fn as_slice(&self) -> &[u8] {
        let start = self.memory.0.as_ptr().cast::<u8>();
        // SAFETY: the first `filled` bytes are initialised (see the invariant).
        unsafe { std::slice::from_raw_parts(start.add(self.read), self.len()) }
    }
}
