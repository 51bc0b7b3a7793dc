//! The reactor: readiness polling, timers, the ready queue and cross-thread wake-ups.
//!
//! Pure Rust on std, mio and libc; `use pyo3` is forbidden here, and the folder builds and tests without Python. It
//! calls nobody: what is ready is returned, what is removed is given back for the caller to drop.
//!
//! mio is always edge-triggered. Every fd has one registration, for both directions unless its owner knows better
//! ([`Reactor::watch`]), so that arming and disarming a direction is a flag of ours and no system call. Who needs
//! level-triggered readiness ([`Mode::Level`], the contract of `add_reader`) gets it by one poll(2) before the wait over
//! just those fds that fired in the turn before: an edge that was not used up is found there, and every later one
//! arrives by itself.
//!
//! A fork's child shares the poll with its parent: whatever it registers or deregisters there, and every edge that it
//! takes, would be the parent's loss. So it deregisters nothing there, and before anything else gets a poll of its own
//! with the same registrations ([`Reactor::make_own`]). Who registers something in its own way does so again when it is
//! next told of readiness, which is at once.

pub mod clock;
pub mod moment;
mod poller;
pub mod readiness;
pub mod ready;
pub mod sys;
pub mod timers;
pub mod token;
pub mod waker;

use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use mio::unix::SourceFd;

pub use poller::Poller;
use poller::WAKER;
use readiness::Readiness;
use token::{Slots, Token};
use waker::Waker;

/// How the owner of a registration wants its readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Once per change. The owner tries until the call would block, and keeps note of what it knows.
    Edge,
    /// In every turn for as long as an armed direction is ready.
    Level,
    /// As `Edge`, for an fd of the loop's own: it is not counted by [`Reactor::watches_io`].
    Internal,
}

/// One fd and whom its events concern.
pub struct Registration<S> {
    /// Whom to tell.
    pub source: S,
    fd: RawFd,
    mode: Mode,
    /// Does the kernel watch the fd yet?
    active: bool,
    /// The directions that it watches the fd for.
    watched: Readiness,
    /// The directions in which the owner of a level-triggered registration wants to hear of readiness.
    armed: Readiness,
    /// What has been reported since the owner took it last.
    ready: Readiness,
    /// True while the token is on its way to the owner. Invariant: at most one entry per token in a ready queue.
    queued: bool,
}

/// All registrations of a loop, with owners of type `S`, and the poll they are made on.
pub struct Reactor<S> {
    /// Absent while a poll is under way, so that nobody has to wait for it to register an fd.
    poller: Option<Poller>,
    /// Absent once the reactor is closed.
    registry: Option<mio::Registry>,
    slots: Slots<Registration<S>>,
    /// Invariant: holds exactly the live tokens, by fd.
    tokens: HashMap<RawFd, Token>,
    /// Level-triggered registrations that fired in this turn.
    fired: Vec<Token>,
    /// How many active registrations are not [`Mode::Internal`].
    watched: usize,
    waker: Arc<Waker>,
    /// `sys::forks()` when the poll was made.
    forks: u32,
}

impl<S> Reactor<S> {
    /// A reactor without registrations, and the waker that interrupts its poll.
    pub fn new() -> io::Result<(Self, Arc<Waker>)> {
        sys::watch_forks();
        let poll = mio::Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Arc::new(Waker::new(&registry, WAKER)?);
        let reactor = Self {
            poller: Some(Poller::new(poll)?),
            registry: Some(registry),
            slots: Slots::new(),
            tokens: HashMap::new(),
            fired: Vec::new(),
            watched: 0,
            waker: waker.clone(),
            forks: sys::forks(),
        };
        Ok((reactor, waker))
    }

    /// Called before the poll is used in any way: in a fork's child, where it is the parent's, puts a new one with the
    /// same registrations in its place.
    #[inline]
    pub fn make_own(&mut self) -> io::Result<()> {
        if self.is_own() { Ok(()) } else { self.make_anew() }
    }

    /// False if the poll is that of the process which this one was forked from.
    fn is_own(&self) -> bool {
        self.forks == sys::forks()
    }

