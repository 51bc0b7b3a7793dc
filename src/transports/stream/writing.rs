//! Bytes out: queued by `write`, sent at the end of the turn by one vectored send, and what follows from it.

use std::io::{self, IoSlice};
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use super::{KIND, State, StreamTransport};
use crate::error::os_error;
use crate::py::bytes::{Chunk, join};
use crate::py::context;
use crate::py::fastcall::{self, Arguments};
use crate::reactor::readiness::Readiness;
use crate::reactor::sys;
use crate::transports::flow::{Budget, Signal};
use crate::transports::lifecycle::{Action, Event};
use crate::transports::report::DROPPED_WRITES_BEFORE_WARNING;
use crate::transports::tls::TlsLayer;

impl StreamTransport {
    fn write<'py>(slf: &Bound<'py, Self>, args: &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let data = args.single("write", "data")?;
        let Some(chunk) = Chunk::from_write(&data)? else {
            return Err(refuse(&data));
        };
        Self::write_chunk(slf, chunk)?;
        Ok(slf.py().None().into_bound(slf.py()))
    }

    #[inline]
    pub(super) fn write_chunk(slf: &Bound<'_, Self>, chunk: Chunk) -> PyResult<()> {
        let empty = chunk.as_ref().is_empty();
        let written = slf.get().state.with(slf.py(), |state| {
            let written = state.accepts_writes("write()");
            if matches!(written, Ok(true)) {
                state.queue.push(chunk);
            }
            written
        });
        if empty { written.map(drop) } else { Self::written(slf, written) }
    }

    pub(super) fn write_lines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if !this.core.names.own_writelines {
            return Self::write_chunk(slf, Chunk::from_buffer(&join(list_of_data)?)?);
        }
        let accepts = || this.state.with(py, |state| state.accepts_writes("writelines()"));
        let accepted = accepts()?;
        if !list_of_data.is_truthy()? {
            return Ok(());
        }
        if accepted {
            let chunks = list_of_data.try_iter()?.map(chunk_of_line).collect::<PyResult<Vec<_>>>()?;
            this.state.with(py, |state| chunks.into_iter().for_each(|chunk| state.queue.push(chunk)));
        }
        // The iterable may have ended the connection.
        Self::written(slf, accepts())
    }

    /// Sends what a TLS layer has encrypted, behind what is queued; what the kernel does not take now is queued.
    pub(in crate::transports) fn send_now(slf: &Bound<'_, Self>, data: &[u8]) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if this.state.with(py, |state| state.life.drops_writes()) {
            return this.write_dropped(py);
        }
        let sent = this.state.with(py, |state| {
            let mut sent = 0;
            if state.queue.is_empty()
                && !state.write_blocked
                && let Some(fd) = state.socket.fd()
            {
                sent = match sys::send(fd, &[IoSlice::new(data)]) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    sent => sent?,
                };
                state.write_blocked = sent < data.len();
            }
            if sent < data.len() {
                state.queue.push(Chunk::from_vec(data[sent..].to_vec()));
            }
            Ok(())
        });
        if let Err(error) = sent {
            return Self::fatal_error(slf, os_error(py, &error), "Fatal write error on socket transport");
        }
        if let Err(error) = this.watch_writing(py) {
            return Self::fatal_error(slf, error, "Fatal error: the socket cannot be watched.");
        }
        Self::queue_grown(slf)
    }

    /// How many bytes are queued.
    pub(in crate::transports) fn queued(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.queue.len())
    }

    /// What follows after something was queued (true), or dropped because the connection is lost (false).
    pub(super) fn written(slf: &Bound<'_, Self>, written: PyResult<bool>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if !written? {
            return this.write_dropped(py);
        }
        let in_turn = this.core.in_turn.load(Relaxed);
        let (send, defer) = this.state.with(py, |state| {
            let queued = !state.queue.is_empty() && !state.write_blocked;
            let send = queued && (!in_turn || state.flow.is_above_high(state.queue.len()));
            let defer = queued && !send && !std::mem::replace(&mut state.in_unflushed, true);
            (send, defer)
        });
        if defer {
            this.core.flush_later(slf.as_any(), &KIND);
        }
        if send {
            Self::send_some(slf)?;
        }
        Self::queue_grown(slf)
    }

    /// A write after the end: dropped, and warned about when it goes on.
    #[cold]
    fn write_dropped(&self, py: Python<'_>) -> PyResult<()> {
        let count = self.state.with(py, |state| {
            state.dropped_writes = state.dropped_writes.saturating_add(1);
            state.dropped_writes - 1
        });
        if count >= DROPPED_WRITES_BEFORE_WARNING {
            self.core.names.logger.call_method1(py, "warning", ("socket.send() raised exception.",))?;
        }
        Ok(())
    }

    /// The loop's call at the end of a turn.
    pub(super) fn flush(object: &Bound<'_, PyAny>) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let this = slf.get();
        let sent = this.state.with(slf.py(), |state| {
            state.in_unflushed = false;
            let result = state.send(this.allowance());
            let done = state.queue.is_empty() && !state.flow.is_paused();
            result.map(|()| done && !state.life.is_closing() && !state.life.write_ended())
        });
        match sent {
            // Nearly always.
            Ok(true) => Ok(()),
            Ok(false) => context::run_in(&this.context(slf.py()), || Self::sent(slf, Ok(()))),
            Err(error) => context::run_in(&this.context(slf.py()), || Self::sent(slf, Err(error))),
        }
    }

    /// Gives the kernel what it takes of the queue, and does what follows from it.
    pub(super) fn send_queued(slf: &Bound<'_, Self>) -> PyResult<()> {
        let result = slf.get().state.with(slf.py(), |state| state.send(Allowance::ALL));
        Self::sent(slf, result)
    }

    /// The same within what may be sent in this turn.
    pub(super) fn send_some(slf: &Bound<'_, Self>) -> PyResult<()> {
        let result = slf.get().state.with(slf.py(), |state| state.send(slf.get().allowance()));
        Self::sent(slf, result)
    }

    /// How much may be sent now. All, where the loop may not come back for the rest.
    fn allowance(&self) -> Allowance {
        let comes_back = self.core.in_turn.load(Relaxed) || self.core.in_flush.load(Relaxed);
        Allowance(comes_back.then(|| self.core.turns.load(Relaxed)))
    }

    fn sent(slf: &Bound<'_, Self>, result: io::Result<()>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if let Err(error) = result {
            return Self::fatal_error(slf, os_error(py, &error), "Fatal write error on socket transport");
        }
        if let Err(error) = this.watch_writing(py) {
            return Self::fatal_error(slf, error, "Fatal error: the socket cannot be watched.");
        }
        let (signal, again) = this.state.with(py, |state| {
            // The end resumes nobody.
            let drops = state.life.drops_writes();
            let signal = if drops { None } else { state.flow.shrunk(state.queue.len()) };
            let left = !drops && !state.queue.is_empty() && !state.write_blocked;
            (signal, left && !std::mem::replace(&mut state.in_unflushed, true))
        });
        if again {
            this.core.flush_later(slf.as_any(), &KIND);
        }
        // May write again.
        Self::tell_flow(slf, signal)?;
        let layer = this.state.with(py, |state| state.tls.as_ref().map(|layer| layer.bind(py).clone()));
        if let Some(layer) = layer {
            TlsLayer::queue_shrunk(&layer)?;
        }
        if this.state.with(py, |state| state.sent_waiter.is_some()) {
            this.tell_sent_waiter(py)?;
        }
        let (action, end) = this.state.with(py, |state| {
            if !state.queue.is_empty() {
                return (Action::Nothing, false);
            }
            (state.life.on(Event::Drained), state.life.take_shutdown())
        });
        if end && let Err(error) = this.shutdown_write(py) {
            this.report(slf, "Fatal error: shutdown of the sending side failed.", error)?;
        }
        Self::perform(slf, action, None)
    }

    /// On a UNIX socket whose kernel has just refused to take more: has it tell when it takes some again.
    pub(super) fn watch_writing(&self, py: Python<'_>) -> PyResult<()> {
        let token = self.state.with(py, |state| {
            if !state.must_watch_writing() {
                return None;
            }
            state.write_watched = true;
            state.token
        });
        token.map_or(Ok(()), |token| self.core.watch(py, token, Readiness::BOTH))
    }

    /// Pauses the protocol if the queue has grown over the mark.
    pub(super) fn queue_grown(slf: &Bound<'_, Self>) -> PyResult<()> {
        let allowance = slf.get().allowance();
        let signal = slf.get().state.with(slf.py(), |state| {
            // What is not sent yet only for the end of the turn does not count: the kernel may take all of it.
            let waits = state.write_blocked || allowance.left(&state.budget) == 0;
            state.flow.grown(if waits { state.queue.len() } else { 0 })
        });
        Self::tell_flow(slf, signal)
    }

    fn tell_flow(slf: &Bound<'_, Self>, signal: Option<Signal>) -> PyResult<()> {
        signal.map_or(Ok(()), |signal| slf.get().reporter(slf.as_any()).flow(signal))
    }

    pub(super) fn shutdown_write(&self, py: Python<'_>) -> PyResult<()> {
        self.state
            .with(py, |state| state.socket.fd().map_or(Ok(()), sys::shutdown_write))
            .map_err(|error| os_error(py, &error))
    }
}

