//! The state of one loop, and the algorithms on it: adding callbacks and timers, registering fds, and what a turn
//! takes.
//!
//! [`LoopCore`] is shared by the loop object and its transports. Its `state` is private to this folder: others call
//! methods, each of which borrows the state once. The core knows handles. Transports it knows only as [`Native`]
//! objects with a table of functions. It never runs callbacks itself; `run.rs` does.

#[cfg(feature = "embed")]
mod ending;
mod gathering;
#[cfg(feature = "embed")]
mod host;
pub mod pulse;
mod registering;
mod scheduling;
pub mod scratch;
mod sources;
mod turn;
mod views;
mod watching;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::error::{Message, no_memory, os_error};
use crate::handle::{Handle, TimerHandle};
use crate::py::cell::LoopCell;
use crate::py::context::EmptyContext;
use crate::py::interpreter::require_gil;
use crate::py::names::{Names, names};
use crate::py::thread_end;
use crate::reactor::Reactor;
use crate::reactor::clock::Clock;
use crate::reactor::metrics::Figures;
use crate::reactor::ready::{Inbox, ReadyQueue};
use crate::reactor::sys::datagrams::ReceiveBatch;
use crate::reactor::timers::{Dead, TimerHeap};
use crate::reactor::token::Token;
use crate::reactor::waker::Waker;
#[cfg(feature = "embed")]
pub use ending::AtClose;
#[cfg(feature = "embed")]
pub use host::{Host, Job};
use pulse::Pulse;
use scratch::Scratch;
pub use scratch::{Buffer, TlsIo};
pub use sources::{Due, FdCallbacks, Kind, Native};
use sources::{Idle, Source};
pub use turn::Look;

/// How many polls come between two looks at how long the loop has kept the GIL.
const POLLS_BETWEEN_LOOKS: u32 = 64;

/// One item of the ready queue.
pub enum Entry {
    /// A callback.
    Handle(Py<Handle>),
    /// This registration is ready; its owner is to be called.
    Io(Token),
    /// Work of a thread of the program that hosts Python.
    #[cfg(feature = "embed")]
    Job(Box<Job>),
}

/// What only the thread that holds the GIL touches.
struct State {
    reactor: Reactor<Source>,
    ready: ReadyQueue<Entry>,
    timers: TimerHeap<Py<TimerHandle>>,
    /// Transports that keep a write back until the current callback returns.
    gathered: VecDeque<Native>,
    /// Transports that keep a write back until a time, in nanoseconds of the clock. The earliest comes first.
    gathered_until: VecDeque<(u64, Native)>,
    /// Registrations that nobody waits for at the moment. A coroutine that has received something usually waits for
    /// more in the next turn, and then finds its registration here. They end when the loop is about to block.
    lingering: Vec<Token>,
    /// Handles and timers to use again. They are empty, and nobody else refers to them.
    spare_handles: Vec<Py<Handle>>,
    spare_timers: Vec<Py<TimerHandle>>,
}

/// The core of a loop as a Python object: by it, Python passes the core to what it makes for the loop.
#[pyclass(frozen, module = "rloop._rloop")]
pub struct CoreRef(pub Arc<LoopCore>);

