//! The only caller of libc in the crate's core, so that faults can be injected in one place.
//!
//! Thin and safe: each function is one system call with its result as `io::Result`, plus the portable way where the
//! call is Linux's own. EINTR is handled in one place, [`retry`]; "would block" is the caller's business.

use std::collections::TryReserveError;
use std::io;
use std::mem::MaybeUninit;
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::readiness::Readiness;
pub use addresses::{Address, SocketAddress, ipv6_host};

mod addresses;
pub mod datagrams;
pub mod sigpipe;

/// Repeats `call` for as long as a signal interrupts it (PEP 475).
pub fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => return result,
        }
    }
}

/// The result of a call that says -1 for an error.
fn check(result: isize) -> io::Result<usize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec for the duration of the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Memory for so many values. Rust's own way to get it ends the process when there is none.
pub fn uninit_slice<T>(len: usize) -> Result<Box<[MaybeUninit<T>]>, TryReserveError> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(len)?;
    // SAFETY: there is room for so many, and the values need not be initialised.
    unsafe { memory.set_len(len) };
    Ok(memory.into_boxed_slice())
}

// ---------------------------------------------------------------------------------------------- forks

static FORKS: AtomicU32 = AtomicU32::new(0);

/// Counts the forks between this process and the one that called [`watch_forks`] first: what was made at another
/// count is the parent's. Costs nothing to ask.
pub fn forks() -> u32 {
    FORKS.load(Relaxed)
}

/// Has [`forks`] count from here on. A child made by vfork, which may only execute a program, does not count.
pub fn watch_forks() {
    extern "C" fn forked() {
        FORKS.fetch_add(1, Relaxed);
    }
    static ONCE: Once = Once::new();
    // SAFETY: the function does what is allowed in a fork's child: nothing but an atomic addition. It stays loaded for
    // as long as the process lives. The call fails only for want of memory.
    ONCE.call_once(|| unsafe { _ = libc::pthread_atfork(None, None, Some(forked)) });
}

// ---------------------------------------------------------------------------------------------- libraries

/// A shared library that the process has loaded already.
pub struct Library(std::ptr::NonNull<libc::c_void>);

impl Library {
    /// The library with this file name, or `None` if it is not loaded; without a name, the program itself. It stays
    /// loaded for as long as the process lives.
    pub fn loaded(file: Option<&std::ffi::CStr>) -> Option<Self> {
        let file = file.map_or(std::ptr::null(), |file| file.as_ptr());
        // SAFETY: `file` is null or a string that ends in NUL; RTLD_NOLOAD runs no code of a library.
        std::ptr::NonNull::new(unsafe { libc::dlopen(file, libc::RTLD_NOW | libc::RTLD_NOLOAD) }).map(Self)
    }

    /// The address of `name`, looked for in the library and in what it depends on.
    pub fn symbol(&self, name: &std::ffi::CStr) -> Option<std::ptr::NonNull<libc::c_void>> {
        // SAFETY: the handle is never closed, `name` ends in NUL.
        std::ptr::NonNull::new(unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) })
    }
}

// ---------------------------------------------------------------------------------------------- polling

/// Waits on an epoll instance with a timeout in nanoseconds (`None`: for ever) and appends what is ready. epoll and
/// mio count whole milliseconds; epoll_pwait2 (Linux 5.11) does not. Errors with `Unsupported` where the kernel or a
/// sandbox does not know the call.
#[cfg(target_os = "linux")]
pub fn epoll_wait(
    epoll: BorrowedFd<'_>,
    events: &mut [MaybeUninit<libc::epoll_event>],
    timeout: Option<u64>,
    mut ready: impl FnMut(mio::Token, Readiness),
) -> io::Result<()> {
    let limit = timeout.map(timespec);
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `events` is writable for its length, `limit` is null or points to a live timespec; no signal mask.
    let result = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.as_raw_fd(),
            events.as_mut_ptr(),
            events.len() as libc::c_int,
            limit,
            std::ptr::null::<libc::sigset_t>(),
            0usize,
        )
    };
    let count = match check(result as isize) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            return Err(io::ErrorKind::Unsupported.into());
        }
        result => result?,
    };
    for event in &events[..count] {
        // SAFETY: the kernel has filled in the first `count` events.
        let event = unsafe { event.assume_init() };
        ready(mio::Token(event.u64 as usize), epoll_readiness(event.events));
    }
    Ok(())
}

