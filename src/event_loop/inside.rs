//! Views of a loop's native queues, for programs that use asyncio's private attributes.
//!
//! asyncio keeps its handles in a deque (`loop._ready`) and its timers in a heap (`loop._scheduled`), and waits by a
//! selector (`loop._selector`). `nest_asyncio` runs turns of its own by means of these three. The classes here show
//! them the queues; the changes to the queues are methods of the core (`core/views.rs`). A loop that nobody looks into
//! uses nothing of this.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList};

use super::EventLoop;
use crate::core::{Entry, LoopCore};
use crate::error::Message;
use crate::handle::{Callback, Handle, TimerHandle};
use crate::py::cell::LoopCell;
use crate::py::new;
use crate::py::new::intern;
use crate::run;

/// The callback of a handle that stands for something else: an entry of the ready queue that is no handle, or a handle
/// that is not ours.
#[pyclass(frozen, module = "rloop._rloop")]
pub struct Pending {
    core: Arc<LoopCore>,
    /// None once it was called.
    what: LoopCell<Option<What>>,
}

/// What a [`Pending`] stands for.
enum What {
    /// Readiness that the poll has found, or a job of a host. It must not get lost: it is not found again.
    Entry(Entry),
    /// A handle of another class, such as an `asyncio.Handle` that a program has made.
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
    /// Runs the entry or the handle. A second call does nothing.
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        match self.what.with(py, Option::take) {
            Some(What::Entry(entry)) => run::run_taken(py, &self.core, entry),
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

    /// The repr of the foreign handle. An event has no object that could be named.
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
        self.what.peek(&visit, visit_what).unwrap_or(Ok(()))
    }
}

impl Drop for Pending {
    /// Queues an event again that a program has taken out of the queue and dropped: asyncio's selector would find it
    /// again.
    fn drop(&mut self) {
        if let Some(What::Entry(entry)) = self.what.get_mut().take() {
            // SAFETY: a pyclass is dropped by its tp_dealloc only, which CPython calls with the GIL held.
            let py = unsafe { Python::assume_attached() };
            if let Err(error) = self.core.push(py, entry) {
                error.write_unraisable(py, None);
            }
        }
    }
}

/// `loop._ready`: the ready queue itself, with the methods of a deque.
#[pyclass(frozen, sequence, module = "rloop._rloop")]
pub struct ReadyHandles {
    event_loop: Py<EventLoop>,
}

impl ReadyHandles {
    /// Takes an entry from one end.
    fn take<'py>(&self, py: Python<'py>, first: bool) -> PyResult<Bound<'py, Handle>> {
        let (event_loop, core) = (self.event_loop.bind(py), &self.event_loop.get().core);
        let entry = core
            .pop_from(py, first)
            .ok_or_else(|| PyIndexError::new_err(Message("pop from an empty deque")))?;
        as_handle(event_loop, entry)
    }

    /// Adds a handle at one end.
    fn put(&self, py: Python<'_>, handle: &Bound<'_, PyAny>, first: bool) -> PyResult<()> {
        let (event_loop, core) = (self.event_loop.bind(py), &self.event_loop.get().core);
        core.check_closed()?;
        let handle = match handle.cast::<Handle>() {
            Ok(handle) => handle.clone(),
            Err(_) if handle.hasattr(intern!(py, "_run")?)? => {
                Pending::handle(event_loop, What::Foreign(handle.clone().unbind()))?
            }
            Err(_) => {
                return Err(PyTypeError::new_err(Message(format!(
                    "a handle is required, not {}",
                    handle.repr()?
                ))));
            }
        };
        if let Ok(timer) = handle.cast::<TimerHandle>() {
            // asyncio's own turn moves a timer from the heap to here.
            core.remove_timer(timer);
        }
        let entry = Entry::Handle(handle.unbind());
        if first { core.push_front(py, entry) } else { core.push(py, entry) }
    }

    /// Every entry, in order. An entry that is no handle gets one, which stays in the queue.
    fn handles<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, Handle>>> {
        let (event_loop, core) = (self.event_loop.bind(py), &self.event_loop.get().core);
        let entries = core.drain_ready(py);
        let mut handles = Vec::with_capacity(entries.len());
        let mut failed = None;
        for entry in entries {
            match as_handle(event_loop, entry) {
                Ok(handle) => handles.push(handle),
                // The entry is at the end of the queue now: see `Pending::drop`.
                Err(error) => failed = Some(error),
            }
        }
        // They go back where they were: in front of what finalizers have added meanwhile.
        for handle in handles.iter().rev() {
            core.push_front(py, Entry::Handle(handle.clone().unbind()))?;
        }
        failed.map_or(Ok(handles), Err)
    }

    /// Every handle, as a list: reading methods work on that copy.
    fn list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        new::list(py, self.handles(py)?.into_iter().map(Bound::into_any))
    }
}

#[pymethods]
impl ReadyHandles {
    #[new]
    fn new(event_loop: Bound<'_, EventLoop>) -> Self {
        Self { event_loop: event_loop.unbind() }
    }

    /// How many entries are ready, those that are no handles included.
    fn __len__(&self, py: Python<'_>) -> usize {
        self.event_loop.get().core.ready_count(py)
    }

