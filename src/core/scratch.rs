//! Memory that all transports of a loop share: the scratch for small reads, and what the TLS layers work with.
//! Who reads from what, and how much, is not known here.

use std::collections::TryReserveError;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::sync::Once;

use crate::py::bytes::Target;
use crate::reactor::sys::{self, ReadBuf};

/// The size of the scratch, in bytes.
pub const SCRATCH: usize = 64 * 1024;
/// The size of the buffer that TLS layers receive into, in bytes (asyncio's `max_size`). Pages that are never used take
/// no memory.
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
#[derive(Default)]
pub struct Scratch(Box<[MaybeUninit<Page>]>);

/// The unit in which the memory is allocated, so that it begins at a page.
#[repr(C, align(4096))]
struct Page([u8; 4096]);

impl Scratch {
    pub fn new() -> Result<Self, TryReserveError> {
        Self::with_capacity(SCRATCH)
    }

    fn with_capacity(bytes: usize) -> Result<Self, TryReserveError> {
        Ok(Self(sys::uninit_slice(bytes.div_ceil(4096))?))
    }

    pub fn as_mut_slice(&mut self) -> &mut [MaybeUninit<u8>] {
        let len = self.0.len() * 4096;
        // SAFETY: the pages are one contiguous block of `len` bytes, which may be uninitialised.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

/// Memory to receive into that remembers what was received and how much of that was read.
#[derive(Default)]
pub struct Buffer {
    memory: Scratch,
    /// Invariant: `read <= filled`, and the first `filled` bytes are initialised.
    read: usize,
    filled: usize,
}

impl Buffer {
    fn with_capacity(bytes: usize) -> Result<Self, TryReserveError> {
        Ok(Self { memory: Scratch::with_capacity(bytes)?, read: 0, filled: 0 })
    }

    fn capacity(&mut self) -> usize {
        self.memory.as_mut_slice().len()
    }

    /// Replaces the contents by what `receive` puts into the memory, and returns what it returns.
    pub fn fill<T, E>(&mut self, receive: impl FnOnce(&mut ReadBuf<'_>) -> Result<T, E>) -> Result<T, E> {
        (self.read, self.filled) = (0, 0);
        let mut memory = ReadBuf::new(self.memory.as_mut_slice());
        let result = receive(&mut memory)?;
        self.filled = memory.filled().len();
        Ok(result)
    }

    /// Adds a copy of `data` behind the contents.
    pub fn append(&mut self, data: &[u8]) -> Result<(), TryReserveError> {
        if self.is_empty() {
            (self.read, self.filled) = (0, 0);
        }
        if self.capacity() - self.filled < data.len() {
            // Twice as much as there is, so that many small pieces are not copied again with each of them.
            let mut larger = Self::with_capacity((self.len() + data.len()).max(2 * self.len()))?;
            larger.put(self.as_slice());
            *self = larger;
        }
        self.put(data);
        Ok(())
    }

    /// Adds a copy of `data`, for which there is room.
    fn put(&mut self, data: &[u8]) {
        self.filled += Target::from(&mut self.memory.as_mut_slice()[self.filled..]).copy(data);
    }

    /// A copy of what has not been read, in no more memory than it needs.
    pub fn copy(&self) -> Result<Self, TryReserveError> {
        let mut copy = Self::default();
        copy.append(self.as_slice())?;
        Ok(copy)
    }

    /// The number of bytes that were not read yet.
    pub fn len(&self) -> usize {
        self.filled - self.read
    }

    /// True if everything was read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves as many bytes as fit to `target`, and returns their number.
    pub fn read(&mut self, target: &mut ReadBuf<'_>) -> usize {
        let count = Target::from(target.unfilled()).copy(self.as_slice());
        // SAFETY: they have just been copied there.
        unsafe { target.advance(count) };
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

/// The memory that the TLS layers of a loop work with. A layer takes a part out, and puts it back when its work is
/// done.
#[derive(Default)]
pub struct TlsIo {
    input: Buffer,
    output: Vec<u8>,
}

impl TlsIo {
    /// A buffer to receive into. It is a new one while another layer has the loop's: because it is at work, or because
    /// it could not give it back.
    pub fn take_input(&mut self) -> Result<Buffer, TryReserveError> {
        let mut input = std::mem::take(&mut self.input);
        if input.capacity() == 0 { Buffer::with_capacity(BUFFER) } else { Ok(input) }
    }

    /// Puts back what [`TlsIo::take_input`] gave. A buffer of another size, which the layer has made, is freed.
    pub fn put_input(&mut self, mut input: Buffer) {
        if input.capacity() == BUFFER {
            self.input = input;
        }
    }

    /// Memory for encrypted bytes. It is empty.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Puts back what [`TlsIo::take_output`] gave, or larger memory; what it holds is forgotten.
    pub fn put_output(&mut self, mut output: Vec<u8>) {
        output.clear();
        if self.output.capacity() < output.capacity() {
            self.output = output;
        }
    }
}
