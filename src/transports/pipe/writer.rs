//! The writing end of a pipe: how bytes leave, and noticing that the reader has gone away.
//!
//! A write is given to the kernel at once, or kept back for what the same callback writes next, and queued while the
//! kernel takes no more: `outbox.rs` decides.
//!
//! There are files on which every write is a record of its own: a packet pipe, a datagram socket, a device such as a
//! tunnel. They are written chunk by chunk and at once (`by_record`). So is a terminal, to keep the order of what the
//! transport writes and what the program prints.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use pyo3::exceptions::PyBrokenPipeError;
use pyo3::prelude::*;

use super::capacity::Capacity;
use super::{End, describe_rest};
use crate::core::Kind;
use crate::error::{no_memory, os_error};
use crate::py::bytes::{self, Chunk};
use crate::py::context;
use crate::py::fastcall::Arguments;
use crate::py::made::Made;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys;
use crate::transports::class::transport_class;
use crate::transports::flow::{Queue, Signal};
use crate::transports::inside;
use crate::transports::sender::{Sender, chunk_to_write};
use crate::transports::shell::{self, Parts, Shell, Side};
use crate::transports::transport::Transport;
use crate::transports::write_queue::WriteQueue;

/// The writing end of a pipe and its protocol.
#[pyclass(frozen, dict, weakref, module = "rloop._rloop")]
pub struct WritePipeTransport(Made<Shell<Writing>>);

/// What only the writing end has.
pub struct Writing {
    capacity: Capacity,
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
    type Queue = WriteQueue<Chunk>;

    /// For the end of the reader, of which the kernel tells whether or not there is something to send. So the loop
    /// holds such a transport, as asyncio's selector does.
    fn waits(&self) -> bool {
        self.tells_end
    }
}

impl State {
    /// Gives the kernel what it takes of the queue.
    fn send(&mut self, now: impl FnOnce() -> u64) -> io::Result<()> {
        let Self { file, outbox, figures, side: Writing { capacity, by_record, .. }, .. } = self;
        let write = |slices: &[IoSlice<'_>]| {
            let written = sys::write(file.open_fd()?, slices);
            figures.wrote_some(&written);
            written
        };
        let sent = outbox.send(*by_record, write, || capacity.grow(file.open_fd()), now);
        self.count_queued();
        sent
    }

    /// Is the reader gone, as the kernel has just reported? It is asked once more, because a wake-up may have no reason,
    /// and the end of a transport is final. A file that cannot be asked counts as the report says.
    fn reader_has_gone(&self) -> bool {
        self.file.open_fd().map_or(Ok(true), |fd| sys::is_readable(fd.as_raw_fd())).unwrap_or(true)
    }

    /// Has the kernel refused to take more of a file that is not watched yet?
    fn is_blocked_unwatched(&self) -> bool {
        self.outbox.blocked && !self.side.tells_end && self.side.twin.is_none()
    }
}

/// What follows from sending.
pub struct After {
    result: io::Result<()>,
    signal: Option<Signal>,
}

impl Transport for WritePipeTransport {
    type Side = Writing;
    type After = After;

    const LOST_WRITE: &'static str = "pipe closed by peer or os.write(pipe, data) raised exception.";

    const KIND: Kind =
        Kind { on_ready: Self::on_ready, flush: Self::flush, owns_fd: |_| true, ..Kind::NOTHING };

    fn made(&self) -> Option<&Shell<Writing>> {
        self.0.get()
    }

    /// Unlike a socket's, the queue must be empty before the protocol is resumed.
    fn send(&self, state: &mut State) -> Option<After> {
        let result = state.send(|| self.core.clock.now_ns());
        // asyncio waits for the last byte before it resumes, whatever the low mark is.
        let may_resume = !state.has_unsent() && !state.life.drops_writes();
        let signal = state.outbox.settled(may_resume);
        let quiet = !state.is_blocked_unwatched() && !state.life.is_closing() && state.is_held_rightly();
        (result.is_err() || signal.is_some() || !quiet).then_some(After { result, signal })
    }

    /// A file that has blocked for the first time is watched from here on.
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

    fn send_rest(&self, state: &mut State) {
        let _ = state.send(|| self.core.clock.now_ns());
    }

    /// The second number for the file is closed as well. It was deregistered when `connection_lost` was scheduled.
    fn release(&self, py: Python<'_>, _transport: Option<&Bound<'_, Self>>) -> PyResult<()> {
        let closed = self.close_pipe(py);
        drop(self.state.with(py, |state| state.side.twin.take()));
        closed
    }

