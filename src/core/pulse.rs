//! What a thread can see of every loop of the process without the GIL, and which callback a watched loop is running.
//!
//! A loop writes down which turn it is in anyway (`LoopCore::moment`), so that a loop which nobody watches does nothing
//! for this. While somebody watches, it also writes down what it runs, for the reports. Who watches is in
//! `event_loop/watcher.rs`; what lasts too long is decided in `reactor/stalls.rs`.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use pyo3::ffi;
use pyo3::prelude::*;

use super::LoopCore;
use crate::handle::Handle;
use crate::reactor::publishing::Reading;
use crate::reactor::sys;

/// The addresses of the cores of all loops. A core is taken out before it is freed.
static CORES: Mutex<Vec<usize>> = Mutex::new(Vec::new());
/// How many watchers there are. It is changed with the GIL held.
static WATCHERS: AtomicUsize = AtomicUsize::new(0);
/// The number of the last loop.
static LAST: AtomicU64 = AtomicU64::new(0);

/// What the core keeps for those who watch.
pub struct Pulse {
    /// The number of the loop. No other loop of the process has it.
    pub number: u64,
    /// The kernel's number of the thread that runs the loop, or ran it last.
    thread: AtomicU32,
    /// The `PyThreadState` of the thread that runs the loop; 0 while none does.
    thread_state: AtomicUsize,
    /// How many stalls the watchers have found.
    stalls: AtomicU64,
    /// The handle or transport whose callback runs. 0: none, or nobody watches. It is changed with the GIL held.
    running: AtomicUsize,
}

/// What a thread without the GIL sees of a loop.
#[derive(Clone, Copy)]
pub struct Seen {
    /// The number of the loop.
    pub number: u64,
    /// The number of the turn whose callbacks run; 0 between two turns.
    pub turn: u32,
    /// The kernel's number of the loop's thread.
    pub thread: u32,
    /// The `PyThreadState` of the loop's thread; 0 if it is not known.
    pub thread_state: usize,
}

impl Pulse {
    /// For a new loop.
    pub fn new() -> Self {
        Self {
            number: LAST.fetch_add(1, Relaxed) + 1,
            thread: AtomicU32::new(0),
            thread_state: AtomicUsize::new(0),
            stalls: AtomicU64::new(0),
            running: AtomicUsize::new(0),
        }
    }
}

impl LoopCore {
    /// Lets watchers see the loop, until its core is freed.
    pub(super) fn enlist(self: &Arc<Self>) {
        cores().push(Arc::as_ptr(self) as usize);
        self.look_who_observes();
    }

    /// Notes whether each callback needs the longer way: in debug mode, and while somebody watches. To be called with
    /// the GIL held, when either has changed.
    pub fn look_who_observes(&self) {
        self.observed.store(self.debug.load(Relaxed) || WATCHERS.load(Relaxed) > 0, Relaxed);
    }

    /// Notes that the current thread runs the loop from here on, or that no thread does.
    pub fn note_thread(&self, _py: Python<'_>, runs: bool) {
        if runs {
            self.pulse.thread.store(sys::thread_number(), Relaxed);
        }
        // SAFETY: the GIL is held, so the current thread has a state.
        let state = if runs { unsafe { ffi::PyThreadState_Get() as usize } } else { 0 };
        self.pulse.thread_state.store(state, Relaxed);
    }

    /// The number of the turn whose callbacks run; 0 between two turns.
    pub fn turn(&self) -> u32 {
        self.moment().map_or(0, |moment| moment.turn())
    }

