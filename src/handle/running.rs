//! Handles of `call_soon_threadsafe` since CPython 3.14 (`asyncio.events._ThreadSafeHandle`): `cancel()` and
//! `cancelled()` from another thread wait until the callback, if it is running, has finished.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};

use pyo3::ffi;
use pyo3::prelude::*;

/// Which thread is running the callback of one handle.
#[derive(Default)]
pub struct RunningOn {
    /// Does anybody care? Set when the handle is made.
    tracked: AtomicBool,
    /// `threading.get_ident()`, or 0.
    thread: AtomicU64,
}

/// How many threads wait for a callback to finish, of whichever handle.
static WAITING: AtomicUsize = AtomicUsize::new(0);
static FINISHED: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

impl RunningOn {
    pub fn is_tracked(&self) -> bool {
        self.tracked.load(SeqCst)
    }

    pub fn track(&self, tracked: bool) {
        self.tracked.store(tracked, SeqCst);
    }

    pub fn started(&self) {
        self.thread.store(this_thread(), SeqCst);
    }

    pub fn finished(&self) {
        self.thread.store(0, SeqCst);
        if WAITING.load(SeqCst) > 0 {
            // Under the lock, so that nobody is between looking and waiting.
            let _guard = FINISHED.0.lock().unwrap_or_else(PoisonError::into_inner);
            FINISHED.1.notify_all();
        }
    }

    fn is_elsewhere(&self) -> bool {
        let thread = self.thread.load(SeqCst);
        thread != 0 && thread != this_thread()
    }

    /// Waits while another thread runs the callback. The interpreter is let go of meanwhile.
    pub fn wait(&self, py: Python<'_>) {
        if !self.is_tracked() || !self.is_elsewhere() {
            return;
        }
        py.detach(|| {
            WAITING.fetch_add(1, SeqCst);
            let mut guard = FINISHED.0.lock().unwrap_or_else(PoisonError::into_inner);
            while self.is_elsewhere() {
                guard = FINISHED.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            drop(guard);
            WAITING.fetch_sub(1, SeqCst);
        });
    }
}

fn this_thread() -> u64 {
    // SAFETY: callable from any thread at any time.
    unsafe { ffi::PyThread_get_thread_ident() as u64 }
}
