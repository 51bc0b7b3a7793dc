//! The end of a connection: closed, failed, or forgotten by the program.

use pyo3::prelude::*;

use super::StreamTransport;
use crate::error::leaves_the_loop;
use crate::handle::Callback;
use crate::py::new::intern;
use crate::transports::lifecycle::{Action, Event};
use crate::transports::report::{Reporter, unclosed};

impl StreamTransport {
    pub(super) fn close_gracefully(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if this.state.with(py, |state| state.life.is_closing()) {
            return Ok(());
        }
        // asyncio has sent by now what the kernel takes.
        let sent = Self::send_queued(slf);
        let action =
            this.state.with(py, |state| state.life.on(Event::Close { queued: !state.queue.is_empty() }));
        sent.and(Self::perform(slf, action, None))
    }

    /// Ends the connection: an exception of the protocol or an OSError, told as asyncio tells it.
    pub(super) fn fatal_error(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if leaves_the_loop(py, &error) {
            return Err(error);
        }
        // Also when the exception handler leaves the loop, the connection ends.
        let told = this.reporter(slf.as_any()).fatal(message, error.clone_ref(py));
        let failed = Self::fail(slf, Some(error.into_value(py).into_any()));
        told.and(failed)
    }

    /// Drops what is queued and has `connection_lost(exc)` called, if nothing has before.
    pub(super) fn fail(slf: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        let action = slf.get().state.with(slf.py(), |state| {
            if !state.life.drops_writes() {
                // What asyncio had given to the kernel when it was written; whether it fails makes no difference.
                let _ = state.send(&slf.get().core);
                state.queue.clear();
            }
            state.life.on(Event::Fail)
        });
        Self::perform(slf, action, exc)
    }

    pub(super) fn perform(slf: &Bound<'_, Self>, action: Action, exc: Option<Py<PyAny>>) -> PyResult<()> {
        if action != Action::ScheduleLost {
            return Ok(());
        }
        let (py, this) = (slf.py(), slf.get());
        if let Some(token) = this.state.with(py, |state| state.token.take()) {
            this.core.deregister(py, token);
        }
        let told = this.tell_sent_waiter(py);
        this.core.check_closed()?;
        let lost = slf.getattr(intern!(py, "_call_connection_lost")?)?;
        let exc = exc.unwrap_or_else(|| py.None());
        let context = this.state.with(py, |state| state.own_context.then(|| state.context.bind(py).clone()));
        let callback = Callback { callback: lost, args: &[exc.as_ptr()], context };
        this.core.call_soon(this.event_loop.bind(py), callback)?;
        told
    }

    /// Closes the socket and lets go of everything.
    pub(super) fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        let (socket, protocol, server) = this.state.with(py, |state| {
            let protocol = (state.protocol.take(), state.tls.take());
            (state.socket.take(py), protocol, state.server.take())
        });
        drop(protocol);
        let closed = socket.close(py);
        if let Some(server) = server {
            if names.server_counts_transports {
                server.call_method1(py, &names._detach, (slf,))?;
            } else {
                server.call_method0(py, &names._detach)?;
            }
        }
        closed
    }

    /// Gives an exception to the loop's exception handler.
    #[cold]
    pub(super) fn report(&self, slf: &Bound<'_, Self>, message: &str, error: PyErr) -> PyResult<()> {
        self.reporter(slf.as_any()).exception(message, error)
    }

    pub(super) fn reporter<'a, 'py>(&'a self, transport: &'a Bound<'py, PyAny>) -> Reporter<'a, 'py> {
        let protocol = self.get_protocol(transport.py()).map(|protocol| protocol.into_bound(transport.py()));
        Reporter { core: &self.core, event_loop: &self.event_loop, transport, protocol }
    }

    pub(super) fn log_debug(&self, slf: &Bound<'_, Self>, format: &str) -> PyResult<()> {
        self.reporter(slf.as_any()).debug(format)
    }
}

impl Drop for StreamTransport {
    /// A transport that nobody closed: warned about as asyncio does, and its fd is closed.
    fn drop(&mut self) {
        if self.0.get().is_none() {
            return;
        }
        // SAFETY: a pyclass is only ever dropped by its tp_dealloc, which holds the interpreter.
        let py = unsafe { Python::assume_attached() };
        let text = self.describe(py);
        let (token, left) = self.state.with(py, |state| {
            let left = (!state.socket.is_closed())
                .then(|| (state.socket.take(py), state.server.take(), state.protocol.take()));
            (state.token.take(), left)
        });
        if let Some(token) = token {
            self.core.deregister(py, token);
        }
        let Some((socket, server, protocol)) = left else {
            return;
        };
        unclosed(py, &text, || {
            let closed = socket.close(py);
            // Since 3.13 the server holds its transports weakly, and has lost this one already. A server that is
            // garbage as well may have been taken apart before: then there is nothing left to count.
            let detached = match server {
                Some(server)
                    if !self.core.names.server_counts_transports
                        && server.bind(py).hasattr(intern!(py, "_active_count")?).unwrap_or(false) =>
                {
                    server.call_method0(py, &self.core.names._detach).map(drop)
                }
                _ => Ok(()),
            };
            drop(protocol);
            closed.and(detached)
        });
    }
}
