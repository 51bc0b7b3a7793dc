//! One turn of the loop, as named steps. Callbacks are started here and nowhere else; protocols are also called by
//! methods of transports.
//!
//! The order of the steps is asyncio's (`BaseEventLoop._run_once`): first the poll, then the entries. Entries for what
//! the poll found come before timers that are due. A turn runs exactly the entries that were in the queue when it began
//! to run them. What the steps take from the loop's state is in `core/turn.rs`.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;

use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::core::{Due, Entry, Look, LoopCore, Native};
use crate::error::os_error;
use crate::handle::Handle;
use crate::py::calls;
use crate::py::context::{EmptyBatch, EmptyContext};
use crate::py::exception_handler;
use crate::py::fastcall::panic_error;
use crate::py::new;
use crate::py::thread_end;
use crate::reactor::Poller;
use crate::reactor::clock::seconds;
use crate::reactor::metrics::Figure;
use crate::reactor::token::Token;

/// The longest wait in one poll, in nanoseconds: a day (asyncio's `MAXIMUM_SELECT_TIMEOUT`).
const MAX_TIMEOUT: u64 = 24 * 3600 * 1_000_000_000;

/// Runs turns until `stop()` was called. The turn in which it is called is completed.
pub fn run_until_stopped(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<()> {
    let _running = thread_end::running(event_loop.py());
    let _measured = Measured::begin(core);
    loop {
        turn(event_loop, core)?;
        if core.stopping.load(Relaxed) {
            return Ok(());
        }
    }
}

/// Runs one turn.
pub fn run_turn(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<()> {
    let _running = thread_end::running(event_loop.py());
    let _measured = Measured::begin(core);
    turn(event_loop, core)
}

/// While it lives, the time that passes is counted as the loop's.
struct Measured<'a>(&'a LoopCore);

impl<'a> Measured<'a> {
    fn begin(core: &'a LoopCore) -> Self {
        core.figures.run_begins(core.clock.now_ns());
        Self(core)
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        self.0.figures.run_ends(self.0.clock.now_ns());
    }
}

/// One turn: poll, queue timers, run entries, send what was kept back. Where a step fails, those that others rely on
/// are done all the same, and the first error is returned.
fn turn(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<()> {
    let timeout = poll_timeout(event_loop, core)?;
    match core.waits_by_program.load(Relaxed) {
        false => poll(event_loop, core, timeout)?,
        true => {
            let waited = wait_by_program(event_loop, core, timeout);
            // Also after an exception: what was found is not found again.
            let queued = core.queue_found(event_loop.py());
            waited.and(queued)?;
        }
    }
    core.begin_turn();
    // The only reading of the clock in a turn that has not waited.
    let now = core.figures.turn_begins(|| core.clock.now_ns());
    let queued = queue_due_timers(event_loop, core, now);
    let result = queued.and_then(|()| run_ready(event_loop, core, now));
    // Also when an exception leaves the loop: on asyncio, each write would have been sent by now.
    core.end_turn();
    if core.gathers() {
        return result.and(send_gathered(event_loop, core, true));
    }
    // A result without an error is not copied.
    result?;
    Ok(())
}

/// For how many nanoseconds the poll may wait. `None`: until something happens.
#[inline]
fn poll_timeout(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<Option<u64>> {
    core.awake();
    match core.look(event_loop.py()) {
        Look::Ready => Ok(Some(0)),
        Look::Nothing => Ok(core.stopping.load(Relaxed).then_some(0)),
        Look::Timers => time_to_next(event_loop, core),
    }
}

/// The same when there are timers.
fn time_to_next(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<Option<u64>> {
    let py = event_loop.py();
    let deadline = loop {
        let mut garbage = Vec::new();
        let deadline = core.next_deadline(py, &mut garbage);
        if garbage.is_empty() {
            break deadline;
        }
        // Dropping these timers may run finalizers, which may schedule something. So look again.
        core.discard(py, garbage);
    };
    match deadline {
        None | Some(0) => Ok(deadline),
        Some(deadline) => Ok(Some(deadline.saturating_sub(core.now_ns(event_loop)?).min(MAX_TIMEOUT))),
    }
}

/// Asks the kernel what is ready, and queues an entry for each registration that it has found.
fn poll(event_loop: &Bound<'_, PyAny>, core: &LoopCore, timeout: Option<u64>) -> PyResult<()> {
    let py = event_loop.py();
    if timeout == Some(0) && !core.needs_poll(py) {
        return py.check_signals();
    }
    let polled = find(event_loop, core, timeout);
    // Also after an exception: what was found is not found again.
    let queued = core.queue_found(py);
    polled.and(queued)
}

/// Asks the kernel what is ready. The GIL is released only if this can block. An error can also be the exception of a
/// signal's Python handler.
fn find(event_loop: &Bound<'_, PyAny>, core: &LoopCore, timeout: Option<u64>) -> PyResult<()> {
    let py = event_loop.py();
    // Callbacks of `add_reader` that have not used up their data come first, and then the poll must not wait.
    let timeout = match core.recheck_level(py) {
        Err(error) => return Err(os_error(&error)),
        Ok(true) => Some(0),
        Ok(false) => before_waiting(event_loop, core, timeout)?,
    };
    let polled = match core.take_poller(py, timeout != Some(0)) {
        Some(poller) => wait(py, core, poller, timeout),
        None => Ok(()),
    };
    // CPython runs the Python handlers of signals here: a callback may be all native and run no bytecode.
    let signals = py.check_signals();
    if timeout != Some(0) && signals.is_ok() && core.names.profile_function.is_set(py) {
        core.names.outside_tasks.call0(py)?;
    }
    match polled {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(os_error(&error)),
        _ => signals?,
    }
    Ok(())
}

/// The last steps of a loop that is about to block. Returns the timeout of the poll, which may have to be 0 now.
fn before_waiting(
    event_loop: &Bound<'_, PyAny>,
    core: &LoopCore,
    timeout: Option<u64>,
) -> PyResult<Option<u64>> {
    if timeout == Some(0) {
        return Ok(timeout);
    }
    let py = event_loop.py();
    let profiled = core.names.profile_function.is_set(py);
    if profiled {
        core.names.outside_tasks.call0(py)?;
    }
    // A profiler, or the finalizers of what ends here, may have scheduled something. So look again.
    let timeout = match core.end_lingering(py) || profiled {
        true => [timeout, poll_timeout(event_loop, core)?].into_iter().flatten().min(),
        false => timeout,
    };
    Ok(if timeout != Some(0) && core.park() { timeout } else { Some(0) })
}

/// Waits, with a poller that was taken out of the reactor, and puts it back.
fn wait(py: Python<'_>, core: &LoopCore, mut poller: Box<Poller>, timeout: Option<u64>) -> io::Result<()> {
    let result = match timeout {
        Some(0) if !core.is_hogging() => poller.wait(timeout),
        Some(0) => {
            core.note_gil_release();
            py.detach(|| poller.wait(timeout))
        }
        _ => {
            core.note_gil_release();
            core.figures.wait_begins(core.clock.now_ns());
            // From the moment when the kernel has something on, the loop is not idle, though it may wait for the GIL.
            let (result, now) = py.detach(|| (poller.wait(timeout), core.clock.now_ns()));
            core.figures.wait_ends(now);
            result
        }
    };
    core.figures.add(Figure::Polls, 1);
    core.put_poller(py, poller);
    result
}

/// Queues the timers that are due at `now`, a reading of the clock, earliest first.
#[inline]
fn queue_due_timers(event_loop: &Bound<'_, PyAny>, core: &LoopCore, now: u64) -> PyResult<()> {
    if core.has_timers(event_loop.py()) { queue_timers(event_loop, core, now) } else { Ok(()) }
}

/// The same when there are timers.
fn queue_timers(event_loop: &Bound<'_, PyAny>, core: &LoopCore, now: u64) -> PyResult<()> {
    let py = event_loop.py();
    // A program's own clock may stand still, or run ahead of ours.
    let now = if core.custom_time.load(Relaxed) { core.now_ns(event_loop)? } else { now };
    let mut garbage = Vec::new();
    let queued = core.queue_due(py, now, &mut garbage);
    core.discard(py, garbage);
    queued
}

/// Runs the entries that are in the queue now, and none that they add.
fn run_ready(event_loop: &Bound<'_, PyAny>, core: &LoopCore, now: u64) -> PyResult<()> {
    let ready = core.begin_batch(event_loop.py(), now);
    let mut left = ready;
    let result = run_batch(event_loop, core, &mut left);
    core.figures.add(Figure::Callbacks, (ready - left) as u64);
    result
}

/// Runs entries until `left` is 0, also when one of them panics, or until one of them makes the loop end.
fn run_batch(event_loop: &Bound<'_, PyAny>, core: &LoopCore, left: &mut usize) -> PyResult<()> {
    while *left > 0 {
        match catch_unwind(AssertUnwindSafe(|| run_entries(event_loop, core, left))) {
            Ok(result) => result?,
            // The entry that has panicked is gone. The others follow.
            Err(payload) => {
                core.runs_nothing();
                let error = panic_error(payload);
                exception_handler::call(event_loop, core.names, "Panic in a callback", error, &[])?;
            }
        }
    }
    Ok(())
}

/// Runs entries and counts `left` down, until it is 0 or one of them makes the loop end.
fn run_entries(event_loop: &Bound<'_, PyAny>, core: &LoopCore, left: &mut usize) -> PyResult<()> {
    let py = event_loop.py();
    let mut empty = core.empty_context.batch(py);
    while *left > 0 {
        *left -= 1;
        let Some(entry) = core.pop(py) else {
            *left = 0;
            break;
        };
        // Two writes of the same callback belong together; those of two callbacks do not.
        core.next_callback();
        if core.is_observed() && !is_noted(core, &entry) {
            run_entry_observed(event_loop, core, &mut empty, entry)?;
        } else {
            run_entry(py, core, &mut empty, entry)?;
        }
        if core.has_gathered() {
            send_gathered(event_loop, core, false)?;
        }
    }
    Ok(())
}

/// Notes for those who watch the loop that this handle runs. False if nothing was noted: in debug mode, and for an entry
/// that is not a handle, [`run_entry_observed`] does that.
#[inline(always)]
fn is_noted(core: &LoopCore, entry: &Entry) -> bool {
    match entry {
        Entry::Handle(handle) if !core.debug.load(Relaxed) => {
            // `run_entry` takes it back before it gives the handle away.
            core.note_running(handle);
            true
        }
        _ => false,
    }
}

/// Runs one entry. An error is SystemExit or KeyboardInterrupt; all others have gone to the exception handler.
#[inline(always)]
fn run_entry(py: Python<'_>, core: &LoopCore, empty: &mut EmptyBatch<'_, '_>, entry: Entry) -> PyResult<()> {
    match entry {
        Entry::Handle(handle) => {
            let handle = handle.into_bound(py);
            let result = Handle::run(&handle, empty);
            core.runs_nothing();
            // Also after an exception: the handle has run and is not needed any more.
            core.recycle(handle);
            result?;
            Ok(())
        }
        Entry::Io(token) => run_io(py, core, empty, token),
        #[cfg(feature = "embed")]
        Entry::Job(job) => job.run(py, empty),
    }
}

/// As [`run_entry`], in debug mode, or of an entry that is not a handle while somebody watches the loop.
#[cold]
fn run_entry_observed(
    event_loop: &Bound<'_, PyAny>,
    core: &LoopCore,
    empty: &mut EmptyBatch<'_, '_>,
    entry: Entry,
) -> PyResult<()> {
    if core.debug.load(Relaxed) {
        return run_entry_in_debug_mode(event_loop, core, entry);
    }
    let py = event_loop.py();
    let subject = match &entry {
        Entry::Io(token) => core.subject_of(py, *token),
        _ => None,
    };
    let _runs = subject.as_ref().map(|subject| core.runs(subject));
    run_entry(py, core, empty, entry)
}

/// Calls the owner of a registration that is ready.
fn run_io(py: Python<'_>, core: &LoopCore, empty: &mut EmptyBatch<'_, '_>, token: Token) -> PyResult<()> {
    match core.take_due(py, token) {
        None => Ok(()),
        Some(Due::Native(Native { object, kind }, readiness)) => {
            core.call_owner(token, || (kind.on_ready)(&object.into_bound(py), readiness))
        }
        Some(Due::Callbacks(due)) => {
            let mut result = Ok(());
            for waiter in [&due.read_waiter, &due.write_waiter].into_iter().flatten() {
                // Each is completed once. An exception of the first must not keep the second from it.
                result = result.and(complete(core, waiter.bind(py)));
            }
            // If one callback removes the other one, that is cancelled and does not run. If one raises an exception
            // that leaves the loop, the other one runs in the next turn: they are level-triggered.
            for handle in [due.reader, due.writer].into_iter().flatten() {
                result = result.and_then(|()| Handle::run(&handle.into_bound(py), empty));
            }
            result
        }
    }
}

/// Completes a future that waits for readiness.
fn complete(core: &LoopCore, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
    if calls::method(waiter, &core.names.done, [])?.is_truthy()? {
        return Ok(());
    }
    calls::method(waiter, &core.names.set_result, [waiter.py().None().bind(waiter.py())]).map(drop)
}

/// As [`run_entry`], with what asyncio's debug mode adds: `loop._current_handle`, and a warning about slow callbacks.
#[cold]
fn run_entry_in_debug_mode(event_loop: &Bound<'_, PyAny>, core: &LoopCore, entry: Entry) -> PyResult<()> {
    let (py, names) = (event_loop.py(), core.names);
    let subject = match &entry {
        Entry::Handle(handle) if handle.get().is_cancelled() => return Ok(()),
        Entry::Handle(handle) => Some(handle.bind(py).clone().into_any()),
        Entry::Io(token) => core.subject_of(py, *token),
        #[cfg(feature = "embed")]
        Entry::Job(_) => new::string(py, "a callback of the host").ok().map(Bound::into_any),
    };
    let handle = subject.as_ref().filter(|subject| subject.cast::<Handle>().is_ok());
    // A subclass may have a `__setattr__` of its own. If that raises, the entry must run all the same.
    let noted = event_loop.setattr(&names._current_handle, handle);
    let start = core.clock.now_ns();
    let result = {
        // The subject of a host's job is only a text.
        let known = subject.as_ref().filter(|subject| !subject.is_instance_of::<PyString>());
        let _runs = known.map(|known| core.runs(known));
        run_entry(py, core, &mut core.empty_context.batch(py), entry)
    };
    let seconds = (core.clock.now_ns() - start) as f64 / 1e9;
    let forgotten = event_loop.setattr(&names._current_handle, py.None());
    result.and(noted).and(forgotten)?;
    let limit: f64 = event_loop.getattr(&names.slow_callback_duration)?.extract()?;
    if seconds >= limit {
        event_loop.call_method1(&names._slow_callback, (subject, new::float(py, seconds)?))?;
    }
    Ok(())
}

/// Flushes the transports that have kept a write back for long enough, or with `all` every one that keeps a write back.
pub fn send_gathered(event_loop: &Bound<'_, PyAny>, core: &LoopCore, all: bool) -> PyResult<()> {
    let py = event_loop.py();
    let mut result = Ok(());
    while let Some(Native { object, kind }) = core.next_gathered(py, all) {
        let object = object.into_bound(py);
        let sent = match catch_unwind(AssertUnwindSafe(|| (kind.flush)(&object))) {
            Ok(sent) => sent,
            Err(payload) => exception_handler::call(
                event_loop,
                core.names,
                "Panic while sending",
                panic_error(payload),
                &[],
            ),
        };
        // An exception that leaves the loop does so once everything is sent.
        result = result.and(sent);
    }
    result
}

/// The poll of a turn that a program runs by itself, with what `loop._selector` offers.
///
/// The program can do that in the middle of one of our callbacks, and run others. So what was kept back is sent first,
/// and from here on every write is sent at once, until our next turn.
pub fn find_for_program(
    event_loop: &Bound<'_, PyAny>,
    core: &LoopCore,
    timeout: Option<u64>,
) -> PyResult<()> {
    let py = event_loop.py();
    let _running = thread_end::running(py);
    core.end_turn();
    core.report_called_anew(py);
    let sent = send_gathered(event_loop, core, true);
    let busy = core.begin_program_wait(py);
    let timeout = if busy { Some(0) } else { timeout.map(|timeout| timeout.min(MAX_TIMEOUT)) };
    let found = sent.and_then(|()| find(event_loop, core, timeout));
    core.figures.program_goes_on();
    found
}

/// Queues what [`find_for_program`] has found, and the timers that are due.
pub fn queue_found(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<()> {
    core.queue_found(event_loop.py())?;
    queue_due_timers(event_loop, core, core.clock.now_ns())
}

/// Runs an entry that a program has taken out of the queue.
pub fn run_taken(py: Python<'_>, core: &LoopCore, entry: Entry) -> PyResult<()> {
    run_entry(py, core, &mut EmptyContext::default().batch(py), entry)
}

/// Waits by calling `loop._selector.select`, which the program has replaced.
#[cold]
fn wait_by_program(event_loop: &Bound<'_, PyAny>, core: &LoopCore, timeout: Option<u64>) -> PyResult<()> {
    let py = event_loop.py();
    let seconds = match timeout {
        Some(timeout) => new::float(py, seconds(timeout))?.into_any(),
        None => py.None().into_bound(py),
    };
    calls::method(&event_loop.getattr(&core.names._selector)?, &core.names.select, [&seconds]).map(drop)
}
