//! The reading end of a pipe: one read a turn, straight into what the protocol gets, and the end of the data.
//!
//! A short read of a TCP connection shows that nothing is left. A short read of a pipe does not: a terminal gives a
//! line at a time, and a packet pipe gives a packet. A FIFO that no writer has opened yet reads as if it had ended. So
//! after each read the transport asks poll(2) whether there is more. That makes one edge-triggered registration, which
//! stays for good, look level-triggered, as asyncio's is. Pausing costs no system call.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use pyo3::prelude::*;

use super::capacity::{Capacity, USUAL};
use super::{End, describe_rest};
use crate::core::Kind;
use crate::error::os_error;
use crate::py::bytes::Chunk;
use crate::py::context;
use crate::py::made::Made;
use crate::py::new::Size;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys::{self, ReadBuf};
use crate::transports::class::transport_class;
use crate::transports::protocol;
use crate::transports::receiving::{self, ReadSize};
use crate::transports::shell::{self, Parts, Shell, Side};
use crate::transports::stream_reader::Reader;
use crate::transports::transport::Transport;
use crate::transports::write_queue::WriteQueue;

/// Who calls the protocol, in reports: the method of asyncio's transport.
const CALLBACK: &str = "ReadPipeTransport._read_ready";

/// The reading end of a pipe and its protocol.
#[pyclass(frozen, dict, weakref, module = "rloop._rloop")]
pub struct ReadPipeTransport(Made<Shell<Reading>>);

/// What only the reading end has.
pub struct Reading {
    capacity: Capacity,
    /// A read may find something: an edge came, and no poll since has said that there is no more.
    readable: bool,
    size: ReadSize,
}

type State = shell::State<Reading>;

impl Side for Reading {
    type Queue = WriteQueue<Chunk>;

    fn may_have_data(&self) -> bool {
        self.readable
    }
}

impl Transport for ReadPipeTransport {
    type Side = Reading;
    type After = ();

    const KIND: Kind = Kind { on_ready: Self::on_ready, owns_fd: |_| true, ..Kind::NOTHING };

    fn made(&self) -> Option<&Shell<Reading>> {
        self.0.get()
    }

    /// A reading end has nothing to send.
    fn send(&self, _state: &mut State) -> Option<()> {
        None
    }

    fn follow(_slf: &Bound<'_, Self>, _after: ()) -> PyResult<()> {
        Ok(())
    }

    /// A pipe that is not watched yet, or is paused, is idle: the selector of asyncio would not have it.
    fn describe_rest(state: &State, loop_is_closed: bool) -> String {
        let polling = state.token.is_some() && state.life.may_read();
        describe_rest(state, loop_is_closed, || String::from(if polling { " polling" } else { " idle" }))
    }

    fn release(&self, py: Python<'_>, _transport: Option<&Bound<'_, Self>>) -> PyResult<()> {
        self.close_pipe(py)
    }

    /// From here on the loop tells of what comes. If the protocol has paused reading in `connection_made`, that begins
    /// with `resume_reading()`.
    fn begin(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().state.with(slf.py(), |state| state.life.started = true);
        Self::watch_if_unwatched(slf).map(drop)
    }

    /// Asks poll(2), as the head of this file says. Also starts to watch a pipe that was paused before it had started.
    fn read_more(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if Self::watch_if_unwatched(slf)? {
            // It was paused before it had started.
            return Ok(());
        }
        let asked = this.state.with(py, |state| {
            let token = state.more_to_read()?;
            let readable = state.file.open_fd().map(|fd| sys::is_readable(fd.as_raw_fd()));
            state.side.readable = matches!(readable, Ok(Ok(true)));
            Some((token, readable))
        });
        let result = match asked {
            None | Some((_, Ok(Ok(false)))) => Ok(()),
            Some((token, Ok(Ok(true)))) => {
                this.core.requeue(py, token, Readiness::READABLE);
                Ok(())
            }
            // poll(2) refuses any fd where RLIMIT_NOFILE is 0: a fresh edge says whether there is more.
            Some((token, Ok(Err(_)))) => this.core.refresh(py, token),
            // The program has closed the pipe.
            Some((_, Err(error))) => Err(error),
        };
        result.or_else(|error| Self::read_failed(slf, &error))
    }
}

impl End for ReadPipeTransport {
    fn capacity(side: &mut Reading) -> &mut Capacity {
        &mut side.capacity
    }
}