    /// Notes that the callback of `subject`, a handle or a transport, runs until the result is dropped. The caller
    /// keeps `subject` alive for as long.
    pub fn runs<'a>(&'a self, subject: &'a Bound<'_, PyAny>) -> Runs<'a> {
        self.pulse.running.store(subject.as_ptr() as usize, Relaxed);
        Runs(self)
    }

    /// As [`LoopCore::runs`], until [`LoopCore::runs_nothing`] is called. The caller keeps the handle alive until then.
    #[inline]
    pub fn note_running(&self, handle: &Py<Handle>) {
        self.pulse.running.store(handle.as_ptr() as usize, Relaxed);
    }

    /// Notes that no callback runs.
    #[inline]
    pub fn runs_nothing(&self) {
        self.pulse.running.store(0, Relaxed);
    }

    /// The handle or transport whose callback runs, if somebody watches.
    pub fn running<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let running = self.pulse.running.load(Relaxed) as *mut ffi::PyObject;
        // SAFETY: null or the address of an object. It is set and cleared with the GIL held. In between the object is
        // alive: `runs` borrows it, and the caller of `note_running` holds a reference. The GIL is held here, too.
        unsafe { Bound::from_borrowed_ptr_or_opt(py, running) }
    }

    /// True in debug mode, and while somebody watches.
    #[inline]
    pub fn is_observed(&self) -> bool {
        self.observed.load(Relaxed)
    }
}

/// What [`LoopCore::runs`] returns.
pub struct Runs<'a>(&'a LoopCore);

impl Drop for Runs<'_> {
    fn drop(&mut self) {
        self.0.runs_nothing();
    }
}

impl Drop for LoopCore {
    /// From here on no watcher sees the loop.
    fn drop(&mut self) {
        let address = std::ptr::from_ref(self) as usize;
        cores().retain(|&core| core != address);
    }
}

fn cores() -> MutexGuard<'static, Vec<usize>> {
    CORES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls `look` with each core. It must touch only what is atomic: the caller need not hold the GIL.
fn each_core(mut look: impl FnMut(&LoopCore)) {
    for &address in cores().iter() {
        // SAFETY: a core that is in the list is alive, because `drop` takes it out first, and waits for the lock that
        // is held here. What the callers in this file touch of it is atomic, and belongs to no Python object.
        look(unsafe { &*(address as *const LoopCore) });
    }
}

/// Calls `look` with each loop of the process. It must not use Python: the caller need not hold the GIL.
pub fn see_all(mut look: impl FnMut(Seen)) {
    each_core(|core| {
        look(Seen {
            number: core.pulse.number,
            turn: core.turn(),
            thread: core.pulse.thread.load(Relaxed),
            thread_state: core.pulse.thread_state.load(Relaxed),
        });
    });
}

/// Calls `look` with the figures of each open loop of the process. It must not use Python: the caller need not hold the
/// GIL.
pub fn read_all(mut look: impl FnMut(Reading)) {
    let watchers = WATCHERS.load(Relaxed) as u64;
    each_core(|core| {
        if !core.closed.load(Relaxed) {
            let at = core.clock.now_ns();
            let figures = core.read_figures(at);
            look(Reading {
                number: core.pulse.number,
                at,
                turn_lasts: if core.turn() == 0 { 0 } else { core.figures.turn_lasts(at) },
                watchers,
                stalls: core.pulse.stalls.load(Relaxed),
                thread: core.pulse.thread.load(Relaxed).into(),
                figures,
            });
        }
    });
}

/// Counts a stall that a watcher has found in the loop of this number.
pub fn count_stall(number: u64) {
    each_core(|core| {
        if core.pulse.number == number {
            core.pulse.stalls.fetch_add(1, Relaxed);
        }
    });
}

/// Keeps forks away from the moments in which a thread of ours looks at the loops. To be called before it begins.
pub fn prepare_for_forks() {
    static FORKS: Once = Once::new();
    FORKS.call_once(|| sys::around_forks(hold, release));
}

/// Adds a watcher, or takes one away: all loops take note.
pub fn count_watchers(_py: Python<'_>, begins: bool) {
    prepare_for_forks();
    match begins {
        true => WATCHERS.fetch_add(1, Relaxed),
        false => WATCHERS.fetch_sub(1, Relaxed),
    };
    each_core(LoopCore::look_who_observes);
}

// A fork must not come while another thread has the lock: the child has no such thread, which would release it.

thread_local! {
    static HELD: RefCell<Option<MutexGuard<'static, Vec<usize>>>> = const { RefCell::new(None) };
}

extern "C" fn hold() {
    HELD.set(Some(cores()));
}

extern "C" fn release() {
    HELD.set(None);
}
