//! Which thread runs the callback of a handle: for handles of `call_soon_threadsafe` since CPython 3.14
//! (`asyncio.events._ThreadSafeHandle`). While the callback runs, `cancel()` and `cancelled()` of another thread wait
//! until it has finished.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, PoisonError};

use pyo3::ffi;
use pyo3::prelude::*;

/// The thread that is running the callback of one handle.
///
/// It is written with the GIL held, which orders the writes for those that hold the GIL later. A thread that waits has
/// released the GIL. It reads under the lock of [`FINISHED`], which `finished` takes, too, if it has seen a waiter. So
/// relaxed accesses are enough, and a callback costs no locked instruction.
#[derive(Default)]
pub struct RunningOn {
    /// True if other threads wait for this handle's callback. Set when the handle is made.
    tracked: AtomicBool,
    /// `threading.get_ident()` of the thread that runs the callback, or 0.
    thread: AtomicU64,
}

/// How many threads wait for a callback to finish, of any handle. A waiter adds itself with the GIL held, so that a
/// callback that runs at that moment sees it when it finishes.
static WAITING: AtomicUsize = AtomicUsize::new(0);
/// Notified when a callback has finished that somebody waits for.
static FINISHED: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

impl RunningOn {
    /// True if other threads wait for the callback.
    pub fn is_tracked(&self) -> bool {
        self.tracked.load(Relaxed)
    }

    /// Sets whether other threads wait for the callback.
    pub fn track(&self, tracked: bool) {
        self.tracked.store(tracked, Relaxed);
    }

    /// The callback starts on this thread.
    pub fn started(&self) {
        self.thread.store(this_thread(), Relaxed);
    }

    /// The callback has finished.
    pub fn finished(&self) {
        self.thread.store(0, Relaxed);
        if WAITING.load(Relaxed) > 0 {
            // Under the lock, so that no waiter has looked already and does not wait yet.
            let _guard = FINISHED.0.lock().unwrap_or_else(PoisonError::into_inner);
            FINISHED.1.notify_all();
        }
    }

    /// Does another thread run the callback? A callback that cancels its own handle must not wait for itself.
    fn is_elsewhere(&self) -> bool {
        let thread = self.thread.load(Relaxed);
        thread != 0 && thread != this_thread()
    }

    /// Waits while another thread runs the callback. The GIL is released meanwhile.
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
