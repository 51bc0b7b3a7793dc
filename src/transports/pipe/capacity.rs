//! How much a pipe holds. Two processes that fill and empty a small pipe wait for each other more than they work. So
//! the pipes of child processes are made larger once they have been full.
//!
//! Nothing here knows of transports: a transport asks when its pipe is full.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::reactor::sys;

/// What a pipe holds, in bytes, if nobody says otherwise.
pub const USUAL: usize = 64 * 1024;
/// What it holds, in bytes, once it has been made larger.
const LARGE: usize = 256 * 1024;
/// How many pipes of this process are large at a time, at most. Linux limits the pages of all pipes of a user
/// (`pipe-user-pages-soft`), and beyond the limit a new pipe holds only 8 KiB. To enlarge this many takes a fifth of
/// the limit.
const MOST_LARGE: usize = 64;

static LARGE_ONES: AtomicUsize = AtomicUsize::new(0);

/// How much one pipe holds.
pub enum Capacity {
    /// What the program, or the system, has given it. It is left alone.
    Given,
    /// It is to be made larger once it is full.
    Growing,
    /// It was made larger.
    Large { _one: LargeOne },
}

impl Capacity {
    /// For a pipe that is full: true if it holds more from now on.
    pub fn grow(&mut self, pipe: io::Result<BorrowedFd<'_>>) -> bool {
        if !matches!(self, Self::Growing) {
            return false;
        }
        let Some(one) = LargeOne::new() else {
            return false;
        };
        let grown = pipe.and_then(|pipe| sys::grow_pipe(pipe, LARGE)).unwrap_or(false);
        *self = if grown { Self::Large { _one: one } } else { Self::Given };
        grown
    }
}

/// Counts for one of [`MOST_LARGE`] while it lives.
pub struct LargeOne;

impl LargeOne {
    /// None if enough pipes are large already.
    fn new() -> Option<Self> {
        let more = |count| (count < MOST_LARGE).then_some(count + 1);
        LARGE_ONES.fetch_update(Relaxed, Relaxed, more).ok().map(|_| Self)
    }
}

impl Drop for LargeOne {
    /// The pipe is closed: another one may be made large.
    fn drop(&mut self) {
        LARGE_ONES.fetch_sub(1, Relaxed);
    }
}
