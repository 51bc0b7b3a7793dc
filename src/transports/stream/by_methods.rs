//! Streams over a socket whose class has a `recv`, `recv_into` or `send` of its own: a program's, that counts, delays or
//! translates. asyncio's transports call them, and so do these.
//!
//! Such a method may take less than the kernel offers. So the kernel is asked by poll(2) before each receive and after
//! each send that has not taken everything, as asyncio's level-triggered selector does it.

use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::reading::Reading;
use super::{State, StreamTransport};
use crate::error::leaves_the_loop;
use crate::py::calls;
use crate::py::new;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys;

impl StreamTransport {
    /// One receive, one call of the protocol.
    pub(super) fn read_by_method(
        slf: &Bound<'_, Self>,
        socket: &Bound<'_, PyAny>,
        reading: &Reading<'_>,
    ) -> PyResult<()> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        let fd = this.state.with(py, |state| state.socket.number());
        if matches!(sys::is_readable(fd), Ok(false)) {
            this.state.with(py, |state| state.readable = false);
            return Ok(());
        }
        let (argument, receive, told) = if reading.buffered {
            match reading.lend(names) {
                Ok(lent) => (lent, "recv_into", &names.buffer_updated),
                Err(error) => {
                    return Self::fatal_error(slf, error, "Fatal error: protocol.get_buffer() call failed.");
                }
            }
        } else {
            let most = this.state.with(py, |state| state.read_size.most());
            (new::int(py, most)?.into_any(), "recv", &names.data_received)
        };
        let received = socket.call_method1(receive, (argument,)).and_then(|received| {
            let nothing = !received.is_truthy()?;
            Ok((received, nothing))
        });
        match received {
            Ok((_, true)) => Self::read_end(slf, reading),
            Ok((received, false)) => match calls::method(&reading.protocol, told, [&received]) {
                Ok(_) => Ok(()),
                Err(error) => {
                    let message = format!("Fatal error: protocol.{told}() call failed.");
                    Self::fatal_error(slf, error, &message)
                }
            },
            Err(error) if would_block(py, &error) => Ok(()),
            Err(error) => Self::fatal_error(slf, error, "Fatal read error on socket transport"),
        }
    }

    /// Gives the socket's own `send`, if that is to be called, what is queued, as far as it takes it. Err: its exception.
    pub(super) fn send_by_method(&self, py: Python<'_>) -> PyResult<()> {
        let Some(socket) =
            self.state.with(py, |state| state.socket.by_methods().map(|object| object.bind(py).clone()))
        else {
            return Ok(());
        };
        while let Some(data) = self.state.with(py, |state| state.begin_send(py))? {
            let len = data.as_bytes().len();
            let sent =
                socket.call_method1(&self.core.names.send, (data,)).and_then(|sent| sent.extract::<usize>());
            self.state.with(py, |state| state.in_send = false);
            let sent = match sent {
                Err(error) if would_block(py, &error) => 0,
                sent => sent?,
            };
            self.state.with(py, |state| {
                // An abort may have emptied the queue meanwhile.
                state.queue.advance(sent.min(len).min(state.queue.len()));
                state.write_blocked = sent < len && !state.queue.is_empty();
            });
        }
        let (fd, token) = self.state.with(py, |state| {
            (state.socket.number(), state.token.filter(|_| state.write_blocked && !state.queue.is_empty()))
        });
        if let Some(token) = token
            && matches!(sys::is_writable(fd), Ok(true))
        {
            self.core.requeue(py, token, Readiness::WRITABLE);
        }
        Ok(())
    }
}

impl State {
    /// What comes next for `send`; none while another call of it is under way.
    fn begin_send<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        if self.in_send || !self.keeps_back() || self.life.drops_writes() {
            return Ok(None);
        }
        // No collection can start here: bytes are not tracked.
        let next = self.queue.with_front(usize::MAX, |slices| new::bytes(py, &slices[0]))?;
        self.in_send = true;
        Ok(Some(next))
    }
}

fn would_block(py: Python<'_>, error: &PyErr) -> bool {
    !leaves_the_loop(py, error)
        && (error.is_instance_of::<PyBlockingIOError>(py) || error.is_instance_of::<PyInterruptedError>(py))
}