/// Is libc's wait replaced by another library's, as libfaketime does to make time pass faster (`LD_PRELOAD`)? That
/// cannot see [`epoll_wait`], and fakes the clock all the same: mio's wait, which is libc's, has to be used then.
#[cfg(target_os = "linux")]
pub fn is_wait_replaced() -> bool {
    static REPLACED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *REPLACED.get_or_init(|| {
        let wait = |library: Option<&std::ffi::CStr>| Library::loaded(library)?.symbol(c"epoll_wait");
        is_replaced(wait(None), wait(Some(c"libc.so.6")))
    })
}

/// Do the process and libc mean different functions by a name? Where libc has another file name, nobody knows.
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
    // Urgent data ends a read where it stands in the stream.
    if failed || has(libc::EPOLLRDHUP | libc::EPOLLPRI) {
        readiness |= Readiness::READ_CLOSED;
    }
    readiness
}

#[cfg(target_os = "linux")]
fn timespec(ns: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (ns % 1_000_000_000) as libc::c_long,
    }
}

/// An fd that interrupts a poll. mio's own waker takes "would block" for a full counter, empties it and tries again by
/// recursion: where a sandbox answers so for good, until the stack is used up.
#[cfg(target_os = "linux")]
pub struct PollWaker(OwnedFd);

#[cfg(target_os = "linux")]
impl PollWaker {
    pub fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) } as isize)?;
        // SAFETY: eventfd has just returned this fd, nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        registry.register(&mut mio::unix::SourceFd(&fd.as_raw_fd()), token, mio::Interest::READABLE)?;
        Ok(Self(fd))
    }

    /// Edge-triggered: each write interrupts a poll, though nobody reads. A counter that is full is emptied once.
    pub fn wake(&self) -> io::Result<()> {
        let mut count = [MaybeUninit::uninit(); 8];
        let one = || write(self.0.as_fd(), &[io::IoSlice::new(&1_u64.to_ne_bytes())]).map(drop);
        match one() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                read(self.0.as_fd(), &mut count)?;
                one()
            }
            result => result,
        }
    }
}

/// An fd that interrupts a poll.
#[cfg(not(target_os = "linux"))]
pub struct PollWaker(mio::Waker);

#[cfg(not(target_os = "linux"))]
impl PollWaker {
    pub fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Self> {
        mio::Waker::new(registry, token).map(Self)
    }

    pub fn wake(&self) -> io::Result<()> {
        retry(|| self.0.wake())
    }
}

/// One fd in a call of [`poll_now`].
pub type PollFd = libc::pollfd;

/// An entry that asks whether `fd` is readable and, or, writable.
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

/// Fills in what is ready right now, without waiting.
pub fn poll_now(fds: &mut [PollFd]) -> io::Result<()> {
    // SAFETY: `fds` is a valid array of pollfd for the duration of the call.
    retry(|| check(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 0) } as isize)).map(drop)
}

/// What [`poll_now`] found for one fd. A closed fd counts as ready in no direction: epoll has dropped it as well.
pub fn poll_readiness(fd: &PollFd) -> Readiness {
    let mut readiness = Readiness::NONE;
    if fd.revents & libc::POLLNVAL != 0 {
        return readiness;
    }
    // As in `selectors.PollSelector`: whatever is not writability wakes the reader, and the other way round.
    if fd.revents & !libc::POLLOUT != 0 {
        readiness |= Readiness::READABLE;
    }
    if fd.revents & !libc::POLLIN != 0 {
        readiness |= Readiness::WRITABLE;
    }
    readiness
}

