//! Writing to a pipe whose reader has gone, where SIGPIPE has its default action: it ends the process. CPython ignores
//! the signal, but a program that hosts it without signal handlers may not, nor one that has asked for the default.
//!
//! Sockets have a flag against it. For a pipe the signal is blocked around the call and taken back, which costs three
//! system calls more; so whether that is needed is remembered from the last look.

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static ENDS_PROCESS: AtomicBool = AtomicBool::new(false);

/// Looks whether SIGPIPE has its default action now; [`quietly`] goes by it until the next look.
pub fn look() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no new action is given, and `action` is writable; zeroed, it is a valid one in any case.
    let action = unsafe {
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    let ends = action.sa_sigaction == libc::SIG_DFL;
    ENDS_PROCESS.store(ends, Relaxed);
    ends
}

/// Makes a call that may raise SIGPIPE in this thread.
#[inline]
pub fn quietly<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if ENDS_PROCESS.load(Relaxed) { with_signal_blocked(call) } else { call() }
}

#[cold]
fn with_signal_blocked<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // SAFETY: all of these are given valid sets, which sigemptyset has initialised, or a null pointer where that is
    // allowed. They touch this thread's mask and the signals that wait for it.
    unsafe {
        let mut signal = MaybeUninit::uninit();
        libc::sigemptyset(signal.as_mut_ptr());
        let mut signal: libc::sigset_t = signal.assume_init();
        libc::sigaddset(&mut signal, libc::SIGPIPE);
        let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
        // One that waits already is somebody else's.
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

/// Does a SIGPIPE wait for this thread to let it through?
fn is_pending() -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `pending` is writable, and a valid set afterwards.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0 && libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::super::write;
    use super::*;
    use std::os::fd::AsFd;

    /// If it were not kept back, the signal would end this process: Rust's start has it ignored only in `main`.
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
