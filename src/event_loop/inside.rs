//! Views of a loop's native queues, for programs that use asyncio's private attributes. asyncio keeps its handles in a
//! deque (`loop._ready`) and a heap (`loop._scheduled`), and waits by a selector (`loop._selector`). `nest_asyncio` runs
//! turns of its own by means of these three.
//!
//! Cold: a loop that nobody looks into uses nothing of this.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList};

use super::EventLoop;
use crate::core::{Entry, LoopCore, is_live};
use crate::error::no_memory;
use crate::handle::{Callback, Handle, TimerHandle};
use crate::py::cell::LoopCell;
use crate::py::gc::{track, untrack};
use crate::py::new::intern;
use crate::reactor::clock::deadline_ns;
use crate::run;

/// What waits in the ready queue and is no handle of ours; called when its turn comes.
#[pyclass(frozen, module = "rloop._rloop")]
pub struct Pending {
    core: Arc<LoopCore>,
    what: LoopCell<Option<What>>,
}

enum What {
    /// What the poll found, or a job of a host. It must be dealt with once: nobody would hear of it again.
    Entry(Entry),
    /// A handle that is not ours, such as an `asyncio.Handle` that a program has made.
    Foreign(Py<PyAny>),
}

impl Pending {
    /// A handle by which `what` runs.
    fn handle<'py>(event_loop: &Bound<'py, EventLoop>, what: What) -> PyResult<Bound<'py, Handle>> {
        let (py, core) = (event_loop.py(), &event_loop.get().core);
        let pending = Self { core: core.clone(), what: LoopCell::new(Some(what)) };
        let callback = Bound::new(py, pending)?.into_any();
        core.handle(event_loop.as_any(), Callback { callback, args: &[], context: None })
    }
}

#[pymethods]
impl Pending {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        match self.what.with(py, Option::take) {
            Some(What::Entry(entry)) => run::run_alone(py, &self.core, entry),
            Some(What::Foreign(handle)) => {
                let handle = handle.bind(py);
                if !handle.getattr(intern!(py, "_cancelled")?)?.is_truthy()? {
                    handle.call_method0(intern!(py, "_run")?)?;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let foreign = self.what.with(py, |what| match what {
            Some(What::Foreign(handle)) => Some(handle.clone_ref(py)),
            _ => None,
        });
        match foreign {
            Some(handle) => Ok(handle.bind(py).repr()?.to_string()),
            None => Ok("<an event of the poll>".to_owned()),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let visit_what = |what: &Option<What>| match what {
            Some(What::Foreign(handle)) => visit.call(handle),
            _ => Ok(()),
        };
        self.what.peek(visit_what).unwrap_or(Ok(()))
    }
}

impl Drop for Pending {
    /// A program has taken an event out of the queue, and thrown it away. asyncio's selector would find it again.
    fn drop(&mut self) {
        if let Some(What::Entry(entry)) = self.what.get_mut().take() {
            // SAFETY: a pyclass is only ever dropped by its tp_dealloc, which holds the interpreter.
            let py = unsafe { Python::assume_attached() };
            if let Err(error) = self.core.push(py, entry) {
                error.write_unraisable(py, None);
            }
        }
    }
}

/// The handles that are to run, as `loop._ready`: looks into the queue itself, and changes it.
#[pyclass(frozen, sequence, module = "rloop._rloop")]
pub struct ReadyHandles {
    event_loop: Py<EventLoop>,
}

impl ReadyHandles {
    /// Takes an entry from one end.
    fn take<'py>(&self, py: Python<'py>, first: bool) -> PyResult<Bound<'py, Handle>> {
        let (event_loop, core) = (self.event_loop.bind(py), &self.event_loop.get().core);
        let entry = core.state.with(py, |state| {
            state.ready.receive(&core.inbox);
            if first { state.ready.pop() } else { state.ready.pop_back() }
        });
        let entry = entry.ok_or_else(|| PyIndexError::new_err("pop from an empty deque"))?;
        let handle = as_handle(event_loop, entry)?;
        // It is shown to the garbage collector again, as any handle that leaves the queue and is still in use.
        track(&handle);
        Ok(handle)
    }

    fn put(&self, py: Python<'_>, handle: &Bound<'_, PyAny>, first: bool) -> PyResult<()> {
        let (event_loop, core) = (self.event_loop.bind(py), &self.event_loop.get().core);
        core.check_closed()?;
        let handle = match handle.cast::<Handle>() {
            Ok(handle) => handle.clone(),
            Err(_) if handle.hasattr(intern!(py, "_run")?)? => {
                Pending::handle(event_loop, What::Foreign(handle.clone().unbind()))?
            }
            Err(_) => {
                return Err(PyTypeError::new_err(format!("a handle is required, not {}", handle.repr()?)));
            }
        };
        if let Ok(timer) = handle.cast::<TimerHandle>() {
            // asyncio's own turn moves it from the heap to here.
            unschedule(py, core, timer);
        }
        untrack(&handle);
        let entry = Entry::Handle(handle.unbind());
        if !first {
            return core.push(py, entry);
        }
        let refused = core.state.with(py, |state| state.ready.push_front(entry));
        refused.map_err(|_| no_memory())
    }

