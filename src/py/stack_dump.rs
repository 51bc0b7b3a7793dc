//! The Python stack of a thread as text, without the GIL: by the function of CPython that `faulthandler` uses.
//!
//! Every other way to see a stack needs the GIL, which a blocking C function may keep. CPython 3.13 and later versions
//! do not export the function; there is no text then.

use std::ffi::{c_int, c_void};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use crate::reactor::sys;

/// `_Py_DumpTraceback(fd, thread_state)`
type Dump = unsafe extern "C" fn(c_int, *mut c_void);

/// The stack of the thread with this `PyThreadState`, as `faulthandler` writes it. None if it cannot be had.
///
/// # Safety
/// The thread state is not freed during the call. As with `faulthandler`, the text can be wrong, or the process crash,
/// if the thread runs Python code meanwhile. So the caller must have seen that the thread is stuck.
pub unsafe fn stack_of(thread_state: usize) -> Option<String> {
    let dump = dump_function()?;
    let (mut reader, writer) = std::io::pipe().ok()?;
    // The text can be longer than what a pipe holds, so that another thread has to read it.
    std::thread::scope(|scope| {
        let reading = std::thread::Builder::new()
            .spawn_scoped(scope, move || {
                let mut text = Vec::new();
                reader.read_to_end(&mut text).ok().map(|_| String::from_utf8_lossy(&text).into_owned())
            })
            .ok()?;
        // SAFETY: the caller's promise. The function allocates nothing and only reads.
        unsafe { dump(writer.as_raw_fd(), thread_state as *mut c_void) };
        drop(writer);
        reading.join().ok().flatten()
    })
}

fn dump_function() -> Option<Dump> {
    static FOUND: OnceLock<Option<usize>> = OnceLock::new();
    let address = (*FOUND.get_or_init(|| {
        // Also where the interpreter is a shared library: a symbol is looked for in all that the program has loaded.
        let symbol = sys::Library::loaded(None)?.symbol(c"_Py_DumpTraceback")?;
        Some(symbol.as_ptr() as usize)
    }))?;
    // SAFETY: the address is that of CPython's function, which has had this signature in every version that exports it.
    Some(unsafe { std::mem::transmute::<usize, Dump>(address) })
}
