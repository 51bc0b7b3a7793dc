//! Receiving and sending datagrams: many in one system call on Linux, one by one elsewhere. How many at a time, and of
//! which size, is decided here. What a datagram means, and who gets it, is not known.

use std::collections::TryReserveError;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::attempt::attempt;
#[cfg(target_os = "linux")]
use super::attempt::attempt_some;
use super::call::Call;
use super::{SEND_FLAGS, SocketAddress, retry, sigpipe, uninit_slice};

/// The largest number of datagrams that one call receives.
pub const RECEIVE_BATCH: usize = 16;
/// The largest number of datagrams that one call sends. More would gain little, and their headers are on the stack.
pub const SEND_BATCH: usize = 64;
/// The size of the largest datagram that is received whole, in bytes (asyncio's `max_size`).
pub const MAX_DATAGRAM: usize = 256 * 1024;

/// False once recvmmsg or sendmmsg has turned out not to work, as in a sandbox or under an emulation of Linux.
#[cfg(target_os = "linux")]
static HAS_BATCHES: AtomicBool = AtomicBool::new(true);

/// Tries recvmmsg and sendmmsg again: a test has made them fail, and goes on without that.
#[cfg(all(feature = "faults", target_os = "linux"))]
pub fn forget_refusals() {
    HAS_BATCHES.store(true, Relaxed);
}

const PAGE: usize = 4096;
const ADDRESS_SIZE: libc::socklen_t = size_of::<libc::sockaddr_storage>() as libc::socklen_t;

// ---------------------------------------------------------------------------------------------- receiving

#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// Memory for a batch of datagrams of any size, and the datagrams that the last call has received into it. Pages that
/// no datagram has needed yet take no memory.
pub struct ReceiveBatch {
    /// `RECEIVE_BATCH` buffers of `MAX_DATAGRAM` bytes.
    buffers: Box<[MaybeUninit<Page>]>,
    senders: Box<[SocketAddress; RECEIVE_BATCH]>,
    lengths: [usize; RECEIVE_BATCH],
    /// Errors that ended a batch of [`Self::receive_each`] behind its first datagram, with the fd of the socket. The
    /// system reports such an error once, so that it is kept for the next call.
    errors: Vec<(RawFd, io::Error)>,
}

impl ReceiveBatch {
    pub fn new() -> Result<Self, TryReserveError> {
        Ok(Self {
            buffers: uninit_slice(RECEIVE_BATCH * MAX_DATAGRAM / PAGE)?,
            senders: Box::new(std::array::from_fn(|_| SocketAddress::empty())),
            lengths: [0; RECEIVE_BATCH],
            errors: Vec::new(),
        })
    }

