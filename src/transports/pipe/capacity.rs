//! How much a pipe holds. Two processes that fill and drain a small pipe wait for each other more than they work, so
//! the pipes of children are made larger once they have been full. Nothing here knows of transports.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::py::file_fd::FileFd;
use crate::reactor::sys;

/// What a pipe holds, in bytes, if nobody says otherwise.
pub const USUAL: usize = 64 * 1024;
/// What it holds, in bytes, once it has been made larger.
const LARGE: usize = 256 * 1024;
/// Most pipes of this process that are large at a time. Together they have a fifth more of the pages that Linux lets
/// all pipes of a user have (`pipe-user-pages-soft`); who has none left gets pipes of 8 KiB.
const MOST_LARGE: usize = 64;

static LARGE_ONES: AtomicUsize = AtomicUsize::new(0);

/// How much one pipe holds.
pub enum Capacity {
    /// What it was made for: nothing of ours to change.
    Given,
    /// More, once it is full.
    Growing,
    /// It was made larger.
    Large { _one: LargeOne },
}

impl Capacity {
    /// For a pipe that is full: true if it holds more from now on.
    pub fn grow(&mut self, pipe: &FileFd) -> bool {
        if !matches!(self, Self::Growing) {
            return false;
        }
        let Some(one) = LargeOne::new() else {
            return false;
        };
        let grown = pipe.get().and_then(|pipe| sys::grow_pipe(pipe, LARGE)).unwrap_or(false);
        *self = if grown { Self::Large { _one: one } } else { Self::Given };
        grown
    }
}

/// Counts for one of [`MOST_LARGE`] while it lives.
pub struct LargeOne;

impl LargeOne {
    fn new() -> Option<Self> {
        let more = |count| (count < MOST_LARGE).then_some(count + 1);
        LARGE_ONES.fetch_update(Relaxed, Relaxed, more).ok().map(|_| Self)
    }
}

impl Drop for LargeOne {
    fn drop(&mut self) {
        LARGE_ONES.fetch_sub(1, Relaxed);
    }
}
