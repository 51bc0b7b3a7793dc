//! The state of one loop, and every way to add work to it. `run.rs` takes the work off again.
//!
//! [`LoopCore`] is shared by the loop object and its transports. It knows handles, and of everything else only how it
//! is told of readiness ([`Native`]); it never runs user code itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use pyo3::exceptions::{PyOverflowError, PyRuntimeError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyFloat;

use crate::error::os_error;
use crate::handle::{Callback, Handle, Time, TimerHandle};
use crate::py::cell::LoopCell;
use crate::py::context::EmptyContext;
use crate::py::gc::{track, untrack};
use crate::py::names::{Names, names};
use crate::reactor::clock::{Clock, deadline_ns};
use crate::reactor::readiness::Readiness;
use crate::reactor::ready::{Inbox, ReadyQueue};
use crate::reactor::timers::TimerHeap;
use crate::reactor::token::Token;
use crate::reactor::waker::Waker;
use crate::reactor::{Mode, Reactor};

/// Most handles, and most timers, that a loop keeps to use again.
const SPARE_HANDLES: usize = 8192;
/// How often a loop that does not block looks at how long it has kept the interpreter.
const POLLS_BETWEEN_LOOKS: u32 = 64;
/// Size of the buffer that all transports of a loop receive into, in bytes.
const SCRATCH: usize = 64 * 1024;

/// One thing to run.
pub enum Entry {
    Handle(Py<Handle>),
    /// The owner of this registration is to be told of readiness.
    Io(Token),
}

/// Whom the events of a registration concern.
pub enum Source {
    /// Callbacks of `add_reader` and `add_writer`.
    Callbacks(FdCallbacks),
    Native(Native),
}

/// Who waits for one fd on behalf of the user: callbacks of `add_reader` and `add_writer`, or futures of the `sock_*`
/// coroutines, which are completed once. Invariant: one of the two at most for a direction; as in asyncio the later
/// takes the place of the earlier.
#[derive(Default)]
pub struct FdCallbacks {
    pub reader: Option<Py<Handle>>,
    pub writer: Option<Py<Handle>>,
    pub read_waiter: Option<Py<PyAny>>,
    pub write_waiter: Option<Py<PyAny>>,
    /// The file object that the fd was given as: it can be looked up by it once it is closed.
    pub file: Option<Py<PyAny>>,
}

impl FdCallbacks {
    /// The directions that somebody waits for.
    pub fn wanted(&self) -> Readiness {
        let mut wanted = Readiness::NONE;
        if self.reader.is_some() || self.read_waiter.is_some() {
            wanted |= Readiness::READABLE;
        }
        if self.writer.is_some() || self.write_waiter.is_some() {
            wanted |= Readiness::WRITABLE;
        }
        wanted
    }

    /// The places for one direction: the callback's and the waiter's.
    pub fn places(&mut self, direction: Readiness) -> (&mut Option<Py<Handle>>, &mut Option<Py<PyAny>>) {
        if direction == Readiness::READABLE {
            (&mut self.reader, &mut self.read_waiter)
        } else {
            (&mut self.writer, &mut self.write_waiter)
        }
    }

    /// What to call now that the fd is ready in these directions: the callbacks stay, the waiters go.
    fn due(&mut self, py: Python<'_>, readiness: Readiness) -> Self {
        let clone = |handle: &Option<Py<Handle>>| handle.as_ref().map(|handle| handle.clone_ref(py));
        let mut due = Self::default();
        if readiness.contains(Readiness::READABLE) {
            due.reader = clone(&self.reader);
            due.read_waiter = self.read_waiter.take();
        }
        if readiness.contains(Readiness::WRITABLE) {
            due.writer = clone(&self.writer);
            due.write_waiter = self.write_waiter.take();
        }
        due
    }
}

/// A native object that takes part in the loop, such as a transport.
pub struct Native {
    pub object: Py<PyAny>,
    pub kind: &'static Kind,
}

