//! The reactor: polling for readiness, timers, the ready queue, and wake-ups from other threads.
//!
//! It is pure Rust on std, mio and libc. `use pyo3` is forbidden here, and the folder builds and is tested without
//! Python. The reactor calls nobody: what is ready is returned, and what is removed is given back for the caller to
//! drop.
//!
//! A *registration* is one file that the kernel watches for us; its *token* is the number by which it is known. mio's
//! polls are always edge-triggered: a change of readiness is reported once. Every fd has one registration, for both
//! directions unless its owner needs fewer ([`Reactor::watch`]). Whether somebody wants to hear of a direction is a
//! flag of ours (*armed*), so that arming and disarming cost no system call.
//!
//! `add_reader` promises level-triggered readiness: the callback runs in every turn in which the fd is ready. Such
//! registrations ([`Mode::Level`]) are kept in step by one poll(2), before the next wait, over those fds that were
//! reported in the turn before. If the owner has not used up what was there, that poll finds it; everything that comes
//! later is an edge, which the wait finds.
//!
//! The child of a fork shares the poll with its parent. Whatever the child registered or deregistered there, and each
//! edge that it took, would be lost to the parent. So the child deregisters nothing there, and before it uses the poll
//! in any other way, it makes a new one with the same registrations ([`Reactor::make_own`]). Sources of a host that
//! register themselves cannot be registered here; their owners are called in the child's next turn, and do it again.

pub mod clock;
pub mod metrics;
pub mod moment;
mod poller;
pub mod publishing;
pub mod readiness;
pub mod ready;
mod reporting;
pub mod stalls;
pub mod sync;
pub mod sys;
pub mod timers;
pub mod token;
pub mod waker;

use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[cfg(feature = "embed")]
pub use mio::Registry;

pub use poller::Poller;
use poller::WAKER;
use readiness::Readiness;
use token::{Slots, Token};
use waker::Waker;

/// How the owner of a registration wants to hear of readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Once for each change. The owner tries until the call would block, and remembers what it knows.
    Edge,
    /// In every turn for as long as an armed direction is ready.
    Level,
    /// As `Edge`, for an fd of the loop's own, which [`Reactor::watches_io`] does not count.
    Internal,
}

/// A change of the directions that the kernel watches an fd for. After a change the kernel reports what is ready
/// already.
#[derive(Clone, Copy, Debug)]
pub enum Watch {
    /// These directions and no other. Nothing happens if they are watched already.
    Only(Readiness),
    /// These directions and those of before. Nothing happens if they are watched already.
    Also(Readiness),
    /// As `Also`, but the kernel is asked in any case, so that it reports anew what is ready.
    Anew(Readiness),
}

/// The `fd` of a registration that has none. Its owner hears only of what is queued for its token.
pub const NO_FD: RawFd = -1;

/// One file under watch, and its owner.
struct Registration<S> {
    /// The owner: it is called when the file is ready.
    source: S,
    fd: RawFd,
    mode: Mode,
    /// True once the kernel watches the fd.
    active: bool,
    /// The directions that it watches the fd for.
    watched: Readiness,
    /// The directions in which the owner of a level-triggered registration wants to hear of readiness.
    armed: Readiness,
    /// What was reported since the owner took it last.
    ready: Readiness,
    /// True while an entry for this token is in the ready queue. Invariant: there is at most one.
    queued: bool,
}