    /// Every entry, in order. What was no handle is one from then on.
    fn handles<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, Handle>>> {
        let (event_loop, core) = (self.event_loop.bind(py), &self.event_loop.get().core);
        let entries = core.state.with(py, |state| {
            state.ready.receive(&core.inbox);
            state.ready.drain()
        });
        let mut handles = Vec::with_capacity(entries.len());
        let mut failed = None;
        for entry in entries {
            match as_handle(event_loop, entry) {
                Ok(handle) => handles.push(handle),
                // The entry has gone to the end of the queue: see `Pending`.
                Err(error) => failed = Some(error),
            }
        }
        let refused = core.state.with(py, |state| {
            let mut entries = handles.iter().rev().map(|handle| Entry::Handle(handle.clone().unbind()));
            entries.try_for_each(|entry| state.ready.push_front(entry))
        });
        refused.map_err(|_| no_memory())?;
        failed.map_or(Ok(handles), Err)
    }

    fn list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.handles(py)?)
    }
}

#[pymethods]
impl ReadyHandles {
    #[new]
    fn new(event_loop: Bound<'_, EventLoop>) -> Self {
        Self { event_loop: event_loop.unbind() }
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        let core = &self.event_loop.get().core;
        core.state.with(py, |state| {
            state.ready.receive(&core.inbox);
            state.ready.len()
        })
    }

    fn __getitem__<'py>(&self, py: Python<'py>, index: isize) -> PyResult<Bound<'py, PyAny>> {
        let list = self.list(py)?;
        let index = if index < 0 { index + list.len() as isize } else { index };
        let index = usize::try_from(index).ok().filter(|&index| index < list.len());
        list.get_item(index.ok_or_else(|| PyIndexError::new_err("deque index out of range"))?)
    }

    fn __contains__(&self, handle: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.list(handle.py())?.contains(handle)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.list(py)?.try_iter()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("deque({})", self.list(py)?.repr()?))
    }

    fn append(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        self.put(handle.py(), handle, false)
    }

    fn appendleft(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        self.put(handle.py(), handle, true)
    }

    fn extend(&self, handles: &Bound<'_, PyAny>) -> PyResult<()> {
        handles.try_iter()?.try_for_each(|handle| self.append(&handle?))
    }

    fn extendleft(&self, handles: &Bound<'_, PyAny>) -> PyResult<()> {
        handles.try_iter()?.try_for_each(|handle| self.appendleft(&handle?))
    }

    fn pop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Handle>> {
        self.take(py, false)
    }

    fn popleft<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Handle>> {
        self.take(py, true)
    }

    fn remove(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, core) = (handle.py(), &self.event_loop.get().core);
        self.handles(py)?;
        let removed = core.state.with(py, |state| {
            state.ready.remove(|entry| matches!(entry, Entry::Handle(queued) if queued.is(handle)))
        });
        match removed {
            Some(Entry::Handle(handle)) => {
                track(handle.bind(py));
                Ok(())
            }
            _ => Err(PyValueError::new_err("deque.remove(x): x not in deque")),
        }
    }

    /// Drops the handles. What the poll found stays: with asyncio's selector the next turn would find it again.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        let core = &self.event_loop.get().core;
        let (handles, others): (Vec<_>, Vec<_>) = core
            .state
            .with(py, |state| {
                state.ready.receive(&core.inbox);
                state.ready.drain()
            })
            .into_iter()
            .partition(|entry| matches!(entry, Entry::Handle(_)));
        let refused =
            core.state.with(py, |state| others.into_iter().try_for_each(|entry| state.ready.push(entry)));
        for entry in &handles {
            if let Entry::Handle(handle) = entry {
                track(handle.bind(py));
            }
        }
        refused.map_err(|_| no_memory())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)
    }
}

/// The timers that wait, for `loop._scheduled`.
#[pyclass(frozen, module = "rloop._rloop")]
pub struct Timers {
    event_loop: Py<EventLoop>,
}

#[pymethods]
impl Timers {
    #[new]
    fn new(event_loop: Bound<'_, EventLoop>) -> Self {
        Self { event_loop: event_loop.unbind() }
    }

    /// How many wait.
    fn count(&self, py: Python<'_>) -> usize {
        self.event_loop.get().core.state.with(py, |state| state.timers.live())
    }