impl ReadPipeTransport {
    /// Makes the transport and schedules its start.
    pub fn open<'py>(
        parts: Parts<'_, 'py>,
        pipe: &Bound<'py, PyAny>,
        fd: RawFd,
    ) -> PyResult<Bound<'py, Self>> {
        let side = Reading { capacity: Capacity::Given, readable: false, size: ReadSize::default() };
        Self::make(parts, (pipe, fd), side, true, Self)
    }

    /// Has the loop watch the pipe, if the transport reads and the loop does not watch it yet; true if it did that.
    fn watch_if_unwatched(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let watch = slf.get().state.with(slf.py(), |state| state.life.is_reading() && state.token.is_none());
        if watch { Self::watch(slf, None).map(|()| true) } else { Ok(false) }
    }

    /// The loop's call when the kernel reports that there is something to read, or that all writers are gone.
    fn on_ready(object: &Bound<'_, PyAny>, readiness: Readiness) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let (py, this) = (slf.py(), slf.get());
        let reading = this.state.with(py, |state| {
            state.side.readable |= readiness.contains(Readiness::READABLE);
            let protocol =
                state.protocol.as_ref().filter(|_| state.side.readable && state.life.may_read())?;
            Some((state.context.bind(py).clone(), protocol.bind(py).clone(), state.side.size.get()))
        });
        reading.map_or(Ok(()), |(context, protocol, size)| {
            context::run_in(&context, || Self::read(slf, &protocol, size))
        })
    }

    /// One read, one call of the protocol: the others get their turn before this transport's next read.
    fn read(slf: &Bound<'_, Self>, protocol: &Bound<'_, PyAny>, size: usize) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let read =
            |buffer: &mut ReadBuf<'_>| this.state.with(py, |state| sys::read(state.file.open_fd()?, buffer));
        let reader = Reader::of(this.core.names, protocol);
        match receiving::receive(&this.core, py, size, reader.as_ref(), read) {
            // There was no memory to read into, so nothing was read.
            Err(error) => Self::read_more(slf).and(Err(error)),
            Ok(Ok((_, 0))) => Self::read_end(slf, protocol),
            Ok(Ok((data, count))) => {
                this.core.figures.read(count);
                this.state.with(py, |state| {
                    state.side.size.adapt(count);
                    if count >= USUAL {
                        state.side.capacity.grow(state.file.open_fd());
                    }
                });
                let data = data.as_ref().map(Bound::as_any);
                let told = protocol::received(this.core.names, protocol, reader, data);
                let more = Self::read_more(slf);
                // Like an exception of any callback, it is reported, and reading goes on.
                told.or_else(|failure| Self::reporter(slf).callback_failed(CALLBACK, failure.error)).and(more)
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                this.state.with(py, |state| state.side.readable = false);
                Ok(())
            }
            Ok(Err(error)) => Self::read_failed(slf, &error),
        }
    }

    /// All writers are gone. There is nothing left to do with a pipe that has ended: it is closed.
    fn read_end(slf: &Bound<'_, Self>, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let this = slf.get();
        let logged = Self::reporter(slf).info("%r was closed by peer");
        let told = protocol::eof_received_later(this.core.names, protocol)
            .and_then(|eof_received| this.call_soon(eof_received, &[]));
        Self::fail(slf, None)?;
        told.or_else(|error| Self::reporter(slf).callback_failed(CALLBACK, error)).and(logged)
    }

    /// Ends the transport. Unlike a socket's, an OSError of a pipe is reported outside of debug mode too, as on
    /// asyncio.
    #[cold]
    fn read_failed(slf: &Bound<'_, Self>, error: &io::Error) -> PyResult<()> {
        const TEXT: &str = "Fatal read error on pipe transport";
        let py = slf.py();
        let exc = os_error(error);
        let reporter = Self::reporter(slf);
        // A read of the master of a terminal fails with EIO when its other side is closed.
        let told = if error.raw_os_error() == Some(libc::EIO) {
            reporter.debug_error(TEXT, &exc)
        } else {
            reporter.exception(TEXT, exc.clone_ref(py))
        };
        // Also when the exception handler leaves the loop, the pipe ends.
        told.and(Self::fail(slf, Some(exc.into_value(py).into_any())))
    }
}

transport_class! { ReadPipeTransport(Shell<Reading>) shown as read_pipe_transport, with reads {
    /// How many bytes one read takes at most.
    #[getter]
    fn max_size(&self, py: Python<'_>) -> Size {
        Size(self.state.with(py, |state| state.side.size.most()))
    }

    #[setter]
    fn set_max_size(&self, py: Python<'_>, size: usize) {
        self.state.with(py, |state| state.side.size.set_most(size));
    }

    /// The pipe may be made to hold more once it has been full.
    fn _let_grow(&self, py: Python<'_>) {
        self.let_grow(py);
    }
} }
