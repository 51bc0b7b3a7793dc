//! The system calls that std does not have: epoll, an option of sockets, and how much CPU time and memory this process
//! uses. Only this file and `openssl.rs` have unsafe code.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

const EVENTS: usize = 1024;

/// Which events of a descriptor are wanted.
#[derive(Clone, Copy)]
pub enum Interest {
    /// An event from each wait, as long as there is something to read.
    LevelReadable,
    /// One event each time that the descriptor becomes readable or writable.
    EdgeBoth,
}

/// One event of the last [`Epoll::wait`].
#[derive(Clone, Copy)]
pub struct Event {
    pub key: usize,
    /// The peer has closed or the socket has failed: a short read does not mean that all was read.
    pub closed: bool,
}

/// An epoll instance and its event buffer.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers; the result is checked before use.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was just opened and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS] })
    }

    /// Registers `source` until it is closed; its events carry `key`.
    pub fn add(&self, source: &impl AsFd, key: usize, interest: Interest) -> io::Result<()> {
        let flags = match interest {
            Interest::LevelReadable => libc::EPOLLIN,
            Interest::EdgeBoth => libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET,
        };
        let mut event = libc::epoll_event { events: flags as u32, u64: key as u64 };
        let source = source.as_fd().as_raw_fd();
        // SAFETY: both descriptors are open for the length of the call (borrowed from their owners) and
        // `event` is a live local that the kernel only reads.
        checked(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, source, &mut event) })?;
        Ok(())
    }

    /// Waits for events, without a limit if `timeout` is None. Returns how many there are, for [`Epoll::event`].
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        // Rounded up: rounded down, the caller would call again and again during the last millisecond.
        let millis = timeout.map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
        // SAFETY: the pointer and the length are those of `events`. Nobody else uses it during the call, because
        // `self` is borrowed mutably, and the kernel writes at most that many entries.
        let ready = checked(unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), EVENTS as i32, millis)
        });
        match ready {
            Ok(count) => Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The event at `index`, below the count that the last wait returned.
    pub fn event(&self, index: usize) -> Event {
        let event = self.events[index];
        let closed = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;
        Event { key: event.u64 as usize, closed: event.events & closed != 0 }
    }
}

/// Has a TCP connection end by a reset when it is closed (SO_LINGER with a time of 0).
pub fn reset_when_closed(source: &impl AsFd) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = size_of::<libc::linger>() as libc::socklen_t;
    let (fd, value) = (source.as_fd().as_raw_fd(), (&raw const linger).cast());
    // SAFETY: the descriptor is open for the length of the call. `value` is a live local with this size, and the kernel
    // only reads it.
    checked(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, value, size) })?;
    Ok(())
}

/// User and system CPU time that this process has used.
pub fn cpu_time() -> io::Result<Duration> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: `usage` is a live local of the type that the kernel fills.
    checked(unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) })?;
    // SAFETY: getrusage succeeded, so it has filled `usage`.
    let usage = unsafe { usage.assume_init() };
    Ok(duration(usage.ru_utime) + duration(usage.ru_stime))
}

/// Resident memory of this process, in bytes.
pub fn resident_bytes() -> io::Result<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    // SAFETY: takes no pointers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages.map(|pages| pages * page as u64).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn duration(time: libc::timeval) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