    /// The earliest one, if there is any.
    fn first(&self, py: Python<'_>) -> Option<Py<TimerHandle>> {
        let core = &self.event_loop.get().core;
        let mut garbage = Vec::new();
        let first = core.state.with(py, |state| {
            state.timers.next_deadline(is_live, &mut garbage)?;
            state.timers.peek().map(|timer| timer.clone_ref(py))
        });
        core.discard(py, garbage);
        first
    }

    /// All that wait, earliest first.
    fn all(&self, py: Python<'_>) -> Vec<Py<TimerHandle>> {
        self.event_loop.get().core.state.with(py, |state| {
            state
                .timers
                .sorted()
                .into_iter()
                .filter(|timer| is_live(timer))
                .map(|timer| timer.clone_ref(py))
                .collect()
        })
    }

    /// Has a timer wait, which must be one of this loop's that does not wait.
    fn add(&self, timer: &Bound<'_, TimerHandle>) -> PyResult<()> {
        let (py, core) = (timer.py(), &self.event_loop.get().core);
        core.check_closed()?;
        if !timer.as_super().get().belongs_to(self.event_loop.as_any()) || timer.get().is_scheduled() {
            return Err(PyValueError::new_err("not a timer of this loop, or scheduled already"));
        }
        let deadline = deadline_ns(timer.get().seconds(py));
        let refused = core.state.with(py, |state| state.timers.push(deadline, timer.clone().unbind()));
        refused.map_err(|_| no_memory())?;
        timer.get().schedule();
        untrack(timer);
        Ok(())
    }

    /// Has a timer wait no longer, without cancelling it. False if it did not wait.
    fn remove(&self, timer: &Bound<'_, TimerHandle>) -> bool {
        unschedule(timer.py(), &self.event_loop.get().core, timer)
    }

    /// Has no timer wait any more.
    fn clear(&self, py: Python<'_>) {
        let timers = self.event_loop.get().core.state.with(py, |state| state.timers.drain());
        for timer in &timers {
            timer.get().unschedule();
            track(timer.bind(py));
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)
    }
}

/// A wait for readiness by steps that are not the native turn's, for `loop._selector`.
#[pyclass(frozen, module = "rloop._rloop")]
pub struct Poll {
    event_loop: Py<EventLoop>,
}

#[pymethods]
impl Poll {
    #[new]
    fn new(event_loop: Bound<'_, EventLoop>) -> Self {
        Self { event_loop: event_loop.unbind() }
    }

    /// Waits until something is ready, at most `timeout` seconds (None: for ever). Returns (fd, readable, writable) of
    /// what is; fd -1: another thread has scheduled something. What was found stays until `queue()`.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Vec<(i32, bool, bool)>> {
        let event_loop = self.event_loop.bind(py);
        let core = &event_loop.get().core;
        core.check_closed()?;
        super::scheduling::look_at_time(event_loop)?;
        // Rounded up, so that what the program waits for has come; negative and NaN: not at all.
        run::find_for_program(
            event_loop.as_any(),
            core,
            timeout.map(|seconds| (seconds * 1e9).ceil() as u64),
        )?;
        let mut found = core.state.with(py, |state| state.reactor.found());
        if !core.inbox.is_empty() {
            found.push((-1, true, false));
        }
        Ok(found)
    }

    /// Queues what was found, and the timers that are due.
    fn queue(&self, py: Python<'_>) -> PyResult<()> {
        let event_loop = self.event_loop.bind(py);
        run::queue_found(event_loop.as_any(), &event_loop.get().core)
    }

    /// Whoever watches an fd for the program: (fd, reader, writer), None where nothing is called.
    #[allow(clippy::type_complexity, reason = "a row of three")]
    fn watched(&self, py: Python<'_>) -> Vec<(i32, Option<Py<PyAny>>, Option<Py<PyAny>>)> {
        self.event_loop.get().core.watched(py)
    }

    /// Has the turns wait by the program's `loop._selector.select()`, or by themselves again.
    fn replace(&self, replaced: bool) {
        self.event_loop.get().core.waits_by_program.store(replaced, Relaxed);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)
    }
}

fn as_handle<'py>(event_loop: &Bound<'py, EventLoop>, entry: Entry) -> PyResult<Bound<'py, Handle>> {
    match entry {
        Entry::Handle(handle) => Ok(handle.into_bound(event_loop.py())),
        other => Pending::handle(event_loop, What::Entry(other)),
    }
}

/// Takes a timer out of the heap. False if it is not in there.
fn unschedule(py: Python<'_>, core: &LoopCore, timer: &Bound<'_, TimerHandle>) -> bool {
    if !timer.get().is_scheduled() {
        return false;
    }
    let removed = core.state.with(py, |state| state.timers.remove(|queued| queued.is(timer), is_live));
    let found = removed.is_some();
    if found {
        timer.get().unschedule();
        track(timer);
    }
    drop(removed);
    found
}
