//! The class `Watcher`: a thread that looks at every loop of the process, and finds turns that last too long.
//!
//! The thread never takes the GIL, so that it works while a callback keeps it. What it finds, it leaves as events for
//! a thread of Python's (`python/rloop/_watch.py`), which reports them. If that thread does not get the GIL, the stack
//! of the loop's thread is written to stderr without it. The decision what lasts too long is in `reactor/stalls.rs`.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::EventLoop;
use crate::core::pulse::{self, Seen};
use crate::error::{Message, os_error};
use crate::py::cell::LoopCell;
use crate::py::{new, stack_dump, thread_end};
use crate::reactor::clock::{Clock, seconds};
use crate::reactor::stalls::{Sample, Verdict, Watched};
use crate::reactor::sys;

/// How many looks come within one threshold.
const LOOKS: u64 = 10;
/// The shortest time between two looks, in nanoseconds.
const SHORTEST_STEP: u64 = 1_000_000;
/// The shortest time, in nanoseconds, for which Python's thread waits for the GIL before a callback counts as one that
/// keeps it. Running Python code lets go of the GIL after a switch interval; this is four times the usual one.
const SHORTEST_GRACE: u64 = 20_000_000;

/// Watches every loop of the process, until `stop()`.
#[pyclass(frozen, module = "rloop._rloop")]
pub struct Watcher {
    shared: Arc<Shared>,
    /// None once it was stopped.
    thread: LoopCell<Option<JoinHandle<()>>>,
}

/// What the two threads share.
struct Shared {
    /// How long a turn may last, in nanoseconds.
    threshold: u64,
    found: Mutex<Found>,
    /// Notified when there is an event, and at the end.
    told: Condvar,
    /// Notified at the end.
    ended: Condvar,
}

#[derive(Default)]
struct Found {
    is_stopped: bool,
    events: VecDeque<Event>,
    /// The stalls that are not over yet, or whose end was not taken yet, by their numbers.
    stalls: HashMap<u64, Stall>,
}

enum Event {
    /// This stall has begun.
    Begun(u64),
    /// This stall is over.
    Over(u64),
}

struct Stall {
    loop_number: u64,
    turn: u32,
    /// For how many nanoseconds the turn counts, up to `last`.
    counted: u64,
    last: u64,
    is_over: bool,
    /// True once Python's thread has taken the event.
    is_taken: bool,
    /// The stack, if it was written without the GIL.
    stack: Option<String>,
}

/// (number of the stall, of the loop, of the turn, stack if it was written without the GIL, seconds if it is over)
type Told = (u64, u64, u32, Option<String>, Option<f64>);

impl Shared {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time between two looks, in nanoseconds.
    fn step(&self) -> u64 {
        (self.threshold / LOOKS).max(SHORTEST_STEP)
    }

    /// Sleeps until the next look. False if there is none.
    fn sleep(&self) -> bool {
        let step = Duration::from_nanos(self.step());
        let waited = self.ended.wait_timeout_while(self.found(), step, |found| !found.is_stopped);
        !waited.unwrap_or_else(PoisonError::into_inner).0.is_stopped
    }

    /// What the thread does.
    fn watch(&self) {
        sys::block_signals();
        let mut loops: HashMap<u64, WatchedLoop> = HashMap::new();
        let mut seen = Vec::new();
        while self.sleep() {
            seen.clear();
            pulse::see_all(|each| seen.push(each));
            loops.retain(|number, watched| {
                let lives = seen.iter().any(|each| each.number == *number);
                if !lives {
                    self.end(watched);
                }
                lives
            });
            for each in &seen {
                self.look(loops.entry(each.number).or_default(), *each);
            }
        }
    }

    /// Looks at one loop.
    fn look(&self, watched: &mut WatchedLoop, seen: Seen) {
        let thread =
            if seen.turn == 0 { sys::Scheduling::default() } else { sys::scheduling_of(seen.thread) };
        let now = Clock.now_ns();
        let sample = Sample { now, turn: seen.turn, thread };
        match watched.watched.look(sample, self.threshold, 2 * self.step()) {
            Verdict::Nothing => {}
            Verdict::Stalled => self.begin(watched, seen, now),
            Verdict::GoesOn => self.go_on(watched, seen, now),
            Verdict::Over(_) => self.end(watched),
        }
    }