/// How to call a [`Native`]: plain functions, so that the core need not know the classes.
pub struct Kind {
    /// The fd is ready. Err: SystemExit or KeyboardInterrupt, which leave the loop.
    pub on_ready: fn(&Bound<'_, PyAny>, Readiness) -> PyResult<()>,
    /// The turn is over: send what was written in it.
    pub flush: fn(&Bound<'_, PyAny>) -> PyResult<()>,
    /// Must nobody else use the fd?
    pub owns_fd: fn(&Bound<'_, PyAny>) -> bool,
}

impl Native {
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        Self { object: self.object.clone_ref(py), kind: self.kind }
    }
}

/// What only the holder of the interpreter touches.
pub struct State {
    pub reactor: Reactor<Source>,
    pub ready: ReadyQueue<Entry>,
    pub timers: TimerHeap<Py<TimerHandle>>,
    /// Transports that have data to send at the end of this turn.
    pub unflushed: Vec<Native>,
    /// Registrations that nobody waits for at the moment. A coroutine that received something usually waits for more
    /// in the next turn, and finds its registration again; they end when the loop is about to block.
    pub lingering: Vec<Token>,
    /// Handles and timers to use again; empty, and known to nobody else.
    spare_handles: Vec<Py<Handle>>,
    spare_timers: Vec<Py<TimerHandle>>,
}

/// One event loop.
pub struct LoopCore {
    pub state: LoopCell<State>,
    pub inbox: Inbox<Entry>,
    pub waker: Waker,
    pub clock: Clock,
    /// Has a subclass its own `time()`? Timers go by it then, as on asyncio.
    pub custom_time: AtomicBool,
    pub names: &'static Names,
    /// Where callbacks run that were scheduled in an empty context.
    pub empty_context: EmptyContext,
    /// What the transports receive into: never borrowed while anything else runs.
    pub scratch: LoopCell<Scratch>,
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
    /// True from the end of a poll to the flush at the end of the turn.
    pub in_turn: AtomicBool,
}

impl LoopCore {
    pub fn new(py: Python<'_>) -> PyResult<Arc<Self>> {
        let (reactor, waker) = Reactor::new().map_err(|error| os_error(py, &error))?;
        let state = State {
            reactor,
            ready: ReadyQueue::new(),
            timers: TimerHeap::new(),
            unflushed: Vec::new(),
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
            names: names(py)?,
            empty_context: EmptyContext::default(),
            scratch: LoopCell::new(Scratch::new()),
            closed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            debug: AtomicBool::new(false),
            thread_id: AtomicU64::new(0),
            kept: AtomicU32::new(0),
            kept_since: AtomicU64::new(0),
            keep_ns: AtomicU64::new(u64::MAX),
            in_turn: AtomicBool::new(false),
        }))
    }

    // ------------------------------------------------------------------------------------------ callbacks

    /// `BaseEventLoop._check_closed`.
    #[inline]
    pub fn check_closed(&self) -> PyResult<()> {
        if self.closed.load(Relaxed) { Err(closed_error()) } else { Ok(()) }
    }

