//! Waiting for readiness, and looking at it: epoll, by itself and by mio, poll(2), and the fd that interrupts a wait.

use std::io;
#[cfg(target_os = "linux")]
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
#[cfg(target_os = "linux")]
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use mio::unix::SourceFd;

#[cfg(target_os = "linux")]
use super::Library;
#[cfg(not(target_os = "linux"))]
use super::Own;
use super::attempt::{attempt, attempt_io};
use super::call::Call;
use super::retry;
use crate::reactor::readiness::Readiness;

// ---------------------------------------------------------------------------------------------- mio's poll

/// A new poll.
pub fn new_poll() -> io::Result<mio::Poll> {
    attempt_io(Call::epoll_create1, mio::Poll::new)
}

/// Another way to register with the same poll.
pub fn same_poll(registry: &mio::Registry) -> io::Result<mio::Registry> {
    attempt_io(Call::dup, || registry.try_clone())
}

/// Makes a poll watch `fd`.
pub fn register(
    registry: &mio::Registry,
    fd: RawFd,
    token: mio::Token,
    interest: mio::Interest,
) -> io::Result<()> {
    attempt_io(Call::epoll_ctl, || registry.register(&mut SourceFd(&fd), token, interest))
}

/// Changes what a poll watches `fd` for.
pub fn reregister(
    registry: &mio::Registry,
    fd: RawFd,
    token: mio::Token,
    interest: mio::Interest,
) -> io::Result<()> {
    attempt_io(Call::epoll_ctl, || registry.reregister(&mut SourceFd(&fd), token, interest))
}

/// Ends the watch of `fd`.
pub fn deregister(registry: &mio::Registry, fd: RawFd) -> io::Result<()> {
    attempt_io(Call::epoll_ctl, || registry.deregister(&mut SourceFd(&fd)))
}

/// To be called before each wait. It does nothing but in builds of the laboratory (see `faults.rs`).
#[inline(always)]
pub fn before_wait(poll: &mio::Poll) {
    #[cfg(feature = "faults")]
    // SAFETY: the poll owns the fd and outlives the call.
    super::faults::before_wait(unsafe { BorrowedFd::borrow_raw(poll.as_raw_fd()) });
    let _ = poll;
}

// ---------------------------------------------------------------------------------------------- waiting

/// The system call of a wait.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// epoll_pwait2 (Linux 5.11), whose timeouts are exact. [`epoll_wait`] fails with `Unsupported` where the kernel does
    /// not have the call, or a sandbox forbids it.
    Exact,
    /// The function `epoll_wait` of libc, whose timeouts are whole milliseconds. They are rounded up, so that the wait can
    /// be late by one.
    ByMilliseconds,
}

#[cfg(target_os = "linux")]
impl Wait {
    /// The best one for a new poll.
    pub fn best() -> Self {
        if is_wait_replaced() { Self::ByMilliseconds } else { Self::Exact }
    }
}

/// Waits on an epoll instance for at most `timeout` nanoseconds (`None`: for ever), and calls `ready` for each event.
///
/// mio's own wait is not used on Linux. Its timeouts are whole milliseconds, and the process is aborted if there is no
/// memory for its events.
#[cfg(target_os = "linux")]
pub fn epoll_wait(
    epoll: BorrowedFd<'_>,
    wait: Wait,
    events: &mut [MaybeUninit<libc::epoll_event>],
    timeout: Option<u64>,
    mut ready: impl FnMut(mio::Token, Readiness),
) -> io::Result<()> {
    #[cfg(feature = "faults")]
    if let Some(events) = super::faults::spurious(epoll) {
        for event in events {
            ready(mio::Token(event.u64 as usize), epoll_readiness(event.events));
        }
        return Ok(());
    }
    let (fd, length) = (epoll.as_raw_fd(), events.len() as libc::c_int);
    let limit = timeout.map(timespec);
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let exactly = || {
        // SAFETY: `events` is writable for its length. `limit` is null, or points to a timespec that is alive during
        // the call. There is no signal mask.
        let result = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                fd,
                events.as_mut_ptr(),
                length,
                limit,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        result as isize
    };
    let count = if wait == Wait::Exact {
        match attempt(Call::epoll_pwait2, exactly) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
            result => result?,
        }
    } else {
        let limit = timeout.map_or(-1, milliseconds);
        attempt(Call::epoll_wait, || {
            // SAFETY: `events` is writable for its length.
            unsafe { libc::epoll_wait(fd, events.as_mut_ptr().cast(), length, limit) as isize }
        })?
    };
    for event in &events[..count] {
        // SAFETY: the kernel has filled in the first `count` events.
        let event = unsafe { event.assume_init() };
        ready(mio::Token(event.u64 as usize), epoll_readiness(event.events));
    }
    Ok(())
}

