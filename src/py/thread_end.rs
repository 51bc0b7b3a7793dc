//! Stopping a thread that CPython ends in the middle of a call.
//!
//! When the interpreter ends, CPython before 3.14 ends every other thread that requests the GIL, by `pthread_exit`
//! (`take_gil` in `ceval_gil.c`). In glibc that unwinds the stack of the thread. If there are frames of Rust on it, the
//! process aborts (rust-lang/rust#135929). This can happen in every call of Python that releases the GIL, and nearly
//! every call can: a property, a comparison or a finalizer may sleep.
//!
//! So a thread that uses loops is stopped before its first frame is unwound. CPython itself does the same since 3.14
//! (python/cpython#87135). glibc calls the cleanup handlers of a thread while it unwinds. It calls a handler when it
//! leaves the frame of that handler, and finds out by comparing the address of the handler with that of the frame. A
//! handler whose address is below the whole stack is therefore called first. Ours is on the heap, and does not return.
//!
//! With this, no call of Python needs a guard of its own. Other C libraries do not unwind the stack in `pthread_exit`.

use pyo3::prelude::*;

/// From here on the current thread is stopped if CPython ends it. To be called on each thread that makes a loop, or
/// uses one from outside. All but the first call on a thread only look at a variable.
#[inline]
pub fn stop_instead(py: Python<'_>) {
    imp::stop_instead(py);
}

/// The same while frames of Rust stay on the stack for long, as when a loop runs. Until the result is dropped, the
/// thread is stopped even if it has no state of the interpreter any more when it is ended.
pub fn running(py: Python<'_>) -> Running {
    stop_instead(py);
    imp::count_running(1);
    Running
}

/// What [`running`] returns.
#[must_use]
pub struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        imp::count_running(-1);
    }
}

#[cfg(target_env = "gnu")]
mod imp {
    use std::cell::Cell;
    use std::ffi::{c_int, c_void};
    use std::ptr::null_mut;

    use pyo3::ffi;
    use pyo3::prelude::*;

    /// `struct _pthread_cleanup_buffer` of glibc's `pthread.h`.
    #[repr(C)]
    struct CleanupBuffer {
        routine: Option<unsafe extern "C" fn(*mut c_void)>,
        arg: *mut c_void,
        cancel_type: c_int,
        previous: *mut CleanupBuffer,
    }

    unsafe extern "C" {
        fn _pthread_cleanup_push(
            buffer: *mut CleanupBuffer,
            routine: unsafe extern "C" fn(*mut c_void),
            arg: *mut c_void,
        );
        fn _pthread_cleanup_pop(buffer: *mut CleanupBuffer, execute: c_int);
    }

    /// The cleanup handler of a thread.
    struct Handler {
        buffer: Cell<*mut CleanupBuffer>,
        /// How many [`super::Running`] there are.
        running: Cell<i32>,
    }

    thread_local! {
        static HANDLER: Handler = const { Handler { buffer: Cell::new(null_mut()), running: Cell::new(0) } };
    }

    #[inline]
    pub fn stop_instead(_py: Python<'_>) {
        // Fails at the end of the thread, when its locals are gone.
        let _ = HANDLER.try_with(|handler| {
            if handler.buffer.get().is_null() {
                handler.install();
            }
        });
    }

    pub fn count_running(change: i32) {
        let _ = HANDLER.try_with(|handler| handler.running.set(handler.running.get() + change));
    }

    impl Handler {
        #[cold]
        fn install(&self) {
            let buffer = Box::new(CleanupBuffer {
                routine: None,
                arg: null_mut(),
                cancel_type: 0,
                previous: null_mut(),
            });
            let buffer = Box::into_raw(buffer);
            self.buffer.set(buffer);
            // SAFETY: the buffer lives until `drop` takes it out of the thread's list, which happens on the same
            // thread.
            unsafe { _pthread_cleanup_push(buffer, at_thread_end, null_mut()) };
        }
    }

    impl Drop for Handler {
        fn drop(&mut self) {
            let buffer = self.buffer.get();
            if !buffer.is_null() {
                // SAFETY: `install` has made it and put it into this thread's list.
                unsafe {
                    _pthread_cleanup_pop(buffer, 0);
                    drop(Box::from_raw(buffer));
                }
            }
        }
    }

    /// Called by glibc in `pthread_exit`. It returns if the thread ends in the ordinary way: CPython before 3.13 calls
    /// `pthread_exit` at the end of each thread, when the thread has no state of the interpreter any more.
    unsafe extern "C" fn at_thread_end(_: *mut c_void) {
        let running = HANDLER.try_with(|handler| handler.running.get() > 0).unwrap_or(false);
        // SAFETY: the function can be called from any thread at any time.
        if running || !unsafe { ffi::PyGILState_GetThisThreadState() }.is_null() {
            loop {
                std::thread::park();
            }
        }
    }
}

#[cfg(not(target_env = "gnu"))]
mod imp {
    use pyo3::prelude::*;

    #[inline]
    pub fn stop_instead(_py: Python<'_>) {}

    pub fn count_running(_change: i32) {}
}
