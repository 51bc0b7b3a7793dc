//! Handles of `call_soon_threadsafe` since CPython 3.14 (`asyncio.events._ThreadSafeHandle`): `cancel()` and
//! `cancelled()` from another thread wait until the callback, if it is running, has finished.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, PoisonError};

use pyo3::ffi;
use pyo3::prelude::*;

/// Which thread is running the callback of one handle.
///
/// Written with the interpreter held, which orders the writes for whoever holds it later; who waits without it looks
/// under the lock of [`FINISHED`], which `finished` takes once it has seen a waiter. So no access needs an order of
/// its own, and a callback costs no locked instruction.
#[derive(Default)]
pub struct RunningOn {
    /// Does anybody care? Set when the handle is made.
    tracked: AtomicBool,
    /// `threading.get_ident()`, or 0.
    thread: AtomicU64,
}

/// How many threads wait for a callback to finish, of whichever handle. Counted up with the interpreter held: a
/// callback that runs at that moment sees it when it finishes.
static WAITING: AtomicUsize = AtomicUsize::new(0);
static FINISHED: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

impl RunningOn {
    pub fn is_tracked(&self) -> bool {
        self.tracked.load(Relaxed)
    }

    pub fn track(&self, tracked: bool) {
        self.tracked.store(tracked, Relaxed);
    }

    pub fn started(&self) {
        self.thread.store(this_thread(), Relaxed);
    }

    pub fn finished(&self) {
        self.thread.store(0, Relaxed);
        if WAITING.load(Relaxed) > 0 {
            // Under the lock, so that nobody is between looking and waiting.
            let _guard = FINISHED.0.lock().unwrap_or_else(PoisonError::into_inner);
            FINISHED.1.notify_all();
        }
    }

    fn is_elsewhere(&self) -> bool {
        let thread = self.thread.load(Relaxed);
        thread != 0 && thread != this_thread()
    }

    /// Waits while another thread runs the callback. The interpreter is let go of meanwhile.
    pub fn wait(&self, py: Python<'_>) {
        if !self.is_tracked() || !self.is_elsewhere() {
            return;
        }
        WAITING.fetch_add(1, Relaxed);
        py.detach(|| {
            let mut guard = FINISHED.0.lock().unwrap_or_else(PoisonError::into_inner);
            while self.is_elsewhere() {
                guard = FINISHED.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            drop(guard);
            WAITING.fetch_sub(1, Relaxed);
        });
    }
}

fn this_thread() -> u64 {
    // SAFETY: callable from any thread at any time.
    unsafe { ffi::PyThread_get_thread_ident() as u64 }
}
