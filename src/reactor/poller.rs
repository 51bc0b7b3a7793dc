//! The poll of a reactor: mio's epoll or kqueue, and the events that it has found. Which registration an event belongs
//! to is known to the reactor only.

use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::{AsRawFd, BorrowedFd};

use super::readiness::Readiness;
use super::sys;
use super::token::Token;

/// The token of the waker, which no registration has: [`Token::from_mio`].
pub(super) const WAKER: mio::Token = mio::Token(0);
/// The largest number of events that one poll takes from the kernel.
const MAX_EVENTS: usize = 1024;

/// The poll, and what it has found.
pub struct Poller {
    poll: sys::Own<mio::Poll>,
    /// How it waits.
    #[cfg(target_os = "linux")]
    pub(super) wait: sys::Wait,
    /// Where a wait stores what it finds.
    #[cfg(target_os = "linux")]
    events: Box<[std::mem::MaybeUninit<libc::epoll_event>]>,
    #[cfg(not(target_os = "linux"))]
    events: mio::Events,
    /// What is ready, in the kernel's order, until it is reported:
    /// [`Reactor::report_found`](super::Reactor::report_found).
    pub(super) found: Vec<(Token, Readiness)>,
}

impl Poller {
    pub(super) fn new(poll: mio::Poll) -> io::Result<Self> {
        let mut found = Vec::new();
        // So that a wait that finds much needs no memory.
        found.try_reserve_exact(MAX_EVENTS)?;
        Ok(Self {
            poll: sys::Own::new(poll),
            #[cfg(target_os = "linux")]
            wait: sys::Wait::best(),
            #[cfg(target_os = "linux")]
            events: sys::uninit_slice(MAX_EVENTS)?,
            #[cfg(not(target_os = "linux"))]
            events: mio::Events::with_capacity(MAX_EVENTS),
            found,
        })
    }

    /// Waits until something is ready, for at most `timeout` nanoseconds (`None`: for ever). What is ready is added to
    /// `found`. A signal ends the wait with the error `Interrupted`.
    #[cfg(target_os = "linux")]
    pub fn wait(&mut self, timeout: Option<u64>) -> io::Result<()> {
        sys::before_wait(&self.poll);
        // SAFETY: `self.poll` owns the fd and outlives the call.
        let epoll = unsafe { BorrowedFd::borrow_raw(self.poll.as_raw_fd()) };
        let found = &mut self.found;
        let result = sys::epoll_wait(epoll, self.wait, &mut self.events, timeout, |token, readiness| {
            if let Some(token) = Token::from_mio(token) {
                found.push((token, readiness));
            }
        });
        match result {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.wait = sys::Wait::ByMilliseconds;
                self.wait(timeout)
            }
            result => result,
        }
    }

    /// Waits until something is ready, for at most `timeout` nanoseconds (`None`: for ever). What is ready is added to
    /// `found`. A signal ends the wait with the error `Interrupted`.
    #[cfg(not(target_os = "linux"))]
    pub fn wait(&mut self, timeout: Option<u64>) -> io::Result<()> {
        self.poll.poll(&mut self.events, timeout.map(std::time::Duration::from_nanos))?;
        for event in self.events.iter() {
            if let Some(token) = Token::from_mio(event.token()) {
                self.found.push((token, Readiness::from(event)));
            }
        }
        Ok(())
    }
}
