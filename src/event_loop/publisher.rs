//! The class `Publisher`: a thread that writes the figures of every loop of the process into a file, for other processes.
//!
//! The thread needs neither the GIL nor the loops, so that the figures can be read while a loop is blocked. The loops do
//! nothing for it. Where the file is, and its header, is decided in `python/rloop/_publish.py`; how the figures lie in
//! it, in `reactor/publishing.rs`.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::prelude::*;

use crate::core::pulse;
use crate::error::os_error;
use crate::py::cell::LoopCell;
use crate::reactor::publishing::Slots;
use crate::reactor::sys;

/// The time between two readings.
const STEP: Duration = Duration::from_millis(100);
/// How many readings come between two renewals of the figures of before.
const RENEWAL: u64 = 10;

/// Publishes the figures of every loop of the process, until `stop()`.
#[pyclass(frozen, module = "rloop._rloop")]
pub struct Publisher {
    end: Arc<End>,
    /// None once it was stopped.
    thread: LoopCell<Option<JoinHandle<()>>>,
}

/// How the thread is told to end.
#[derive(Default)]
struct End {
    is_due: Mutex<bool>,
    told: Condvar,
}

impl End {
    fn is_due(&self) -> MutexGuard<'_, bool> {
        self.is_due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until the next reading. False if there is none.
    fn sleep(&self) -> bool {
        let waited = self.told.wait_timeout_while(self.is_due(), STEP, |is_due| !*is_due);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Reads every loop, and writes what was read.
fn publish(slots: &mut Slots, file: &File) -> std::io::Result<()> {
    let mut readings = Vec::new();
    pulse::read_all(|reading| readings.push(reading));
    slots.write(file, readings)
}

#[pymethods]
impl Publisher {
    /// Writes the figures once, and goes on in a thread. `fd`: a file that is open for writing, in which the slots begin
    /// at byte `start`. The caller keeps it open until `stop()` has returned, or `forget()` is called.
    #[new]
    fn new(py: Python<'_>, fd: i32, start: u64) -> PyResult<Self> {
        // SAFETY: the fd is open for as long as this file is used: by the caller until this returns, and then until the
        // thread has ended, for which `stop()` waits. In the child of a fork there is no such thread. `ManuallyDrop`:
        // the fd stays the caller's.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
        pulse::prepare_for_forks();
        let mut slots = Slots::new(start, RENEWAL);
        py.detach(|| publish(&mut slots, &file)).map_err(|error| os_error(&error))?;
        let end = Arc::new(End::default());
        let told = end.clone();
        let run = move || {
            sys::block_signals();
            while told.sleep() {
                // There is nobody to tell of an error, such as a full disk. The next reading is written again.
                _ = publish(&mut slots, &file);
            }
        };
        let thread = std::thread::Builder::new()
            .name("rloop-publish".to_owned())
            .spawn(run)
            .map_err(|error| os_error(&error))?;
        Ok(Self { end, thread: LoopCell::new(Some(thread)) })
    }

    /// Ends it. When it returns, the thread has ended.
    fn stop(&self, py: Python<'_>) {
        *self.end.is_due() = true;
        self.end.told.notify_all();
        if let Some(thread) = self.thread.with(py, Option::take) {
            // The thread does not panic. If it had, there would be nothing left to wait for.
            py.detach(|| drop(thread.join()));
        }
    }

    /// In the child of a fork: the thread is not there. The publisher may be dropped, and no other method called.
    fn forget(&self, py: Python<'_>) {
        drop(self.thread.with(py, Option::take));
    }
}
