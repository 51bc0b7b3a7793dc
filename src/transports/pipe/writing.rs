//! The writing end of a pipe: the class, noticing that the reader has gone away, and the end. How bytes leave is in
//! `sending.rs`.
//!
//! A file on which every write is a record of its own (a packet pipe, a datagram socket, a device such as a tunnel) is
//! written chunk by chunk and at once. So is a terminal, for the sake of what the program prints beside.

use std::os::fd::OwnedFd;

use pyo3::exceptions::PyBrokenPipeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::{End, Parts};
use crate::core::Kind;
use crate::py::bytes::{self, Chunk};
use crate::py::context;
use crate::py::made::Made;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys;
use crate::transports::flow::Flow;
use crate::transports::habit::Habit;
use crate::transports::inside::Inside;
use crate::transports::lifecycle::Event;
use crate::transports::report::{self, not_implemented};
use crate::transports::write_queue::WriteQueue;

const NAME: &str = "WritePipeTransport";

/// The writing end of a pipe and its protocol.
#[pyclass(frozen, dict, weakref, module = "rloop._rloop")]
pub struct WritePipeTransport {
    pub(super) end: Made<End<Writing>>,
}

/// What only the writing end has.
pub(super) struct Writing {
    pub(super) flow: Flow,
    pub(super) queue: WriteQueue<Chunk>,
    /// The kernel takes no more: wait for its edge. Invariant: a paused protocol implies this.
    pub(super) blocked: bool,
    /// When to send.
    pub(super) habit: Habit,
    /// The loop will call `flush`, for something is kept back.
    pub(super) gathering: bool,
    /// Writes after the end, and the write that found it.
    pub(super) dropped_writes: u32,
    /// The kernel says here when the reader goes away. The fd is watched from the start; any other is once it blocks.
    pub(super) tells_end: bool,
    /// Every chunk is written by itself, and at once.
    pub(super) by_record: bool,
    /// For an fd that is not watched from the start: another number for the same file, to be watched when it blocks.
    /// The number itself may be watched already, for the reading end of the same terminal.
    pub(super) twin: Option<OwnedFd>,
}

/// How the loop calls writing ends.
pub(super) static KIND: Kind =
    Kind { on_ready: WritePipeTransport::on_ready, flush: WritePipeTransport::flush, owns_fd: |_| true };

impl WritePipeTransport {
    /// Makes the transport and schedules its start. `tells_end`: a pipe, FIFO or socket, where it shows that the reader
    /// has gone. `by_record`: every write is to be a system call of its own.
    pub fn open<'py>(parts: Parts<'_, 'py>, tells_end: bool, by_record: bool) -> PyResult<Bound<'py, Self>> {
        let writing = Writing {
            flow: Flow::new(),
            queue: WriteQueue::new(),
            blocked: false,
            habit: Habit::default(),
            gathering: false,
            dropped_writes: 0,
            tells_end,
            by_record,
            twin: None,
        };
        sys::sigpipe::look();
        let end = End::new(&parts, writing)?;
        let transport = Bound::new(parts.event_loop.py(), Self { end: Made::new(end) })?;
        End::<Writing>::start(parts, transport.as_any(), tells_end)?;
        Ok(transport)
    }

    fn on_ready(object: &Bound<'_, PyAny>, readiness: Readiness) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let end = &slf.get().end;
        let (gone, unblocked) = end.state.with(slf.py(), |state| {
            let gone = state.side.tells_end && readiness.contains(Readiness::READABLE);
            let unblocked = state.side.blocked && !gone && readiness.contains(Readiness::WRITABLE);
            state.side.blocked &= !unblocked;
            (gone, unblocked)
        });
        if !(gone || unblocked) {
            return Ok(());
        }
        context::run_in(&end.context(slf.py()), || {
            if gone { Self::reader_gone(slf) } else { Self::send_queued(slf) }
        })
    }

    /// A writing end has nothing to read: whatever makes it readable is taken for the end.
    fn reader_gone(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, end) = (slf.py(), &slf.get().end);
        // What asyncio had given to the kernel when it was written; the error of this says more.
        let sent = Self::send_queued(slf);
        if end.state.with(py, |state| state.life.drops_writes()) {
            return sent;
        }
        let logged = end.log_closed_by_peer(slf.as_any());
        let lost = end.state.with(py, |state| !state.side.queue.is_empty());
        let exc = lost.then(|| PyBrokenPipeError::new_err(()).into_value(py).into_any());
        sent.and(logged).and(Self::fail(slf, exc))
    }

    fn close_gracefully(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, end) = (slf.py(), &slf.get().end);
        if end.is_closing(py) {
            return Ok(());
        }
        // asyncio has sent by now what the kernel takes.
        let sent = Self::send_queued(slf);
        let action = end.state.with(py, |state| {
            let queued = !state.side.queue.is_empty();
            state.life.on(Event::Close { queued })
        });
        sent.and(end.perform(slf.as_any(), action, None))
    }

    /// Drops what is queued and has `connection_lost(exc)` called, if nothing has before.
    pub(super) fn fail(slf: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        let end = &slf.get().end;
        let action = end.state.with(slf.py(), |state| {
            if !state.life.drops_writes() {
                // What asyncio had given to the kernel when it was written; whether it fails makes no difference.
                let _ = end.send(state);
                state.side.queue.clear();
            }
            state.life.on(Event::Fail)
        });
        end.perform(slf.as_any(), action, exc)
    }

    fn describe(&self, py: Python<'_>) -> String {
        self.end.state.with(py, |state| {
            let (mut text, polls) = self.end.describe(NAME, state);
            if polls {
                let polling = if state.side.blocked { "polling" } else { "idle" };
                text.push_str(&format!(" {polling} bufsize={}>", state.side.queue.len()));
            }
            text
        })
    }
}