/// True if a read of `fd` would not block right now, as a level-triggered poll says it.
pub fn is_readable(fd: RawFd) -> io::Result<bool> {
    is_ready(fd, Readiness::READABLE)
}

/// True if a write to `fd` would not block right now, as a level-triggered poll says it.
pub fn is_writable(fd: RawFd) -> io::Result<bool> {
    is_ready(fd, Readiness::WRITABLE)
}

/// True if the peer of a connected socket sends no more. What it has sent may still wait to be received.
pub fn peer_has_ended(fd: RawFd) -> bool {
    #[cfg(target_os = "linux")]
    const END: libc::c_short = libc::POLLRDHUP;
    #[cfg(not(target_os = "linux"))]
    const END: libc::c_short = libc::POLLHUP;
    let mut fds = [libc::pollfd { fd, events: END, revents: 0 }];
    poll_now(&mut fds).is_ok() && fds[0].revents & END != 0
}

fn is_ready(fd: RawFd, direction: Readiness) -> io::Result<bool> {
    let mut fds = [poll_fd(fd, direction)];
    poll_now(&mut fds)?;
    Ok(poll_readiness(&fds[0]).contains(direction))
}

// ---------------------------------------------------------------------------------------------- files

/// Reads into `buffer` from a file of any kind. 0 is the end.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    retry(|| {
        // SAFETY: `buffer` is writable for its length; the kernel only writes to it.
        check(unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) })
    })
}

/// Writes the buffers as one to a file of any kind, as far as the kernel takes them. Raises no SIGPIPE that ends the process.
pub fn write(fd: BorrowedFd<'_>, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
    sigpipe::quietly(|| retry(|| write_once(fd, slices)))
}

fn write_once(fd: BorrowedFd<'_>, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
    match slices {
        [slice] => {
            // SAFETY: the slice is readable for its length.
            check(unsafe { libc::write(fd.as_raw_fd(), slice.as_ptr().cast(), slice.len()) })
        }
        _ => {
            let count = slices.len().min(MAX_SLICES) as libc::c_int;
            // SAFETY: `IoSlice` has the layout of an iovec; the first `count` are live, and writev only reads.
            check(unsafe { libc::writev(fd.as_raw_fd(), slices.as_ptr().cast(), count) })
        }
    }
}

/// Has a pipe hold `len` bytes; true if it held fewer before. False where the kernel has no such thing; an error if it
/// does not allow it to this user.
pub fn grow_pipe(fd: BorrowedFd<'_>, len: usize) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        let len = libc::c_int::try_from(len).unwrap_or(libc::c_int::MAX);
        // SAFETY: takes and returns numbers only.
        let held = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETPIPE_SZ) } as isize)?;
        if held >= len as usize {
            return Ok(false);
        }
        // SAFETY: as above.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, len) } as isize).map(|_| true)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (fd, len);
        Ok(false)
    }
}

// ---------------------------------------------------------------------------------------------- sockets

/// Receives into `buffer` from a socket. 0 is the end of the stream. Never blocks, whatever the socket's mode: whoever
/// else has the same open file can have cleared O_NONBLOCK.
pub fn recv(fd: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    retry(|| {
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: `buffer` is writable for its length; the kernel only writes to it.
        check(unsafe { libc::recv(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) })
    })
}

/// What a read that has not filled its buffer says about a stream socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShortRead {
    /// It has emptied the socket: TCP.
    Empties,
    /// It has emptied the socket unless the kernel says otherwise: a UNIX stream. The kernel ends a read where a peer has
    /// passed file descriptors along, which are dropped here (unix_stream_read_generic, MSG_CTRUNC).
    EmptiesUnlessCut,
    /// Nothing: a read may end with a message or a packet (SCTP, SOCK_SEQPACKET, the vsock of Hyper-V).
    SaysNothing,
}

