//! The door through which every system call of this folder goes that can fail.
//!
//! [`attempt`] and [`attempt_some`] make one call and turn its result into an `io::Result`. With the feature `faults`
//! they first ask a schedule whether this call is to fail, or to be cut short (`faults.rs`). Without that feature,
//! which no wheel has, nothing is left of the question: both are inlined, and the name of the call is not used.
//!
//! A test (`tests/project/test_laws.py`) refuses a call of libc that does not go through this door, and a call of mio's
//! poll outside of this folder. What other code calls is not covered: the standard library (closing a file), Python's
//! modules (`socket`, `ssl`, `os`), and CPython itself.

use std::io;

use super::call::Call;
#[cfg(feature = "faults")]
use super::faults;

/// Makes a system call that returns -1 for an error and sets errno.
#[inline(always)]
pub(super) fn attempt(call: Call, make: impl FnOnce() -> isize) -> io::Result<usize> {
    attempt_io(call, || check(make()))
}

/// As [`attempt`], for a call that may do a part of what it is asked: of `length` bytes, buffers or messages. `make`
/// gets the number that the call is to be asked for.
#[inline(always)]
pub(super) fn attempt_some(
    call: Call,
    length: usize,
    make: impl FnOnce(usize) -> isize,
) -> io::Result<usize> {
    #[cfg(feature = "faults")]
    let length = faults::cut(call, length)?;
    let _ = call;
    check(make(length))
}

/// As [`attempt`], for a call that a library makes.
#[inline(always)]
pub(super) fn attempt_io<T>(call: Call, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    #[cfg(feature = "faults")]
    return faults::attempt(call, make);
    #[cfg(not(feature = "faults"))]
    {
        let _ = call;
        make()
    }
}

/// The buffers of a write. While faults cut every write to one byte, only the first that is not empty.
#[inline(always)]
pub(super) fn buffers<'a, 'b>(slices: &'a [io::IoSlice<'b>]) -> &'a [io::IoSlice<'b>] {
    #[cfg(feature = "faults")]
    return faults::first_buffer(slices);
    #[cfg(not(feature = "faults"))]
    slices
}

/// The result of a system call that returns -1 for an error and sets errno.
fn check(result: isize) -> io::Result<usize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}