    #[cold]
    fn make_anew(&mut self) -> io::Result<()> {
        if self.registry.is_none() {
            return Ok(());
        }
        let poll = mio::Poll::new()?;
        let registry = poll.registry().try_clone()?;
        self.waker.renew(&registry, WAKER)?;
        let mut poller = Poller::new(poll)?;
        for (fd, &token) in &self.tokens {
            let Some(registration) = self.slots.get_mut(token).filter(|registration| registration.active)
            else {
                continue;
            };
            if registry.register(&mut SourceFd(fd), token.to_mio(), interest(registration.watched)).is_err() {
                // The fd was closed.
                registration.active = false;
                self.watched -= usize::from(registration.mode != Mode::Internal);
            }
        }
        // What is registered without an fd of ours: its owners are told, of nothing.
        let foreign =
            self.slots.tokens().filter(|(_, registration)| registration.active && registration.fd < 0);
        poller.found.extend(foreign.map(|(token, _)| (token, Readiness::NONE)));
        (self.poller, self.registry) = (Some(poller), Some(registry));
        self.forks = sys::forks();
        Ok(())
    }

    /// Watches `fd` in both directions on behalf of `source`. An fd that the kernel cannot poll, such as a regular
    /// file, is refused with `PermissionDenied`, one that is registered already with `AlreadyExists`.
    pub fn register(&mut self, fd: RawFd, mode: Mode, source: S) -> Result<Token, (io::Error, S)> {
        self.register_for(fd, mode, Readiness::BOTH, source)
    }

    /// As [`Reactor::register`], for these directions only: see [`Reactor::watch`].
    pub fn register_for(
        &mut self,
        fd: RawFd,
        mode: Mode,
        directions: Readiness,
        source: S,
    ) -> Result<Token, (io::Error, S)> {
        let token = self.reserve(fd, mode, source);
        match self.watch(token, directions).and_then(|()| self.activate(token)) {
            Ok(()) => Ok(token),
            Err(error) => Err((error, self.deregister(token).expect("reserved above"))),
        }
    }

    /// Takes `fd` for `source` without watching it yet: [`Reactor::activate`] follows.
    pub fn reserve(&mut self, fd: RawFd, mode: Mode, source: S) -> Token {
        let token = self.slots.insert(Registration {
            source,
            fd,
            mode,
            active: false,
            watched: Readiness::BOTH,
            armed: Readiness::NONE,
            ready: Readiness::NONE,
            queued: false,
        });
        self.tokens.insert(fd, token);
        token
    }

    /// Has the kernel watch a reserved fd. What is ready already is found by the next poll.
    pub fn activate(&mut self, token: Token) -> io::Result<()> {
        self.make_own()?;
        let (Some(registration), Some(registry)) = (self.slots.get_mut(token), &self.registry) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        registry.register(&mut SourceFd(&registration.fd), token.to_mio(), interest(registration.watched))?;
        registration.active = true;
        self.watched += usize::from(registration.mode != Mode::Internal);
        Ok(())
    }

    /// A registration without an fd: its owner hears only of what is queued for its token.
    #[cfg(feature = "embed")]
    pub fn insert(&mut self, source: S) -> Token {
        self.slots.insert(Registration {
            source,
            fd: -1,
            mode: Mode::Edge,
            active: false,
            watched: Readiness::BOTH,
            armed: Readiness::NONE,
            ready: Readiness::NONE,
            queued: false,
        })
    }

    /// Where to register a source that has its own way of that, with a token of [`Reactor::insert`]: foreign code, which
    /// is called without a hold on the reactor. [`Reactor::note_active`] follows.
    #[cfg(feature = "embed")]
    pub fn registry(&mut self) -> io::Result<mio::Registry> {
        self.make_own()?;
        self.registry.as_ref().ok_or(io::ErrorKind::NotConnected)?.try_clone()
    }

    /// Notes that a source is registered for `token`.
    #[cfg(feature = "embed")]
    pub fn note_active(&mut self, token: Token) {
        if let Some(registration) = self.slots.get_mut(token)
            && !std::mem::replace(&mut registration.active, true)
        {
            self.watched += 1;
        }
    }

