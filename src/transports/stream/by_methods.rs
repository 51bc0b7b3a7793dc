//! Streams over a socket whose class has a `recv`, `recv_into` or `send` of its own: a program's class that counts,
//! delays or translates. asyncio's transports call these methods, and so does this one.
//!
//! Such a method may take less than the kernel offers. So the kernel is asked by poll(2) before each receive, and after
//! each send that has not taken everything, as asyncio's level-triggered selector does it.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::reading::{READ_FAILED, Reading};
use super::{State, StreamTransport};
use crate::py::new::{self, intern};
use crate::reactor::readiness::Readiness;
use crate::reactor::sys;
use crate::transports::flow::Queue;
use crate::transports::protocol::{self, Failure};
use crate::transports::socket::would_block;

impl StreamTransport {
    /// One receive, one call of the protocol.
    pub(super) fn read_by_method(
        slf: &Bound<'_, Self>,
        socket: &Bound<'_, PyAny>,
        reading: &Reading<'_>,
    ) -> Result<(), Failure> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        let (fd, most) = this.state.with(py, |state| (state.file.number(), state.side.read_size.most()));
        if matches!(sys::is_readable(fd), Ok(false)) {
            this.state.with(py, |state| state.side.readable = false);
            return Ok(());
        }
        let (method, argument) = if reading.buffered {
            (intern!(py, "recv_into")?, protocol::get_buffer(names, &reading.protocol, None)?)
        } else {
            (intern!(py, "recv")?, new::int(py, most)?.into_any())
        };
        let received = socket.call_method1(method, (argument,)).and_then(|received| {
            let nothing = !received.is_truthy()?;
            Ok((received, nothing))
        });
        if let Ok((received, _)) = &received {
            let count = if reading.buffered { received.extract() } else { received.len() };
            this.core.figures.read(count.unwrap_or(0));
        }
        match received {
            Ok((_, true)) => Self::read_end(slf, reading),
            Ok((count, false)) if reading.buffered => {
                protocol::buffer_updated(names, &reading.protocol, &count)
            }
            Ok((data, false)) => protocol::data_received(names, &reading.protocol, &data),
            Err(error) if would_block(py, &error) => Ok(()),
            Err(error) => Err(Failure::new(READ_FAILED, error)),
        }
    }

    /// Gives the socket's own `send` what is queued, as far as it takes it. Err: its exception.
    pub(super) fn send_by_method(&self, py: Python<'_>) -> PyResult<()> {
        let Some(socket) =
            self.state.with(py, |state| state.file.by_methods().map(|object| object.bind(py).clone()))
        else {
            return Ok(());
        };
        while let Some(data) = self.state.with(py, |state| state.begin_send(py)).transpose()? {
            let len = data.as_bytes().len();
            let sent =
                socket.call_method1(&self.core.names.send, (data,)).and_then(|sent| sent.extract::<usize>());
            self.state.with(py, |state| state.side.in_send = false);
            let sent = match sent {
                Err(error) if would_block(py, &error) => 0,
                sent => sent?,
            };
            self.core.figures.wrote(sent);
            self.state.with(py, |state| {
                let outbox = &mut state.outbox;
                // The program may have called abort() in its `send`, which empties the queue.
                outbox.queue.advance(sent.min(len).min(outbox.queue.size()));
                outbox.blocked = sent < len && !outbox.queue.is_empty();
            });
        }
        let (fd, token) = self.state.with(py, |state| {
            let waits = state.outbox.blocked && state.has_unsent();
            (state.file.number(), state.token.filter(|_| waits))
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
    fn begin_send<'py>(&mut self, py: Python<'py>) -> Option<PyResult<Bound<'py, PyBytes>>> {
        let side = &mut self.side;
        if side.in_send || !self.outbox.has_sendable() || self.life.drops_writes() {
            return None;
        }
        // No collection can start here: bytes are not tracked.
        let data = self.outbox.queue.with_front(|slices| new::bytes(py, &slices[0]));
        side.in_send = data.is_ok();
        Some(data)
    }
}
