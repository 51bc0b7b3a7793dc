//! Who watches the calls of Python functions: a profile function (`sys.setprofile`, or a profiler that is written in
//! C), a trace function (`sys.settrace`), or a tool of `sys.monitoring`.
//!
//! A profiler that knows tasks notices at a call of a Python function that the program has left a task's context. A
//! loop that is written in Python makes such calls all the time. Ours makes one before and one after it waits, if a
//! profiler is set. What does the work of a Python function natively asks [`Watchers`] first.
//!
//! CPython keeps some of this in places that are not a part of its C API. Each place is given with the versions that
//! have it there.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;

use super::cell::LoopCell;
use crate::reactor::sys::Library;

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

/// Finds out whether anybody watches Python functions run on this thread.
pub enum Watchers {
    /// CPython 3.11: a profile function and a trace function are all that there can be.
    Functions(ProfileFunction),
    /// CPython 3.13 and later: the tools of `sys.monitoring`. Profile and trace functions are two of them.
    Tools(Tools),
    /// It cannot be found out. On CPython 3.12 no function of the C API tells which tools there are.
    Unknown,
}

impl Watchers {
    /// How to find out in the running version.
    pub fn find(py: Python<'_>) -> Self {
        let version = py.version_info();
        match (version.major, version.minor) {
            (3, 11) => Self::Functions(ProfileFunction::find(py)),
            (3, minor @ 13..=15) => Tools::find(minor).map_or(Self::Unknown, Self::Tools),
            _ => Self::Unknown,
        }
    }

    /// True if it is certain that nobody watches all functions.
    #[inline]
    pub fn none(&self, py: Python<'_>) -> bool {
        match self {
            Self::Functions(ProfileFunction(Some(profile))) => {
                // SAFETY: as in `ProfileFunction::is_set`. `c_tracefunc` is the word behind `c_profilefunc`.
                let (profile, trace) = unsafe {
                    let words = ffi::PyThreadState_Get().cast::<*const ()>().add(*profile);
                    (words.read(), words.add(1).read())
                };
                profile.is_null() && trace.is_null()
            }
            Self::Tools(tools) => tools.none(py),
            Self::Functions(ProfileFunction(None)) | Self::Unknown => false,
        }
    }

    /// True if it is certain that nobody watches only some functions, and the one with this code among them. `code`: a
    /// code object.
    #[inline]
    pub fn none_of(&self, code: &Bound<'_, PyAny>) -> bool {
        match self {
            Self::Functions(_) => true,
            Self::Tools(tools) => tools.none_of(code),
            Self::Unknown => false,
        }
    }
}

/// The tools of `sys.monitoring`.
pub struct Tools {
    enter_scope: EnterScope,
    /// How many kinds of events there are. Their numbers begin at 0 (`cpython/monitoring.h`).
    kinds: usize,
    /// How many of them a tool can ask for of one function alone. These come first.
    local_kinds: usize,
    found: LoopCell<Found>,
}

/// `PyMonitoring_EnterScope` (CPython 3.13), by which code that is not Python's learns which events tools want. It
/// writes the states only if the version is another one than the interpreter's, and then the version, too.
type EnterScope = unsafe extern "C" fn(*mut State, *mut u64, *const u8, ffi::Py_ssize_t) -> c_int;

/// `PyMonitoringState`.
#[repr(C)]
#[derive(Default)]
struct State {
    /// A bit for each tool that wants the event.
    active: u8,
    opaque: u8,
}

/// The most kinds of events that a version has.
const MOST: usize = 16;
static NUMBERS: [u8; MOST] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// What was found the last time.
#[derive(Default)]
struct Found {
    version: u64,
    states: [State; MOST],
    is_any: bool,
}

impl Tools {
    /// In CPython 3.`minor`, which is 13, 14 or 15.
    fn find(minor: u8) -> Option<Self> {
        if size_of::<usize>() != 8 {
            // `none_of` knows the place in a build with words of 64 bits.
            return None;
        }
        let symbol = Library::loaded(None)?.symbol(c"PyMonitoring_EnterScope")?;
        // SAFETY: the function of this name has this type, from CPython 3.13 on.
        let enter_scope =
            unsafe { std::mem::transmute::<*mut std::ffi::c_void, EnterScope>(symbol.as_ptr()) };
        let (kinds, local_kinds) = match minor {
            13 => (15, 10),
            14 => (16, 11),
            _ => (16, 16),
        };
        Some(Self { enter_scope, kinds, local_kinds, found: LoopCell::default() })
    }

    fn none(&self, py: Python<'_>) -> bool {
        self.found.with(py, |found| {
            let before = found.version;
            // SAFETY: there are at least `kinds` states and numbers. The function runs no Python code, and the GIL is
            // held.
            unsafe {
                let (states, kinds) = (found.states.as_mut_ptr(), self.kinds as ffi::Py_ssize_t);
                (self.enter_scope)(states, &raw mut found.version, NUMBERS.as_ptr(), kinds);
            }
            if found.version != before {
                found.is_any = found.states.iter().any(|state| state.active != 0);
            }
            !found.is_any
        })
    }

    /// True if no tool has asked for events of this code object alone (`sys.monitoring.set_local_events`).
    fn none_of(&self, code: &Bound<'_, PyAny>) -> bool {
        /// Where a code object has `_co_monitoring`, in words (`cpython/code.h` of CPython 3.13 to 3.15).
        const MONITORING: usize = size_of::<ffi::PyVarObject>() / size_of::<usize>() + 19;
        // SAFETY: `code` is a code object, and the GIL is held. The word is null or the address of a
        // `_PyCoMonitoringData`. That begins with `local_monitors`: a byte for each kind of event that can be local.
        unsafe {
            let data = code.as_ptr().cast::<*const u8>().add(MONITORING).read();
            data.is_null()
                || std::slice::from_raw_parts(data, self.local_kinds).iter().all(|&tools| tools == 0)
        }
    }
}
