//! From what a poll has found to what the owners of registrations are to hear: the reactor's second half.
//!
//! A poll *finds* readiness. What it found is kept with the poller until it is *reported*: noted in the registrations,
//! with one entry of the ready queue for each. When the entry's turn comes, the owner *takes* what is ready. Nothing is
//! registered here.

use std::io;
use std::os::fd::RawFd;

use super::poller::Poller;
use super::readiness::Readiness;
use super::sys;
use super::token::{Slots, Token};
use super::{Mode, NO_FD, Reactor, Registration, Watch};

impl<S> Reactor<S> {
    // ------------------------------------------------------------------------------------------ the poll

    /// Takes the poll out, to wait on it while others can use the reactor. `None` if somebody else has it, or if the
    /// reactor is closed.
    #[inline]
    pub fn take_poller(&mut self) -> Option<Box<Poller>> {
        self.poller.take()
    }

    /// Puts the poll back.
    #[inline]
    pub fn put_poller(&mut self, poller: Box<Poller>) {
        self.poller = Some(poller);
    }

    /// Looks again at the level-triggered fds that were reported in the turn before. Those that are still ready come
    /// first among what the next poll finds. True if something is found, so that the poll must not block. After an
    /// error they are looked at the next time.
    pub fn recheck_level(&mut self) -> io::Result<bool> {
        self.make_own()?;
        if self.fired.is_empty() {
            return Ok(self.has_found());
        }
        let (slots, poller) = (&self.slots, self.poller.as_mut());
        let live = |token: &Token| slots.get(*token).filter(|registration| !registration.armed.is_none());
        let fired: Vec<Token> = self.fired.drain(..).filter(|token| live(token).is_some()).collect();
        let mut fds: Vec<_> = fired
            .iter()
            .filter_map(|token| {
                live(token).map(|registration| sys::poll_fd(registration.fd, registration.armed))
            })
            .collect();
        if fds.is_empty() {
            return Ok(self.has_found());
        }
        if sys::poll_now(&mut fds).is_err() {
            self.ask_again(&fired);
            return Ok(self.has_found());
        }
        let Some(poller) = poller else {
            return Ok(false);
        };
        for (token, fd) in fired.into_iter().zip(&fds) {
            let readiness = sys::poll_readiness(fd);
            if !readiness.is_none() {
                poller.found.push((token, readiness));
            }
        }
        Ok(self.has_found())
    }

    /// For when poll(2) fails, as it does with more fds than RLIMIT_NOFILE allows now: the kernel gives a new edge for
    /// each of these fds that is ready, and the next poll finds it. An fd that was closed is ready in no direction.
    #[cold]
    fn ask_again(&mut self, fired: &[Token]) {
        for &token in fired {
            let _ = self.watch(token, Watch::Anew(Readiness::NONE));
        }
    }

    // ------------------------------------------------------------------------------------------ what was found

    /// True if something was found that is not reported yet. That happens where a program that polls by itself was
    /// interrupted in between.
    pub fn has_found(&self) -> bool {
        self.poller.as_ref().is_some_and(|poller| !poller.found.is_empty())
    }

    /// How many events were found that are not reported yet.
    pub fn found_count(&self) -> usize {
        self.poller.as_ref().map_or(0, |poller| poller.found.len())
    }

    /// Adds to what was found, as a poll does. False if somebody waits on the poll, so that nothing is added.
    pub fn add_found(&mut self, token: Token, readiness: Readiness) -> bool {
        let poller = self.poller.as_mut();
        poller.map(|poller| poller.found.push((token, readiness))).is_some()
    }

    /// What was found and is not reported yet: fd, readable, writable. Readiness that nobody waits for is left out.
    pub fn found_fds(&self) -> Vec<(RawFd, bool, bool)> {
        let found = self.poller.iter().flat_map(|poller| &poller.found);
        let rows = found.filter_map(|&(token, readiness)| {
            let registration = self.slots.get(token)?;
            let wanted = match registration.mode {
                Mode::Level => readiness & registration.armed,
                Mode::Edge | Mode::Internal => readiness,
            };
            let (readable, writable) =
                (wanted.contains(Readiness::READABLE), wanted.contains(Readiness::WRITABLE));
            (readable || writable).then_some((registration.fd, readable, writable))
        });
        rows.collect()
    }

    /// Reports everything that was found. `queue` is called, in the order of the events, with each token that needs an
    /// entry in the ready queue.
    pub fn report_found(&mut self, mut queue: impl FnMut(Token)) {
        let Some(poller) = &mut self.poller else {
            return;
        };
        for &(token, readiness) in &poller.found {
            if note(&mut self.slots, token, readiness) {
                queue(token);
            }
        }
        poller.found.clear();
    }

    // ------------------------------------------------------------------------------------------ one registration