    fn unsent<'py>(&self, py: Python<'py>) -> PyResult<(u32, Vec<Bound<'py, PyAny>>)> {
        let (lost, queued) = self.state.with(py, |state| (state.outbox.lost, state.outbox.queue.copies()));
        Ok((lost, inside::chunks(py, queued)?))
    }

    /// As `_UnixWritePipeTransport.__repr__`, where "polling" means that the kernel is asked when it takes more.
    fn describe_rest(state: &State, loop_is_closed: bool) -> String {
        let polling = if state.outbox.blocked { "polling" } else { "idle" };
        describe_rest(state, loop_is_closed, || format!(" {polling} bufsize={}", state.outbox.queue.size()))
    }

    /// From here on it shows when the reader goes away. What is queued already waits for the file, also if the
    /// transport is closing.
    fn begin(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let needed = this.state.with(py, |state| {
            let waits_to_send = state.outbox.blocked && state.has_unsent();
            waits_to_send || !state.life.is_closing()
        });
        let watched = if needed { Self::watch(slf, None) } else { Ok(()) };
        if watched.is_err() {
            // The caller tells of it, as on asyncio. The next write that blocks tries once more, by another number.
            this.state.with(py, |state| state.side.tells_end = false);
            if let Err(error) = Self::watch_blocked(slf) {
                Self::write_failed(slf, error)?;
            }
        }
        watched
    }
}

impl End for WritePipeTransport {
    fn capacity(side: &mut Writing) -> &mut Capacity {
        &mut side.capacity
    }
}

impl WritePipeTransport {
    /// Makes the transport and schedules its start. `tells_end`: a pipe, FIFO or socket, where the kernel says that the
    /// reader has gone. `by_record`: every write is to be a system call of its own.
    pub fn open<'py>(
        parts: Parts<'_, 'py>,
        pipe: &Bound<'py, PyAny>,
        fd: RawFd,
        tells_end: bool,
        by_record: bool,
    ) -> PyResult<Bound<'py, Self>> {
        let side = Writing { capacity: Capacity::Given, tells_end, by_record, twin: None };
        sys::sigpipe::look();
        Self::make(parts, (pipe, fd), side, tells_end, Self)
    }

    /// The loop's call when the kernel reports something: that the reader is gone, or that the file takes more.
    fn on_ready(object: &Bound<'_, PyAny>, readiness: Readiness) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let (gone, unblocked, context) = slf.get().state.with(slf.py(), |state| {
            let told = state.side.tells_end && readiness.contains(Readiness::READABLE);
            let gone = told && state.reader_has_gone();
            let unblocked = state.outbox.blocked && !gone && readiness.contains(Readiness::WRITABLE);
            state.outbox.blocked &= !unblocked;
            (gone, unblocked, state.context.bind(slf.py()).clone())
        });
        if !(gone || unblocked) {
            return Ok(());
        }
        context::run_in(&context, || if gone { Self::reader_gone(slf) } else { Self::send_queued(slf) })
    }

    /// A writing end has nothing to read: whatever makes it readable is taken for the end, as on asyncio.
    fn reader_gone(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        // asyncio has given it to the kernel when it was written. If that fails now, the error says more than the end
        // does.
        let sent = Self::send_queued(slf);
        if this.state.with(py, |state| state.life.drops_writes()) {
            return sent;
        }
        let logged = Self::reporter(slf).info("%r was closed by peer");
        let lost = this.state.with(py, |state| state.has_unsent());
        let exc = lost.then(|| PyBrokenPipeError::new_err(()).into_value(py).into_any());
        sent.and(logged).and(Self::fail(slf, exc))
    }

    /// The method `write(data)`.
    pub(in crate::transports) fn write<'py>(
        slf: &Bound<'py, Self>,
        args: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::write_chunk(slf, chunk_to_write(args, "asyncio.unix_events", "_UnixWritePipeTransport")?)?;
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
            let (outbox, may_wait) = (&mut state.outbox, !state.side.by_record);
            let next = outbox.next(len, may_wait, core.moment(), || core.clock.now_ns());
            outbox.queue.push(chunk).map_err(|_| no_memory())?;
            PyResult::Ok(Some(state.queued(next)))
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
            state.outbox.lose();
            state.outbox.queue.take()
        });
        drop(unsent);
        told.and(Self::fail(slf, Some(error.into_value(py).into_any())))
    }

    /// Watches a file that has just blocked for the first time, and is not watched from the start.
    fn watch_blocked(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let twin = this.state.with(py, |state| {
            if !state.is_blocked_unwatched() {
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

transport_class! { WritePipeTransport(Shell<Writing>) shown as write_pipe_transport, with sends {
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

    /// Ends writing at once; what is queued is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::fail(slf, None)
    }

    /// The pipe may be made to hold more once it has been full.
    fn _let_grow(&self, py: Python<'_>) {
        self.let_grow(py);
    }
} }