    /// Ends the registration of such a source: gives its owner back, and where to deregister the source, which is not
    /// done for a parent. None if the reactor is closed.
    #[cfg(feature = "embed")]
    pub fn remove(&mut self, token: Token) -> Option<(S, Option<mio::Registry>)> {
        let registry = self.registry.as_ref().filter(|_| self.is_own());
        let registry = registry.and_then(|registry| registry.try_clone().ok());
        Some((self.deregister(token)?, registry))
    }

    /// Has the kernel watch the fd for just these directions: a system call if the fd is watched for others now, and
    /// then a fresh edge for what is ready already. Worth it where the kernel has edges of no use: a UNIX socket gives
    /// one for writing whenever its peer has read (unix_write_space), a datagram socket for each datagram that has left, also
    /// if nobody had to wait.
    pub fn watch(&mut self, token: Token, directions: Readiness) -> io::Result<()> {
        match self.slots.get_mut(token) {
            Some(registration) if registration.watched == directions => Ok(()),
            Some(registration) if !registration.active => {
                registration.watched = directions;
                Ok(())
            }
            _ => self.reregister(token, directions),
        }
    }

    /// As [`Reactor::watch`], for these directions besides those of before.
    pub fn watch_also(&mut self, token: Token, directions: Readiness) -> io::Result<()> {
        let before = self.slots.get(token).map_or(Readiness::NONE, |registration| registration.watched);
        self.watch(token, before | directions)
    }

    /// As [`Reactor::watch_also`], with a fresh edge in any case. `NotFound` when the fd behind the number is no longer
    /// the one that was registered: it was closed, and the number may have been used again.
    pub fn refresh(&mut self, token: Token, directions: Readiness) -> io::Result<()> {
        let before = self.slots.get(token).map_or(Readiness::NONE, |registration| registration.watched);
        self.reregister(token, before | directions)
    }

    fn reregister(&mut self, token: Token, directions: Readiness) -> io::Result<()> {
        self.make_own()?;
        let (Some(registration), Some(registry)) = (self.slots.get_mut(token), &self.registry) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        registry.reregister(&mut SourceFd(&registration.fd), token.to_mio(), interest(directions))?;
        registration.watched = directions;
        Ok(())
    }

    /// Ends a registration and gives its owner back. To be called before the fd is closed: a duplicate of it would
    /// keep the kernel's side alive. An fd that is closed already is no error.
    pub fn deregister(&mut self, token: Token) -> Option<S> {
        let registration = self.slots.remove(token)?;
        if let Some(registry) = self.registry.as_ref().filter(|_| registration.active) {
            if self.is_own() && registration.fd >= 0 {
                // Fails only where the fd is gone, and with it the registration.
                let _ = registry.deregister(&mut SourceFd(&registration.fd));
            }
            self.watched -= usize::from(registration.mode != Mode::Internal);
        }
        if self.tokens.get(&registration.fd) == Some(&token) {
            self.tokens.remove(&registration.fd);
        }
        Some(registration.source)
    }

    /// Forgets every registration and closes the poll; the owners are given back.
    pub fn close(&mut self) -> Vec<S> {
        self.tokens.clear();
        self.fired.clear();
        self.watched = 0;
        (self.poller, self.registry) = (None, None);
        self.slots.drain().into_iter().map(|registration| registration.source).collect()
    }

    /// The live registration of an fd number.
    pub fn token_of(&self, fd: RawFd) -> Option<Token> {
        self.tokens.get(&fd).copied()
    }

    pub fn source(&self, token: Token) -> Option<&S> {
        self.slots.get(token).map(|registration| &registration.source)
    }

    pub fn source_mut(&mut self, token: Token) -> Option<&mut S> {
        self.slots.get_mut(token).map(|registration| &mut registration.source)
    }

    /// The fd of the first registration whose owner `is_it`.
    pub fn fd_of(&self, is_it: impl Fn(&S) -> bool) -> Option<RawFd> {
        self.slots.iter().find(|registration| is_it(&registration.source)).map(|registration| registration.fd)
    }

    /// Every owner, in no order that means anything.
    pub fn sources(&self) -> impl Iterator<Item = &S> {
        self.slots.iter().map(|registration| &registration.source)
    }