    /// Notes that a registration is ready. True if the caller must queue an entry for its token: the owner wants to
    /// know, and no entry is in the queue.
    pub fn report(&mut self, token: Token, readiness: Readiness) -> bool {
        note(&mut self.slots, token, readiness)
    }

    /// Moves readiness that the owner of a token has not heard of yet to what the next poll finds. Its entry stays in the
    /// queue, where [`Reactor::take_ready`] may find nothing for it.
    pub fn postpone(&mut self, token: Token, readiness: Readiness) {
        let (Some(poller), Some(registration)) = (&mut self.poller, self.slots.get_mut(token)) else {
            return;
        };
        let postponed = registration.ready & readiness;
        if !postponed.is_none() {
            registration.ready = registration.ready.without(readiness);
            poller.found.push((token, postponed));
        }
    }

    /// Takes what the owner of a token is to hear, now that its entry runs. None if it was postponed. An owner without an
    /// fd hears in any case.
    pub fn take_ready(&mut self, token: Token) -> Option<Readiness> {
        let registration = self.slots.get_mut(token)?;
        registration.queued = false;
        let ready = std::mem::take(&mut registration.ready);
        if registration.mode == Mode::Level {
            self.fired.push(token);
            return Some(ready & registration.armed);
        }
        (!ready.is_none() || registration.fd == NO_FD).then_some(ready)
    }
}

/// [`Reactor::report`], while the poller is borrowed.
#[inline]
fn note<S>(slots: &mut Slots<Registration<S>>, token: Token, readiness: Readiness) -> bool {
    let Some(registration) = slots.get_mut(token) else {
        return false;
    };
    if registration.mode == Mode::Level && (registration.armed & readiness).is_none() {
        return false;
    }
    registration.ready |= readiness;
    !std::mem::replace(&mut registration.queued, true)
}

#[cfg(test)]
mod tests {
    use super::super::clock;
    use super::super::tests::{SECOND, pair, turn};
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    #[test]
    fn edge_fires_once_and_level_until_drained() {
        for (mode, second) in [(Mode::Edge, 0), (Mode::Level, 1)] {
            let (mut reactor, _waker) = Reactor::new().expect("reactor");
            let (mut left, mut right) = pair();
            right.write_all(b"xy").expect("write");
            let token = reactor.register(left.as_raw_fd(), mode, Readiness::BOTH, "left").expect("register");
            reactor.arm(token, Readiness::READABLE);
            assert!(turn(&mut reactor, SECOND)[0].1.contains(Readiness::READABLE));
            let again = turn(&mut reactor, Some(0));
            assert_eq!(again.len(), second, "{mode:?}");
            left.read_exact(&mut [0; 2]).expect("read");
            assert!(turn(&mut reactor, Some(0)).is_empty());
        }
    }

    #[test]
    fn data_and_end_arrive_in_one_edge() {
        let (mut reactor, _waker) = Reactor::new().expect("reactor");
        let (left, mut right) = pair();
        right.write_all(b"x").expect("write");
        drop(right);
        reactor.register(left.as_raw_fd(), Mode::Edge, Readiness::BOTH, "left").expect("register");
        let ready = turn(&mut reactor, SECOND);
        assert!(ready[0].1.contains(Readiness::READABLE | Readiness::READ_CLOSED));
    }

    #[test]
    fn unarmed_level_registration_does_not_spin() {
        let (mut reactor, _waker) = Reactor::new().expect("reactor");
        let (left, right) = pair();
        let token =
            reactor.register(left.as_raw_fd(), Mode::Level, Readiness::BOTH, "left").expect("register");
        reactor.arm(token, Readiness::NONE);
        drop(right);
        assert!(turn(&mut reactor, SECOND).is_empty());
        assert!(turn(&mut reactor, Some(0)).is_empty());
        reactor.arm(token, Readiness::READABLE);
        reactor.watch(token, Watch::Anew(Readiness::READABLE)).expect("refresh");
        assert_eq!(turn(&mut reactor, SECOND).len(), 1);
    }

    #[test]
    fn timeout_is_finer_than_a_millisecond_and_never_early() {
        let (mut reactor, _waker) = Reactor::<&str>::new().expect("reactor");
        let mut poller = reactor.take_poller().expect("not taken");
        let best = |poller: &mut Poller| {
            let mut best = u64::MAX;
            for _ in 0..20 {
                let start = clock::Clock.now_ns();
                poller.wait(Some(200_000)).expect("wait");
                let took = clock::Clock.now_ns() - start;
                assert!(took >= 200_000, "early: {took} ns");
                best = best.min(took);
            }
            best
        };
        let took = best(&mut poller);
        #[cfg(target_os = "linux")]
        if poller.wait == sys::Wait::Exact {
            assert!(took < 1_000_000, "{took} ns");
            poller.wait = sys::Wait::ByMilliseconds;
            best(&mut poller);
        }
    }
}
