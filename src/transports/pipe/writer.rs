//! The writing end of a pipe: how bytes leave, and noticing that the reader has gone away.
//!
//! A write is given to the kernel at once, or kept back for what the same callback writes next, and queued while the
//! kernel takes no more: `outbox.rs` decides.
//!
//! There are files on which every write is a record of its own: a packet pipe, a datagram socket, a device such as a
//! tunnel. They are written chunk by chunk and at once (`by_record`). So is a terminal, to keep the order of what the
//! transport writes and what the program prints.

use std::io::{self, IoSlice};
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};

use pyo3::exceptions::PyBrokenPipeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::capacity::Capacity;
use super::{End, Parts};
use crate::core::Kind;
use crate::error::{no_memory, os_error};
use crate::py::bytes::{self, Chunk};
use crate::py::context;
use crate::py::fastcall::{self, Arguments};
use crate::py::made::Made;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys;
use crate::transports::flow::{Flow, Signal};
use crate::transports::inside::{self, Inside};
use crate::transports::outbox::Outbox;
use crate::transports::sender::{Sender, refuse};
use crate::transports::shell::{self, Shell, Side, Transport, not_implemented};
use crate::transports::write_queue::WriteQueue;

/// The writing end of a pipe and its protocol.
#[pyclass(frozen, dict, weakref, module = "rloop._rloop")]
pub struct WritePipeTransport(Made<Shell<Writing>>);

impl Deref for WritePipeTransport {
    type Target = Shell<Writing>;

    #[inline(always)]
    fn deref(&self) -> &Shell<Writing> {
        &self.0
    }
}

/// What only the writing end has.
pub struct Writing {
    capacity: Capacity,
    outbox: Outbox<WriteQueue<Chunk>>,
    /// The kernel says here when the reader goes away. The fd is watched from the start; any other is once it blocks.
    tells_end: bool,
    /// Every chunk is written by itself, and at once.
    by_record: bool,
    /// For an fd that is not watched from the start: another number for the same file, to be watched when it blocks.
    /// The number itself may be watched already, for the reading end of the same terminal.
    twin: Option<OwnedFd>,
}

type State = shell::State<Writing>;

impl Side for Writing {
    fn has_unsent(&self) -> bool {
        !self.outbox.queue.is_empty()
    }

    fn waits(&self) -> bool {
        self.tells_end
    }
}

impl Writing {
    /// Has the kernel refused to take more of a file that is not watched yet?
    fn is_blocked_unwatched(&self) -> bool {
        self.outbox.blocked && !self.tells_end && self.twin.is_none()
    }
}

impl State {
    /// Gives the kernel what it takes of the queue.
    fn send(&mut self, now: impl FnOnce() -> u64) -> io::Result<()> {
        let Self { file, side: Writing { capacity, outbox, by_record, .. }, .. } = self;
        let write = |slices: &[IoSlice<'_>]| sys::write(file.open_fd()?, slices);
        outbox.send(*by_record, write, || capacity.grow(file.open_fd()), now)
    }
}

impl Transport for WritePipeTransport {
    type Side = Writing;
    type Rest = WriteQueue<Chunk>;

    const KIND: Kind = Kind { on_ready: Self::on_ready, flush: Self::flush, owns_fd: |_| true };

    fn made(&self) -> Option<&Shell<Writing>> {
        self.0.get()
    }

    fn describe(&self, py: Python<'_>) -> String {
        self.describe_end(py, |state| {
            let outbox = &state.side.outbox;
            let polling = if outbox.blocked { "polling" } else { "idle" };
            format!(" {polling} bufsize={}", outbox.queue.len())
        })
    }

    fn release(&self, py: Python<'_>, _transport: Option<&Bound<'_, Self>>) -> PyResult<()> {
        let closed = self.close_pipe(py);
        drop(self.state.with(py, |state| state.side.twin.take()));
        closed
    }

    fn give_up(&self, state: &mut State) -> WriteQueue<Chunk> {
        // Whether it fails makes no difference any more.
        let _ = state.send(|| self.core.clock.now_ns());
        std::mem::take(&mut state.side.outbox.queue)
    }

    fn send_queued(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::send_and_follow(slf)
    }
}

impl End for WritePipeTransport {
    fn capacity(side: &mut Writing) -> &mut Capacity {
        &mut side.capacity
    }
}

/// What follows from sending.
pub struct After {
    result: io::Result<()>,
    signal: Option<Signal>,
}

impl Sender for WritePipeTransport {
    type Queue = WriteQueue<Chunk>;
    type After = After;

