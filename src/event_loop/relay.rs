//! Copying from a pipe to a file without the GIL: for text that must be seen while a callback keeps the GIL.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use pyo3::prelude::*;

use crate::error::os_error;
use crate::py::thread_end;
use crate::reactor::sys::{self, ReadBuf};

/// The text is complete when nothing has come for so long.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until there is something to read from the pipe `reader`, and copies it to `to` until nothing more comes. False
/// at the end of the pipe. Both fds stay open until it returns.
#[pyfunction]
pub fn relay_once(py: Python<'_>, reader: i32, to: i32) -> PyResult<bool> {
    thread_end::stop_instead(py);
    py.detach(|| copy(reader, to)).map_err(|error| os_error(&error))
}

/// Copies what there is from one file to the other. False at the end of the first one.
fn copy(reader: i32, to: i32) -> std::io::Result<bool> {
    // SAFETY: the caller of `relay_once` keeps both open.
    let (from, to) = unsafe { (BorrowedFd::borrow_raw(reader), BorrowedFd::borrow_raw(to)) };
    let mut memory = [MaybeUninit::uninit(); 4096];
    loop {
        let mut buffer = ReadBuf::new(&mut memory);
        if sys::read(from, &mut buffer)? == 0 {
            return Ok(false);
        }
        let mut text = buffer.filled();
        // If `to` cannot be written to, the text is dropped: the pipe must not fill up.
        while let Ok(written @ 1..) = sys::write(to, &[IoSlice::new(text)]) {
            text = &text[written.min(text.len())..];
            if text.is_empty() {
                break;
            }
        }
        std::thread::sleep(PAUSE);
        if !sys::is_readable(reader)? {
            return Ok(true);
        }
    }
}
