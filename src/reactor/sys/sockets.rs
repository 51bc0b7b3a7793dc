//! Sockets: receiving, sending, connecting, accepting, and their options. Datagrams in batches are in `datagrams.rs`.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::attempt::{attempt, attempt_some, buffers};
use super::call::Call;
use super::{MAX_SLICES, ReadBuf, SEND_FLAGS, SocketAddress, retry, sigpipe};

/// Receives from a socket into the unfilled part of `buffer`. Returns the number of bytes; 0 is the end of the stream. It
/// never blocks, even if the socket is in blocking mode: another process that shares the open file can have cleared
/// O_NONBLOCK.
pub fn recv(fd: BorrowedFd<'_>, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    let rest = buffer.unfilled();
    let count = retry(|| {
        attempt_some(Call::recv, rest.len(), |length| {
            let flags = libc::MSG_DONTWAIT;
            // SAFETY: `rest` is writable for `length` bytes; the kernel only writes to it.
            unsafe { libc::recv(fd.as_raw_fd(), rest.as_mut_ptr().cast(), length, flags) }
        })
    })?;
    // SAFETY: the kernel has written `count` bytes there.
    unsafe { buffer.advance(count) };
    Ok(count)
}

/// What is known of a stream socket after a read that has not filled its buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShortRead {
    /// The socket is empty: TCP.
    Empties,
    /// The socket is empty, unless the kernel says that it has cut the read short (MSG_CTRUNC): a UNIX stream. The
    /// kernel ends a read where the peer has passed file descriptors along (unix_stream_read_generic). They are dropped
    /// here.
    EmptiesUnlessCut,
    /// Nothing: a read ends where a message or a packet ends (SCTP, SOCK_SEQPACKET, the vsock of Hyper-V).
    #[default]
    SaysNothing,
}

/// As [`recv`], on a stream socket. The second value is true if another read may find more.
pub fn recv_stream(
    fd: BorrowedFd<'_>,
    buffer: &mut ReadBuf<'_>,
    short: ShortRead,
) -> io::Result<(usize, bool)> {
    let rest = buffer.unfilled();
    let room = rest.len();
    if short != ShortRead::EmptiesUnlessCut {
        let count = recv(fd, buffer)?;
        return Ok((count, count == room || short == ShortRead::SaysNothing));
    }
    let mut slice = libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: 0 };
    // SAFETY: all zeroes are a valid msghdr: null pointers and zero lengths.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iovlen = 1;
    let count = retry(|| {
        attempt_some(Call::recvmsg, room, |length| {
            slice.iov_len = length;
            message.msg_iov = &mut slice;
            // SAFETY: `message` points to one slice, which is `rest`, writable for `length` bytes.
            unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) }
        })
    })?;
    // SAFETY: the kernel has written `count` bytes there.
    unsafe { buffer.advance(count) };
    Ok((count, count == room || message.msg_flags & libc::MSG_CTRUNC != 0))
}

/// Sends the buffers, one after the other, as far as the kernel takes them. Returns the number of bytes. It never
/// blocks and never raises SIGPIPE.
pub fn send(fd: BorrowedFd<'_>, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
    sigpipe::silence(fd);
    shrink_buffers(fd, false);
    let slices = buffers(slices);
    if let [slice] = slices {
        return retry(|| {
            attempt_some(Call::send, slice.len(), |length| {
                // SAFETY: the slice is readable for `length` bytes.
                unsafe { libc::send(fd.as_raw_fd(), slice.as_ptr().cast(), length, SEND_FLAGS) }
            })
        });
    }
    // SAFETY: all zeroes are a valid msghdr: null pointers and zero lengths.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    // `IoSlice` is guaranteed to have the layout of an iovec; sendmsg does not write through it.
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    retry(|| {
        attempt_some(Call::sendmsg, slices.len().min(MAX_SLICES), |count| {
            message.msg_iovlen = count as _;
            // SAFETY: `message` points to `count` live slices, and to nothing else.
            unsafe { libc::sendmsg(fd.as_raw_fd(), &message, SEND_FLAGS) }
        })
    })
}

