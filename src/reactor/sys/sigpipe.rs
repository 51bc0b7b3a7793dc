//! Writing to a pipe, and on macOS to a socket, without raising SIGPIPE.
//!
//! A write to a pipe that nobody reads raises SIGPIPE, whose default action ends the process. CPython ignores the
//! signal, but a program can ask for the default action again, or host CPython without its signal handlers.
//!
//! Sending to a socket has a flag that suppresses the signal, and on macOS sockets have an option. Pipes have neither. So
//! the signal is blocked in this thread during the write, and taken out of the queue afterwards. That costs three system
//! calls, and is done only if the signal had its default action at the last [`look`].

use std::io;
use std::mem::MaybeUninit;
#[cfg(target_vendor = "apple")]
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

#[cfg(target_vendor = "apple")]
use super::attempt::attempt;
#[cfg(target_vendor = "apple")]
use super::call::Call;

static ENDS_PROCESS: AtomicBool = AtomicBool::new(false);

/// Returns true if SIGPIPE has its default action now. [`quietly`] relies on the answer until the next look.
pub fn look() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no new action is set, and `action` is writable. All zeroes are a valid `sigaction`, should the call fail.
    let action = unsafe {
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    let ends = action.sa_sigaction == libc::SIG_DFL;
    ENDS_PROCESS.store(ends, Relaxed);
    ends
}

/// Runs `call`, a system call that may raise SIGPIPE in this thread, so that the signal does not end the process.
#[inline]
pub fn quietly<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if ENDS_PROCESS.load(Relaxed) { with_signal_blocked(call) } else { call() }
}

/// Before a send on a system whose sends have no flag against SIGPIPE: switches the signal off for this socket, if the
/// signal had its default action at the last [`look`]. If that fails, so does the send, because `fd` is no socket.
#[inline(always)]
pub fn silence(fd: BorrowedFd<'_>) {
    #[cfg(target_vendor = "apple")]
    if ENDS_PROCESS.load(Relaxed) {
        let on: libc::c_int = 1;
        let (value, length) = (std::ptr::from_ref(&on).cast(), size_of::<libc::c_int>() as libc::socklen_t);
        let _ = attempt(Call::setsockopt, || {
            // SAFETY: the option's value is a live int of the given size.
            unsafe {
                libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NOSIGPIPE, value, length) as isize
            }
        });
    }
    let _ = fd;
}

#[cold]
fn with_signal_blocked<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // SAFETY: every pointer is to a live signal set, which sigemptyset or zeroing has initialised, or null where that
    // is allowed. The calls change only this thread's mask and the signals that are pending for it.
    unsafe {
        let mut signal = MaybeUninit::uninit();
        libc::sigemptyset(signal.as_mut_ptr());
        let mut signal: libc::sigset_t = signal.assume_init();
        libc::sigaddset(&mut signal, libc::SIGPIPE);
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // A signal that is pending already was raised by something else. It stays pending.
        let waited = is_pending();
        libc::pthread_sigmask(libc::SIG_BLOCK, &signal, before.as_mut_ptr());
        let result = call();
        if !waited && is_pending() {
            let mut number = 0;
            libc::sigwait(&signal, &mut number);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        result
    }
}

/// True if a SIGPIPE is pending for this thread.
fn is_pending() -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `pending` is writable. All zeroes are a valid signal set, should the first call fail.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0 && libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::super::write;
    use super::*;
    use std::os::fd::AsFd;

    /// If the signal were not blocked, it would end this process: the test gives it its default action.
    #[test]
    fn the_signal_is_kept_back() {
        let (reader, writer) = io::pipe().expect("pipe");
        drop(reader);
        // SAFETY: the default action is valid for any signal; it is put back below.
        let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        assert!(look());
        let error = write(writer.as_fd(), &[io::IoSlice::new(b"x")]).expect_err("nobody reads");
        assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
        assert!(!is_pending());
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGPIPE, before) };
        assert_eq!(look(), before == libc::SIG_DFL);
    }
}
