//! The end of a loop, as the threads of the host see it: whether the loop still accepts work, and who is called when it
//! has closed.
//!
//! The loop's thread ends the loop, and any thread may ask it to end, or wait until it has. There is no Python here.

use std::sync::Arc;
use std::time::Duration;

use crate::reactor::sync::{AtomicBool, Condvar, Mutex, Ordering::SeqCst, PoisonError};
use crate::reactor::token::{Slots, Token};

/// Somebody who wants to be called when the loop has closed.
pub trait AtClose: Send + Sync {
    /// Called once the loop is closed.
    fn at_close(&self);
}

/// How far a loop has come to its end.
#[derive(Default)]
pub struct Ending {
    /// True once the loop was asked to end. No work of the host is accepted any more.
    asked: AtomicBool,
    /// True once the loop is closed. `changed` is notified then.
    closed: Mutex<bool>,
    changed: Condvar,
    /// Those who wait for something that a closed loop will never do.
    waiting: Mutex<Slots<Arc<dyn AtClose>>>,
}

impl Ending {
    /// True once the loop was asked to end, or is closed.
    pub fn has_begun(&self) -> bool {
        self.asked.load(SeqCst)
    }

    /// Asks the loop to end: work is refused from here on. True for the first caller.
    pub fn begin(&self) -> bool {
        !self.asked.swap(true, SeqCst)
    }

    /// Has `who` called when the loop has closed, unless [`Ending::leave`] comes first. If the loop is closed already,
    /// `who` is never called. So the caller gives the loop its work afterwards, which a closed loop refuses.
    pub fn wait(&self, who: Arc<dyn AtClose>) -> Token {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(who)
    }

    /// Takes back an [`Ending::wait`].
    pub fn leave(&self, token: Token) {
        let left = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
        drop(left);
    }

    /// Called when the loop is closed, and its inbox refuses entries: everybody who waits goes on.
    pub fn complete(&self) {
        self.asked.store(true, SeqCst);
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain();
        waiting.iter().for_each(|who| who.at_close());
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits until the loop is closed. False if that takes longer than `timeout`. The caller must not hold the GIL.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let (closed, _) = self
            .changed
            .wait_timeout_while(closed, timeout, |closed| !*closed)
            .unwrap_or_else(PoisonError::into_inner);
        *closed
    }
}
