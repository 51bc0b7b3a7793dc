//! System calls. Together with the other files of this folder, this is the only code in the crate that calls libc.
//!
//! Each function makes one system call and returns its result as an `io::Result`. A call that can fail goes through
//! `attempt.rs`. Where a call exists on Linux only, the portable way stands beside it. A call that a signal has interrupted is repeated, in one place ([`retry`]).
//! `WouldBlock` is returned like any other error: what it means is for the caller to say. No decision of a transport
//! and nothing of Python may live here.

mod addresses;
mod attempt;
mod call;
pub mod datagrams;
#[cfg(feature = "faults")]
pub mod faults;
mod files;
mod own;
mod polling;
mod read_buf;
pub mod sigpipe;
mod sockets;
mod threads;

use std::collections::TryReserveError;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

pub use addresses::{Address, KeptAddress, SocketAddress, ipv6_host};
#[cfg(feature = "faults")]
pub use call::Call;
pub use files::{grow_pipe, read, write};
pub use own::Own;
pub use polling::{
    PollWaker, before_wait, deregister, is_readable, is_writable, new_poll, peer_has_ended, poll_fd,
    poll_now, poll_readiness, register, reregister, same_poll,
};
#[cfg(target_os = "linux")]
pub use polling::{Wait, epoll_wait};
pub use read_buf::ReadBuf;
pub use sockets::{
    ShortRead, accept, connect, is_stream, local_address, peer_address, recv, recv_stream, send, set_nodelay,
    shutdown_write, stream_socket, take_error,
};
pub use threads::{Scheduling, block_signals, scheduling_of, thread_number};

/// The largest number of buffers that one vectored call takes (`IOV_MAX` on Linux and macOS).
pub const MAX_SLICES: usize = 1024;

/// The flags of every send: it never blocks, and raises no SIGPIPE. macOS has no flag for that, but an option of the
/// socket ([`sigpipe::silence`]).
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: libc::c_int = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT;

/// Repeats `call` for as long as a signal interrupts it (PEP 475).
pub fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => return result,
        }
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`. Only `clock.rs` may call this.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// The time by the calendar as the kernel stamps files with it.
pub fn calendar_ns() -> u64 {
    #[cfg(target_os = "linux")]
    return clock_ns(libc::CLOCK_REALTIME_COARSE);
    #[cfg(not(target_os = "linux"))]
    return clock_ns(libc::CLOCK_REALTIME);
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec for the duration of the call.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The text of strerror(3) for the number of an error, without the number that `io::Error` adds to it.
pub fn error_text(errno: i32) -> String {
    let mut text: [libc::c_char; 128] = [0; 128];
    // SAFETY: strerror_r writes at most as many characters as it is told, so that the last one stays NUL.
    let text = unsafe {
        libc::strerror_r(errno, text.as_mut_ptr(), text.len() - 1);
        std::ffi::CStr::from_ptr(text.as_ptr())
    };
    text.to_string_lossy().into_owned()
}

/// Memory for `len` values, which are not initialised. An error if there is not so much memory; Rust's usual ways to
/// allocate end the process then.
pub fn uninit_slice<T>(len: usize) -> Result<Box<[MaybeUninit<T>]>, TryReserveError> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(len)?;
    // SAFETY: the vector has room for `len` values, and a `MaybeUninit` need not be initialised.
    unsafe { memory.set_len(len) };
    Ok(memory.into_boxed_slice())
}

// ---------------------------------------------------------------------------------------------- forks

static FORKS: AtomicU32 = AtomicU32::new(0);

/// The number of forks between this process and the one in which [`watch_forks`] was called first. What was made while
/// the number was another one belongs to the parent process. This reads a variable, and makes no system call.
pub fn forks() -> u32 {
    FORKS.load(Relaxed)
}

/// Makes [`forks`] count from now on. A child made by vfork is not counted; it may only execute another program.
pub fn watch_forks() {
    extern "C" fn forked() {
        FORKS.fetch_add(1, Relaxed);
    }
    static ONCE: Once = Once::new();
    // SAFETY: `forked` only adds to an atomic variable, which is allowed in the child of a fork. It stays loaded for as
    // long as the process lives. The call fails only if there is no memory; then forks are not counted.
    ONCE.call_once(|| unsafe { _ = libc::pthread_atfork(None, None, Some(forked)) });
}

/// Has `before` called before each fork of this process, and `after` after it, in the parent and in the child, all on
/// the thread that forks. If there is no memory for that, they are not called.
pub fn around_forks(before: extern "C" fn(), after: extern "C" fn()) {
    // SAFETY: the functions stay loaded for as long as the process lives.
    _ = unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
}

// ---------------------------------------------------------------------------------------------- libraries

/// A shared library that the process has loaded already.
pub struct Library(std::ptr::NonNull<libc::c_void>);

impl Library {
    /// The library with this file name; `None` if it is not loaded. Without a name, the program itself. The library
    /// stays loaded for as long as the process lives.
    pub fn loaded(file: Option<&std::ffi::CStr>) -> Option<Self> {
        let file = file.map_or(std::ptr::null(), |file| file.as_ptr());
        // SAFETY: `file` is null or a string that ends in NUL. With RTLD_NOLOAD no code of a library is run.
        std::ptr::NonNull::new(unsafe { libc::dlopen(file, libc::RTLD_NOW | libc::RTLD_NOLOAD) }).map(Self)
    }

    /// The address of the symbol `name` in the library, or in a library that it depends on.
    pub fn symbol(&self, name: &std::ffi::CStr) -> Option<std::ptr::NonNull<libc::c_void>> {
        // SAFETY: the handle is never closed, and `name` ends in NUL.
        std::ptr::NonNull::new(unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The standard library's text of each number, and of one that no system has, begins with ours.
    #[test]
    fn the_text_of_an_error_is_that_of_strerror() {
        for errno in (1..140).chain([9999]) {
            let expected = format!("{} (os error {errno})", error_text(errno));
            assert_eq!(io::Error::from_raw_os_error(errno).to_string(), expected);
        }
    }
}