/// One event loop.
pub struct LoopCore {
    state: LoopCell<State>,
    /// Entries of other threads.
    inbox: Inbox<Entry>,
    waker: Arc<Waker>,
    /// The loop's clock.
    pub clock: Clock,
    /// What `loop.metrics()` shows. The transports count here, too.
    pub figures: Arc<Figures>,
    /// How many files are registered, and the counter of dead timers: see [`LoopCore::read_figures`].
    fd_count: Arc<AtomicUsize>,
    dead_timers: Arc<Dead>,
    /// True if a subclass, or this loop alone, has its own `time()`. Timers go by it then, as on asyncio.
    pub custom_time: AtomicBool,
    /// True if `call_later` must call the methods `time` and `call_at`, because they are the program's own.
    pub timers_by_methods: AtomicBool,
    /// True if the program has replaced `loop._selector.select`. Every turn waits by calling that then.
    pub waits_by_program: AtomicBool,
    /// True if the next `_run_once()` is to run turns until `stop()` was called.
    pub until_stopped: AtomicBool,
    /// Python's objects that Rust needs by name.
    pub names: &'static Names,
    /// The context of callbacks that were scheduled in an empty one.
    pub empty_context: EmptyContext,
    /// What the transports receive into. It is borrowed during one system call only.
    pub scratch: LoopCell<Scratch>,
    /// What TLS layers receive into, and encrypt into. All layers share it.
    pub tls_io: LoopCell<TlsIo>,
    /// What datagram transports receive into, made by the first of them. It is borrowed as `scratch` is.
    pub datagrams: LoopCell<Option<ReceiveBatch>>,
    /// True once the loop was closed.
    pub closed: AtomicBool,
    /// True from `stop()` on, until the turn is complete.
    pub stopping: AtomicBool,
    /// True in debug mode.
    pub debug: AtomicBool,
    /// True in debug mode, and while somebody watches the loop: see [`LoopCore::look_who_observes`].
    observed: AtomicBool,
    /// `threading.get_ident()` of the thread that runs the loop; 0 while none does.
    pub thread_id: AtomicU64,
    /// Counts the polls that have kept the GIL: see [`LoopCore::is_hogging`].
    kept: AtomicU32,
    /// When the GIL was first seen to be kept, in nanoseconds of the clock; 0: not since it was released.
    kept_since: AtomicU64,
    /// For how many nanoseconds the GIL may be kept.
    keep_ns: AtomicU64,
    /// The callback that is running, as [`Moment::to_bits`](crate::reactor::moment::Moment); 0 between turns.
    moment: AtomicU64,
    /// The registration whose native owner is being called, as [`Token::to_bits`]; 0 while none is. See
    /// [`LoopCore::call_owner`].
    called: AtomicU64,
    /// When the first transport that keeps a write back is to be flushed: see [`LoopCore::gather`].
    gather_due: AtomicU64,
    /// The number of the last turn.
    turns: AtomicU32,
    /// What is kept for those who watch the loop.
    pub pulse: Pulse,
    /// What is shared with the program that hosts Python.
    #[cfg(feature = "embed")]
    pub host: Host,
}