    /// Receives the datagrams that are there, and returns their number, which is at least one. If it is less than
    /// [`RECEIVE_BATCH`], the socket was empty then. An error if there is no datagram.
    pub fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        #[cfg(target_os = "linux")]
        if HAS_BATCHES.load(Relaxed) {
            match self.receive_many(fd) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    HAS_BATCHES.store(false, Relaxed);
                }
                result => return result,
            }
        }
        self.receive_each(fd)
    }

    /// Receives by recvmmsg(2) what waits, up to a batch. Returns the number of datagrams.
    #[cfg(target_os = "linux")]
    fn receive_many(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let mut slices = [const { MaybeUninit::<libc::iovec>::uninit() }; RECEIVE_BATCH];
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; RECEIVE_BATCH];
        let buffers = self.buffers.chunks_exact_mut(MAX_DATAGRAM / PAGE);
        let places = buffers.zip(self.senders.iter_mut()).zip(&mut slices).zip(&mut headers);
        for (((buffer, sender), slice), header) in places {
            let slice =
                slice.write(libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: MAX_DATAGRAM });
            // SAFETY: all zeroes are a valid mmsghdr: null pointers and zero lengths.
            let header = header.write(unsafe { MaybeUninit::zeroed().assume_init() });
            header.msg_hdr.msg_name = std::ptr::from_mut(&mut sender.storage).cast();
            header.msg_hdr.msg_namelen = ADDRESS_SIZE;
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
        }
        let headers = headers.as_mut_ptr().cast::<libc::mmsghdr>();
        let count = retry(|| {
            attempt_some(Call::recvmmsg, RECEIVE_BATCH, |batch| {
                let (batch, flags) = (batch as libc::c_uint, libc::MSG_DONTWAIT as _);
                // SAFETY: the loop above has filled in every header. Each points to a buffer of MAX_DATAGRAM bytes and
                // to a sockaddr_storage, both of which are borrowed mutably by this method.
                unsafe {
                    libc::recvmmsg(fd.as_raw_fd(), headers, batch, flags, std::ptr::null_mut()) as isize
                }
            })
        })?;
        for (at, (sender, length)) in self.senders.iter_mut().zip(&mut self.lengths).take(count).enumerate() {
            // SAFETY: the kernel has updated the first `count` headers, which live until the end of this method.
            let header = unsafe { &*headers.add(at) };
            (*length, sender.length) = (header.msg_len as usize, header.msg_hdr.msg_namelen);
        }
        Ok(count)
    }

    /// The same by one system call for each datagram, on every system.
    fn receive_each(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        if let Some(at) = self.errors.iter().position(|(kept, _)| *kept == fd.as_raw_fd()) {
            return Err(self.errors.swap_remove(at).1);
        }
        for at in 0..RECEIVE_BATCH {
            match self.receive_one(fd, at) {
                Ok(()) => {}
                Err(error) if at == 0 => return Err(error),
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.errors.push((fd.as_raw_fd(), error));
                    }
                    return Ok(at);
                }
            }
        }
        Ok(RECEIVE_BATCH)
    }

    /// Receives one datagram into the place `at` of the batch, by recvfrom(2).
    fn receive_one(&mut self, fd: BorrowedFd<'_>, at: usize) -> io::Result<()> {
        let buffer = self.buffers[at * MAX_DATAGRAM / PAGE..].as_mut_ptr().cast::<libc::c_void>();
        let sender = &mut self.senders[at];
        sender.length = ADDRESS_SIZE;
        let storage = std::ptr::from_mut(&mut sender.storage).cast::<libc::sockaddr>();
        let length = std::ptr::from_mut(&mut sender.length);
        self.lengths[at] = retry(|| {
            attempt(Call::recvfrom, || {
                let flags = libc::MSG_DONTWAIT;
                // SAFETY: `buffer` is MAX_DATAGRAM writable bytes; `storage` and `length` describe a writable
                // sockaddr_storage.
                unsafe { libc::recvfrom(fd.as_raw_fd(), buffer, MAX_DATAGRAM, flags, storage, length) }
            })
        })?;
        Ok(())
    }

    /// The datagram at index `at` of the last batch, and the address of its sender, which may be empty.
    pub fn datagram(&self, at: usize) -> (&[u8], &SocketAddress) {
        let start = self.buffers[at * MAX_DATAGRAM / PAGE..].as_ptr().cast::<u8>();
        // SAFETY: the kernel has written `lengths[at]` bytes into this buffer, at most MAX_DATAGRAM; the length is 0
        // before the first call.
        (unsafe { std::slice::from_raw_parts(start, self.lengths[at]) }, &self.senders[at])
    }
}

// ---------------------------------------------------------------------------------------------- sending

/// A datagram and the address that it goes to; `None`: the address that the socket is connected to.
pub type Outgoing<'a> = (&'a [u8], Option<&'a SocketAddress>);

/// Sends datagrams in order, at most [`SEND_BATCH`] of them, and returns how many the kernel has taken. An error is
/// that of the first datagram. It never blocks and never raises SIGPIPE.
pub fn send_datagrams<'a>(
    fd: BorrowedFd<'_>,
    mut datagrams: impl Iterator<Item = Outgoing<'a>>,
) -> io::Result<usize> {
    sigpipe::silence(fd);
    match (datagrams.next(), datagrams.next()) {
        (None, _) => Ok(0),
        (Some(only), None) => send_datagram(fd, only).map(|()| 1),
        #[cfg(target_os = "linux")]
        (Some(first), Some(second)) => send_many(fd, [first, second].into_iter().chain(datagrams)),
        #[cfg(not(target_os = "linux"))]
        (Some(first), Some(second)) => send_each(fd, [first, second].into_iter().chain(datagrams)),
    }
}