/// Shuts down the sending side: the peer reads the end of the stream once it has read all data.
pub fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the call takes no pointers.
    attempt(Call::shutdown, || unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR) } as isize).map(drop)
}

/// Makes a stream socket that is non-blocking and close-on-exec.
pub fn stream_socket(family: i32, protocol: i32) -> io::Result<OwnedFd> {
    #[cfg(target_os = "linux")]
    const FLAGS: i32 = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    const FLAGS: i32 = 0;
    // SAFETY: the call takes no pointers.
    let make = || unsafe { libc::socket(family, libc::SOCK_STREAM | FLAGS, protocol) } as isize;
    let fd = attempt(Call::socket, make)?;
    // SAFETY: socket has just returned this fd; nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    #[cfg(not(target_os = "linux"))]
    set_nonblocking_cloexec(&fd)?;
    shrink_buffers(fd.as_fd(), true);
    Ok(fd)
}

/// Does nothing but in builds of the laboratory (see `faults.rs`).
#[inline(always)]
fn shrink_buffers(fd: BorrowedFd<'_>, receives: bool) {
    #[cfg(feature = "faults")]
    super::faults::shrink(fd.as_raw_fd(), receives);
    let _ = (fd, receives);
}

/// Begins to connect a non-blocking socket. It is decided once the socket is writable; [`take_error`] tells how.
pub fn connect(fd: BorrowedFd<'_>, address: &SocketAddress) -> io::Result<()> {
    shrink_buffers(fd, true);
    let bytes = address.as_bytes();
    let length = bytes.len() as libc::socklen_t;
    // SAFETY: `bytes` is a socket address of that length, alive during the call.
    let make = || unsafe { libc::connect(fd.as_raw_fd(), bytes.as_ptr().cast(), length) } as isize;
    match attempt(Call::connect, make).map_err(|error| (error.raw_os_error(), error)) {
        // A connect that a signal has interrupted goes on by itself, as in CPython's `socket.connect`.
        Ok(_) | Err((Some(libc::EINPROGRESS | libc::EINTR | libc::EAGAIN), _)) => Ok(()),
        Err((_, error)) => Err(error),
    }
}

/// Reads and clears the error of a socket (`SO_ERROR`). Returns its number; 0: there is none.
pub fn take_error(fd: BorrowedFd<'_>) -> io::Result<i32> {
    socket_option(fd.as_raw_fd(), libc::SO_ERROR)
}

/// True if this is the fd of a stream socket. An error if it is no socket, or not open.
pub fn is_stream(fd: RawFd) -> io::Result<bool> {
    Ok(socket_option(fd, libc::SO_TYPE)? == libc::SOCK_STREAM)
}

fn socket_option(fd: RawFd, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    let place = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the option's value is a writable int of the given size; the kernel checks the fd.
    let get = || unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, place, &mut len) } as isize;
    attempt(Call::getsockopt, get).map(|_| value)
}

/// Takes one connection off a listening socket: its fd, non-blocking and close-on-exec, and the address of the peer.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SocketAddress)> {
    let mut address = SocketAddress::empty();
    // A connection inherits the sizes of the buffers from its listener.
    shrink_buffers(listener, true);
    let fd = retry(|| {
        address.length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        accept_once(listener, &mut address)
    })?;
    // SAFETY: accept has just returned this fd; nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    #[cfg(not(target_os = "linux"))]
    set_nonblocking_cloexec(&fd)?;
    Ok((fd, address))
}

/// One call of accept4(2), or of accept(2) where there is no accept4. Fills in the address of the peer.
fn accept_once(listener: BorrowedFd<'_>, address: &mut SocketAddress) -> io::Result<RawFd> {
    let storage = std::ptr::from_mut(&mut address.storage).cast();
    #[cfg(target_os = "linux")]
    let fd = attempt(Call::accept4, || {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: `storage` and `length` describe a writable sockaddr_storage.
        unsafe { libc::accept4(listener.as_raw_fd(), storage, &mut address.length, flags) as isize }
    });
    #[cfg(not(target_os = "linux"))]
    let fd = attempt(Call::accept, || {
        // SAFETY: `storage` and `length` describe a writable sockaddr_storage.
        unsafe { libc::accept(listener.as_raw_fd(), storage, &mut address.length) as isize }
    });
    fd.map(|fd| fd as RawFd)
}

