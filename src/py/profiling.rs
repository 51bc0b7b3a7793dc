//! Who watches the calls of Python functions: a profile function (`sys.setprofile`, or a profiler that is written in
//! C), a trace function (`sys.settrace`), or a tool of `sys.monitoring`.
//!
//! A profiler that knows tasks notices at a call of a Python function that the program has left a task's context. A
//! loop that is written in Python makes such calls all the time. Ours makes one before and one after it waits, if a
//! profiler is set. What does the work of a Python function natively asks [`Watchers`] first.

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

/// Finds out whether anybody watches calls of Python functions on this thread. Only CPython 3.11 can be asked: since
/// 3.12 a tool of `sys.monitoring` can watch a single function, which no counter shows.
pub struct Watchers(Option<ProfileFunction>);

impl Watchers {
    /// How to find out in the running version.
    pub fn find(py: Python<'_>) -> Self {
        Self((py.version_info() < (3, 12)).then(|| ProfileFunction::find(py)))
    }

    /// True if it is certain that nobody watches.
    #[inline]
    pub fn none(&self, _py: Python<'_>) -> bool {
        let Some(ProfileFunction(Some(profile))) = self.0 else {
            return false;
        };
        // SAFETY: as in `ProfileFunction::is_set`. `c_tracefunc` is the word behind `c_profilefunc`.
        let (profile, trace) = unsafe {
            let words = ffi::PyThreadState_Get().cast::<*const ()>().add(profile);
            (words.read(), words.add(1).read())
        };
        profile.is_null() && trace.is_null()
    }
}
