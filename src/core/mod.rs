//! The state of one loop, and every way to add work to it. `run.rs` takes the work off again.
//!
//! [`LoopCore`] is shared by the loop object and its transports. It knows handles, and of everything else only how it
//! is told of readiness ([`Native`]); it never runs user code itself.

mod gathering;
#[cfg(feature = "embed")]
mod host;
mod scheduling;
pub mod scratch;
mod sources;
mod watching;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::error::{no_memory, os_error};
use crate::handle::{Handle, TimerHandle};
use crate::py::cell::LoopCell;
use crate::py::context::EmptyContext;
use crate::py::gc::track;
use crate::py::interpreter::require_gil;
use crate::py::names::{Names, names};
use crate::py::thread_end;
use crate::reactor::Reactor;
use crate::reactor::clock::Clock;
use crate::reactor::ready::{Inbox, ReadyQueue};
use crate::reactor::sys::datagrams::ReceiveBatch;
use crate::reactor::timers::TimerHeap;
use crate::reactor::token::Token;
use crate::reactor::waker::Waker;
#[cfg(feature = "embed")]
pub use host::{AtClose, Host, Job};
use scratch::Scratch;
pub use scratch::{Buffer, TlsIo};
pub use sources::{FdCallbacks, Idle, Kind, Native, Source};

/// How often a loop that does not block looks at how long it has kept the interpreter.
const POLLS_BETWEEN_LOOKS: u32 = 64;

/// One thing to run.
pub enum Entry {
    Handle(Py<Handle>),
    /// The owner of this registration is to be told of readiness.
    Io(Token),
    /// What a host's thread has asked for.
    #[cfg(feature = "embed")]
    Job(Box<Job>),
}

/// What only the holder of the interpreter touches.
pub struct State {
    pub reactor: Reactor<Source>,
    pub ready: ReadyQueue<Entry>,
    pub timers: TimerHeap<Py<TimerHandle>>,
    /// Transports that keep a write back until the current callback returns.
    gathered: VecDeque<Native>,
    /// Transports that keep a write back until a time, in nanoseconds of the clock. The earliest comes first.
    gathered_until: VecDeque<(u64, Native)>,
    /// Registrations that nobody waits for at the moment. A coroutine that received something usually waits for more
    /// in the next turn, and finds its registration again; they end when the loop is about to block.
    pub lingering: Vec<Token>,
    /// Handles and timers to use again; empty, and known to nobody else.
    spare_handles: Vec<Py<Handle>>,
    spare_timers: Vec<Py<TimerHandle>>,
}

/// A loop's core as Python passes it from the loop to what is made for it.
#[pyclass(frozen, module = "rloop._rloop")]
pub struct CoreRef(pub Arc<LoopCore>);

/// One event loop.
pub struct LoopCore {
    pub state: LoopCell<State>,
    pub inbox: Inbox<Entry>,
    pub waker: Arc<Waker>,
    pub clock: Clock,
    /// Has a subclass, or this loop alone, its own `time()`? Timers go by it then, as on asyncio.
    pub custom_time: AtomicBool,
    /// Is `call_later` to go by the methods `time` and `call_at`, which may be the program's own?
    pub timers_by_methods: AtomicBool,
    /// Do the turns wait by what a program has put in the place of `loop._selector.select`?
    pub waits_by_program: AtomicBool,
    /// Is the next `_run_once()` to run turns until `stop()` was called?
    pub until_stopped: AtomicBool,
    pub names: &'static Names,
    /// Where callbacks run that were scheduled in an empty context.
    pub empty_context: EmptyContext,
    /// What the transports receive into: never borrowed while anything else runs.
    pub scratch: LoopCell<Scratch>,
    /// What TLS layers receive into, and encrypt into.
    pub tls_io: LoopCell<TlsIo>,
    /// What the datagram transports receive into, made by the first of them; borrowed as `scratch` is.
    pub datagrams: LoopCell<Option<ReceiveBatch>>,
    pub closed: AtomicBool,
    pub stopping: AtomicBool,
    pub debug: AtomicBool,
    /// `threading.get_ident()` of the thread that runs the loop; 0 while none does.
    pub thread_id: AtomicU64,
    /// Counts the polls that have kept the interpreter.
    kept: AtomicU32,
    /// When a look at the clock first found it kept, in nanoseconds; 0: not since it was let go of.
    kept_since: AtomicU64,
    /// How long it may be kept.
    keep_ns: AtomicU64,
    /// Which callback of which turn is running, as [`Moment::to_bits`](crate::reactor::moment::Moment); 0 between turns.
    moment: AtomicU64,
    /// When the first of those is due that keep a write back, in nanoseconds; 0: as soon as the callback returns.
    gather_due: AtomicU64,
    /// The number of the last turn.
    turns: AtomicU32,
    #[cfg(feature = "embed")]
    pub host: Host,
}

impl LoopCore {
    pub fn new(py: Python<'_>) -> PyResult<Arc<Self>> {
        require_gil(py)?;
        thread_end::stop_instead(py);
        scratch::serve_large_blocks_from_the_heap();
        let (reactor, waker) = Reactor::new().map_err(|error| os_error(&error))?;
        let state = State {
            reactor,
            ready: ReadyQueue::new(),
            timers: TimerHeap::new(),
            gathered: VecDeque::new(),
            gathered_until: VecDeque::new(),
            lingering: Vec::new(),
            spare_handles: Vec::new(),
            spare_timers: Vec::new(),
        };
        Ok(Arc::new(Self {
            state: LoopCell::new(state),
            inbox: Inbox::new(),
            waker,
            clock: Clock,
            custom_time: AtomicBool::new(false),
            timers_by_methods: AtomicBool::new(true),
            waits_by_program: AtomicBool::new(false),
            until_stopped: AtomicBool::new(false),
            names: names(py)?,
            empty_context: EmptyContext::default(),
            scratch: LoopCell::new(Scratch::new().map_err(|_| no_memory())?),
            tls_io: LoopCell::default(),
            datagrams: LoopCell::new(None),
            closed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            debug: AtomicBool::new(false),
            thread_id: AtomicU64::new(0),
            kept: AtomicU32::new(0),
            kept_since: AtomicU64::new(0),
            keep_ns: AtomicU64::new(u64::MAX),
            moment: AtomicU64::new(0),
            gather_due: AtomicU64::new(gathering::NOTHING),
            turns: AtomicU32::new(0),
            #[cfg(feature = "embed")]
            host: Host::default(),
        }))
    }