    /// Sets the directions of a level-triggered registration.
    pub fn arm(&mut self, token: Token, directions: Readiness) {
        if let Some(registration) = self.slots.get_mut(token) {
            registration.armed = directions;
        }
    }

    /// True while any fd but the loop's own is watched. When there is none, a poll has nothing to find.
    pub fn watches_io(&self) -> bool {
        self.watched > 0
    }

    /// Notes `readiness` for the owner of `token`. True when the token has to be queued for it: it is not on its way
    /// already, and the owner wants to know.
    pub fn report(&mut self, token: Token, readiness: Readiness) -> bool {
        let Some(registration) = self.slots.get_mut(token) else {
            return false;
        };
        if registration.mode == Mode::Level && (registration.armed & readiness).is_none() {
            return false;
        }
        registration.ready |= readiness;
        !std::mem::replace(&mut registration.queued, true)
    }

    /// Notes `readiness` as a poll does.
    pub fn find(&mut self, token: Token, readiness: Readiness) {
        if let Some(poller) = &mut self.poller {
            poller.found.push((token, readiness));
        }
    }

    /// How many events the polls have found that are not reported yet.
    pub fn found_count(&self) -> usize {
        self.poller.as_ref().map_or(0, |poller| poller.found.len())
    }

    /// Notes everything that the last poll found; `queue` gets the tokens that have to be queued, in order.
    pub fn report_found(&mut self, mut queue: impl FnMut(Token)) {
        let Some(poller) = &mut self.poller else {
            return;
        };
        let mut found = std::mem::take(&mut poller.found);
        for (token, readiness) in found.drain(..) {
            if self.report(token, readiness) {
                queue(token);
            }
        }
        // The emptied vector goes back, for its memory.
        if let Some(poller) = &mut self.poller {
            poller.found = found;
        }
    }

    /// What the polls have found and is not noted yet: fd, readable, writable; not what nobody is to hear of.
    pub fn found(&self) -> Vec<(RawFd, bool, bool)> {
        let found = self.poller.iter().flat_map(|poller| &poller.found);
        let told = found.filter_map(|&(token, readiness)| {
            let registration = self.slots.get(token)?;
            let told = match registration.mode {
                Mode::Level => readiness & registration.armed,
                Mode::Edge | Mode::Internal => readiness,
            };
            let row =
                (registration.fd, told.contains(Readiness::READABLE), told.contains(Readiness::WRITABLE));
            (row.1 || row.2).then_some(row)
        });
        told.collect()
    }

    /// Every registration of an fd: its number and its owner, in no order that means anything.
    pub fn registrations(&self) -> impl Iterator<Item = (RawFd, &S)> {
        self.slots.iter().map(|registration| (registration.fd, &registration.source))
    }

    /// What the owner of a queued token is to be told now.
    pub fn take_ready(&mut self, token: Token) -> Readiness {
        let Some(registration) = self.slots.get_mut(token) else {
            return Readiness::NONE;
        };
        registration.queued = false;
        let ready = std::mem::take(&mut registration.ready);
        if registration.mode == Mode::Level {
            self.fired.push(token);
            return ready & registration.armed;
        }
        ready
    }

    /// Looks again at the level-triggered fds that fired in the turn before; those that still are ready come first
    /// in the next poll's result, which then must not block: true. Err: they are looked at the next time.
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

    /// True if the last poll has found something that is not reported yet: a program that polls itself may have been
    /// interrupted in between.
    pub fn has_found(&self) -> bool {
        self.poller.as_ref().is_some_and(|poller| !poller.found.is_empty())
    }

    /// Where poll(2) fails, as it does for more fds than RLIMIT_NOFILE allows now: a fresh edge for each of these that is
    /// ready, which the next poll finds. An fd that was closed is ready in no direction.
    #[cold]
    fn ask_again(&mut self, fired: &[Token]) {
        for &token in fired {
            let _ = self.refresh(token, Readiness::NONE);
        }
    }

    /// Takes the poll out, to wait on it without holding on to the reactor. `None` when somebody else has it or the
    /// reactor is closed.
    pub fn take_poller(&mut self) -> Option<Poller> {
        self.poller.take()
    }

