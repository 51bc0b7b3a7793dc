//! Keeps what is needed of the Python frames of the current thread to show its stack later. In debug mode, each handle
//! knows in this way where it was made. Other files turn the frames into text.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::no_memory;

/// For how many frames there is room at first: asyncio's `DEBUG_STACK_DEPTH`.
const USUAL: usize = 10;

/// What is kept of one frame. The frame itself is not kept: it would keep the local variables alive.
pub struct Frame {
    code: Py<PyAny>,
    /// The global variables, in which `linecache` finds who can read the source of a module that is no file.
    globals: Py<PyDict>,
    /// The offset of the instruction that ran, in bytes.
    instruction: c_int,
}

impl Frame {
    /// The same frames with references of their own.
    pub fn clone_all(frames: &[Self], py: Python<'_>) -> PyResult<Vec<Self>> {
        let mut clones = room(frames.len())?;
        clones.extend(frames.iter().map(|frame| Self {
            code: frame.code.clone_ref(py),
            globals: frame.globals.clone_ref(py),
            instruction: frame.instruction,
        }));
        Ok(clones)
    }

    /// The code object.
    pub fn code<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.code.bind(py)
    }

    /// The global variables.
    pub fn globals<'py>(&self, py: Python<'py>) -> &Bound<'py, PyDict> {
        self.globals.bind(py)
    }

    /// The number of the line that ran. None for an instruction that belongs to no line.
    pub fn line(&self, py: Python<'_>) -> Option<usize> {
        // SAFETY: the object came from `PyFrame_GetCode`, and the GIL is held.
        let line = unsafe { ffi::PyCode_Addr2Line(self.code.bind(py).as_ptr().cast(), self.instruction) };
        usize::try_from(line).ok()
    }

    /// Shows the garbage collector what is kept.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.code)?;
        visit.call(&self.globals)
    }
}

/// The frames of the current thread, the innermost first, and at most `most` of them.
pub fn current(py: Python<'_>, most: usize) -> PyResult<Vec<Frame>> {
    let mut frames = room(most.min(USUAL))?;
    // SAFETY: the GIL is held, so the thread has a state. All of these functions return new references. A frame always
    // has code and global variables; there may be no frame, or none behind it, which is null without an exception.
    unsafe {
        let mut frame = ffi::PyThreadState_GetFrame(ffi::PyThreadState_Get());
        let mut enough = Ok(());
        while !frame.is_null() && frames.len() < most {
            if frames.try_reserve(1).is_err() {
                enough = Err(no_memory());
                break;
            }
            frames.push(Frame {
                code: Bound::from_owned_ptr(py, ffi::PyFrame_GetCode(frame).cast()).unbind(),
                globals: Bound::from_owned_ptr(py, ffi::PyFrame_GetGlobals(frame))
                    .cast_into_unchecked()
                    .unbind(),
                instruction: ffi::PyFrame_GetLasti(frame),
            });
            let back = ffi::PyFrame_GetBack(frame);
            ffi::Py_DECREF(frame.cast());
            frame = back;
        }
        ffi::Py_XDECREF(frame.cast());
        enough.map(|()| frames)
    }
}

/// A vector with room for so many frames.
fn room(frames: usize) -> PyResult<Vec<Frame>> {
    let mut room = Vec::new();
    room.try_reserve_exact(frames).map_err(|_| no_memory())?;
    Ok(room)
}