    /// A turn has lasted too long: notes the stall, and wakes the thread that reports it.
    fn begin(&self, watched: &mut WatchedLoop, seen: Seen, now: u64) {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Relaxed) + 1;
        pulse::count_stall(seen.number);
        let counted = watched.watched.counted();
        (watched.stall, watched.stack_due) = (Some(number), Some(counted + self.grace()));
        let mut found = self.found();
        let stall = Stall {
            loop_number: seen.number,
            turn: seen.turn,
            counted,
            last: now,
            is_over: false,
            is_taken: false,
            stack: None,
        };
        found.stalls.insert(number, stall);
        found.events.push_back(Event::Begun(number));
        self.told.notify_all();
    }

    /// How long Python's thread may wait for the GIL.
    fn grace(&self) -> u64 {
        (self.threshold / 2).max(SHORTEST_GRACE)
    }

    fn go_on(&self, watched: &mut WatchedLoop, seen: Seen, now: u64) {
        let counted = watched.watched.counted();
        let Some(number) = watched.stall else { return };
        let is_taken = match self.found().stalls.get_mut(&number) {
            Some(stall) => {
                (stall.counted, stall.last) = (counted, now);
                stall.is_taken
            }
            None => true,
        };
        if watched.stack_due.is_some_and(|due| counted >= due) {
            watched.stack_due = None;
            if !is_taken {
                self.write_stack(number, seen, counted);
            }
        }
    }

    /// Writes the stack to stderr without the GIL, and keeps it for the report.
    fn write_stack(&self, number: u64, seen: Seen, counted: u64) {
        // Looked at again, so that the turn has not ended meanwhile.
        let mut thread_state = 0;
        pulse::see_all(|each| {
            if (each.number, each.turn) == (seen.number, seen.turn) {
                thread_state = each.thread_state;
            }
        });
        if thread_state == 0 {
            return;
        }
        // SAFETY: the thread state belongs to a thread that is in the middle of a turn, so it is alive. The turn has
        // lasted for the whole threshold. Since then Python's thread has waited for the GIL, for longer than running
        // Python code keeps it. So the loop's thread is inside a C function that keeps the GIL, and runs no Python code.
        let stack = unsafe { stack_dump::stack_of(thread_state) };
        let text = format!(
            "rloop: a callback has blocked loop {} for {:.3} seconds, and keeps the GIL\n{}",
            seen.number,
            seconds(counted),
            stack.as_deref().unwrap_or("")
        );
        if let Some(stall) = self.found().stalls.get_mut(&number) {
            stall.stack = stack;
        }
        // If stderr is closed, nothing is written here. The report in the log comes when the GIL is free.
        _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn end(&self, watched: &mut WatchedLoop) {
        let Some(number) = watched.stall.take() else { return };
        let mut found = self.found();
        if let Some(stall) = found.stalls.get_mut(&number) {
            stall.is_over = true;
            found.events.push_back(Event::Over(number));
            self.told.notify_all();
        }
    }
}

/// One loop, as the thread sees it.
#[derive(Default)]
struct WatchedLoop {
    watched: Watched,
    /// The stall that was found and is not over.
    stall: Option<u64>,
    /// How long the turn counts when the stack is to be written without the GIL. None once that is decided.
    stack_due: Option<u64>,
}

impl Found {
    /// The next event.
    fn next(&mut self) -> Option<Told> {
        match self.events.pop_front()? {
            Event::Begun(number) => {
                let stall = self.stalls.get_mut(&number)?;
                stall.is_taken = true;
                Some((number, stall.loop_number, stall.turn, stall.stack.take(), None))
            }
            Event::Over(number) => {
                let stall = self.stalls.remove(&number)?;
                Some((number, stall.loop_number, stall.turn, None, Some(seconds(stall.counted))))
            }
        }
    }
}

#[pymethods]
impl Watcher {
    /// Begins to watch. `threshold`: how many seconds a turn may last.
    #[new]
    fn new(py: Python<'_>, threshold: f64) -> PyResult<Self> {
        if !(threshold > 0.0 && threshold < 1e9) {
            return Err(PyValueError::new_err(Message("the threshold must be a positive number of seconds")));
        }
        let shared = Arc::new(Shared {
            threshold: (threshold * 1e9) as u64,
            found: Mutex::default(),
            told: Condvar::new(),
            ended: Condvar::new(),
        });
        let watching = shared.clone();
        let thread = std::thread::Builder::new()
            .name("rloop-watch".to_owned())
            .spawn(move || watching.watch())
            .map_err(|error| os_error(&error))?;
        pulse::count_watchers(py, true);
        Ok(Self { shared, thread: LoopCell::new(Some(thread)) })
    }

    /// What is seen of a loop, as a tuple of three. First the number of the loop; no other loop of the process has it.
    /// Then the number of the turn whose callbacks run; it is 0 between two turns. Last the handle or transport whose
    /// callback runs; it is None if nobody watches.
    #[staticmethod]
    fn see<'py>(event_loop: &Bound<'py, EventLoop>) -> PyResult<Bound<'py, PyTuple>> {
        let (py, core) = (event_loop.py(), &event_loop.get().core);
        let running = core.running(py).unwrap_or_else(|| py.None().into_bound(py));
        let number = new::int(py, core.pulse.number as usize)?.into_any();
        new::tuple(py, [number, new::int(py, core.turn() as usize)?.into_any(), running])
    }

    /// Waits for the next event and returns it; None once the watcher is stopped.
    fn next(&self, py: Python<'_>) -> Option<Told> {
        thread_end::stop_instead(py);
        py.detach(|| {
            let waits = |found: &mut Found| found.events.is_empty() && !found.is_stopped;
            drop(self.shared.told.wait_while(self.shared.found(), waits));
        });
        // Only now, with the GIL, the event is taken: until then the stack may have to be written without it.
        let mut found = self.shared.found();
        if found.is_stopped { None } else { found.next() }
    }

    /// For how many seconds the turn of this stall has lasted, for a caller in whose turn it is over. None if its end
    /// was returned by `next()`.
    fn duration(&self, number: u64) -> Option<f64> {
        let longest = 2 * self.shared.step();
        let found = self.shared.found();
        let stall = found.stalls.get(&number)?;
        let since = if stall.is_over { 0 } else { Clock.now_ns().saturating_sub(stall.last).min(longest) };
        Some(seconds(stall.counted + since))
    }

    /// Ends the watch. When it returns, the thread has ended.
    fn stop(&self, py: Python<'_>) {
        self.shared.found().is_stopped = true;
        self.shared.ended.notify_all();
        self.shared.told.notify_all();
        if let Some(thread) = self.thread.with(py, Option::take) {
            pulse::count_watchers(py, false);
            // The thread does not panic. If it had, there would be nothing left to wait for.
            py.detach(|| drop(thread.join()));
        }
    }

    /// In the child of a fork: the thread is not there. The watcher may be dropped, and no other method called.
    fn forget(&self, py: Python<'_>) {
        if let Some(thread) = self.thread.with(py, Option::take) {
            pulse::count_watchers(py, false);
            drop(thread);
        }
    }
}