/// As [`recv`], on a stream socket: also says whether another read may find more.
pub fn recv_stream(
    fd: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
    short: ShortRead,
) -> io::Result<(usize, bool)> {
    if short != ShortRead::EmptiesUnlessCut {
        let count = recv(fd, buffer)?;
        return Ok((count, count == buffer.len() || short == ShortRead::SaysNothing));
    }
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &mut slice;
    message.msg_iovlen = 1;
    let count = retry(|| {
        // SAFETY: `message` points to one slice, which is `buffer`, writable for its length.
        check(unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) })
    })?;
    Ok((count, count == buffer.len() || message.msg_flags & libc::MSG_CTRUNC != 0))
}

/// Most buffers in one vectored call (`IOV_MAX` on Linux and macOS).
pub const MAX_SLICES: usize = 1024;

/// Sends the buffers as one, as far as the kernel takes them. Never blocks, and never raises SIGPIPE.
pub fn send(fd: BorrowedFd<'_>, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    const FLAGS: libc::c_int = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    #[cfg(not(target_os = "linux"))]
    const FLAGS: libc::c_int = libc::MSG_DONTWAIT;
    if let [slice] = slices {
        return retry(|| {
            // SAFETY: the slice is readable for its length.
            check(unsafe { libc::send(fd.as_raw_fd(), slice.as_ptr().cast(), slice.len(), FLAGS) })
        });
    }
    // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    // `IoSlice` is guaranteed to have the layout of an iovec; sendmsg does not write through it.
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len().min(MAX_SLICES) as _;
    retry(|| {
        // SAFETY: `message` points to `msg_iovlen` live slices, and to nothing else.
        check(unsafe { libc::sendmsg(fd.as_raw_fd(), &message, FLAGS) })
    })
}

/// Shuts down the sending side: the peer reads the end of the stream once it has read all data.
pub fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) } as isize).map(drop)
}

/// A stream socket: non-blocking, close-on-exec.
pub fn stream_socket(family: i32, protocol: i32) -> io::Result<OwnedFd> {
    #[cfg(target_os = "linux")]
    const FLAGS: i32 = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    const FLAGS: i32 = 0;
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | FLAGS, protocol) } as isize)?;
    // SAFETY: socket has just returned this fd, nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    #[cfg(not(target_os = "linux"))]
    set_nonblocking_cloexec(&fd)?;
    Ok(fd)
}

/// Begins to connect a non-blocking socket. What becomes of it shows when the socket is writable.
pub fn connect(fd: BorrowedFd<'_>, address: &SocketAddress) -> io::Result<()> {
    let bytes = address.as_bytes();
    // SAFETY: `bytes` is a socket address of that length.
    let result =
        check(
            unsafe { libc::connect(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len() as libc::socklen_t) }
                as isize,
        );
    match result.map_err(|error| (error.raw_os_error(), error)) {
        // As `socket.connect` of CPython: interrupted, it goes on by itself.
        Ok(_) | Err((Some(libc::EINPROGRESS | libc::EINTR | libc::EAGAIN), _)) => Ok(()),
        Err((_, error)) => Err(error),
    }
}

/// Takes the error off a socket (`SO_ERROR`): its number, 0 for none.
pub fn take_error(fd: BorrowedFd<'_>) -> io::Result<i32> {
    socket_option(fd.as_raw_fd(), libc::SO_ERROR)
}

/// Is this the fd of a stream socket? Any number may be asked about.
pub fn is_stream(fd: RawFd) -> io::Result<bool> {
    Ok(socket_option(fd, libc::SO_TYPE)? == libc::SOCK_STREAM)
}

fn socket_option(fd: RawFd, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    let place = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the option's value is a writable int of the given size; the kernel checks the fd.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, place, &mut len) } as isize).map(|_| value)
}

