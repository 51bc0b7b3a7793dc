//! The end of an endpoint: closed, failed, or forgotten by the program.

use pyo3::prelude::*;

use super::DatagramTransport;
use crate::error::leaves_the_loop;
use crate::handle::Callback;
use crate::py::new::intern;
use crate::transports::lifecycle::{Action, Event, Phase};
use crate::transports::report::unclosed;

impl DatagramTransport {
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

    /// Ends the endpoint by an exception, told as asyncio tells it.
    pub(super) fn fatal_error(slf: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = slf.py();
        if leaves_the_loop(py, &error) {
            return Err(error);
        }
        // Also when the exception handler leaves the loop, the endpoint ends.
        let told = slf.get().reporter(slf.as_any()).fatal(message, error.clone_ref(py));
        let failed = Self::fail(slf, Some(error.into_value(py).into_any()));
        told.and(failed)
    }

    /// Drops what is queued and has `connection_lost(exc)` called, if nothing has before.
    pub(super) fn fail(slf: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        let native = slf.get().native.is_some();
        let (action, dropped) = slf.get().state.with(slf.py(), |state| {
            if state.life.drops_writes() {
                return (Action::Nothing, None);
            }
            // In the middle of being sent: asyncio had given it to the kernel one by one.
            if native {
                state.send_rest();
            }
            (state.life.on(Event::Fail), Some(state.queue.take()))
        });
        drop(dropped);
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
        this.core.check_closed()?;
        let (lost, exc) =
            (slf.getattr(intern!(py, "_call_connection_lost")?)?, exc.unwrap_or_else(|| py.None()));
        let callback = Callback { callback: lost, args: &[exc.as_ptr()], context: None };
        this.core.call_soon(this.event_loop.bind(py), callback)?;
        Ok(())
    }

    /// Closes the socket and lets go of everything.
    pub(super) fn release(&self, py: Python<'_>) -> PyResult<()> {
        let native = self.native.is_some();
        let (socket, held) = self.state.with(py, |state| {
            if native && state.life.phase() == Phase::Closed {
                // Last words.
                state.send_rest();
            }
            let peers = std::mem::take(&mut state.peers);
            let received = std::mem::take(&mut state.received);
            (state.socket.take(py), (state.protocol.take(), state.queue.take(), received, peers))
        });
        drop(held);
        socket.close(py)
    }
}

impl Drop for DatagramTransport {
    /// A transport that nobody closed: warned about as asyncio does, and its socket is closed.
    fn drop(&mut self) {
        if self.0.get().is_none() {
            return;
        }
        // SAFETY: a pyclass is only ever dropped by its tp_dealloc, which holds the interpreter.
        let py = unsafe { Python::assume_attached() };
        let (token, closed) = self.state.with(py, |state| (state.token.take(), state.socket.is_closed()));
        if let Some(token) = token {
            self.core.deregister(py, token);
        }
        if !closed {
            let text = self.describe(py);
            unclosed(py, &text, || self.release(py));
        }
    }
}