/// A timeout in nanoseconds as whole milliseconds, rounded up.
#[cfg(target_os = "linux")]
fn milliseconds(timeout: u64) -> libc::c_int {
    libc::c_int::try_from(timeout.div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
}

/// True if another library has put its own `epoll_wait` in the place of libc's (`LD_PRELOAD`). libfaketime does, to
/// make time pass faster. It replaces the clock as well, but not the system call of [`Wait::Exact`], which would go by the
/// real clock. So [`Wait::ByMilliseconds`] is used then, which calls the function.
#[cfg(target_os = "linux")]
fn is_wait_replaced() -> bool {
    static REPLACED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *REPLACED.get_or_init(|| {
        let wait = |library: Option<&std::ffi::CStr>| Library::loaded(library)?.symbol(c"epoll_wait");
        is_replaced(wait(None), wait(Some(c"libc.so.6")))
    })
}

/// True if the function that the process uses is known not to be libc's own. `own` is `None` where libc has another
/// file name, as musl's has: then nothing is known.
#[cfg(target_os = "linux")]
fn is_replaced<T: PartialEq>(used: Option<T>, own: Option<T>) -> bool {
    matches!((used, own), (Some(used), Some(own)) if used != own)
}

#[cfg(target_os = "linux")]
fn epoll_readiness(flags: u32) -> Readiness {
    let has = |mask: libc::c_int| flags & mask as u32 != 0;
    let failed = has(libc::EPOLLERR | libc::EPOLLHUP);
    let mut readiness = Readiness::NONE;
    if failed || has(libc::EPOLLIN | libc::EPOLLRDHUP) {
        readiness |= Readiness::READABLE;
    }
    if failed || has(libc::EPOLLOUT) {
        readiness |= Readiness::WRITABLE;
    }
    // A read stops in front of urgent data, so that a short read does not show that the socket is empty.
    if failed || has(libc::EPOLLRDHUP | libc::EPOLLPRI) {
        readiness |= Readiness::READ_CLOSED;
    }
    readiness
}

#[cfg(target_os = "linux")]
fn timespec(ns: u64) -> libc::timespec {
    libc::timespec {
        // Not `as libc::time_t`: the libc crate has that name marked as deprecated for musl.
        tv_sec: (ns / 1_000_000_000) as _,
        tv_nsec: (ns % 1_000_000_000) as libc::c_long,
    }
}

/// An fd that interrupts a poll: an eventfd.
///
/// mio's own waker is not used. When its write would block, it takes the counter for full, reads it and calls itself
/// again. In a sandbox where every write fails that way, it recurses until the stack is used up.
#[cfg(target_os = "linux")]
pub struct PollWaker(OwnedFd);

#[cfg(target_os = "linux")]
impl PollWaker {
    /// A waker whose events carry `token`.
    pub fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let make = || unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) } as isize;
        let fd = attempt(Call::eventfd, make)?;
        // SAFETY: eventfd has just returned this fd; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        register(registry, fd.as_raw_fd(), token, mio::Interest::READABLE)?;
        Ok(Self(fd))
    }

    /// Interrupts the present or the next poll. The fd is watched edge-triggered, so that each write is an event, and
    /// nobody has to read. A full counter is read once to make room.
    pub fn wake(&self) -> io::Result<()> {
        match self.add(1) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.take()?;
                self.add(1)
            }
            result => result,
        }
    }

    /// Adds to the counter.
    fn add(&self, count: u64) -> io::Result<()> {
        let (count, length) = (count.to_ne_bytes(), size_of::<u64>());
        // SAFETY: `count` is readable for its length.
        let write = || unsafe { libc::write(self.0.as_raw_fd(), count.as_ptr().cast(), length) };
        retry(|| attempt(Call::write, write)).map(drop)
    }

    /// Returns the counter and sets it to 0.
    fn take(&self) -> io::Result<u64> {
        let mut count = [0; size_of::<u64>()];
        retry(|| {
            // SAFETY: `count` is writable for its length.
            let read = || unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
            attempt(Call::read, read)
        })?;
        Ok(u64::from_ne_bytes(count))
    }
}