/// All registrations of a loop, with owners of type `S`, and the poll that they are made on.
pub struct Reactor<S> {
    /// None while somebody waits on the poll, so that others can register fds meanwhile. It is on the heap, because each
    /// wait moves it out and back.
    poller: Option<Box<Poller>>,
    /// None once the reactor is closed.
    registry: Option<sys::Own<mio::Registry>>,
    slots: Slots<Registration<S>>,
    /// Invariant: holds exactly the live tokens that have an fd, by that fd.
    tokens: HashMap<RawFd, Token>,
    /// How many there are in `tokens`, for threads without the GIL.
    fd_count: Arc<AtomicUsize>,
    /// Level-triggered registrations that were reported in this turn.
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
        let poll = sys::new_poll()?;
        let registry = sys::same_poll(poll.registry())?;
        let waker = Arc::new(Waker::new(&registry, WAKER)?);
        let reactor = Self {
            poller: Some(Box::new(Poller::new(poll)?)),
            registry: Some(sys::Own::new(registry)),
            slots: Slots::new(),
            tokens: HashMap::new(),
            fd_count: Arc::default(),
            fired: Vec::new(),
            watched: 0,
            waker: waker.clone(),
            forks: sys::forks(),
        };
        Ok((reactor, waker))
    }

    // ------------------------------------------------------------------------------------------ forks

    /// In the child of a fork, where the poll is the parent's, replaces it by a new one with the same registrations. To
    /// be called before the poll is used in any way.
    #[inline]
    pub fn make_own(&mut self) -> io::Result<()> {
        if self.is_own() { Ok(()) } else { self.make_anew() }
    }

    /// False if the poll belongs to the process that this one was forked from.
    fn is_own(&self) -> bool {
        self.forks == sys::forks()
    }

    /// For a fork's child: a poll of its own, in which everything is registered again. The parent's is left alone.
    #[cold]
    fn make_anew(&mut self) -> io::Result<()> {
        if self.registry.is_none() {
            return Ok(());
        }
        let poll = sys::new_poll()?;
        let registry = sys::same_poll(poll.registry())?;
        self.waker.renew(&registry, WAKER)?;
        let mut poller = Poller::new(poll)?;
        for (fd, &token) in &self.tokens {
            let Some(registration) = self.slots.get_mut(token).filter(|registration| registration.active)
            else {
                continue;
            };
            if sys::register(&registry, *fd, token.to_mio(), interest(registration.watched)).is_err() {
                // The fd was closed.
                registration.active = false;
                self.watched -= usize::from(registration.mode != Mode::Internal);
            }
        }
        // Sources of a host: their owners are called with no readiness, and register them again.
        let foreign =
            self.slots.tokens().filter(|(_, registration)| registration.active && registration.fd < 0);
        poller.found.extend(foreign.map(|(token, _)| (token, Readiness::NONE)));
        (self.poller, self.registry) = (Some(Box::new(poller)), Some(sys::Own::new(registry)));
        self.forks = sys::forks();
        Ok(())
    }

    // ------------------------------------------------------------------------------------------ registering

    /// Watches `fd` in these directions on behalf of `source`: [`Reactor::reserve`] and [`Reactor::activate`]. An fd
    /// that the kernel cannot poll, such as that of a regular file, is refused with `PermissionDenied`. An fd that is
    /// registered already is refused with `AlreadyExists`.
    pub fn register(
        &mut self,
        fd: RawFd,
        mode: Mode,
        directions: Readiness,
        source: S,
    ) -> Result<Token, (io::Error, S)> {
        let token = self.reserve(fd, mode, source);
        match self.watch(token, Watch::Only(directions)).and_then(|()| self.activate(token)) {
            Ok(()) => Ok(token),
            Err(error) => Err((error, self.deregister(token).expect("reserved above"))),
        }
    }

    /// Makes a registration that the kernel does not watch yet; [`Reactor::activate`] follows. With [`NO_FD`] the owner
    /// hears only of what is queued for its token.
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
        if fd != NO_FD {
            self.tokens.insert(fd, token);
            self.fd_count.store(self.tokens.len(), Relaxed);
        }
        token
    }

    /// Makes the kernel watch a reserved fd. What is ready already is found by the next poll.
    pub fn activate(&mut self, token: Token) -> io::Result<()> {
        self.make_own()?;
        let (Some(registration), Some(registry)) = (self.slots.get_mut(token), &self.registry) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        sys::register(registry, registration.fd, token.to_mio(), interest(registration.watched))?;
        registration.active = true;
        self.watched += usize::from(registration.mode != Mode::Internal);
        Ok(())
    }

    /// Changes the directions that the kernel watches an fd for. This is a system call only if something changes, and
    /// if the fd is watched yet.
    ///
    /// Fewer directions are worth it where the kernel has edges that nobody needs. A UNIX socket has an edge for
    /// writing whenever its peer has read (unix_write_space), and a datagram socket one for each datagram that has
    /// left, even if nobody had to wait.
    ///
    /// The error is `NotFound` if the number belongs to another file by now: the registered one was closed.
    pub fn watch(&mut self, token: Token, change: Watch) -> io::Result<()> {
        let before = self.slots.get(token).map_or(Readiness::NONE, |registration| registration.watched);
        let (directions, anew) = match change {
            Watch::Only(directions) => (directions, false),
            Watch::Also(directions) => (before | directions, false),
            Watch::Anew(directions) => (before | directions, true),
        };
        match self.slots.get_mut(token) {
            Some(registration) if !anew && registration.watched == directions => {}
            Some(registration) if !anew && !registration.active => registration.watched = directions,
            _ => self.reregister(token, directions)?,
        }
        if let (Watch::Anew(directions), Some(registration)) = (change, self.slots.get_mut(token)) {
            // The next poll finds what is still ready. What an earlier one found may not be true any more, and the new
            // owner of the direction must not hear of it.
            registration.ready = registration.ready.without(directions);
        }
        Ok(())
    }

    fn reregister(&mut self, token: Token, directions: Readiness) -> io::Result<()> {
        self.make_own()?;
        let (Some(registration), Some(registry)) = (self.slots.get_mut(token), &self.registry) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        sys::reregister(registry, registration.fd, token.to_mio(), interest(directions))?;
        registration.watched = directions;
        Ok(())
    }

    /// Sets the directions in which the owner of a level-triggered registration wants to hear of readiness.
    pub fn arm(&mut self, token: Token, directions: Readiness) {
        if let Some(registration) = self.slots.get_mut(token) {
            registration.armed = directions;
        }
    }

    /// Ends a registration and gives its owner back. To be called before the fd is closed: if the program has
    /// duplicated it, the kernel goes on watching the open file. An fd that is closed already is no error.
    pub fn deregister(&mut self, token: Token) -> Option<S> {
        let registration = self.slots.remove(token)?;
        if let Some(registry) = self.registry.as_ref().filter(|_| registration.active) {
            if self.is_own() && registration.fd != NO_FD {
                // Fails only if the fd was closed, which has ended the kernel's registration.
                let _ = sys::deregister(registry, registration.fd);
            }
            self.watched -= usize::from(registration.mode != Mode::Internal);
        }
        if self.tokens.get(&registration.fd) == Some(&token) {
            self.tokens.remove(&registration.fd);
            self.fd_count.store(self.tokens.len(), Relaxed);
        }
        Some(registration.source)
    }

    /// Forgets every registration and closes the poll. The owners are given back.
    pub fn close(&mut self) -> Vec<S> {
        self.tokens.clear();
        self.fd_count.store(0, Relaxed);
        self.fired.clear();
        self.watched = 0;
        (self.poller, self.registry) = (None, None);
        self.slots.drain().into_iter().map(|registration| registration.source).collect()
    }

    // ------------------------------------------------------------------------------------------ looking

    /// The live registration of an fd number.
    pub fn token_of(&self, fd: RawFd) -> Option<Token> {
        self.tokens.get(&fd).copied()
    }

    /// Counts the files that are registered. Any thread may read it at any time.
    pub fn fd_count(&self) -> &Arc<AtomicUsize> {
        &self.fd_count
    }

    /// The owner of a registration.
    pub fn source(&self, token: Token) -> Option<&S> {
        self.slots.get(token).map(|registration| &registration.source)
    }

    /// The owner of a registration, to be changed.
    pub fn source_mut(&mut self, token: Token) -> Option<&mut S> {
        self.slots.get_mut(token).map(|registration| &mut registration.source)
    }

    /// Every registration: its fd and its owner, in any order.
    pub fn registrations(&self) -> impl Iterator<Item = (RawFd, &S)> {
        self.slots.iter().map(|registration| (registration.fd, &registration.source))
    }

    /// True while any fd but the loop's own is watched. If none is, a poll has nothing to find.
    pub fn watches_io(&self) -> bool {
        self.watched > 0
    }
}

