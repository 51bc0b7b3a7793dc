//! One turn of the loop, as named steps, and the one place where user code is started.
//!
//! The order is asyncio's (`BaseEventLoop._run_once`): what is ready runs, then the poll; what the poll found comes
//! before the timers that are due; exactly the entries that are present when the batch starts are run.

use std::collections::TryReserveError;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use pyo3::prelude::*;
#[cfg(feature = "embed")]
use pyo3::types::PyString;

use crate::core::{Entry, FdCallbacks, LoopCore, Native, Source, is_live};
use crate::error::{no_memory, os_error};
use crate::handle::Handle;
use crate::py::calls;
use crate::py::context::{EmptyBatch, EmptyContext};
use crate::py::exception_handler;
use crate::py::fastcall::panic_error;
use crate::py::thread_end;
use crate::reactor::Poller;
use crate::reactor::clock::seconds;
use crate::reactor::token::Token;

/// Longest wait in one poll, in nanoseconds (asyncio: `MAXIMUM_SELECT_TIMEOUT`, a day).
const MAX_TIMEOUT: u64 = 24 * 3600 * 1_000_000_000;

/// Runs turns until `stop()` was called; the turn in which it is called is completed.
pub fn run_until_stopped(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<()> {
    let _running = thread_end::running(event_loop.py());
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
    turn(event_loop, core)
}

fn turn(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<()> {
    let timeout = poll_timeout(event_loop, core)?;
    match core.waits_by_program.load(Relaxed) {
        false => poll(event_loop, core, timeout)?,
        true => {
            let waited = wait_by_program(event_loop, core, timeout);
            // As in `poll`.
            let queued = queue_io(event_loop.py(), core);
            waited.and(queued)?;
        }
    }
    core.begin_turn();
    let queued = queue_due_timers(event_loop, core);
    let result = queued.and_then(|()| run_ready(event_loop, core));
    // Also when an exception leaves the loop: asyncio would have given all of it to the kernel by now.
    core.end_turn();
    if core.gathers() { result.and(send_gathered(event_loop, core, true)) } else { result }
}

/// Nanoseconds that the poll may wait; `None`: until something happens.
#[inline]
fn poll_timeout(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<Option<u64>> {
    // Wakes up to here are answered by looking at the inbox now.
    core.waker.unpark();
    let busy = core.state.with(event_loop.py(), |state| {
        state.ready.receive(&core.inbox);
        !state.ready.is_empty() && !state.timers.is_mostly_dead()
    });
    if busy { Ok(Some(0)) } else { time_to_next(event_loop, core) }
}

/// The same where there may be nothing to run, or where the dead timers are to go.
fn time_to_next(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<Option<u64>> {
    let py = event_loop.py();
    let deadline = loop {
        let mut garbage = Vec::new();
        let deadline = core.state.with(py, |state| {
            state.ready.receive(&core.inbox);
            if state.timers.is_mostly_dead() {
                state.timers.compact(is_live, &mut garbage);
            }
            if !state.ready.is_empty() || core.stopping.load(SeqCst) {
                return Some(0);
            }
            state.timers.next_deadline(is_live, &mut garbage)
        });
        if garbage.is_empty() {
            break deadline;
        }
        // Finalizers of what these timers held may have scheduled something: look again.
        core.discard(py, garbage);
    };
    match deadline {
        None | Some(0) => Ok(deadline),
        Some(deadline) => Ok(Some(deadline.saturating_sub(core.now_ns(event_loop)?).min(MAX_TIMEOUT))),
    }
}

/// Asks the kernel what is ready, and queues the owners of what it has found.
fn poll(event_loop: &Bound<'_, PyAny>, core: &LoopCore, timeout: Option<u64>) -> PyResult<()> {
    let py = event_loop.py();
    // When nothing but the loop's own fds is registered, whatever they could say has been seen already.
    let nothing_to_find =
        || core.state.with(py, |state| !state.reactor.watches_io() && !state.reactor.has_found());
    if timeout == Some(0) && nothing_to_find() {
        return py.check_signals();
    }
    let polled = find(event_loop, core, timeout);
    // Also when an exception leaves the loop here: what was found does not come again.
    let queued = queue_io(py, core);
    polled.and(queued)
}

/// Asks the kernel what is ready. The interpreter is let go of only when this can block. Err: also the exception of a
/// signal's Python handler.
fn find(event_loop: &Bound<'_, PyAny>, core: &LoopCore, timeout: Option<u64>) -> PyResult<()> {
    let py = event_loop.py();
    let timeout = match core.state.with(py, |state| state.reactor.recheck_level()) {
        Err(error) => return Err(os_error(&error)),
        Ok(true) => Some(0),
        Ok(false) => before_waiting(event_loop, core, timeout)?,
    };
    let poller = core.state.with(py, |state| {
        if timeout != Some(0) {
            state.ready.shrink();
            state.timers.shrink();
        }
        state.reactor.take_poller()
    });
    let polled = match poller {
        Some(poller) => wait(py, core, poller, timeout),
        None => Ok(()),
    };
    let signals = py.check_signals();
    if timeout != Some(0) && signals.is_ok() && core.names.profile_function.is_set(py) {
        core.names.outside_tasks.call0(py)?;
    }
    match polled {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(os_error(&error)),
        _ => signals,
    }
}

/// The timeout for a poll that finds nothing at once, after the last steps of a loop that is about to block.
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
    // Finalizers of what has ended, or a profiler, may have scheduled something: look again.
    let timeout = match core.end_lingering(py) || profiled {
        true => [timeout, poll_timeout(event_loop, core)?].into_iter().flatten().min(),
        false => timeout,
    };
    let blocks =
        timeout != Some(0) && core.waker.park() && core.inbox.is_empty() && !core.stopping.load(SeqCst);
    Ok(if blocks { timeout } else { Some(0) })
}

/// Waits, with a poller that was taken out of the reactor, and puts it back.
fn wait(py: Python<'_>, core: &LoopCore, mut poller: Poller, timeout: Option<u64>) -> io::Result<()> {
    let result = match timeout {
        Some(0) if !core.is_hogging() => poller.wait(timeout),
        _ => {
            core.let_go();
            py.detach(|| poller.wait(timeout))
        }
    };
    core.waker.unpark();
    core.state.with(py, |state| state.reactor.put_poller(poller));
    result
}

/// Queues the owners of what the poll found. Without memory for that it stays found, for the next turn.
fn queue_io(py: Python<'_>, core: &LoopCore) -> PyResult<()> {
    let queued = core.state.with(py, |state| {
        state.ready.receive(&core.inbox);
        let ready = &mut state.ready;
        ready.reserve(state.reactor.found_count())?;
        // There is room for all of it.
        state.reactor.report_found(|token| drop(ready.push(Entry::Io(token))));
        Ok(())
    });
    queued.map_err(|_: TryReserveError| no_memory())
}

/// Queues the timers whose time has come, earliest first.
#[inline]
fn queue_due_timers(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<()> {
    if core.state.with(event_loop.py(), |state| state.timers.is_empty()) {
        return Ok(());
    }
    queue_timers(event_loop, core)
}

fn queue_timers(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<()> {
    let py = event_loop.py();
    let now = core.now_ns(event_loop)?;
    let mut garbage = Vec::new();
    let queued = core.state.with(py, |state| {
        loop {
            // Room first: a timer that is taken out and finds none would be lost.
            state.ready.reserve(1)?;
            let Some(timer) = state.timers.pop_due(now, is_live, &mut garbage) else {
                return Ok(());
            };
            timer.get().unschedule();
            drop(state.ready.push(Entry::Handle(timer.into_bound(py).into_super().unbind())));
        }
    });
    core.discard(py, garbage);
    queued.map_err(|_: TryReserveError| no_memory())
}

/// Runs the entries that are present now, and none that they add.
fn run_ready(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<()> {
    let mut left = core.state.with(event_loop.py(), |state| {
        state.ready.receive(&core.inbox);
        state.ready.len()
    });
    while left > 0 {
        match catch_unwind(AssertUnwindSafe(|| run_entries(event_loop, core, &mut left))) {
            Ok(result) => result?,
            // The entry that panicked is gone; the others follow.
            Err(payload) => {
                let error = panic_error(payload);
                exception_handler::call(event_loop, core.names, "Panic in a callback", error, &[])?;
            }
        }
    }
    Ok(())
}

/// Runs entries, and counts down, until none of `left` is left or one of them makes the loop end.
fn run_entries(event_loop: &Bound<'_, PyAny>, core: &LoopCore, left: &mut usize) -> PyResult<()> {
    let py = event_loop.py();
    let mut empty = core.empty_context.batch(py);
    while *left > 0 {
        *left -= 1;
        let Some(entry) = core.state.with(py, |state| state.ready.pop()) else {
            *left = 0;
            break;
        };
        core.next_callback();
        if core.debug.load(Relaxed) {
            run_entry_in_debug_mode(event_loop, core, entry)?;
        } else {
            run_entry(py, core, &mut empty, entry)?;
        }
        if core.has_gathered() {
            send_gathered(event_loop, core, false)?;
        }
    }
    Ok(())
}

/// Starts user code. Err: SystemExit or KeyboardInterrupt; all else went to the exception handler.
#[inline(always)]
fn run_entry(py: Python<'_>, core: &LoopCore, empty: &mut EmptyBatch<'_, '_>, entry: Entry) -> PyResult<()> {
    match entry {
        Entry::Handle(handle) => {
            let handle = handle.into_bound(py);
            let result = Handle::run(&handle, empty);
            core.recycle(handle);
            result
        }
        Entry::Io(token) => run_io(py, core, empty, token),
        #[cfg(feature = "embed")]
        Entry::Job(job) => job.run(py, empty),
    }
}

/// Tells the owner of a registration what is ready.
fn run_io(py: Python<'_>, core: &LoopCore, empty: &mut EmptyBatch<'_, '_>, token: Token) -> PyResult<()> {
    match core.take_due(py, token) {
        None => Ok(()),
        Some((readiness, Source::Native(Native { object, kind }))) => {
            (kind.on_ready)(&object.into_bound(py), readiness)
        }
        // `take_due` gives the object itself.
        Some((_, Source::Idle(_))) => Ok(()),
        Some((_, Source::Callbacks(due))) => {
            let mut result = Ok(());
            for waiter in [&due.read_waiter, &due.write_waiter].into_iter().flatten() {
                // They are told once, so that the first one's exception must not cost the second its event.
                result = result.and(complete(core, waiter.bind(py)));
            }
            // A callback that the other one removed is cancelled, and does not run. One that an exception cuts off is
            // told again in the next turn: it is level-triggered.
            for handle in [due.reader, due.writer].into_iter().flatten() {
                result = result.and_then(|()| Handle::run(&handle.into_bound(py), empty));
            }
            result
        }
    }
}

/// Sets the result of a future that waits for readiness.
fn complete(core: &LoopCore, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
    if calls::method(waiter, &core.names.done, [])?.is_truthy()? {
        return Ok(());
    }
    calls::method(waiter, &core.names.set_result, [waiter.py().None().bind(waiter.py())]).map(drop)
}

/// As [`run_entry`], with what asyncio's debug mode adds: the current handle, and a warning for slow callbacks.
#[cold]
fn run_entry_in_debug_mode(event_loop: &Bound<'_, PyAny>, core: &LoopCore, entry: Entry) -> PyResult<()> {
    let (py, names) = (event_loop.py(), core.names);
    let subject = match &entry {
        Entry::Handle(handle) if handle.get().is_cancelled() => return Ok(()),
        Entry::Handle(handle) => Some(handle.bind(py).clone().into_any()),
        Entry::Io(token) => core.state.with(py, |state| {
            state.reactor.source(*token).and_then(|source| match source {
                Source::Native(_) | Source::Idle(_) => {
                    source.native(py).map(|native| native.object.into_bound(py))
                }
                Source::Callbacks(FdCallbacks { reader, writer, .. }) => {
                    reader.as_ref().or(writer.as_ref()).map(|handle| handle.bind(py).clone().into_any())
                }
            })
        }),
        #[cfg(feature = "embed")]
        Entry::Job(_) => Some(PyString::new(py, "a callback of the host").into_any()),
    };
    let handle = subject.as_ref().filter(|subject| subject.cast::<Handle>().is_ok());
    // A subclass may have a `__setattr__` of its own, whose exceptions must not cost the entry its run.
    let noted = event_loop.setattr(&names._current_handle, handle);
    let start = core.clock.now_ns();
    let result = run_entry(py, core, &mut core.empty_context.batch(py), entry);
    let seconds = (core.clock.now_ns() - start) as f64 / 1e9;
    let forgotten = event_loop.setattr(&names._current_handle, py.None());
    result.and(noted).and(forgotten)?;
    let limit: f64 = event_loop.getattr(&names.slow_callback_duration)?.extract()?;
    if seconds >= limit {
        event_loop.call_method1(&names._slow_callback, (subject, seconds))?;
    }
    Ok(())
}

/// Has the transports send that have kept a write back for long enough, or all of them (`all`).
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
        // The first exception that leaves the loop does so once everything is sent.
        result = result.and(sent);
    }
    result
}

/// The wait of a turn whose steps a program takes itself: by what `loop._selector` offers. That can be in the middle of
/// a callback of ours, which runs others. What was written before leaves first; from here on every write is sent at
/// once, until the next turn of ours.
pub fn find_for_program(
    event_loop: &Bound<'_, PyAny>,
    core: &LoopCore,
    timeout: Option<u64>,
) -> PyResult<()> {
    let py = event_loop.py();
    let _running = thread_end::running(py);
    core.end_turn();
    let sent = send_gathered(event_loop, core, true);
    core.waker.unpark();
    let busy = core.state.with(py, |state| {
        state.ready.receive(&core.inbox);
        !state.ready.is_empty() || !state.reactor.found().is_empty() || core.stopping.load(SeqCst)
    });
    let timeout = if busy { Some(0) } else { timeout.map(|timeout| timeout.min(MAX_TIMEOUT)) };
    sent.and_then(|()| find(event_loop, core, timeout))
}

/// Queues what [`find_for_program`] has found, and the timers that are due.
pub fn queue_found(event_loop: &Bound<'_, PyAny>, core: &LoopCore) -> PyResult<()> {
    queue_io(event_loop.py(), core)?;
    queue_due_timers(event_loop, core)
}

/// Runs an entry that a program has taken out of the queue.
pub fn run_alone(py: Python<'_>, core: &LoopCore, entry: Entry) -> PyResult<()> {
    run_entry(py, core, &mut EmptyContext::default().batch(py), entry)
}

/// Waits by what a program has put in the place of `loop._selector.select`.
#[cold]
fn wait_by_program(event_loop: &Bound<'_, PyAny>, core: &LoopCore, timeout: Option<u64>) -> PyResult<()> {
    let seconds = timeout.map(seconds);
    calls::method(
        &event_loop.getattr(&core.names._selector)?,
        &core.names.select,
        [seconds.into_pyobject(event_loop.py())?.as_any()],
    )
    .map(drop)
}