impl LoopCore {
    /// The core of a new loop.
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
        let core = Arc::new(Self {
            inbox: Inbox::new(),
            waker,
            clock: Clock,
            figures: Arc::new(Figures::new()),
            fd_count: state.reactor.fd_count().clone(),
            dead_timers: state.timers.dead().clone(),
            state: LoopCell::new(state),
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
            observed: AtomicBool::new(false),
            thread_id: AtomicU64::new(0),
            kept: AtomicU32::new(0),
            kept_since: AtomicU64::new(0),
            keep_ns: AtomicU64::new(u64::MAX),
            moment: AtomicU64::new(0),
            called: AtomicU64::new(0),
            gather_due: AtomicU64::new(gathering::NOTHING),
            turns: AtomicU32::new(0),
            pulse: Pulse::new(),
            #[cfg(feature = "embed")]
            host: Host::default(),
        });
        core.enlist();
        Ok(core)
    }

    // ------------------------------------------------------------------------------------------ threads

    /// True on the thread that runs the loop; false while none does.
    #[inline]
    pub fn is_own_thread(&self) -> bool {
        self.thread_id.load(Relaxed) == current_thread_id()
    }

    /// Called for each poll that need not block. True if it must release the GIL all the same, for the sake of other
    /// threads.
    ///
    /// CPython hands the GIL over between two bytecodes, when another thread has requested it. A loop whose callbacks
    /// are all written in C runs no bytecode, for example with an `add_reader` on an fd that is always ready. Then
    /// nothing but this releases it.
    ///
    /// A waiting thread requests the GIL only after one full switch interval without a release; a release that comes
    /// sooner restarts its wait. So the loop releases the GIL after four intervals.
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

    /// Notes that a poll releases the GIL.
    pub fn note_gil_release(&self) {
        self.kept_since.store(0, Relaxed);
    }

    /// Reads CPython's switch interval, which decides how long the loop may keep the GIL.
    pub fn read_switch_interval(&self, py: Python<'_>) -> PyResult<()> {
        let seconds: f64 = self.names.getswitchinterval.call0(py)?.extract(py)?;
        self.keep_ns.store((seconds * 4e9) as u64, Relaxed);
        Ok(())
    }

    /// True while a thread runs the loop.
    pub fn is_running(&self) -> bool {
        self.thread_id.load(Relaxed) != 0
    }

    /// `BaseEventLoop._check_thread`, for debug mode.
    pub fn check_thread(&self) -> PyResult<()> {
        if self.is_running() && !self.is_own_thread() {
            return Err(PyRuntimeError::new_err(Message(
                "Non-thread-safe operation invoked on an event loop other than the current one",
            )));
        }
        Ok(())
    }

    // ------------------------------------------------------------------------------------------ the end

    /// Closes the loop: it accepts nothing any more, and drops all that it holds.
    pub fn release(&self, py: Python<'_>) {
        self.closed.store(true, Relaxed);
        // First the inbox: a thread that sends something from here on is refused, and nothing is lost without a word.
        let sent = self.inbox.close();
        self.waker.close();
        let held = self.state.with(py, |state| {
            let timers = state.timers.drain();
            let spare = (std::mem::take(&mut state.spare_handles), std::mem::take(&mut state.spare_timers));
            let gathered = (std::mem::take(&mut state.gathered), std::mem::take(&mut state.gathered_until));
            (state.ready.drain(), timers, state.reactor.close(), gathered, spare)
        });
        held.1.iter().for_each(|timer| timer.get().unschedule());
        // What was held may have finalizers. They run here, where nothing is borrowed and the loop is closed already.
        drop((sent, held));
        self.empty_context.clear(py);
        #[cfg(feature = "embed")]
        self.host.ending.complete();
    }

    /// Shows the garbage collector what the loop holds.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let visit_entry = |entry: &Entry| match entry {
            Entry::Handle(handle) => visit.call(handle),
            _ => Ok(()),
        };
        // A thread must hold the GIL to send a handle, so that the inbox does not change during a collection.
        self.inbox.try_visit(visit_entry)?;
        // While the state is borrowed, nothing is shown. Then this collection takes the loop and what it holds for
        // alive.
        let visit_state = |state: &State| {
            state.ready.iter().try_for_each(visit_entry)?;
            state.timers.iter().chain(&state.spare_timers).try_for_each(|timer| visit.call(timer))?;
            state.spare_handles.iter().try_for_each(|handle| visit.call(handle))?;
            let gathered = state.gathered.iter().chain(state.gathered_until.iter().map(|(_, native)| native));
            gathered.into_iter().try_for_each(|native| visit.call(&native.object))?;
            state.reactor.registrations().try_for_each(|(_, source)| source.traverse(visit))
        };
        self.state.peek(visit, visit_state).unwrap_or(Ok(()))
    }
}

/// The current thread's `threading.get_ident()`.
#[inline]
fn current_thread_id() -> u64 {
    // SAFETY: callable from any thread at any time.
    unsafe { ffi::PyThread_get_thread_ident() as u64 }
}

/// True if this timer was not cancelled.
#[inline]
fn is_live(timer: &Py<TimerHandle>) -> bool {
    !TimerHandle::as_handle(timer).get().is_cancelled()
}

/// The exception for everything that is asked of a closed loop.
fn closed_error() -> PyErr {
    PyRuntimeError::new_err(Message("Event loop is closed"))
}