/// Takes one connection off a listening socket: non-blocking, close-on-exec.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddress)> {
    let mut address = SocketAddress::empty();
    let fd = retry(|| {
        address.length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        accept_once(listener, &mut address)
    })?;
    // SAFETY: accept has just returned this fd, nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    #[cfg(not(target_os = "linux"))]
    set_nonblocking_cloexec(&fd)?;
    Ok((fd, address))
}

fn accept_once(listener: BorrowedFd<'_>, address: &mut SocketAddress) -> io::Result<RawFd> {
    let storage = std::ptr::from_mut(&mut address.storage).cast();
    #[cfg(target_os = "linux")]
    // SAFETY: `storage` and `length` describe a writable sockaddr_storage.
    let fd = unsafe {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        libc::accept4(listener.as_raw_fd(), storage, &mut address.length, flags)
    };
    #[cfg(not(target_os = "linux"))]
    // SAFETY: `storage` and `length` describe a writable sockaddr_storage.
    let fd = unsafe { libc::accept(listener.as_raw_fd(), storage, &mut address.length) };
    check(fd as isize).map(|fd| fd as RawFd)
}

#[cfg(not(target_os = "linux"))]
fn set_nonblocking_cloexec(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: fcntl with these commands takes integers only.
    unsafe {
        check(libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) as isize)?;
        check(libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) as isize).map(drop)
    }
}

/// The socket's own address.
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddress> {
    address_by(fd, libc::getsockname)
}

/// The address of the peer.
pub fn peer_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddress> {
    address_by(fd, libc::getpeername)
}

fn address_by(
    fd: BorrowedFd<'_>,
    call: unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int,
) -> io::Result<SocketAddress> {
    let mut address = SocketAddress::empty();
    address.length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let storage = std::ptr::from_mut(&mut address.storage).cast();
    // SAFETY: `storage` and `length` describe a writable sockaddr_storage.
    check(unsafe { call(fd.as_raw_fd(), storage, &mut address.length) } as isize)?;
    Ok(address)
}