    /// Schedules a callback for the next turn.
    #[inline]
    pub fn call_soon<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        callback: Callback<'_, 'py>,
    ) -> PyResult<Bound<'py, Handle>> {
        let handle = self.handle(event_loop, callback)?;
        self.push(event_loop.py(), Entry::Handle(handle.clone().unbind()));
        Ok(handle)
    }

    /// Schedules a callback from any thread, and wakes the loop.
    pub fn call_soon_threadsafe<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        callback: Callback<'_, 'py>,
    ) -> PyResult<Bound<'py, Handle>> {
        let py = event_loop.py();
        let handle = self.handle(event_loop, callback)?;
        if self.names.cancel_waits {
            handle.get().track_running();
        }
        let entry = Entry::Handle(handle.clone().unbind());
        if self.is_own_thread() {
            self.push(py, entry);
        } else {
            if self.inbox.send(entry).is_err() {
                return Err(closed_error());
            }
            self.wake(py)?;
        }
        Ok(handle)
    }

    /// Schedules a callback for `when`, a number of seconds of the loop's clock.
    pub fn call_at<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        when: Bound<'py, PyAny>,
        callback: Callback<'_, 'py>,
    ) -> PyResult<Bound<'py, TimerHandle>> {
        let seconds = match when.extract::<f64>() {
            Err(error) if error.is_instance_of::<PyOverflowError>(when.py()) => {
                if when.lt(0)? {
                    f64::NEG_INFINITY
                } else {
                    f64::INFINITY
                }
            }
            seconds => seconds?,
        };
        let given = if when.is_exact_instance_of::<PyFloat>() { None } else { Some(when.unbind()) };
        self.call_at_time(event_loop, Time { seconds, given }, callback)
    }

    pub fn call_at_time<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        time: Time,
        callback: Callback<'_, 'py>,
    ) -> PyResult<Bound<'py, TimerHandle>> {
        let (py, debug) = (event_loop.py(), self.debug.load(Relaxed));
        let deadline = deadline_ns(time.seconds);
        let mut garbage = Vec::new();
        let spare = self.state.with(py, |state| {
            if state.timers.is_mostly_dead() {
                state.timers.compact(is_live, &mut garbage);
            }
            if debug { None } else { state.spare_timers.pop() }
        });
        self.discard(py, garbage);
        let timer = match spare {
            Some(timer) => {
                let timer = timer.into_bound(py);
                TimerHandle::renew(&timer, callback, time)?;
                timer
            }
            None => {
                let handle = Handle::new(event_loop, callback, debug)?;
                let dead = self.state.with(py, |state| state.timers.dead().clone());
                let timer = Bound::new(py, TimerHandle::new(handle, time, dead))?;
                untrack(&timer);
                timer
            }
        };
        let entry = timer.clone().unbind();
        self.state.with(py, |state| state.timers.push(deadline, entry));
        Ok(timer)
    }

    /// A handle, not scheduled yet.
    #[inline]
    pub fn handle<'py>(
        &self,
        event_loop: &Bound<'py, PyAny>,
        callback: Callback<'_, 'py>,
    ) -> PyResult<Bound<'py, Handle>> {
        let py = event_loop.py();
        if !self.debug.load(Relaxed)
            && let Some(spare) = self.state.with(py, |state| state.spare_handles.pop())
        {
            let handle = spare.into_bound(py);
            handle.get().renew(callback)?;
            return Ok(handle);
        }
        let handle = Bound::new(py, Handle::new(event_loop, callback, self.debug.load(Relaxed))?)?;
        untrack(&handle);
        Ok(handle)
    }

    /// Takes a handle back that has run or never will, to use it again if nobody else refers to it.
    #[inline]
    pub fn recycle(&self, handle: Bound<'_, Handle>) {
        let py = handle.py();
        if !Handle::recycle(&handle) {
            return;
        }
        if handle.is_exact_instance_of::<Handle>() {
            self.state.with(py, |state| {
                if state.spare_handles.len() < SPARE_HANDLES {
                    state.spare_handles.push(handle.unbind());
                }
            });
        } else if let Ok(timer) = handle.cast_into::<TimerHandle>() {
            self.state.with(py, |state| {
                if state.spare_timers.len() < SPARE_HANDLES {
                    state.spare_timers.push(timer.unbind());
                }
            });
        }
    }

    /// Takes timers back that left the heap without having run. Outside of any borrow: what they hold may have
    /// finalizers.
    pub fn discard(&self, py: Python<'_>, timers: Vec<Py<TimerHandle>>) {
        for timer in timers {
            timer.get().unschedule();
            self.recycle(timer.into_bound(py).into_super());
        }
    }

    /// Adds an entry behind everything that any thread has added before.
    #[inline]
    pub fn push(&self, py: Python<'_>, entry: Entry) {
        self.state.with(py, |state| {
            state.ready.receive(&self.inbox);
            state.ready.push(entry);
        });
    }

    /// Makes a loop that is parked in its poll go on; from any thread.
    pub fn wake(&self, py: Python<'_>) -> PyResult<()> {
        self.waker.wake().map_err(|error| os_error(py, &error))
    }

    /// Nanoseconds by which timers go.
    #[inline]
    pub fn now_ns(&self, event_loop: &Bound<'_, PyAny>) -> PyResult<u64> {
        if !self.custom_time.load(Relaxed) {
            return Ok(self.clock.now_ns());
        }
        Ok(deadline_ns(event_loop.call_method0(&self.names.time)?.extract()?))
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
        let seconds: f64 = py.import("sys")?.call_method0("getswitchinterval")?.extract()?;
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

    // ------------------------------------------------------------------------------------------ readiness

    /// Takes `fd` for a native object; [`LoopCore::activate`] starts watching it. Callbacks that the user has on the
    /// same fd are cancelled, as asyncio replaces them; so are those of a file that was closed and whose number is in
    /// use again.
    pub fn reserve(&self, py: Python<'_>, fd: i32, native: Native) -> PyResult<Token> {
        let (previous, token) = self.state.with(py, |state| {
            let previous = state.reactor.token_of(fd).and_then(|token| state.reactor.deregister(token));
            (previous, state.reactor.reserve(fd, Mode::Edge, Source::Native(native)))
        });
        previous.map_or(Ok(()), |previous| previous.cancel(py))?;
        Ok(token)
    }

    /// Has the kernel watch a reserved fd.
    pub fn activate(&self, py: Python<'_>, token: Token) -> PyResult<()> {
        self.state.with(py, |state| state.reactor.activate(token)).map_err(|error| os_error(py, &error))
    }

    /// Watches `fd` in `mode`, instead of whoever did so far.
    pub fn register(&self, py: Python<'_>, fd: i32, mode: Mode, source: Source) -> PyResult<Token> {
        let (previous, result) = self.state.with(py, |state| {
            let previous = state.reactor.token_of(fd).and_then(|token| state.reactor.deregister(token));
            (previous, state.reactor.register(fd, mode, source))
        });
        previous.map_or(Ok(()), |previous| previous.cancel(py))?;
        result.map_err(|(error, source)| {
            drop(source);
            os_error(py, &error)
        })
    }

    /// Ends a registration; to be called before its fd is closed.
    pub fn deregister(&self, py: Python<'_>, token: Token) {
        drop(self.state.with(py, |state| state.reactor.deregister(token)));
    }

    /// Has the owner of `token` told of `readiness` in the next turn.
    pub fn requeue(&self, py: Python<'_>, token: Token, readiness: Readiness) {
        self.state.with(py, |state| {
            if state.reactor.report(token, readiness) {
                state.ready.receive(&self.inbox);
                state.ready.push(Entry::Io(token));
            }
        });
    }

    /// What the readiness of a registration means now, to be run outside of the borrow.
    pub fn take_due(&self, py: Python<'_>, token: Token) -> Option<(Readiness, Source)> {
        self.state.with(py, |state| {
            let readiness = state.reactor.take_ready(token);
            match state.reactor.source_mut(token)? {
                Source::Native(native) => Some((readiness, Source::Native(native.clone_ref(py)))),
                Source::Callbacks(callbacks) => {
                    let due = callbacks.due(py, readiness);
                    if due.read_waiter.is_some() || due.write_waiter.is_some() {
                        let wanted = callbacks.wanted();
                        state.reactor.arm(token, wanted);
                        if wanted.is_none() {
                            state.lingering.push(token);
                        }
                    }
                    Some((readiness, Source::Callbacks(due)))
                }
            }
        })
    }

    /// Ends the registrations that nobody waits for.
    pub fn end_lingering(&self, py: Python<'_>) {
        let ended: Vec<Source> = self.state.with(py, |state| {
            let reactor = &mut state.reactor;
            let unwanted = |token: &Token| {
                matches!(reactor.source(*token), Some(Source::Callbacks(callbacks)) if callbacks.wanted().is_none())
            };
            let tokens: Vec<Token> = state.lingering.drain(..).filter(unwanted).collect();
            tokens.into_iter().filter_map(|token| state.reactor.deregister(token)).collect()
        });
        drop(ended);
    }

    /// The native object that `fd` belongs to, so that nobody else may watch it.
    pub fn owner_of<'py>(&self, py: Python<'py>, fd: i32) -> Option<Bound<'py, PyAny>> {
        let native = self.state.with(py, |state| {
            match state.reactor.token_of(fd).and_then(|token| state.reactor.source(token)) {
                Some(Source::Native(native)) => Some(native.clone_ref(py)),
                _ => None,
            }
        })?;
        let object = native.object.into_bound(py);
        (native.kind.owns_fd)(&object).then_some(object)
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
            (state.ready.drain(), timers, state.reactor.close(), std::mem::take(&mut state.unflushed), spare)
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
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let visit_state = |state: &State| {
            for entry in state.ready.iter() {
                if let Entry::Handle(handle) = entry {
                    Handle::traverse_from_queue(handle, visit)?;
                }
            }
            let timers = state.timers.iter().chain(&state.spare_timers);
            timers
                .map(TimerHandle::as_handle)
                .try_for_each(|timer| Handle::traverse_from_queue(timer, visit))?;
            state.spare_handles.iter().try_for_each(|handle| Handle::traverse_from_queue(handle, visit))?;
            state.unflushed.iter().try_for_each(|native| visit.call(&native.object))?;
            state.reactor.sources().try_for_each(|source| source.traverse(visit))
        };
        self.state.peek(visit_state).unwrap_or(Ok(()))
    }
}

