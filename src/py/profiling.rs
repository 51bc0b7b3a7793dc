//! Who watches the calls of Python functions: a profile function (`sys.setprofile`, or a profiler that is written in
//! C), a trace function (`sys.settrace`), or a tool of `sys.monitoring`.
//!
//! A profiler that knows tasks notices at a call of a Python function that the program has left a task's context. A
//! loop that is written in Python makes such calls all the time. Ours makes one before and one after it waits, if a
//! profiler is set. What does the work of a Python function natively asks [`Watchers`] first.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::prelude::*;

/// Where a `PyThreadState` has its profile function (`c_profilefunc` in `cpython/pystate.h`): an offset in words. None
/// if that is not known for this version; then it is as if no function were set.
#[derive(Clone, Copy)]
pub struct ProfileFunction(Option<usize>);

impl ProfileFunction {
    /// The place in the running version.
    pub fn find(py: Python<'_>) -> Self {
        let version = py.version_info();
        Self(match (version.major, version.minor) {
            (3, 11 | 12) => Some(8),
            (3, 13 | 14) => Some(10),
            (3, 15) => Some(13),
            _ => None,
        })
    }

    /// True if this thread has a profile function.
    #[inline]
    pub fn is_set(self, _py: Python<'_>) -> bool {
        // SAFETY: this thread holds the GIL, and so has a thread state. In this version the word belongs to it, and
        // only this thread changes it.
        self.0.is_some_and(|at| unsafe {
            !ffi::PyThreadState_Get().cast::<*const ()>().add(at).read().is_null()
        })
    }
}

/// Where a `PyThreadState` has `eval_breaker` since CPython 3.13: an offset in words.
const EVAL_BREAKER: usize = 3;
/// The number of its low bits that are flags. The others count the changes of what is monitored.
const FLAGS: u32 = 8;
/// How many tools `sys.monitoring` can have.
const TOOLS: i32 = 6;

/// Finds out whether anybody watches calls of Python functions on this thread.
pub struct Watchers {
    profile: ProfileFunction,
    /// `sys.monitoring.get_tool`. None before CPython 3.12, which has no such tools.
    get_tool: Option<Py<PyAny>>,
    /// True if `eval_breaker` counts the changes (CPython 3.13).
    counts: bool,
    /// The count when `has_tool` was found out. `usize::MAX`: never.
    seen: AtomicUsize,
    has_tool: AtomicBool,
}

impl Watchers {
    /// How to find out in the running version.
    pub fn find(py: Python<'_>) -> PyResult<Self> {
        let get_tool = if py.version_info() >= (3, 12) {
            Some(py.import("sys")?.getattr("monitoring")?.getattr("get_tool")?.unbind())
        } else {
            None
        };
        Ok(Self {
            profile: ProfileFunction::find(py),
            get_tool,
            counts: py.version_info() >= (3, 13),
            seen: AtomicUsize::new(usize::MAX),
            has_tool: AtomicBool::new(true),
        })
    }

    /// True if nobody watches. False also in a version that is not known.
    #[inline]
    pub fn none(&self, py: Python<'_>) -> bool {
        let Some(profile) = self.profile.0 else {
            return false;
        };
        // SAFETY: as in `ProfileFunction::is_set`. `c_tracefunc` is the word behind `c_profilefunc`.
        let (profile, trace) = unsafe {
            let words = ffi::PyThreadState_Get().cast::<*const ()>().add(profile);
            (words.read(), words.add(1).read())
        };
        profile.is_null() && trace.is_null() && !self.has_tool(py)
    }

    /// True if `sys.monitoring` has a tool. A tool that was registered sees nothing before it sets events, which is
    /// counted.
    #[inline]
    fn has_tool(&self, py: Python<'_>) -> bool {
        let Some(get_tool) = &self.get_tool else {
            return false;
        };
        if !self.counts {
            return any_tool(get_tool.bind(py));
        }
        // SAFETY: the GIL is held, so that this thread has a state, and this word of it is `eval_breaker`. Other threads
        // change its flags, so that it is read atomically.
        let changes = unsafe {
            let words = ffi::PyThreadState_Get().cast::<usize>();
            AtomicUsize::from_ptr(words.add(EVAL_BREAKER)).load(Relaxed) >> FLAGS
        };
        if changes != self.seen.load(Relaxed) {
            self.has_tool.store(any_tool(get_tool.bind(py)), Relaxed);
            self.seen.store(changes, Relaxed);
        }
        self.has_tool.load(Relaxed)
    }
}

/// True if one of the tools is registered, or if that cannot be found out.
#[cold]
fn any_tool(get_tool: &Bound<'_, PyAny>) -> bool {
    (0..TOOLS).any(|tool| get_tool.call1((tool,)).map_or(true, |name| !name.is_none()))
}
