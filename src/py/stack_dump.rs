//! The Python stack of a thread as text, without the GIL: by the function of CPython that `faulthandler` uses, or where
//! that is not exported, read from memory (`memory_stack.rs`).
//!
//! Every other way to see a stack needs the GIL, which a blocking C function may keep.

use std::ffi::{c_char, c_int, c_void};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use super::memory_stack::MemoryStack;
use crate::reactor::sys;

/// `_Py_DumpTraceback(fd, thread_state)`
type PrivateDump = unsafe extern "C" fn(c_int, *mut c_void);
/// `PyUnstable_DumpTraceback(fd, thread_state)`, which returns null or the text of an error.
type UnstableDump = unsafe extern "C" fn(c_int, *mut c_void) -> *const c_char;

/// How a stack can be had in the running version.
enum Way {
    /// Until CPython 3.12.
    Private(PrivateDump),
    /// Since CPython 3.15.
    Unstable(UnstableDump),
    /// CPython 3.13 and 3.14.
    Memory(MemoryStack),
}

/// The stack of the thread with this `PyThreadState`, in the form in which `faulthandler` writes it. None if it cannot
/// be had.
///
/// # Safety
/// The thread state is not freed during the call. As with `faulthandler`, the text can be wrong, or the process crash,
/// if the thread runs Python code meanwhile. So the caller must have seen that the thread is stuck.
pub unsafe fn stack_of(thread_state: usize) -> Option<String> {
    static FOUND: OnceLock<Option<Way>> = OnceLock::new();
    let way = FOUND.get_or_init(find).as_ref()?;
    if let Way::Memory(stack) = way {
        return stack.of(thread_state);
    }
    let (mut reader, writer) = std::io::pipe().ok()?;
    // The text can be longer than what a pipe holds, so that another thread has to read it.
    std::thread::scope(|scope| {
        let reading = std::thread::Builder::new()
            .spawn_scoped(scope, move || {
                let mut text = Vec::new();
                reader.read_to_end(&mut text).ok().map(|_| String::from_utf8_lossy(&text).into_owned())
            })
            .ok()?;
        let (fd, thread_state) = (writer.as_raw_fd(), thread_state as *mut c_void);
        // SAFETY: the caller's promise. The functions allocate nothing and only read.
        unsafe {
            match way {
                Way::Private(dump) => dump(fd, thread_state),
                Way::Unstable(dump) => _ = dump(fd, thread_state),
                Way::Memory(_) => {}
            }
        }
        drop(writer);
        reading.join().ok().flatten()
    })
}

/// Finds out how a stack can be taken from the running version of CPython: by one of its functions, or from its memory.
/// None if neither is possible.
fn find() -> Option<Way> {
    // Also where the interpreter is a shared library: a symbol is looked for in all that the program has loaded.
    let program = sys::Library::loaded(None)?;
    // SAFETY: the addresses are those of CPython's functions, which have had these signatures in every version that
    // exports them.
    unsafe {
        if let Some(symbol) = program.symbol(c"_Py_DumpTraceback") {
            return Some(Way::Private(std::mem::transmute::<*mut c_void, PrivateDump>(symbol.as_ptr())));
        }
        if let Some(symbol) = program.symbol(c"PyUnstable_DumpTraceback") {
            return Some(Way::Unstable(std::mem::transmute::<*mut c_void, UnstableDump>(symbol.as_ptr())));
        }
    }
    MemoryStack::find(program.symbol(c"_PyRuntime")?.as_ptr() as usize).map(Way::Memory)
}