/// The TypeError for what cannot be written, with the text of the running version: asyncio's own check comes first in
/// its method, before it looks at the transport.
#[cold]
fn refuse(data: &Bound<'_, PyAny>) -> PyErr {
    let write = || {
        let module = data.py().import("asyncio.selector_events")?;
        module.getattr("_SelectorSocketTransport")?.call_method1("write", (data.py().None(), data))
    };
    match write() {
        Err(error) if error.is_instance_of::<PyTypeError>(data.py()) => error,
        _ => PyTypeError::new_err("data argument must be a bytes-like object"),
    }
}

/// How much may be sent by one call of [`State::send`]: what is left of the budget in the turn of this number, or all.
#[derive(Clone, Copy)]
pub(super) struct Allowance(Option<u32>);

impl Allowance {
    pub(super) const ALL: Self = Self(None);

    fn left(self, budget: &Budget) -> usize {
        self.0.map_or(usize::MAX, |turn| budget.left(turn))
    }

    fn spend(self, budget: &mut Budget, count: usize) {
        if let Some(turn) = self.0 {
            budget.spend(turn, count);
        }
    }
}

impl State {
    /// True: queue it. False: drop it. Err: the program has ended its writing itself.
    pub(super) fn accepts_writes(&self, method: &str) -> PyResult<bool> {
        if self.life.write_ended() {
            return Err(PyRuntimeError::new_err(format!("Cannot call {method} after write_eof()")));
        }
        if self.in_sendfile {
            let verb = method.trim_end_matches("()");
            return Err(PyRuntimeError::new_err(format!("unable to {verb}; sendfile is in progress")));
        }
        Ok(!self.life.drops_writes())
    }