/// An fd that interrupts a poll: mio's, on systems without eventfd.
#[cfg(not(target_os = "linux"))]
pub struct PollWaker(Own<mio::Waker>);

#[cfg(not(target_os = "linux"))]
impl PollWaker {
    pub fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Self> {
        mio::Waker::new(registry, token).map(|waker| Self(Own::new(waker)))
    }

    pub fn wake(&self) -> io::Result<()> {
        retry(|| self.0.wake())
    }
}

/// One fd in a call of [`poll_now`]: an entry of poll(2).
pub type PollFd = libc::pollfd;

/// An entry of poll(2) that asks for the directions in `interest`.
pub fn poll_fd(fd: RawFd, interest: Readiness) -> PollFd {
    let mut events = 0;
    if interest.contains(Readiness::READABLE) {
        events |= libc::POLLIN;
    }
    if interest.contains(Readiness::WRITABLE) {
        events |= libc::POLLOUT;
    }
    libc::pollfd { fd, events, revents: 0 }
}

/// Asks poll(2) what is ready now, without waiting. The answers are written into the entries.
pub fn poll_now(fds: &mut [PollFd]) -> io::Result<()> {
    retry(|| {
        // SAFETY: `fds` is a writable array of pollfd during the call.
        let look = || unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 0) } as isize;
        attempt(Call::poll, look)
    })?;
    #[cfg(target_vendor = "apple")]
    fds.iter_mut().for_each(ask_select);
    Ok(())
}

/// The poll(2) of macOS does not know devices, such as terminals, and takes their fds for closed ones. So select(2) is
/// asked of these. It refuses an fd that is really closed, and cannot be asked of one that is too large.
#[cfg(any(target_vendor = "apple", test))]
fn ask_select(entry: &mut PollFd) {
    if entry.revents & libc::POLLNVAL == 0 || !(0..libc::FD_SETSIZE as RawFd).contains(&entry.fd) {
        return;
    }
    // SAFETY: all zeroes are an empty set of fds.
    let [mut read, mut write]: [libc::fd_set; 2] = unsafe { std::mem::zeroed() };
    for (event, set) in [(libc::POLLIN, &mut read), (libc::POLLOUT, &mut write)] {
        if entry.events & event != 0 {
            // SAFETY: the fd is less than FD_SETSIZE.
            unsafe { libc::FD_SET(entry.fd, set) };
        }
    }
    let mut limit = libc::timeval { tv_sec: 0, tv_usec: 0 };
    // SAFETY: the sets and the limit are alive and writable during the call.
    let look = || unsafe {
        libc::select(entry.fd + 1, &mut read, &mut write, std::ptr::null_mut(), &mut limit) as isize
    };
    let Ok(count) = attempt(Call::select, look) else {
        return;
    };
    entry.revents = 0;
    for (event, set) in [(libc::POLLIN, &read), (libc::POLLOUT, &write)] {
        // SAFETY: the fd is less than FD_SETSIZE.
        if count > 0 && unsafe { libc::FD_ISSET(entry.fd, set) } {
            entry.revents |= event;
        }
    }
}

/// What [`poll_now`] has found for one fd. An fd that is closed is ready in no direction: epoll has dropped it, too.
pub fn poll_readiness(fd: &PollFd) -> Readiness {
    let mut readiness = Readiness::NONE;
    if fd.revents & libc::POLLNVAL != 0 {
        return readiness;
    }
    // As in `selectors.PollSelector`: everything but POLLOUT wakes the reader, and everything but POLLIN the writer.
    if fd.revents & !libc::POLLOUT != 0 {
        readiness |= Readiness::READABLE;
    }
    if fd.revents & !libc::POLLIN != 0 {
        readiness |= Readiness::WRITABLE;
    }
    readiness
}