    const LOST_WRITE: &'static str = "pipe closed by peer or os.write(pipe, data) raised exception.";

    fn outbox(side: &mut Writing) -> &mut Outbox<WriteQueue<Chunk>> {
        &mut side.outbox
    }

    fn send(&self, state: &mut State) -> Option<After> {
        let result = state.send(|| self.core.clock.now_ns());
        // asyncio waits for the last byte before it resumes, whatever the low mark is.
        let may_resume = !state.side.has_unsent() && !state.life.drops_writes();
        let signal = state.side.outbox.settled(may_resume);
        let quiet = !state.side.is_blocked_unwatched() && !state.life.is_closing() && state.is_held_rightly();
        (result.is_err() || signal.is_some() || !quiet).then_some(After { result, signal })
    }

    fn follow(slf: &Bound<'_, Self>, after: After) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let result = after.result.map_err(|error| os_error(&error));
        if let Err(error) = result.and_then(|()| Self::watch_blocked(slf)) {
            return Self::write_failed(slf, error);
        }
        // May write again, and may leave the loop: everything else follows all the same.
        let told = Self::tell_flow(slf, after.signal);
        let (action, hold) = this.state.with(py, State::finish_sending);
        Self::apply_hold(slf, hold);
        told.and(Self::perform(slf, action, None))
    }
}

impl WritePipeTransport {
    /// Makes the transport and schedules its start. `tells_end`: a pipe, FIFO or socket, where the kernel says that the
    /// reader has gone. `by_record`: every write is to be a system call of its own.
    pub fn open<'py>(parts: Parts<'_, 'py>, tells_end: bool, by_record: bool) -> PyResult<Bound<'py, Self>> {
        let outbox = Outbox::new(WriteQueue::new(), Flow::new(), 0);
        let side = Writing { capacity: Capacity::Given, outbox, tells_end, by_record, twin: None };
        sys::sigpipe::look();
        let transport = Bound::new(parts.event_loop.py(), Self(Made::new(parts.shell(side)?)))?;
        Self::start(&transport, parts, tells_end)?;
        Ok(transport)
    }