/// Sources that register themselves: mio's sockets of a host. Their methods are the host's code, and are called while
/// nobody holds the reactor.
#[cfg(feature = "embed")]
impl<S> Reactor<S> {
    /// Where to register such a source, under a token of [`Reactor::reserve`] with [`NO_FD`]. When it is registered,
    /// [`Reactor::set_active`] follows.
    pub fn registry(&mut self) -> io::Result<mio::Registry> {
        self.make_own()?;
        sys::same_poll(self.registry.as_ref().ok_or(io::ErrorKind::NotConnected)?)
    }

    /// Notes that the source of `token` is registered.
    pub fn set_active(&mut self, token: Token) {
        if let Some(registration) = self.slots.get_mut(token)
            && !std::mem::replace(&mut registration.active, true)
        {
            self.watched += 1;
        }
    }

    /// Ends the registration of such a source. Gives its owner back, and the registry to deregister the source from.
    /// There is no registry in the child of a fork, where it would be the parent's, nor once the reactor is closed.
    pub fn deregister_foreign(&mut self, token: Token) -> Option<(S, Option<mio::Registry>)> {
        let registry = self.registry.as_ref().filter(|_| self.is_own());
        let registry = registry.and_then(|registry| sys::same_poll(registry).ok());
        Some((self.deregister(token)?, registry))
    }
}