    /// Puts the poll back.
    pub fn put_poller(&mut self, poller: Poller) {
        self.poller = Some(poller);
    }
}

/// What to ask of the kernel. Errors and hang-ups it reports unasked.
fn interest(directions: Readiness) -> mio::Interest {
    #[cfg(target_os = "linux")]
    const READ: mio::Interest = mio::Interest::READABLE.add(mio::Interest::PRIORITY);
    #[cfg(not(target_os = "linux"))]
    const READ: mio::Interest = mio::Interest::READABLE;
    match (directions.contains(Readiness::READABLE), directions.contains(Readiness::WRITABLE)) {
        (true, true) => READ.add(mio::Interest::WRITABLE),
        (false, true) => mio::Interest::WRITABLE,
        _ => READ,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    const SECOND: Option<u64> = Some(1_000_000_000);

    fn pair() -> (UnixStream, UnixStream) {
        let (left, right) = UnixStream::pair().expect("pair");
        left.set_nonblocking(true).expect("non-blocking");
        (left, right)
    }

    /// One poll: the owners to tell, with what.
    fn turn(reactor: &mut Reactor<&'static str>, timeout: Option<u64>) -> Vec<(&'static str, Readiness)> {
        let level = reactor.recheck_level().expect("recheck");
        let mut poller = reactor.take_poller().expect("not taken");
        poller.wait(if level { Some(0) } else { timeout }).expect("wait");
        reactor.put_poller(poller);
        let mut queued = Vec::new();
        reactor.report_found(|token| queued.push(token));
        queued
            .into_iter()
            .map(|token| (*reactor.source(token).expect("live"), reactor.take_ready(token)))
            .collect()
    }

    #[test]
    fn edge_fires_once_and_level_until_drained() {
        for (mode, second) in [(Mode::Edge, 0), (Mode::Level, 1)] {
            let (mut reactor, _waker) = Reactor::new().expect("reactor");
            let (mut left, mut right) = pair();
            right.write_all(b"xy").expect("write");
            let token = reactor.register(left.as_raw_fd(), mode, "left").expect("register");
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
        reactor.register(left.as_raw_fd(), Mode::Edge, "left").expect("register");
        let ready = turn(&mut reactor, SECOND);
        assert!(ready[0].1.contains(Readiness::READABLE | Readiness::READ_CLOSED));
    }

    #[test]
    fn unarmed_level_registration_does_not_spin() {
        let (mut reactor, _waker) = Reactor::new().expect("reactor");
        let (left, right) = pair();
        let token = reactor.register(left.as_raw_fd(), Mode::Level, "left").expect("register");
        reactor.arm(token, Readiness::NONE);
        drop(right);
        assert!(turn(&mut reactor, SECOND).is_empty());
        assert!(turn(&mut reactor, Some(0)).is_empty());
        reactor.arm(token, Readiness::READABLE);
        reactor.refresh(token, Readiness::READABLE).expect("refresh");
        assert_eq!(turn(&mut reactor, SECOND).len(), 1);
    }

    #[test]
    fn only_watched_directions_wake() {
        let (mut reactor, _waker) = Reactor::new().expect("reactor");
        let (mut left, mut right) = pair();
        let token = reactor.reserve(left.as_raw_fd(), Mode::Edge, "left");
        reactor.watch(token, Readiness::READABLE).expect("not watched yet");
        reactor.activate(token).expect("activate");
        left.write_all(b"x").expect("write");
        right.read_exact(&mut [0]).expect("read");
        assert!(turn(&mut reactor, Some(0)).is_empty(), "of no use: nobody waits to write");
        while left.write(&[0; 65536]).is_ok() {}
        reactor.watch_also(token, Readiness::WRITABLE).expect("watch");
        assert!(turn(&mut reactor, Some(0)).is_empty(), "full");
        right.set_nonblocking(true).expect("non-blocking");
        while right.read(&mut [0; 65536]).is_ok() {}
        assert_eq!(turn(&mut reactor, SECOND), [("left", Readiness::WRITABLE)]);
        reactor.watch(token, Readiness::READABLE).expect("watch");
        right.write_all(b"x").expect("write");
        assert_eq!(turn(&mut reactor, SECOND), [("left", Readiness::READABLE)]);
        reactor.watch(token, Readiness::WRITABLE).expect("watch");
        assert_eq!(turn(&mut reactor, SECOND), [("left", Readiness::WRITABLE)], "what is ready already");
    }

    #[test]
    fn reused_fd_is_told_from_the_old_one() {
        let (mut reactor, _waker) = Reactor::new().expect("reactor");
        let (left, _right) = pair();
        let fd = left.as_raw_fd();
        let old = reactor.register(fd, Mode::Edge, "old").expect("register");
        let (other, mut peer) = pair();
        // SAFETY: both numbers are open; `left` goes on to own its number, now of another file.
        assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), fd) }, fd);
        assert_eq!(
            reactor.refresh(old, Readiness::READABLE).expect_err("another file").kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(reactor.deregister(old), Some("old"));
        let new = reactor.register(fd, Mode::Edge, "new").expect("register");
        assert_ne!(old, new);
        peer.write_all(b"x").expect("write");
        assert_eq!(turn(&mut reactor, SECOND)[0].0, "new");
        assert!(!reactor.report(old, Readiness::READABLE));
    }

    /// What a child does with the reactor that it has inherited, its parent does not notice.
    #[test]
    fn fork_shares_nothing() {
        let (mut reactor, waker) = Reactor::new().expect("reactor");
        let ((left, mut right), (dropped, mut peer)) = (pair(), pair());
        let token = reactor.register(left.as_raw_fd(), Mode::Edge, "left").expect("register");
        reactor.register(dropped.as_raw_fd(), Mode::Edge, "dropped").expect("register");
        turn(&mut reactor, Some(0));
        assert!(waker.park(), "so that a wake is a system call");
        // SAFETY: the child calls nothing that another thread of the test could have left locked but the allocator,
        // which glibc and musl keep usable, and ends without running anything else.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let woken = waker.wake();
            let gone = reactor.deregister(token);
            reactor.make_own().expect("a poll of its own");
            peer.write_all(b"y").expect("write");
            let found = turn(&mut reactor, SECOND);
            let all = woken.is_ok() && gone == Some("left") && found.len() == 1 && found[0].0 == "dropped";
            drop(reactor);
            // SAFETY: ends the child here.
            unsafe { libc::_exit(if all { 0 } else { 1 }) }
        }
        let mut status = 0;
        // SAFETY: `status` is writable.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        // The edge that the child has taken is still there for the parent, and no wake has come.
        assert_eq!(turn(&mut reactor, SECOND)[0].0, "dropped");
        right.write_all(b"x").expect("write");
        assert_eq!(turn(&mut reactor, SECOND)[0].0, "left");
    }

    #[test]
    fn regular_file_is_refused_and_owner_given_back() {
        let (mut reactor, _waker) = Reactor::new().expect("reactor");
        let file = std::fs::File::open(std::env::current_exe().expect("exe")).expect("open");
        let (error, source) = reactor.register(file.as_raw_fd(), Mode::Level, "file").expect_err("refused");
        assert_eq!((error.kind(), source), (io::ErrorKind::PermissionDenied, "file"));
        assert!(!reactor.watches_io() && reactor.token_of(file.as_raw_fd()).is_none());
    }

    #[test]
    fn timeout_is_finer_than_a_millisecond_and_never_early() {
        let (mut reactor, _waker) = Reactor::<&str>::new().expect("reactor");
        let mut poller = reactor.take_poller().expect("not taken");
        let mut best = u64::MAX;
        for _ in 0..20 {
            let start = clock::Clock.now_ns();
            poller.wait(Some(200_000)).expect("wait");
            let took = clock::Clock.now_ns() - start;
            assert!(took >= 200_000, "early: {took} ns");
            best = best.min(took);
        }
        if poller.events.is_none() {
            assert!(best < 1_000_000, "{best} ns");
        }
        let start = clock::Clock.now_ns();
        poller.wait_by_mio(Some(200_000)).expect("wait");
        assert!(clock::Clock.now_ns() - start >= 200_000);
    }
}
