//! Reading and writing files of any kind, and the size of a pipe.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

#[cfg(target_os = "linux")]
use super::attempt::attempt;
use super::attempt::{attempt_some, buffers};
use super::call::Call;
use super::{MAX_SLICES, ReadBuf, retry, sigpipe};

/// Reads from a file of any kind into the unfilled part of `buffer`. Returns the number of bytes; 0 is the end of the file.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    let rest = buffer.unfilled();
    let count = retry(|| {
        attempt_some(Call::read, rest.len(), |length| {
            // SAFETY: `rest` is writable for `length` bytes; the kernel only writes to it.
            unsafe { libc::read(fd.as_raw_fd(), rest.as_mut_ptr().cast(), length) }
        })
    })?;
    // SAFETY: the kernel has written `count` bytes there.
    unsafe { buffer.advance(count) };
    Ok(count)
}

/// Writes the buffers to a file of any kind, one after the other, as far as the kernel takes them. Returns the number
/// of bytes. No SIGPIPE ends the process (see `sigpipe.rs`).
pub fn write(fd: BorrowedFd<'_>, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
    sigpipe::quietly(|| retry(|| write_once(fd, slices)))
}

fn write_once(fd: BorrowedFd<'_>, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
    match buffers(slices) {
        [slice] => attempt_some(Call::write, slice.len(), |length| {
            // SAFETY: the slice is readable for `length` bytes.
            unsafe { libc::write(fd.as_raw_fd(), slice.as_ptr().cast(), length) }
        }),
        slices => attempt_some(Call::writev, slices.len().min(MAX_SLICES), |count| {
            // SAFETY: `IoSlice` is guaranteed to have the layout of an iovec; `count` of them are alive, and writev
            // only reads them.
            unsafe { libc::writev(fd.as_raw_fd(), slices.as_ptr().cast(), count as libc::c_int) }
        }),
    }
}

/// Makes a pipe hold at least `len` bytes. Returns true if it held fewer before. False where pipes have a fixed size;
/// an error if this user may not have larger pipes.
pub fn grow_pipe(fd: BorrowedFd<'_>, len: usize) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        let len = libc::c_int::try_from(len).unwrap_or(libc::c_int::MAX);
        // SAFETY: fcntl with this command takes and returns numbers only.
        let held =
            attempt(Call::fcntl, || unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETPIPE_SZ) } as isize)?;
        if held >= len as usize {
            return Ok(false);
        }
        // SAFETY: as above.
        attempt(Call::fcntl, || unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, len) } as isize)
            .map(|_| true)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (fd, len);
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use super::super::is_readable;
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    #[test]
    fn pipe_is_readable_until_it_is_empty_and_at_its_end() {
        let (reader, writer) = io::pipe().expect("pipe");
        let readable = || is_readable(reader.as_raw_fd()).expect("poll");
        assert!(!readable());
        let slices = [io::IoSlice::new(b"one"), io::IoSlice::new(b"two")];
        assert_eq!(write(writer.as_fd(), &slices).expect("write"), 6);
        assert_eq!(write(writer.as_fd(), &slices[..1]).expect("write"), 3);
        let mut memory = [MaybeUninit::uninit(); 8];
        let mut read = || super::read(reader.as_fd(), &mut ReadBuf::new(&mut memory));
        assert_eq!(read().expect("read"), 8);
        assert!(readable());
        assert_eq!(read().expect("read"), 1);
        assert!(!readable());
        drop(writer);
        assert!(readable());
        assert_eq!(read().expect("read"), 0);
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
}
