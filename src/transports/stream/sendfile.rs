//! `loop.sendfile` over a stream: the transport waits until its queue is empty, lets the file's bytes pass, and refuses
//! writes meanwhile. The system call itself is made by the loop (`python/rloop/_sockets.py`), a few per file.

use pyo3::exceptions::{PyConnectionError, PyRuntimeError};
use pyo3::prelude::*;

use super::StreamTransport;
use crate::error::Message;
use crate::py::new::intern;
use crate::transports::transport::Transport;

impl StreamTransport {
    /// Starts: a future that is completed once everything queued has been sent.
    pub(super) fn begin_sendfile<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        if this.state.with(py, |state| std::mem::replace(&mut state.side.in_sendfile, true)) {
            return Err(PyRuntimeError::new_err(Message("Empty waiter is already set")));
        }
        Self::send_queued(slf)?;
        Self::wait_until_sent(slf)
    }

    /// The kernel has just refused to take more: a future that is completed once it takes some again.
    pub(super) fn wait_writable<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.get().state.with(slf.py(), |state| state.outbox.blocked = true);
        slf.get().watch_writing(slf.py())?;
        Self::wait_until_sent(slf)
    }

    /// The transport has one future at a time: `sendfile` of a transport runs once at a time, as on asyncio.
    fn wait_until_sent<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let future = this.event_loop.bind(py).call_method0(intern!(py, "create_future")?)?;
        let previous = this.state.with(py, |state| state.side.sent_waiter.replace(future.clone().unbind()));
        drop(previous);
        Self::hold(slf);
        this.tell_sent_waiter(py)?;
        Ok(future)
    }

    /// Completes the future that waits, if what it waits for is so; with an exception once the connection is lost.
    pub(super) fn tell_sent_waiter(&self, py: Python<'_>) -> PyResult<()> {
        let (waiter, lost) = self.state.with(py, |state| {
            let lost = state.life.drops_writes();
            let due = lost || (state.outbox.is_clear());
            (if due { state.side.sent_waiter.take() } else { None }, lost)
        });
        let Some(waiter) = waiter else {
            return Ok(());
        };
        let waiter = waiter.into_bound(py);
        if !lost {
            self.core.names.set_result_unless_cancelled.bind(py).call1((waiter, py.None()))?;
        } else if !waiter.call_method0(intern!(py, "done")?)?.is_truthy()? {
            let error = PyConnectionError::new_err(Message("Connection is closed by peer"));
            waiter.call_method1(intern!(py, "set_exception")?, (error.into_value(py),))?;
        }
        Ok(())
    }

    /// Nobody waits any more, so that the loop need not hold the transport for that.
    pub(super) fn end_sendfile(slf: &Bound<'_, Self>) {
        let waiter = slf.get().state.with(slf.py(), |state| {
            state.side.in_sendfile = false;
            state.side.sent_waiter.take()
        });
        drop(waiter);
        Self::hold(slf);
    }
}
