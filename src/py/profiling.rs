//! Is a profile function set (`sys.setprofile`, or a profiler's own in C)?
//!
//! Profilers that know of tasks see by a call of a Python function that the program has left a task's context. A loop
//! in Python makes such calls all the time; ours makes one before and one after it waits.

use pyo3::ffi;
use pyo3::prelude::*;

/// Where a `PyThreadState` keeps its profile function (`c_profilefunc` in `cpython/pystate.h`), in words. None: not
/// known of this version, which then is as if none were set.
#[derive(Clone, Copy)]
pub struct ProfileFunction(Option<usize>);

impl ProfileFunction {
    pub fn find(py: Python<'_>) -> Self {
        let version = py.version_info();
        Self(match (version.major, version.minor) {
            (3, 11 | 12) => Some(8),
            (3, 13 | 14) => Some(10),
            (3, 15) => Some(13),
            _ => None,
        })
    }

    #[inline]
    pub fn is_set(self, _py: Python<'_>) -> bool {
        // SAFETY: the thread state of this thread, which holds the interpreter; the word belongs to it in this version,
        // and only this thread changes it.
        self.0.is_some_and(|at| unsafe {
            !ffi::PyThreadState_Get().cast::<*const ()>().add(at).read().is_null()
        })
    }
}