#[pymethods]
impl WritePipeTransport {
    /// Writes what all of `list_of_data`, an iterable of bytes-like objects, is together.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::write_chunk(slf, Chunk::from_buffer(&bytes::join(list_of_data)?)?)
    }

    /// As `close()`: the reader finds the end once everything queued is sent.
    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::close_gracefully(slf)
    }

    /// True.
    fn can_write_eof(&self) -> bool {
        true
    }

    /// Ends writing once everything queued is sent.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::close_gracefully(slf)
    }

    /// Ends writing at once; what is queued is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::fail(slf, None)
    }

    /// A writing end does not read: raises NotImplementedError, as asyncio's does.
    fn is_reading(&self) -> PyResult<bool> {
        not_implemented()
    }

    /// As `is_reading()`.
    fn pause_reading(&self) -> PyResult<()> {
        not_implemented()
    }

    /// As `is_reading()`.
    fn resume_reading(&self) -> PyResult<()> {
        not_implemented()
    }

    /// True once the transport is closing or closed.
    fn is_closing(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::send_kept(slf)?;
        Ok(slf.get().end.is_closing(slf.py()))
    }

    /// Sets the protocol.
    fn set_protocol(&self, py: Python<'_>, protocol: Py<PyAny>) {
        self.end.set_protocol(py, protocol);
    }

    /// The protocol; None once `connection_lost` was called.
    fn get_protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.end.protocol(py)
    }

    /// Sets the marks, in bytes, above which the protocol is paused and at which it is resumed.
    #[pyo3(signature = (high=None, low=None))]
    fn set_write_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (py, end) = (slf.py(), &slf.get().end);
        let (high, low) = report::water_marks(high, low)?;
        end.state.with(py, |state| state.side.flow.set_limits(high, low)).map_err(report::wrong_marks)?;
        Self::queue_grown(slf)
    }

    /// (low, high), in bytes.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.end.state.with(py, |state| state.side.flow.limits())
    }

    /// How many bytes are queued.
    fn get_write_buffer_size(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Self::send_kept(slf)?;
        Ok(slf.get().end.state.with(slf.py(), |state| state.side.queue.len()))
    }

    /// Information about the transport: "pipe", the object that it was made from, or what its maker added.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let end = &slf.get().end;
        // Whoever takes the pipe to use it directly does so behind what was written.
        Self::send_kept(slf)?;
        Ok(end.extra(slf.py()).get_item(name)?.or(default))
    }

    /// For the attributes that `_transports.py` adds.
    fn _inside<'py>(&self, py: Python<'py>) -> PyResult<Inside<'py>> {
        let (lost, queued) =
            self.end.state.with(py, |state| (state.side.dropped_writes, state.side.queue.copies()));
        self.end.inside(py, lost, queued)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        self.describe(py)
    }

    /// `isinstance(transport, asyncio.WriteTransport)` asks for this: asyncio's class cannot be a native base.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        self.end.core.names.write_pipe_transport.clone_ref(py)
    }

    /// asyncio's private name for it, which programs read.
    #[getter(_closing)]
    fn closing(&self, py: Python<'_>) -> bool {
        self.end.is_closing(py)
    }

    #[getter(_loop)]
    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.end.event_loop.clone_ref(py)
    }

    #[getter(_protocol_paused)]
    fn is_protocol_paused(&self, py: Python<'_>) -> bool {
        self.end.state.with(py, |state| state.side.flow.is_paused())
    }

    /// The second step, after `connection_made`: from here on it shows when the reader goes away.
    fn _start_watching(slf: &Bound<'_, Self>) -> PyResult<()> {
        let end = &slf.get().end;
        if end.is_closing(slf.py()) { Ok(()) } else { end.watch(slf.as_any(), end.fd.number(), &KIND) }
    }

    /// The pipe may be made to hold more once it has been full.
    fn _let_grow(&self, py: Python<'_>) {
        self.end.let_grow(py);
    }

    fn _call_connection_lost(&self, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        let result = self.end.call_connection_lost(exc);
        let twin = self.end.state.with(exc.py(), |state| state.side.twin.take());
        drop(twin);
        result
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.end.get().map_or(Ok(()), |end| end.traverse(&visit))
    }

    fn __clear__(&self, py: Python<'_>) {
        self.end.clear(py);
    }
}

impl Drop for WritePipeTransport {
    fn drop(&mut self) {
        if self.end.get().is_none() {
            return;
        }
        // SAFETY: a pyclass is only ever dropped by its tp_dealloc, which holds the interpreter.
        let py = unsafe { Python::assume_attached() };
        let text = self.describe(py);
        if let Some(end) = self.end.get_mut() {
            end.dropped(py, text);
        }
    }
}