impl Source {
    /// Cancels the callbacks, if that is what it is.
    pub fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        if let Self::Callbacks(callbacks) = self {
            for handle in [&callbacks.reader, &callbacks.writer].into_iter().flatten() {
                Handle::cancel_once(handle.bind(py))?;
            }
        }
        Ok(())
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Callbacks(callbacks) => {
                let handles = callbacks.reader.iter().chain(&callbacks.writer);
                handles.into_iter().try_for_each(|handle| Handle::traverse_from_queue(handle, visit))?;
                visit.call(&callbacks.read_waiter)?;
                visit.call(&callbacks.write_waiter)?;
                visit.call(&callbacks.file)
            }
            Self::Native(native) => visit.call(&native.object),
        }
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

/// Memory to receive into, aligned to a page: the kernel copies up to twice as slowly into addresses that are 16
/// past a multiple of 64, which is what a large allocation gets.
pub struct Scratch(Box<[Page]>);

#[repr(C, align(4096))]
#[derive(Clone)]
struct Page([std::mem::MaybeUninit<u8>; 4096]);

impl Scratch {
    fn new() -> Self {
        Self(vec![Page([std::mem::MaybeUninit::uninit(); 4096]); SCRATCH / 4096].into_boxed_slice())
    }

    pub fn as_mut_slice(&mut self) -> &mut [std::mem::MaybeUninit<u8>] {
        let len = self.0.len() * 4096;
        // SAFETY: pages are contiguous arrays of possibly uninitialised bytes, `len` of them in all.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}
