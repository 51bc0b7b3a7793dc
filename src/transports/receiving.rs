//! What streams and pipes receive bytes into. A small read goes through the loop's scratch buffer into a `bytes` of the
//! right size; a larger one goes straight into the object that the protocol gets. If that is asyncio's of streams, both
//! go into the reader's buffer instead, without a `bytes`.
//!
//! Which system call receives, and what its outcome means, is the transport's business.

use std::io;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::stream_reader::{NoRoom, Reader};
use crate::core::LoopCore;
use crate::core::scratch::SCRATCH;
use crate::py::{bytes, new};
use crate::reactor::sys::ReadBuf;

/// From this many bytes on a read goes straight into the final object: a copy would cost more than the larger
/// allocation.
const DIRECT_READ: usize = 4096;
/// After so many reads in a row that would have fitted into a smaller buffer, the next one gets a smaller buffer.
const SMALL_READS_TO_SHRINK: u32 = 8;
/// Largest read, in bytes, whatever the program says: no system call transfers more (read(2)).
const LARGEST_READ: usize = 1 << 31;
/// Largest read, in bytes, unless the program says another (asyncio's `max_size`).
const MAX_READ: usize = 256 * 1024;

/// How much the next read of a transport asks for, by what the last ones got.
pub struct ReadSize {
    /// How many bytes to read straight into a new object; 0: a small read, through the scratch buffer.
    size: u32,
    /// How many reads in a row needed less than `size`.
    small_reads: u32,
    /// The most that the program allows.
    most: usize,
}

impl Default for ReadSize {
    /// Begins with small reads: most connections never have a large one.
    fn default() -> Self {
        Self { size: 0, small_reads: 0, most: MAX_READ }
    }
}

impl ReadSize {
    /// The most that a read may ask for, in bytes.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Sets the most that a read may ask for, in bytes: asyncio's `max_size`.
    pub fn set_most(&mut self, most: usize) {
        self.most = most;
        (self.size, self.small_reads) = (self.least(), 0);
    }

    /// The size of a small read. The scratch buffer is for reads that may fill it.
    fn least(&self) -> u32 {
        if self.most < SCRATCH { self.most as u32 } else { 0 }
    }

    /// In bytes; 0: a small read, through the scratch buffer.
    pub fn get(&self) -> usize {
        self.size as usize
    }

    /// Grows at once, to have a message in one read; shrinks only after several reads that needed less.
    pub fn adapt(&mut self, count: usize) {
        let wanted = match count {
            0..DIRECT_READ => self.least(),
            // One byte more than what came: a read that is not filled says that there is no more.
            _ => (count + 1).next_power_of_two().min(self.most).min(LARGEST_READ) as u32,
        };
        if wanted >= self.size {
            (self.size, self.small_reads) = (wanted, 0);
        } else {
            self.small_reads += 1;
            if self.small_reads >= SMALL_READS_TO_SHRINK {
                (self.size, self.small_reads) = (wanted, 0);
            }
        }
    }
}

/// One read of `size` bytes as [`ReadSize::get`] says; how many came, and they as `bytes`. Without `bytes` they are in
/// the buffer of `reader` already.
pub fn receive<'py>(
    core: &LoopCore,
    py: Python<'py>,
    size: usize,
    reader: Option<&Reader<'py>>,
    read: impl FnOnce(&mut ReadBuf<'_>) -> io::Result<usize>,
) -> PyResult<io::Result<(Option<Bound<'py, PyBytes>>, usize)>> {
    // Bytes are lost, so the transport cannot go on.
    let lost = || Err(io::ErrorKind::OutOfMemory.into());
    if size > 0 {
        match reader.map(|reader| reader.room(size)) {
            Some(Ok(room)) => return Ok(room.fill(read).map(|count| (None, count))),
            Some(Err(NoRoom::Lost)) => return Ok(lost()),
            Some(Err(NoRoom::Unchanged)) | None => {}
        }
        return Ok(bytes::fill_new(py, size, read)?.map(|(data, count)| (Some(data), count)));
    }
    Ok(core.scratch.with(py, |scratch| {
        let mut buffer = ReadBuf::new(scratch.as_mut_slice());
        let count = read(&mut buffer)?;
        match reader.filter(|_| count > 0).map(|reader| reader.extend(buffer.filled())) {
            Some(Ok(())) => return Ok((None, count)),
            Some(Err(NoRoom::Lost)) => return lost(),
            Some(Err(NoRoom::Unchanged)) | None => {}
        }
        new::bytes(py, buffer.filled()).map_or_else(|_| lost(), |data| Ok((Some(data), count)))
    }))
}