/// Sends one datagram by sendto(2): to the peer of a connected socket if it has no address.
fn send_datagram(fd: BorrowedFd<'_>, (data, to): Outgoing<'_>) -> io::Result<()> {
    let (address, length) =
        to.map_or((std::ptr::null(), 0), |to| (std::ptr::from_ref(&to.storage).cast(), to.length));
    retry(|| {
        attempt(Call::sendto, || {
            let (start, count) = (data.as_ptr().cast(), data.len());
            // SAFETY: `data` is readable for its length. The address is null, or a live sockaddr of the given length.
            unsafe { libc::sendto(fd.as_raw_fd(), start, count, SEND_FLAGS, address, length) }
        })
    })
    .map(drop)
}

/// Sends a batch by sendmmsg(2). Returns how many datagrams the kernel has taken.
#[cfg(target_os = "linux")]
fn send_many<'a>(fd: BorrowedFd<'_>, datagrams: impl Iterator<Item = Outgoing<'a>>) -> io::Result<usize> {
    let mut slices = [const { MaybeUninit::<libc::iovec>::uninit() }; SEND_BATCH];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; SEND_BATCH];
    let mut count = 0_usize;
    for ((slice, header), (data, to)) in slices.iter_mut().zip(&mut headers).zip(datagrams) {
        // The pointers are mutable in the C struct, but the kernel only reads the data and the address.
        let iov_base = data.as_ptr().cast_mut().cast();
        let slice = slice.write(libc::iovec { iov_base, iov_len: data.len() });
        // SAFETY: all zeroes are a valid mmsghdr: null pointers and zero lengths.
        let header = header.write(unsafe { MaybeUninit::zeroed().assume_init() });
        header.msg_hdr.msg_iov = slice;
        header.msg_hdr.msg_iovlen = 1;
        if let Some(to) = to {
            header.msg_hdr.msg_name = std::ptr::from_ref(&to.storage).cast_mut().cast();
            header.msg_hdr.msg_namelen = to.length;
        }
        count += 1;
    }
    // SAFETY: the loop above has filled in the first `count` headers.
    let headers = unsafe { std::slice::from_raw_parts_mut(headers.as_mut_ptr().cast(), count) };
    if HAS_BATCHES.load(Relaxed) {
        match send_headers(fd, headers) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => HAS_BATCHES.store(false, Relaxed),
            // Either a packet filter has refused the first datagram, or a sandbox has refused the call. Sending the
            // datagrams one by one shows which.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            result => return result,
        }
    }
    send_headers_each(fd, headers)
}

/// Sends the datagrams of `headers` by one sendmmsg.
#[cfg(target_os = "linux")]
fn send_headers(fd: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    retry(|| {
        attempt_some(Call::sendmmsg, headers.len(), |count| {
            let (start, count) = (headers.as_mut_ptr(), count as libc::c_uint);
            // SAFETY: the headers point to data and addresses that the caller keeps alive, and that the kernel only
            // reads.
            unsafe { libc::sendmmsg(fd.as_raw_fd(), start, count, SEND_FLAGS as _) as isize }
        })
    })
}

/// The same by one sendmsg for each header, where sendmmsg does not work.
#[cfg(target_os = "linux")]
fn send_headers_each(fd: BorrowedFd<'_>, headers: &[libc::mmsghdr]) -> io::Result<usize> {
    for (at, header) in headers.iter().enumerate() {
        let send = || {
            // SAFETY: as in `send_headers`.
            attempt(Call::sendmsg, || unsafe { libc::sendmsg(fd.as_raw_fd(), &header.msg_hdr, SEND_FLAGS) })
        };
        match retry(send) {
            Ok(_) => {}
            Err(error) if at == 0 => return Err(error),
            // The next call begins with this datagram, and gets the error again.
            Err(_) => return Ok(at),
        }
    }
    Ok(headers.len())
}

