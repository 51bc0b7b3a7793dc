//! What all transports that send have in common: when they send, what the protocol is told of it, and the water marks.
//!
//! [`Sender`] puts the decisions of `outbox.rs` into effect, for a transport with the shell of `shell.rs`. How bytes or
//! datagrams are given to the kernel is the business of the kinds (`stream/`, `datagram/`, `pipe/`). No kind is named
//! here.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{PyAssertionError, PyTypeError};
use pyo3::prelude::*;
use pyo3::pyclass::PyClass;

use super::flow::Signal;
use super::outbox::{Follow, Next, Outbox, Queue};
use super::shell::{Hold, State, Transport};
use super::water_marks;
use crate::py::context;
use crate::py::new::{intern, interned};

/// A transport that sends: it has an outbox.
pub trait Sender: Transport {
    type Queue: Queue;
    /// What is to be done, outside of the borrow, after something was sent.
    type After;

    /// The warning for a program that goes on writing after the loss.
    const LOST_WRITE: &'static str;

    /// Where the outbox is.
    fn outbox(side: &mut Self::Side) -> &mut Outbox<Self::Queue>;

    /// Gives the kernel what it takes of the queue. None: nothing follows, as nearly always.
    fn send(&self, state: &mut State<Self::Side>) -> Option<Self::After>;

    /// Does what follows from [`Sender::send`]. Err: what leaves the loop; everything else is done all the same.
    fn follow(slf: &Bound<'_, Self>, after: Self::After) -> PyResult<()>;

    /// Sends what is queued, and does what follows.
    fn send_and_follow(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let after = this.shell().state.with(py, |state| this.send(state));
        after.map_or(Ok(()), |after| Self::follow(slf, after))
    }

    /// The loop's call when what was kept back is to leave.
    fn flush(object: &Bound<'_, PyAny>) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let (py, this, shell) = (slf.py(), slf.get(), slf.get().shell());
        let after = shell.state.with(py, |state| {
            Self::outbox(&mut state.side).begin_flush();
            this.send(state)
        });
        after.map_or(Ok(()), |after| context::run_in(&shell.context(py), || Self::follow(slf, after)))
    }

    /// The program asks the transport something: it is to find that everything was sent which the kernel takes.
    fn send_kept(slf: &Bound<'_, Self>) -> PyResult<()> {
        let kept = slf.get().shell().state.with(slf.py(), |state| Self::outbox(&mut state.side).asked());
        if kept { Self::send_and_follow(slf) } else { Ok(()) }
    }

    /// What follows from a write that is queued now, by what [`Outbox::next`] has answered for it.
    fn note_queued(state: &mut State<Self::Side>, next: Next) -> (Follow, Hold) {
        // What leaves now, or when the loop calls `flush`, is no reason to hold the transport: the loop does so anyway.
        let hold = if next == Next::Wait { state.hold_change() } else { None };
        (Self::outbox(&mut state.side).queued(next), hold)
    }

    /// Does what [`Sender::note_queued`] has answered.
    fn proceed(slf: &Bound<'_, Self>, (follow, hold): (Follow, Hold)) -> PyResult<()> {
        Self::apply_hold(slf, hold);
        match follow {
            Follow::Send => Self::send_and_follow(slf),
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
        if shell.state.with(py, |state| Self::outbox(&mut state.side).lose()) {
            shell.core.names.logger.call_method1(py, intern!(py, "warning")?, (Self::LOST_WRITE,))?;
        }
        Ok(())
    }

    /// Has the protocol pause or resume its writing.
    fn tell_flow(slf: &Bound<'_, Self>, signal: Option<Signal>) -> PyResult<()> {
        signal.map_or(Ok(()), |signal| Self::reporter(slf).flow(signal))
    }

    /// `set_write_buffer_limits`
    fn set_limits(
        slf: &Bound<'_, Self>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (high, low) = water_marks::parse(high, low)?;
        let signal = slf.get().shell().state.with(slf.py(), |state| {
            let outbox = Self::outbox(&mut state.side);
            outbox.flow.set_limits(high, low).map(|()| outbox.grown())
        });
        Self::tell_flow(slf, signal.map_err(water_marks::refused)?)
    }

    /// `get_write_buffer_limits`: (low, high), in bytes.
    fn limits(&self, py: Python<'_>) -> (usize, usize) {
        self.shell().state.with(py, |state| Self::outbox(&mut state.side).flow.limits())
    }

    /// `get_write_buffer_size`
    fn buffer_size(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Self::send_kept(slf)?;
        Ok(slf.get().shell().state.with(slf.py(), |state| Self::outbox(&mut state.side).queue.size()))
    }

    /// Has the protocol been told to pause its writing?
    fn is_flow_paused(&self, py: Python<'_>) -> bool {
        self.shell().state.with(py, |state| Self::outbox(&mut state.side).flow.is_paused())
    }

    /// The repr of a transport over a socket.
    fn describe_socket(&self, py: Python<'_>) -> String {
        let shell = self.shell();
        shell.state.with(py, |state| {
            let mut text = shell.describe(<Self as PyClass>::NAME, state);
            if !shell.core.closed.load(Relaxed) {
                let polling = |on| if on { "polling" } else { "idle" };
                let read = polling(state.life.may_read());
                let outbox = Self::outbox(&mut state.side);
                let (write, size) = (polling(outbox.blocked), outbox.queue.size());
                text.push_str(&format!(" read={read} write=<{write}, bufsize={size}>"));
            }
            text + ">"
        })
    }
}

/// The error for what cannot be written, with the text of the running version of Python: that of `write()` of asyncio's
/// own transport, which checks the data before it looks at the transport.
#[cold]
pub fn refuse(data: &Bound<'_, PyAny>, module: &str, class: &str) -> PyErr {
    let py = data.py();
    let write = || {
        let class = py.import(interned(py, module)?)?.getattr(interned(py, class)?)?;
        class.call_method1(intern!(py, "write")?, (py.None(), data))
    };
    match write() {
        Err(error)
            if error.is_instance_of::<PyAssertionError>(py) || error.is_instance_of::<PyTypeError>(py) =>
        {
            error
        }
        // With `python -O` the pipe of asyncio checks nothing here, and fails in a later call.
        _ => PyTypeError::new_err(format!("a bytes-like object is required, not {}", data.get_type())),
    }
}