/// What to ask of the kernel. It reports errors and hang-ups in any case.
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
pub(super) mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    pub const SECOND: Option<u64> = Some(1_000_000_000);

    pub fn pair() -> (UnixStream, UnixStream) {
        let (left, right) = UnixStream::pair().expect("pair");
        left.set_nonblocking(true).expect("non-blocking");
        (left, right)
    }

    /// One poll: the owners to tell, with what.
    pub fn turn(reactor: &mut Reactor<&'static str>, timeout: Option<u64>) -> Vec<(&'static str, Readiness)> {
        let level = reactor.recheck_level().expect("recheck");
        let mut poller = reactor.take_poller().expect("not taken");
        poller.wait(if level { Some(0) } else { timeout }).expect("wait");
        reactor.put_poller(poller);
        let mut queued = Vec::new();
        reactor.report_found(|token| queued.push(token));
        queued
            .into_iter()
            .map(|token| {
                (*reactor.source(token).expect("live"), reactor.take_ready(token).unwrap_or(Readiness::NONE))
            })
            .collect()
    }

    #[test]
    fn only_watched_directions_wake() {
        let (mut reactor, _waker) = Reactor::new().expect("reactor");
        let (mut left, mut right) = pair();
        let token = reactor.reserve(left.as_raw_fd(), Mode::Edge, "left");
        reactor.watch(token, Watch::Only(Readiness::READABLE)).expect("not watched yet");
        reactor.activate(token).expect("activate");
        left.write_all(b"x").expect("write");
        right.read_exact(&mut [0]).expect("read");
        assert!(turn(&mut reactor, Some(0)).is_empty(), "of no use: nobody waits to write");
        while left.write(&[0; 65536]).is_ok() {}
        reactor.watch(token, Watch::Also(Readiness::WRITABLE)).expect("watch");
        assert!(turn(&mut reactor, Some(0)).is_empty(), "full");
        right.set_nonblocking(true).expect("non-blocking");
        while right.read(&mut [0; 65536]).is_ok() {}
        assert_eq!(turn(&mut reactor, SECOND), [("left", Readiness::WRITABLE)]);
        reactor.watch(token, Watch::Only(Readiness::READABLE)).expect("watch");
        right.write_all(b"x").expect("write");
        assert_eq!(turn(&mut reactor, SECOND), [("left", Readiness::READABLE)]);
        reactor.watch(token, Watch::Only(Readiness::WRITABLE)).expect("watch");
        assert_eq!(turn(&mut reactor, SECOND), [("left", Readiness::WRITABLE)], "what is ready already");
    }

    #[test]
    fn reused_fd_is_told_from_the_old_one() {
        let (mut reactor, _waker) = Reactor::new().expect("reactor");
        let (left, _right) = pair();
        let fd = left.as_raw_fd();
        let old = reactor.register(fd, Mode::Edge, Readiness::BOTH, "old").expect("register");
        let (other, mut peer) = pair();
        // SAFETY: both numbers are open; `left` goes on to own its number, now of another file.
        assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), fd) }, fd);
        assert_eq!(
            reactor.watch(old, Watch::Anew(Readiness::READABLE)).expect_err("another file").kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(reactor.deregister(old), Some("old"));
        let new = reactor.register(fd, Mode::Edge, Readiness::BOTH, "new").expect("register");
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
        let token =
            reactor.register(left.as_raw_fd(), Mode::Edge, Readiness::BOTH, "left").expect("register");
        reactor.register(dropped.as_raw_fd(), Mode::Edge, Readiness::BOTH, "dropped").expect("register");
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
        let (error, source) =
            reactor.register(file.as_raw_fd(), Mode::Level, Readiness::BOTH, "file").expect_err("refused");
        assert_eq!((error.kind(), source), (io::ErrorKind::PermissionDenied, "file"));
        assert!(!reactor.watches_io() && reactor.token_of(file.as_raw_fd()).is_none());
    }
}