/// Turns Nagle's algorithm off: small writes leave at once. The caller knows that this is TCP.
pub fn set_nodelay(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is a live int of the given size.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    } as isize)
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn accept_names_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let mut client = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        let (server, peer) = accept(listener.as_fd()).expect("accept");
        let client_port = client.local_addr().expect("address").port();
        assert_eq!(peer.parse(), Address::V4("127.0.0.1".into(), client_port));
        assert_eq!(
            local_address(server.as_fd()).expect("name").parse(),
            Address::V4("127.0.0.1".into(), port)
        );
        assert_eq!(peer_address(server.as_fd()).expect("name").parse(), peer.parse());
        set_nodelay(server.as_fd()).expect("nodelay");

        let mut buffer = [MaybeUninit::uninit(); 16];
        let blocked = recv(server.as_fd(), &mut buffer).expect_err("nothing sent yet");
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
        let slices = [io::IoSlice::new(b"head"), io::IoSlice::new(b"body")];
        assert_eq!(send(server.as_fd(), &slices).expect("send"), 8);
        shutdown_write(server.as_fd()).expect("shutdown");
        let mut text = String::new();
        client.read_to_string(&mut text).expect("read");
        assert_eq!(text, "headbody");

        // As after another holder of the socket has made it blocking.
        // SAFETY: fcntl with this command takes integers only.
        unsafe { libc::fcntl(server.as_raw_fd(), libc::F_SETFL, 0) };
        let blocked = recv(server.as_fd(), &mut buffer).expect_err("nothing sent yet");
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);

        client.write_all(b"x").expect("write");
        let mut fds = [poll_fd(server.as_raw_fd(), Readiness::READABLE)];
        while poll_readiness(&fds[0]).is_none() {
            poll_now(&mut fds).expect("poll");
        }
        assert_eq!(recv(server.as_fd(), &mut buffer).expect("recv"), 1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_short_read_is_the_last_of_a_byte_stream_only() {
        let pair = |kind| {
            let mut fds = [0; 2];
            // SAFETY: `fds` has place for the two numbers that the kernel writes.
            check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } as isize)
                .expect("pair");
            // SAFETY: just made, nobody else knows them.
            fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        };
        let mut buffer = [MaybeUninit::uninit(); 8];
        let send_twice = |to: &OwnedFd| {
            for text in [b"abc", b"def"] {
                assert_eq!(send(to.as_fd(), &[io::IoSlice::new(text)]).expect("send"), 3);
            }
        };
        // One message a read, as of SCTP.
        let [one, two] = pair(libc::SOCK_SEQPACKET);
        send_twice(&one);
        for expected in [(3, true), (3, true)] {
            let read = recv_stream(two.as_fd(), &mut buffer, ShortRead::SaysNothing).expect("read");
            assert_eq!(read, expected);
        }
        let end = recv_stream(two.as_fd(), &mut buffer, ShortRead::SaysNothing).expect_err("empty");
        assert_eq!(end.kind(), io::ErrorKind::WouldBlock);
        for short in [ShortRead::Empties, ShortRead::EmptiesUnlessCut] {
            let [one, two] = pair(libc::SOCK_STREAM);
            send_twice(&one);
            let mut read = |len| recv_stream(two.as_fd(), &mut buffer[..len], short).expect("read");
            assert_eq!((read(4), read(4)), ((4, true), (2, false)));
        }
    }

    #[test]
    fn pipe_is_readable_until_it_is_empty_and_at_its_end() {
        let (reader, writer) = io::pipe().expect("pipe");
        let readable = || is_readable(reader.as_raw_fd()).expect("poll");
        assert!(!readable());
        let slices = [io::IoSlice::new(b"one"), io::IoSlice::new(b"two")];
        assert_eq!(write(writer.as_fd(), &slices).expect("write"), 6);
        assert_eq!(write(writer.as_fd(), &slices[..1]).expect("write"), 3);
        let mut buffer = [MaybeUninit::uninit(); 8];
        assert_eq!(read(reader.as_fd(), &mut buffer).expect("read"), 8);
        assert!(readable());
        assert_eq!(read(reader.as_fd(), &mut buffer).expect("read"), 1);
        assert!(!readable());
        drop(writer);
        assert!(readable());
        assert_eq!(read(reader.as_fd(), &mut buffer).expect("read"), 0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pipe_grows_and_does_not_shrink() {
        let (_reader, writer) = io::pipe().expect("pipe");
        assert!(grow_pipe(writer.as_fd(), 128 * 1024).expect("grown"));
        assert!(!grow_pipe(writer.as_fd(), 128 * 1024).expect("as large"));
        assert!(!grow_pipe(writer.as_fd(), 4096).expect("larger"));
        let socket = TcpListener::bind("127.0.0.1:0").expect("bind");
        let error = grow_pipe(socket.as_fd(), 4096).expect_err("no pipe");
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }

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
    fn a_full_counter_wakes_once_more() {
        let poll = mio::Poll::new().expect("poll");
        let waker = PollWaker::new(poll.registry(), mio::Token(1)).expect("waker");
        let full = (u64::MAX - 1).to_ne_bytes();
        write(waker.0.as_fd(), &[io::IoSlice::new(&full)]).expect("filled");
        waker.wake().expect("wake");
        let mut count = [MaybeUninit::uninit(); 8];
        assert_eq!(read(waker.0.as_fd(), &mut count).expect("read"), 8);
        // SAFETY: filled in by the read.
        assert_eq!(count.map(|byte| unsafe { byte.assume_init() }), 1_u64.to_ne_bytes());
    }

    #[test]
    fn closed_fd_is_not_ready() {
        let mut fds = [poll_fd(RawFd::MAX, Readiness::READABLE)];
        poll_now(&mut fds).expect("poll");
        assert!(poll_readiness(&fds[0]).is_none());
    }
}