/// The same by one sendto for each datagram, on every system.
#[cfg(any(not(target_os = "linux"), test))]
fn send_each<'a>(fd: BorrowedFd<'_>, datagrams: impl Iterator<Item = Outgoing<'a>>) -> io::Result<usize> {
    let mut count = 0;
    for datagram in datagrams.take(SEND_BATCH) {
        match send_datagram(fd, datagram) {
            Ok(()) => count += 1,
            Err(error) if count == 0 => return Err(error),
            // The next call begins with this datagram, and gets the error again.
            Err(_) => break,
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::super::local_address;
    use super::*;
    use std::net::{Ipv4Addr, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    fn pair() -> (UdpSocket, UdpSocket, SocketAddress) {
        let (one, two) = (UdpSocket::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0"));
        let (one, two) = (one.expect("bind"), two.expect("bind"));
        let port = two.local_addr().expect("name").port();
        (one, two, SocketAddress::v4(Ipv4Addr::LOCALHOST, port))
    }

    type Receive = fn(&mut ReceiveBatch, BorrowedFd<'_>) -> io::Result<usize>;

    /// With both ways to receive, and both ways to send.
    #[test]
    fn batches_keep_order_sizes_and_senders() {
        for receive in [ReceiveBatch::receive as Receive, ReceiveBatch::receive_each] {
            for many in [true, false] {
                let (one, two, to) = pair();
                let sent: Vec<Vec<u8>> = (0..40).map(|number| vec![number; number as usize * 7]).collect();
                let outgoing = sent.iter().map(|data| (&data[..], Some(&to)));
                let count = if many {
                    send_datagrams(one.as_fd(), outgoing)
                } else {
                    send_each(one.as_fd(), outgoing)
                };
                assert_eq!(count.expect("sent"), 40);
                let (mut batch, mut counts, mut received) =
                    (ReceiveBatch::new().expect("memory"), Vec::new(), Vec::new());
                while received.len() < 40 {
                    let count = receive(&mut batch, two.as_fd()).expect("received");
                    counts.push(count);
                    for at in 0..count {
                        let (data, sender) = batch.datagram(at);
                        received.push(data.to_vec());
                        let name = local_address(one.as_fd()).expect("name");
                        assert_eq!(sender.as_bytes(), name.as_bytes());
                    }
                }
                assert_eq!((counts, received), (vec![16, 16, 8], sent));
                let error = receive(&mut batch, two.as_fd()).expect_err("no more");
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            }
        }
    }

    #[test]
    fn an_error_is_the_first_datagram_s() {
        let (one, two, to) = pair();
        let (large, small) = (vec![0; 70_000], b"small");
        let datagrams: [Outgoing<'_>; 3] = [(small, Some(&to)), (&large, Some(&to)), (small, Some(&to))];
        assert_eq!(send_datagrams(one.as_fd(), datagrams.into_iter()).expect("one"), 1);
        assert_eq!(send_each(one.as_fd(), datagrams.into_iter()).expect("one"), 1);
        let error = send_datagrams(one.as_fd(), datagrams.into_iter().skip(1)).expect_err("too large");
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        let mut batch = ReceiveBatch::new().expect("memory");
        assert_eq!(batch.receive(two.as_fd()).expect("received"), 2);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn headers_are_sent_one_by_one_as_together() {
        let (one, two, to) = pair();
        let mut slices =
            [0_u8, 1, 2].map(|number| (number, libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 1 }));
        let mut headers = slices.each_mut().map(|(number, slice)| {
            slice.iov_base = std::ptr::from_mut(number).cast();
            // SAFETY: all zeroes are a valid mmsghdr: null pointers and zero lengths.
            let mut header: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = std::ptr::from_ref(&to.storage).cast_mut().cast();
            header.msg_hdr.msg_namelen = to.length;
            header
        });
        assert_eq!(send_headers(one.as_fd(), &mut headers).expect("sent"), 3);
        assert_eq!(send_headers_each(one.as_fd(), &headers).expect("sent"), 3);
        let mut batch = ReceiveBatch::new().expect("memory");
        assert_eq!(batch.receive(two.as_fd()).expect("received"), 6);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|at| batch.datagram(at).0[0]), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn an_error_behind_datagrams_is_kept() {
        let mut batch = ReceiveBatch::new().expect("memory");
        let (one, two, _) = pair();
        batch.errors.push((two.as_raw_fd(), io::Error::from_raw_os_error(libc::ECONNREFUSED)));
        let error = batch.receive_each(one.as_fd()).expect_err("of another socket");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let error = batch.receive_each(two.as_fd()).expect_err("kept");
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
        let error = batch.receive_each(two.as_fd()).expect_err("told once");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_sender_without_a_name() {
        let (near, far) = UnixDatagram::pair().expect("pair");
        near.send(b"hello").expect("send");
        let mut batch = ReceiveBatch::new().expect("memory");
        assert_eq!(batch.receive(far.as_fd()).expect("received"), 1);
        let (data, sender) = batch.datagram(0);
        assert_eq!((data, sender.is_empty()), (&b"hello"[..], true));
    }
}