    /// By index, from either end, as a deque. `nest_asyncio` looks at the first handle.
    fn __getitem__<'py>(&self, py: Python<'py>, index: isize) -> PyResult<Bound<'py, PyAny>> {
        // A deque counts from its end as well, and has its own text for an index that is out of range.
        let list = self.list(py)?;
        let index = if index < 0 { index + list.len() as isize } else { index };
        let index = usize::try_from(index).ok().filter(|&index| index < list.len());
        list.get_item(index.ok_or_else(|| PyIndexError::new_err(Message("deque index out of range")))?)
    }

    /// A program asks this before it calls `remove()`.
    fn __contains__(&self, handle: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.list(handle.py())?.contains(handle)
    }

    /// Over a copy, because the queue changes while a program looks at it.
    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.list(py)?.try_iter()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("deque({})", self.list(py)?.repr()?))
    }

    /// Has a handle run after all others. It may be of another class.
    fn append(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        self.put(handle.py(), handle, false)
    }

    /// Has a handle run before all others.
    fn appendleft(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        self.put(handle.py(), handle, true)
    }

    /// Appends each of the handles.
    fn extend(&self, handles: &Bound<'_, PyAny>) -> PyResult<()> {
        handles.try_iter()?.try_for_each(|handle| self.append(&handle?))
    }

    /// Puts each of the handles before all others, so that their order is reversed, as by a deque.
    fn extendleft(&self, handles: &Bound<'_, PyAny>) -> PyResult<()> {
        handles.try_iter()?.try_for_each(|handle| self.appendleft(&handle?))
    }

    /// Takes the last handle. IndexError if there is none.
    fn pop<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Handle>> {
        self.take(py, false)
    }

    /// Takes the first handle. IndexError if there is none. `nest_asyncio` runs what this returns.
    fn popleft<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Handle>> {
        self.take(py, true)
    }

    /// Takes a handle out of the queue. ValueError if it is not in there.
    fn remove(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, core) = (handle.py(), &self.event_loop.get().core);
        self.handles(py)?;
        let missing = || PyValueError::new_err(Message("deque.remove(x): x not in deque"));
        core.remove_ready(handle).map(drop).ok_or_else(missing)
    }

    /// Drops the handles. What the poll has found stays: with asyncio's selector, the next turn would find it again.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        let core = &self.event_loop.get().core;
        let (handles, others): (Vec<_>, Vec<_>) =
            core.drain_ready(py).into_iter().partition(|entry| matches!(entry, Entry::Handle(_)));
        let refused = others.into_iter().try_for_each(|entry| core.push(py, entry));
        drop(handles);
        refused
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)
    }
}

/// What `loop._scheduled` is made of: the heap of timers.
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

    /// How many timers wait.
    fn count(&self, py: Python<'_>) -> usize {
        self.event_loop.get().core.timer_count(py)
    }

    /// The earliest timer, if there is one.
    fn first(&self, py: Python<'_>) -> Option<Py<TimerHandle>> {
        self.event_loop.get().core.first_timer(py)
    }

    /// All timers that wait, earliest first.
    fn all(&self, py: Python<'_>) -> Vec<Py<TimerHandle>> {
        self.event_loop.get().core.all_timers(py)
    }

    /// Puts a timer into the heap, which must be one of this loop's that is not in the heap.
    fn add(&self, timer: &Bound<'_, TimerHandle>) -> PyResult<()> {
        self.event_loop.get().core.add_timer(self.event_loop.as_any(), timer)
    }

    /// Takes a timer out of the heap without cancelling it. False if it is not in there.
    fn remove(&self, timer: &Bound<'_, TimerHandle>) -> bool {
        self.event_loop.get().core.remove_timer(timer)
    }

    /// Takes every timer out of the heap.
    fn clear(&self, py: Python<'_>) {
        self.event_loop.get().core.clear_timers(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)
    }
}

/// What `loop._selector` is made of: the poll, for turns that a program runs by itself.
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

    /// Waits until something is ready, for at most `timeout` seconds (None: for ever). Returns (fd, readable, writable)
    /// for each fd that is ready; the fd is -1 if another thread has scheduled something. What was found stays until
    /// `queue()`.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Vec<(i32, bool, bool)>> {
        let event_loop = self.event_loop.bind(py);
        let core = &event_loop.get().core;
        core.check_closed()?;
        super::scheduling::look_at_time(event_loop)?;
        // Rounded up, so that a timer for which the program waits is due then. Negative numbers and NaN become 0.
        run::find_for_program(
            event_loop.as_any(),
            core,
            timeout.map(|seconds| (seconds * 1e9).ceil() as u64),
        )?;
        Ok(core.found_fds(py))
    }

    /// Queues what was found, and the timers that are due.
    fn queue(&self, py: Python<'_>) -> PyResult<()> {
        let event_loop = self.event_loop.bind(py);
        run::queue_found(event_loop.as_any(), &event_loop.get().core)
    }

    /// Who is called for each fd: (fd, reader, writer). None where nobody is.
    #[allow(clippy::type_complexity, reason = "a row of three")]
    fn watched(&self, py: Python<'_>) -> Vec<(i32, Option<Py<PyAny>>, Option<Py<PyAny>>)> {
        self.event_loop.get().core.watched(py)
    }

    /// `replaced`: every turn waits by calling the program's `loop._selector.select()` from now on. Otherwise turns
    /// poll by themselves again.
    fn replace(&self, replaced: bool) {
        self.event_loop.get().core.waits_by_program.store(replaced, Relaxed);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)
    }
}

/// The handle of an entry; a new one that stands for it, if it is none.
fn as_handle<'py>(event_loop: &Bound<'py, EventLoop>, entry: Entry) -> PyResult<Bound<'py, Handle>> {
    match entry {
        Entry::Handle(handle) => Ok(handle.into_bound(event_loop.py())),
        other => Pending::handle(event_loop, What::Entry(other)),
    }
}
