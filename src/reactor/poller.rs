//! The poll of a reactor: mio's epoll or kqueue, and the events that it has found. Which registration an event belongs
//! to is known to the reactor only.

use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::{AsRawFd, BorrowedFd};

use super::readiness::Readiness;
use super::sys;
use super::token::Token;

/// The token of the waker. In practice no slot reaches its generation.
pub(super) const WAKER: mio::Token = mio::Token(usize::MAX);
/// The largest number of events that one poll takes from the kernel.
const MAX_EVENTS: usize = 1024;

/// The poll, and what it has found.
pub struct Poller {
    poll: sys::Own<mio::Poll>,
    /// For mio's own wait. None while [`sys::epoll_wait`] is used.
    pub(super) events: Option<mio::Events>,
    /// For [`sys::epoll_wait`].
    #[cfg(target_os = "linux")]
    raw: Box<[std::mem::MaybeUninit<libc::epoll_event>]>,
    /// What is ready, in the kernel's order, until it is reported:
    /// [`Reactor::report_found`](super::Reactor::report_found).
    pub(super) found: Vec<(Token, Readiness)>,
}

impl Poller {
    pub(super) fn new(poll: mio::Poll) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        let by_mio = sys::is_wait_replaced();
        #[cfg(not(target_os = "linux"))]
        let by_mio = true;
        Ok(Self {
            poll: sys::Own::new(poll),
            events: by_mio.then(|| mio::Events::with_capacity(MAX_EVENTS)),
            #[cfg(target_os = "linux")]
            raw: sys::uninit_slice(MAX_EVENTS)?,
            found: Vec::new(),
        })
    }

    /// Waits until something is ready, for at most `timeout` nanoseconds (`None`: for ever). What is ready is added to
    /// `found`. A signal ends the wait with the error `Interrupted`.
    pub fn wait(&mut self, timeout: Option<u64>) -> io::Result<()> {
        sys::before_wait(&self.poll);
        #[cfg(target_os = "linux")]
        if self.events.is_none() {
            // SAFETY: `self.poll` owns the fd and outlives the call.
            let epoll = unsafe { BorrowedFd::borrow_raw(self.poll.as_raw_fd()) };
            let found = &mut self.found;
            let result = sys::epoll_wait(epoll, &mut self.raw, timeout, |token, readiness| {
                if token != WAKER {
                    found.push((Token::from_mio(token), readiness));
                }
            });
            match result {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                result => return result,
            }
        }
        self.wait_by_mio(timeout)
    }

    /// mio's wait, on every system. With epoll, mio rounds a timeout up to whole milliseconds, so that the wait can be late
    /// by one.
    pub(super) fn wait_by_mio(&mut self, timeout: Option<u64>) -> io::Result<()> {
        let events = self.events.get_or_insert_with(|| mio::Events::with_capacity(MAX_EVENTS));
        self.poll.poll(events, timeout.map(std::time::Duration::from_nanos))?;
        for event in events.iter().filter(|event| event.token() != WAKER) {
            self.found.push((Token::from_mio(event.token()), Readiness::from(event)));
        }
        Ok(())
    }
}
