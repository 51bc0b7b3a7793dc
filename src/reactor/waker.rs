//! Waking a loop that is parked, which means that it waits in its poll. Any thread can do that.
//!
//! No wake-up may get lost. It would if the loop looked at its inbox, then a thread added to the inbox and saw that the
//! loop is not parked, and then the loop parked. Two steps in a fixed order on each side prevent that. A thread first
//! adds its entry and then calls [`Waker::wake`]. The loop first calls [`Waker::park`], then looks at its inbox again,
//! and only then blocks. All accesses are sequentially consistent, so that at least one of the two sees what the other
//! has done.
//!
//! Many wake-ups of a parked loop cost one system call.

use std::io;

use super::sync::{AtomicU8, AtomicU32, Mutex, Ordering, PoisonError};
use super::sys;

/// The loop is running, and will look at its inbox before it parks.
const AWAKE: u8 = 0;
/// The loop waits in its poll, or is about to.
const PARKED: u8 = 1;
/// Somebody has called `wake` since the loop looked at its inbox. If it was parked, its poll was interrupted.
const NOTIFIED: u8 = 2;

/// The state of one loop, and the fd that interrupts its poll.
pub struct Waker {
    state: AtomicU8,
    /// What interrupts the poll. None once the loop is closed.
    fd: Mutex<Option<sys::PollWaker>>,
    /// `sys::forks()` when `fd` was made. In the child of a fork, the fd is the parent's until [`Waker::renew`].
    forks: AtomicU32,
}

impl Waker {
    /// A waker whose events carry `token`.
    pub fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Self> {
        let waker = sys::PollWaker::new(registry, token)?;
        let forks = AtomicU32::new(sys::forks());
        Ok(Self { state: AtomicU8::new(AWAKE), fd: Mutex::new(Some(waker)), forks })
    }

    /// In the child of a fork, makes an fd for the child's own poll. The loop is not parked in this process.
    pub fn renew(&self, registry: &mio::Registry, token: mio::Token) -> io::Result<()> {
        let waker = sys::PollWaker::new(registry, token)?;
        *self.fd.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
        self.forks.store(sys::forks(), Ordering::SeqCst);
        self.state.store(AWAKE, Ordering::SeqCst);
        Ok(())
    }

    /// Makes the loop's present or next poll return. Only the first wake-up of a parked loop is a system call. If that
    /// fails, the next wake-up makes it again.
    pub fn wake(&self) -> io::Result<()> {
        self.wake_by(|| {
            let waker = self.fd.lock().unwrap_or_else(PoisonError::into_inner);
            waker.as_ref().map_or(Ok(()), sys::PollWaker::wake)
        })
    }

    /// As [`Waker::wake`]; `interrupt` makes the system call.
    fn wake_by(&self, interrupt: impl Fn() -> io::Result<()>) -> io::Result<()> {
        if self.state.load(Ordering::SeqCst) == NOTIFIED {
            // Somebody has woken the loop, and it has not looked at its inbox yet. It will find our entry, too.
            return Ok(());
        }
        match self.state.swap(NOTIFIED, Ordering::SeqCst) {
            // The thread that is parked is the parent's. A child must not wake it.
            PARKED if self.forks.load(Ordering::SeqCst) != sys::forks() => Ok(()),
            // Tried twice, because other threads that see `NOTIFIED` meanwhile rely on this call.
            PARKED => interrupt().or_else(|_| interrupt()).inspect_err(|_| {
                // The loop is still parked, unless it has woken by itself.
                let _ = self.state.compare_exchange(NOTIFIED, PARKED, Ordering::SeqCst, Ordering::SeqCst);
            }),
            _ => Ok(()),
        }
    }

    /// Closes the fd. There is no poll to interrupt any more.
    pub fn close(&self) {
        drop(self.fd.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Announces that the loop will block. False if somebody has woken it meanwhile, and it must not block.
    pub fn park(&self) -> bool {
        self.state.compare_exchange(AWAKE, PARKED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Announces that the loop is awake and is about to look at its inbox. That answers every wake-up so far. True if
    /// there was one since the last call.
    pub fn unpark(&self) -> bool {
        self.state.load(Ordering::SeqCst) != AWAKE && self.state.swap(AWAKE, Ordering::SeqCst) == NOTIFIED
    }
}

#[cfg(test)]
mod tests {
    use super::super::ready::{Inbox, ReadyQueue};
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn only_the_first_wake_of_a_parked_loop_is_a_system_call() {
        let mut poll = mio::Poll::new().expect("poll");
        let mut events = mio::Events::with_capacity(8);
        let waker = Waker::new(poll.registry(), mio::Token(1)).expect("waker");
        let mut fired = |timeout| {
            poll.poll(&mut events, Some(timeout)).expect("poll");
            !events.is_empty()
        };
        waker.wake().expect("wake");
        assert!(!fired(Duration::ZERO), "an awake loop needs no event");
        assert!(!waker.park(), "but it must not block");
        waker.unpark();
        assert!(waker.park());
        waker.wake().expect("wake");
        waker.wake().expect("wake");
        assert!(fired(Duration::from_secs(5)));
        assert!(!fired(Duration::ZERO));
    }

    #[test]
    fn wake_that_fails_is_tried_again() {
        let poll = mio::Poll::new().expect("poll");
        let waker = Waker::new(poll.registry(), mio::Token(1)).expect("waker");
        let calls = std::cell::Cell::new(0);
        let failing = |failures| {
            let calls = &calls;
            move || {
                calls.set(calls.get() + 1);
                if calls.get() <= failures { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
            }
        };
        assert!(waker.park());
        waker.wake_by(failing(1)).expect("the second try");
        assert_eq!(calls.replace(0), 2);
        waker.wake_by(failing(0)).expect("told already");
        assert_eq!(calls.get(), 0);
        waker.unpark();
        assert!(waker.park());
        waker.wake_by(failing(2)).expect_err("both have failed");
        waker.wake_by(failing(2)).expect("the next one tries, too");
        assert_eq!(calls.replace(0), 3);
        waker.unpark();
        assert!(waker.park());
        // The loop wakes by itself while the call fails, and is not taken for parked then.
        let wake_up = || {
            waker.unpark();
            Err(io::ErrorKind::Other.into())
        };
        waker.wake_by(wake_up).expect_err("failed");
        assert!(waker.park());
    }

    #[test]
    fn no_wake_is_lost() {
        const COUNT: usize = 20_000;
        let mut poll = mio::Poll::new().expect("poll");
        let mut events = mio::Events::with_capacity(8);
        let waker = Arc::new(Waker::new(poll.registry(), mio::Token(1)).expect("waker"));
        let inbox = Arc::new(Inbox::new());
        let sender = {
            let (waker, inbox) = (waker.clone(), inbox.clone());
            std::thread::spawn(move || {
                for n in 0..COUNT {
                    inbox.send(n, || 0).expect("open");
                    waker.wake().expect("wake");
                }
            })
        };
        let mut ready = ReadyQueue::new();
        let mut received = 0;
        while received < COUNT {
            waker.unpark();
            ready.receive(&inbox);
            received += ready.drain().len();
            if received < COUNT && waker.park() && inbox.is_empty() {
                poll.poll(&mut events, Some(Duration::from_secs(20))).expect("poll");
                assert!(!events.is_empty(), "a wake was lost after {received}");
            }
        }
        sender.join().expect("sender");
    }
}