    fn must_watch_writing(&self) -> bool {
        self.write_blocked && !self.write_watched
    }

    pub(super) fn send(&mut self, allowance: Allowance) -> io::Result<()> {
        while !self.queue.is_empty() && !self.write_blocked {
            let (Some(fd), left @ 1..) = (self.socket.fd(), allowance.left(&self.budget)) else {
                return Ok(());
            };
            let (result, offered) = self.queue.with_front(left, |slices| {
                let offered: usize = slices.iter().map(|slice| slice.len()).sum();
                (sys::send(fd, slices), offered)
            });
            match result {
                Ok(sent) => {
                    self.queue.advance(sent);
                    allowance.spend(&mut self.budget, sent);
                    self.write_blocked = sent < offered;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.write_blocked = true,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What `writelines()` makes of one object.
fn chunk_of_line(data: PyResult<Bound<'_, PyAny>>) -> PyResult<Chunk> {
    let data = data?;
    if !data.is_exact_instance_of::<PyBytes>() {
        // Where asyncio refuses what is no buffer.
        PyMemoryView::from(&data)?;
    }
    Chunk::from_buffer(&data)
}

/// Puts the raw methods on the class.
pub fn add_raw_methods(py: Python<'_>) -> PyResult<()> {
    fastcall::raw_methods! { StreamTransport, &py.get_type::<StreamTransport>(),
        write("($self, /, data)"):
            "Queues bytes; they leave at the end of the turn, in order. Never blocks.",
    }
    Ok(())
}