    // ------------------------------------------------------------------------------------------ threads

    /// True on the thread that runs the loop; false while none does.
    #[inline]
    pub fn is_own_thread(&self) -> bool {
        self.thread_id.load(Relaxed) == current_thread_id()
    }

    /// Called for each poll that need not block: true if it is to let go of the interpreter all the same. CPython takes
    /// the interpreter from a thread between two bytecodes when another one has asked for it, but a loop whose
    /// callbacks are all native runs none: think of an `add_reader` with a callback in C on an fd that is always ready.
    ///
    /// A thread asks after it has waited for a switch interval undisturbed, and every release disturbs it without its
    /// getting anywhere. So a release comes late enough for it to have asked; then CPython gives it the interpreter.
    pub fn is_hogging(&self) -> bool {
        let kept = self.kept.load(Relaxed).wrapping_add(1);
        self.kept.store(kept, Relaxed);
        if !kept.is_multiple_of(POLLS_BETWEEN_LOOKS) {
            return false;
        }
        let (now, since) = (self.clock.now_ns(), self.kept_since.load(Relaxed));
        let hogging = since != 0 && now - since >= self.keep_ns.load(Relaxed);
        if since == 0 || hogging {
            self.kept_since.store(now, Relaxed);
        }
        hogging
    }

    /// Called when a poll lets go of the interpreter because it can block.
    pub fn let_go(&self) {
        self.kept_since.store(0, Relaxed);
    }

    /// Reads CPython's switch interval, which decides how long the loop may keep the interpreter.
    pub fn read_switch_interval(&self, py: Python<'_>) -> PyResult<()> {
        let seconds: f64 = self.names.getswitchinterval.call0(py)?.extract(py)?;
        self.keep_ns.store((seconds * 4e9) as u64, Relaxed);
        Ok(())
    }

    pub fn is_running(&self) -> bool {
        self.thread_id.load(Relaxed) != 0
    }

    /// `BaseEventLoop._check_thread`, for debug mode.
    pub fn check_thread(&self) -> PyResult<()> {
        if self.is_running() && !self.is_own_thread() {
            return Err(PyRuntimeError::new_err(
                "Non-thread-safe operation invoked on an event loop other than the current one",
            ));
        }
        Ok(())
    }

    // ------------------------------------------------------------------------------------------ the end

    /// Refuses everything from here on and lets go of all that the loop holds.
    pub fn release(&self, py: Python<'_>) {
        self.closed.store(true, Relaxed);
        let sent = self.inbox.close();
        self.waker.close();
        let held = self.state.with(py, |state| {
            let timers = state.timers.drain();
            let spare = (std::mem::take(&mut state.spare_handles), std::mem::take(&mut state.spare_timers));
            let gathered = (std::mem::take(&mut state.gathered), std::mem::take(&mut state.gathered_until));
            (state.ready.drain(), timers, state.reactor.close(), gathered, spare)
        });
        for timer in &held.1 {
            timer.get().unschedule();
            track(timer.bind(py));
        }
        for entry in sent.iter().chain(&held.0) {
            if let Entry::Handle(handle) = entry {
                track(handle.bind(py));
            }
        }
        drop((sent, held));
        self.empty_context.clear(py);
        #[cfg(feature = "embed")]
        self.host.closed();
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let visit_entry = |entry: &Entry| match entry {
            Entry::Handle(handle) => Handle::traverse_from_queue(handle, visit),
            _ => Ok(()),
        };
        // Threads leave handles here with the interpreter held only, so that a collection finds the same ones throughout.
        self.inbox.try_visit(visit_entry)?;
        let visit_state = |state: &State| {
            state.ready.iter().try_for_each(visit_entry)?;
            let timers = state.timers.iter().chain(&state.spare_timers);
            timers
                .map(TimerHandle::as_handle)
                .try_for_each(|timer| Handle::traverse_from_queue(timer, visit))?;
            state.spare_handles.iter().try_for_each(|handle| Handle::traverse_from_queue(handle, visit))?;
            let gathered = state.gathered.iter().chain(state.gathered_until.iter().map(|(_, native)| native));
            gathered.into_iter().try_for_each(|native| visit.call(&native.object))?;
            state.reactor.sources().try_for_each(|source| source.traverse(visit))
        };
        self.state.peek(visit_state).unwrap_or(Ok(()))
    }
}

/// The identity that `threading.get_ident()` gives the current thread.
#[inline]
pub fn current_thread_id() -> u64 {
    // SAFETY: callable from any thread at any time.
    unsafe { ffi::PyThread_get_thread_ident() as u64 }
}

/// Is this timer still to run?
#[inline]
pub fn is_live(timer: &Py<TimerHandle>) -> bool {
    !TimerHandle::as_handle(timer).get().is_cancelled()
}

fn closed_error() -> PyErr {
    PyRuntimeError::new_err("Event loop is closed")
}