    /// The loop's call when the kernel reports something: that the reader is gone, or that the file takes more.
    fn on_ready(object: &Bound<'_, PyAny>, readiness: Readiness) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let (gone, unblocked, context) = slf.get().state.with(slf.py(), |state| {
            let Writing { outbox, tells_end, .. } = &mut state.side;
            let gone = *tells_end && readiness.contains(Readiness::READABLE);
            let unblocked = outbox.blocked && !gone && readiness.contains(Readiness::WRITABLE);
            outbox.blocked &= !unblocked;
            (gone, unblocked, state.context.bind(slf.py()).clone())
        });
        if !(gone || unblocked) {
            return Ok(());
        }
        context::run_in(&context, || if gone { Self::reader_gone(slf) } else { Self::send_queued(slf) })
    }

    /// A writing end has nothing to read: whatever makes it readable is taken for the end.
    fn reader_gone(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        // asyncio has given it to the kernel when it was written. If that fails now, the error says more than the end
        // does.
        let sent = Self::send_queued(slf);
        if this.state.with(py, |state| state.life.drops_writes()) {
            return sent;
        }
        let logged = Self::reporter(slf).info("%r was closed by peer");
        let lost = this.state.with(py, |state| state.side.has_unsent());
        let exc = lost.then(|| PyBrokenPipeError::new_err(()).into_value(py).into_any());
        sent.and(logged).and(Self::fail(slf, exc))
    }

    /// The method `write(data)`.
    fn write<'py>(slf: &Bound<'py, Self>, args: &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let data = args.single("write", "data")?;
        let Some(chunk) = Chunk::from_write(&data)? else {
            return Err(refuse(&data, "asyncio.unix_events", "_UnixWritePipeTransport"));
        };
        Self::write_chunk(slf, chunk)?;
        Ok(slf.py().None().into_bound(slf.py()))
    }

    /// One write. The state is borrowed once, to decide and to queue; then what follows is done.
    fn write_chunk(slf: &Bound<'_, Self>, chunk: Chunk) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let (core, len) = (&this.core, chunk.as_ref().len());
        if len == 0 {
            return Ok(());
        }
        let written = this.state.with(py, |state| {
            if state.life.is_closing() {
                return Ok(None);
            }
            let Writing { outbox, by_record, .. } = &mut state.side;
            let next = outbox.next(len, !*by_record, core.moment(), || core.clock.now_ns());
            outbox.queue.push(chunk).map_err(|_| no_memory())?;
            PyResult::Ok(Some(Self::note_queued(state, next)))
        });
        match written? {
            Some(queued) => Self::proceed(slf, queued),
            None => this.lose_write(py),
        }
    }

    /// Ends the transport as asyncio does when `os.write` has failed: the error is logged in debug mode only.
    #[cold]
    fn write_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        let told = Self::reporter(slf).debug_error("Fatal write error on pipe transport", &error);
        let unsent = slf.get().state.with(py, |state| {
            // asyncio counts the write that has found the loss.
            state.side.outbox.lose();
            std::mem::take(&mut state.side.outbox.queue)
        });
        drop(unsent);
        told.and(Self::fail(slf, Some(error.into_value(py).into_any())))
    }

    /// Watches a file that has just blocked for the first time, and is not watched from the start.
    fn watch_blocked(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let twin = this.state.with(py, |state| {
            if !state.side.is_blocked_unwatched() {
                return Ok(None);
            }
            let twin = state.file.open_fd()?.try_clone_to_owned()?;
            Ok(Some(state.side.twin.insert(twin).as_raw_fd()))
        });
        match twin.map_err(|error| os_error(&error))? {
            Some(number) => Self::watch(slf, Some(number)),
            None => Ok(()),
        }
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
        Ok(slf.get().closing(slf.py()))
    }

    /// Sets the protocol.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        self.adopt(protocol)
    }

    /// The protocol; None once `connection_lost` was called.
    fn get_protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.protocol(py)
    }

    /// Sets the marks, in bytes, above which the protocol is paused and at which it is resumed.
    #[pyo3(signature = (high=None, low=None))]
    fn set_write_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Self::set_limits(slf, high, low)
    }

    /// (low, high), in bytes.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.limits(py)
    }

    /// How many bytes are queued.
    fn get_write_buffer_size(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Self::buffer_size(slf)
    }

    /// Information about the transport: "pipe", the object that it was made from, or what its maker added.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        // Whoever takes the pipe to use it directly does so behind what was written.
        Self::send_kept(slf)?;
        Ok(slf.get().extra(slf.py())?.get_item(name)?.or(default))
    }

    /// For the attributes that `_transports.py` adds.
    fn _inside<'py>(&self, py: Python<'py>) -> PyResult<Inside<'py>> {
        let (lost, queued) =
            self.state.with(py, |state| (state.side.outbox.lost(), state.side.outbox.queue.copies()));
        self.inside(py, lost, inside::chunks(py, queued)?)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        self.describe(py)
    }

    /// `isinstance(transport, asyncio.WriteTransport)` asks for this: asyncio's class cannot be a native base.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        self.core.names.write_pipe_transport.clone_ref(py)
    }

    /// asyncio's private name for it, which programs read.
    #[getter(_closing)]
    fn closing(&self, py: Python<'_>) -> bool {
        self.shell().is_closing(py)
    }

    #[getter(_loop)]
    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.event_loop.clone_ref(py)
    }

    #[getter(_protocol_paused)]
    fn is_protocol_paused(&self, py: Python<'_>) -> bool {
        self.is_flow_paused(py)
    }

    /// The second step, after `connection_made`: from here on it shows when the reader goes away.
    fn _start_watching(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let (needed, blocked) = this.state.with(py, |state| {
            let blocked = state.side.outbox.blocked && state.side.has_unsent();
            (blocked || !state.life.is_closing(), blocked)
        });
        let watched = if needed { Self::watch(slf, None) } else { Ok(()) };
        if watched.is_err() {
            // The caller tells of it, as on asyncio. The next write that blocks tries once more, by another number.
            this.state.with(py, |state| state.side.tells_end = false);
            if let Err(error) = if blocked { Self::watch_blocked(slf) } else { Ok(()) } {
                Self::write_failed(slf, error)?;
            }
        }
        watched
    }

    /// The pipe may be made to hold more once it has been full.
    fn _let_grow(&self, py: Python<'_>) {
        self.let_grow(py);
    }

    fn _call_connection_lost(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::call_connection_lost(slf, exc)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.made().map_or(Ok(()), |shell| shell.traverse(&visit))
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.state.with(py, |state| (state.protocol.take(), state.extra.take())));
    }
}

impl Drop for WritePipeTransport {
    fn drop(&mut self) {
        self.dropped();
    }
}

/// Puts the raw methods on the class.
pub fn add_raw_methods(py: Python<'_>) -> PyResult<()> {
    fastcall::raw_methods! { WritePipeTransport, &py.get_type::<WritePipeTransport>(),
        write("($self, /, data)"):
            "Sends bytes, or queues what the kernel does not take. Never blocks.",
    }
    Ok(())
}
