//! Where a handle was made: `Handle._source_traceback` of asyncio's debug mode. Only frames are kept at first. The
//! `traceback.StackSummary`, which takes ten times as long to make, is made when somebody asks for it.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::py::frames::{self, Frame};
use crate::py::names::Names;
use crate::py::new;
use crate::reactor::clock;

/// A stack, or what it can be made of.
pub enum Origin {
    /// The frames, the innermost first, and the time by the calendar at which they were taken, in nanoseconds.
    Frames(Vec<Frame>, u64),
    /// `traceback.StackSummary`. The program has it, and may have changed it.
    Summary(Py<PyAny>),
}

impl Origin {
    /// The stack of the current thread, of the depth that asyncio's constant says.
    pub fn here(py: Python<'_>, names: &Names) -> PyResult<Self> {
        match names.debug_stack_depth(py)? {
            Some(depth) => Ok(Self::Frames(frames::current(py, depth)?, clock::calendar_ns())),
            // The program has set something of its own.
            None => Ok(Self::Summary(names.extract_stack.call0(py)?)),
        }
    }

    /// The same with references of its own.
    pub fn clone_ref(&self, py: Python<'_>) -> PyResult<Self> {
        Ok(match self {
            Self::Frames(frames, taken) => Self::Frames(Frame::clone_all(frames, py)?, *taken),
            Self::Summary(summary) => Self::Summary(summary.clone_ref(py)),
        })
    }

    /// The `traceback.StackSummary`. This calls Python code.
    pub fn into_summary(self, py: Python<'_>, names: &Names) -> PyResult<Py<PyAny>> {
        let (frames, taken) = match self {
            Self::Frames(frames, taken) => (frames, taken),
            Self::Summary(summary) => return Ok(summary),
        };
        let rows = new::list(py, [])?;
        for frame in &frames {
            let row = [frame.code(py).clone(), line_of(py, frame)?, frame.globals(py).clone().into_any()];
            rows.append(new::tuple(py, row)?)?;
        }
        names.source_traceback.call1(py, (rows, new::int(py, taken as usize)?))
    }

    /// File and line of the innermost frame, as in "created at FILE:LINE". None if the stack is empty.
    pub fn place(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let (file, line) = match self {
            Self::Frames(frames, _) => match frames.first() {
                None => return Ok(None),
                Some(frame) => {
                    (frame.code(py).getattr(new::intern!(py, "co_filename")?)?, line_of(py, frame)?)
                }
            },
            Self::Summary(summary) if summary.bind(py).is_empty()? => return Ok(None),
            Self::Summary(summary) => {
                let frame = summary.bind(py).get_item(-1)?;
                (frame.get_item(0)?, frame.get_item(1)?)
            }
        };
        Ok(Some(format!("{file}:{line}")))
    }

    /// Shows the garbage collector what is kept.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Frames(frames, _) => frames.iter().try_for_each(|frame| frame.traverse(visit)),
            Self::Summary(summary) => visit.call(summary),
        }
    }
}

/// The number of a frame's line, or None, as a frame's `f_lineno`.
fn line_of<'py>(py: Python<'py>, frame: &Frame) -> PyResult<Bound<'py, PyAny>> {
    match frame.line(py) {
        Some(line) => Ok(new::int(py, line)?.into_any()),
        None => Ok(py.None().into_bound(py)),
    }
}