#[cfg(not(target_os = "linux"))]
fn set_nonblocking_cloexec(fd: &OwnedFd) -> io::Result<()> {
    let commands = [(libc::F_SETFL, libc::O_NONBLOCK), (libc::F_SETFD, libc::FD_CLOEXEC)];
    commands.into_iter().try_for_each(|(command, flags)| {
        // SAFETY: fcntl with these commands takes integers only.
        attempt(Call::fcntl, || unsafe { libc::fcntl(fd.as_raw_fd(), command, flags) } as isize).map(drop)
    })
}

/// The socket's own address.
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddress> {
    address_by(|storage, length| {
        // SAFETY: `storage` and `length` describe a writable sockaddr_storage.
        attempt(Call::getsockname, || unsafe { libc::getsockname(fd.as_raw_fd(), storage, length) } as isize)
    })
}

/// The address of the peer.
pub fn peer_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddress> {
    address_by(|storage, length| {
        // SAFETY: `storage` and `length` describe a writable sockaddr_storage.
        attempt(Call::getpeername, || unsafe { libc::getpeername(fd.as_raw_fd(), storage, length) } as isize)
    })
}

/// An address that `call` writes into a sockaddr_storage, whose size it is given and changes to that of the address.
fn address_by(
    call: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t) -> io::Result<usize>,
) -> io::Result<SocketAddress> {
    let mut address = SocketAddress::empty();
    address.length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    call(std::ptr::from_mut(&mut address.storage).cast(), &mut address.length)?;
    Ok(address)
}

/// Turns Nagle's algorithm off, so that small writes leave at once. The caller knows that this is a TCP socket.
pub fn set_nodelay(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let (value, length) = (std::ptr::from_ref(&on).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    attempt(Call::setsockopt, || {
        let (level, option) = (libc::IPPROTO_TCP, libc::TCP_NODELAY);
        // SAFETY: the option's value is a live int of the given size.
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value, length) as isize }
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::{Address, poll_fd, poll_now, poll_readiness};
    use super::*;
    use crate::reactor::readiness::Readiness;
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

        let mut memory = [MaybeUninit::uninit(); 16];
        let mut buffer = ReadBuf::new(&mut memory);
        let blocked = recv(server.as_fd(), &mut buffer).expect_err("nothing sent yet");
        assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
        let slices = [io::IoSlice::new(b"head"), io::IoSlice::new(b"body")];
        assert_eq!(send(server.as_fd(), &slices).expect("send"), 8);
        shutdown_write(server.as_fd()).expect("shutdown");
        let mut text = String::new();
        client.read_to_string(&mut text).expect("read");
        assert_eq!(text, "headbody");

        // As if another holder of the socket had made it blocking.
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
            assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }, 0);
            // SAFETY: just made, nobody else knows them.
            fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        };
        let mut memory = [MaybeUninit::uninit(); 8];
        let mut read = |from: &OwnedFd, len: usize, short| {
            recv_stream(from.as_fd(), &mut ReadBuf::new(&mut memory[..len]), short)
        };
        let send_twice = |to: &OwnedFd| {
            for text in [b"abc", b"def"] {
                assert_eq!(send(to.as_fd(), &[io::IoSlice::new(text)]).expect("send"), 3);
            }
        };
        // Each read ends with a message, as on SCTP.
        let [one, two] = pair(libc::SOCK_SEQPACKET);
        send_twice(&one);
        for expected in [(3, true), (3, true)] {
            assert_eq!(read(&two, 8, ShortRead::SaysNothing).expect("read"), expected);
        }
        let end = read(&two, 8, ShortRead::SaysNothing).expect_err("empty");
        assert_eq!(end.kind(), io::ErrorKind::WouldBlock);
        for short in [ShortRead::Empties, ShortRead::EmptiesUnlessCut] {
            let [one, two] = pair(libc::SOCK_STREAM);
            send_twice(&one);
            let mut read = || read(&two, 4, short).expect("read");
            assert_eq!((read(), read()), ((4, true), (2, false)));
        }
    }
}