/// True if a read of `fd` would not block now.
pub fn is_readable(fd: RawFd) -> io::Result<bool> {
    is_ready(fd, Readiness::READABLE)
}

/// True if a write to `fd` would not block now.
pub fn is_writable(fd: RawFd) -> io::Result<bool> {
    is_ready(fd, Readiness::WRITABLE)
}

/// True if the peer of a connected socket will send no more, and none of the bytes that it has sent is unread. Messages
/// without a byte may be unread still.
pub fn peer_has_ended(fd: RawFd) -> bool {
    #[cfg(target_os = "linux")]
    const END: libc::c_short = libc::POLLRDHUP;
    #[cfg(not(target_os = "linux"))]
    const END: libc::c_short = libc::POLLHUP;
    let mut fds = [libc::pollfd { fd, events: END, revents: 0 }];
    // In this order: what is unread can only become less once the peer has ended.
    poll_now(&mut fds).is_ok() && fds[0].revents & END != 0 && unread(fd) == 0
}

/// The number of bytes that the kernel holds for reads of `fd`; 0 if it does not tell.
fn unread(fd: RawFd) -> libc::c_int {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes an int to a place that is alive during the call. An fd without such a number is refused.
    let asked = attempt(Call::ioctl, || unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) } as isize);
    if asked.is_ok() { bytes } else { 0 }
}

fn is_ready(fd: RawFd, direction: Readiness) -> io::Result<bool> {
    let mut fds = [poll_fd(fd, direction)];
    poll_now(&mut fds)?;
    Ok(poll_readiness(&fds[0]).contains(direction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_wait_of_another_library_is_noticed() {
        assert!(is_replaced(Some(1), Some(2)));
        assert!(!is_replaced(Some(1), Some(1)));
        assert!(!is_replaced(Some(1), None) && !is_replaced(None, Some(1)));
        let preloaded = std::env::var_os("LD_PRELOAD").is_some();
        assert!(preloaded || !is_wait_replaced(), "nobody has");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn milliseconds_are_rounded_up() {
        let rounded = [0, 1, 1_000_000, 1_000_001, u64::MAX].map(milliseconds);
        assert_eq!(rounded, [0, 1, 1, 2, libc::c_int::MAX]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_counter_wakes_once_more() {
        let poll = mio::Poll::new().expect("poll");
        let waker = PollWaker::new(poll.registry(), mio::Token(1)).expect("waker");
        waker.add(u64::MAX - 1).expect("filled");
        waker.wake().expect("wake");
        assert_eq!(waker.take().expect("read"), 1);
    }

    #[test]
    fn a_device_that_poll_takes_for_closed() {
        let (mut reader, mut writer) = io::pipe().expect("pipe");
        let asked = |fd: RawFd, direction| {
            let mut entry = poll_fd(fd, direction);
            entry.revents = libc::POLLNVAL;
            ask_select(&mut entry);
            poll_readiness(&entry)
        };
        let (end, both) = (std::os::fd::AsRawFd::as_raw_fd(&reader), Readiness::BOTH);
        assert!(asked(end, Readiness::READABLE).is_none(), "empty");
        io::Write::write_all(&mut writer, b"x").expect("write");
        assert_eq!(asked(end, Readiness::READABLE), Readiness::READABLE);
        io::Read::read_exact(&mut reader, &mut [0]).expect("read");
        assert_eq!(asked(std::os::fd::AsRawFd::as_raw_fd(&writer), Readiness::WRITABLE), Readiness::WRITABLE);
        for fd in [RawFd::MAX, 1000, -1] {
            assert!(asked(fd, both).is_none(), "closed, or too large");
        }
    }

    #[test]
    fn closed_fd_is_not_ready() {
        let mut fds = [poll_fd(RawFd::MAX, Readiness::READABLE)];
        poll_now(&mut fds).expect("poll");
        assert!(poll_readiness(&fds[0]).is_none());
    }
}
