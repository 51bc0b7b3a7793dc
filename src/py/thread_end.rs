//! What becomes of a thread that CPython ends in the middle of a call.
//!
//! When the interpreter ends, CPython before 3.14 ends every other thread that asks for the interpreter, by
//! `pthread_exit` (`take_gil` in `ceval_gil.c`). In glibc that unwinds the stack of the thread. Frames of Rust do not
//! survive this: the process aborts (rust-lang/rust#135929). It can happen in every call of Python that lets go of the
//! interpreter, and there is hardly a call that cannot: a property, a comparison or a finalizer may sleep.
//!
//! So a thread that uses loops is stopped before the first frame is unwound, as CPython itself does since 3.14
//! (python/cpython#87135). glibc calls a thread's cleanup handlers on the way: that of a frame when the unwinding
//! leaves this frame, which it sees by comparing the handler's address with the frame's. A handler in memory below the
//! whole stack is therefore called first of all. Ours lies on the heap, and does not return.
//!
//! No call needs a guard of its own, then. Other C libraries do not unwind in `pthread_exit`, and need nothing.

use pyo3::prelude::*;

/// Stops the current thread if CPython ends it from here on. Called for each thread that makes a loop or reaches one
/// from outside; all but the first call of a thread are a look at a flag.
#[inline]
pub fn stop_instead(py: Python<'_>) {
    imp::stop_instead(py);
}

/// The same, where frames of Rust stay on the stack for long: says so until it is dropped. A thread that wakes in
/// between is stopped even if the interpreter is gone by then.
pub fn running(py: Python<'_>) -> Running {
    stop_instead(py);
    imp::count_running(1);
    Running
}

/// See [`running`].
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

    /// A thread's handler, once it has one.
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
        // Err: the thread is at its end, and its destructors run.
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
            // SAFETY: the buffer lives until `drop` takes it out of the thread's list again, on the same thread.
            unsafe { _pthread_cleanup_push(buffer, at_thread_end, null_mut()) };
        }
    }

    impl Drop for Handler {
        fn drop(&mut self) {
            let buffer = self.buffer.get();
            if !buffer.is_null() {
                // SAFETY: `install` made it and put it into this thread's list.
                unsafe {
                    _pthread_cleanup_pop(buffer, 0);
                    drop(Box::from_raw(buffer));
                }
            }
        }
    }

    /// glibc calls this in `pthread_exit`. It returns where a thread ends in the ordinary way: CPython before 3.13
    /// calls `pthread_exit` at the end of each thread, when the thread has no state of the interpreter any more.
    unsafe extern "C" fn at_thread_end(_: *mut c_void) {
        let running = HANDLER.try_with(|handler| handler.running.get() > 0).unwrap_or(false);
        // SAFETY: callable from any thread at any time.
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
