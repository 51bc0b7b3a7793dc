//! What the transports that send have in common beyond `transport.rs`: what follows from a write, writes after the
//! loss, and the water marks.
//!
//! [`Sender`] puts the decisions of `outbox.rs` into effect. How bytes or datagrams are given to the kernel is the
//! business of the kinds (`stream/`, `datagram/`, `pipe/`). No kind is named here.

use pyo3::exceptions::{PyAssertionError, PyTypeError};
use pyo3::prelude::*;

use super::flow::Queue;
use super::outbox::Follow;
use super::shell::Hold;
use super::transport::Transport;
use super::water_marks;
use crate::error::Message;
use crate::py::bytes::Chunk;
use crate::py::fastcall::Arguments;
use crate::py::new::{self, intern, interned};

/// What a transport that sends does. Every [`Transport`] has these methods; the reading end of a pipe does not use them.
pub trait Sender: Transport {
    /// Does what `State::queued` has answered.
    fn proceed(slf: &Bound<'_, Self>, (follow, hold): (Follow, Hold)) -> PyResult<()> {
        Self::apply_hold(slf, hold);
        match follow {
            Follow::Send => Self::send_queued(slf),
            Follow::Tell(signal) => Self::tell_flow(slf, signal),
            Follow::Flush(due) => {
                slf.get().shell().core.gather(slf.as_any(), &Self::KIND, due);
                Ok(())
            }
        }
    }

    /// A write after the end: it is dropped, and warned about when it goes on.
    #[cold]
    fn lose_write(&self, py: Python<'_>) -> PyResult<()> {
        let shell = self.shell();
        if shell.state.with(py, |state| state.outbox.lose()) {
            shell.core.names.logger.call_method1(
                py,
                intern!(py, "warning")?,
                (new::string(py, Self::LOST_WRITE)?,),
            )?;
        }
        Ok(())
    }

    /// How many bytes are queued.
    fn queued(&self, py: Python<'_>) -> usize {
        self.shell().state.with(py, |state| state.outbox.queue.size())
    }

    /// `set_write_buffer_limits`
    fn set_limits(
        slf: &Bound<'_, Self>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (high, low) = water_marks::parse(high, low)?;
        let signal =
            slf.get().shell().state.with(slf.py(), |state| {
                state.outbox.flow.set_limits(high, low).map(|()| state.outbox.grown())
            });
        Self::tell_flow(slf, signal.map_err(water_marks::refused)?)
    }
}

impl<T: Transport> Sender for T {}

/// The argument of `write(data)`. `module` and `class`: where asyncio's transport is that refuses it otherwise.
#[inline]
pub fn chunk_to_write(args: &Arguments<'_, '_>, module: &str, class: &str) -> PyResult<Chunk> {
    let data = args.single("write", "data")?;
    Chunk::from_write(&data)?.ok_or_else(|| refuse(&data, module, class, "write"))
}

/// The error for data that cannot be written. Its text is that of the running version of Python: asyncio's own method is
/// called with the data, and refuses it. It does so before it looks at its transport, so that None will do for that.
#[cold]
pub fn refuse(data: &Bound<'_, PyAny>, module: &str, class: &str, method: &str) -> PyErr {
    let py = data.py();
    let write = || {
        let class = py.import(interned(py, module)?)?.getattr(interned(py, class)?)?;
        class.call_method1(interned(py, method)?, (py.None(), data))
    };
    match write() {
        Err(error)
            if error.is_instance_of::<PyAssertionError>(py) || error.is_instance_of::<PyTypeError>(py) =>
        {
            error
        }
        // With `python -O` the pipe of asyncio checks nothing here, and fails in a later call.
        _ => {
            PyTypeError::new_err(Message(format!("a bytes-like object is required, not {}", data.get_type())))
        }
    }
}
