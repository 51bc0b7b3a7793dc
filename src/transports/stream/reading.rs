//! Bytes in: one receive per turn, straight into what the protocol gets, and the end of the stream.
//!
//! The loop calls `on_ready` for an edge, and in the next turn again for as long as there may be more
//! (`Shell::read_on`). A read gives the protocol what one receive has returned, so that the other connections get their
//! turn. Whether there may be more is what the receive says: see `sys::ShortRead`.

use std::io;

use pyo3::prelude::*;

use super::{State, Stream, StreamTransport};
use crate::error::{leaves_the_loop, os_error};
use crate::py::bytes::Writable;
use crate::py::{context, new};
use crate::reactor::readiness::Readiness;
use crate::reactor::sys::{self, ReadBuf};
use crate::reactor::token::Token;
use crate::transports::above::{LayerKind, Received};
use crate::transports::protocol::{self, Failure};
use crate::transports::receiving;
use crate::transports::stream_reader::Reader;
use crate::transports::transport::Transport;

/// Why a connection ends that cannot be read.
pub(super) const READ_FAILED: &str = "Fatal read error on socket transport";

/// What one read needs of the state.
pub(super) struct Reading<'py> {
    pub(super) protocol: Bound<'py, PyAny>,
    above: Option<&'static LayerKind>,
    pub(super) buffered: bool,
    /// The socket, if its own methods are to be called.
    socket: Option<Bound<'py, PyAny>>,
    /// As [`Stream::read_size`] says.
    size: usize,
}

impl StreamTransport {
    /// The loop's call when the socket is ready. In one borrow it notes what the edge says, and takes what the read
    /// needs.
    pub(super) fn on_ready(object: &Bound<'_, PyAny>, readiness: Readiness) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let (py, this) = (slf.py(), slf.get());
        // Filled in where it is: it is too large to be moved for each event.
        let mut reading = None;
        let (context, write, unwatch) = this.state.with(py, |state| {
            let outbox = &mut state.outbox;
            let Stream { readable, read_closed, write_watched, is_unix, .. } = &mut state.side;
            *readable |= readiness.contains(Readiness::READABLE);
            *read_closed |= readiness.contains(Readiness::READ_CLOSED);
            // A protocol's method can run the loop again (nest_asyncio). The call that it interrupts has taken the report
            // of room, and has not sent the queue yet. So the queue is sent here, even if it is not blocked. A piece that
            // is deferred stays: it leaves together with the piece that follows.
            let waits = outbox.blocked || (outbox.has_sendable() && !outbox.deferred);
            let unblocked = waits && readiness.contains(Readiness::WRITABLE);
            outbox.blocked &= !unblocked;
            let in_vain = readiness == Readiness::WRITABLE && !unblocked;
            let unwatch = in_vain && *is_unix && std::mem::take(write_watched);
            let unwatch = state.token.filter(|_| unwatch);
            reading = state.next_read(py);
            (state.context.bind(py).clone(), unblocked, unwatch)
        });
        if let Some(token) = unwatch {
            // If that fails, edges of no use go on coming.
            drop(this.core.watch(py, token, Readiness::READABLE));
        }
        context::run_in(&context, || {
            // If the protocol raises SystemExit, the writable edge is used all the same: it is not reported again.
            let read = if let Some(reading) = &reading { Self::read(slf, reading) } else { Ok(()) };
            let sent = if !write {
                Ok(())
            } else if let Some(token) = this.ending(py) {
                this.core.requeue(py, token, Readiness::WRITABLE);
                Ok(())
            } else {
                Self::send_queued(slf)
            };
            read.and(sent)
        })
    }

    /// The token to queue if the peer's end is still to be read. It is told before an error of sending, which can be a
    /// consequence of it.
    fn ending(&self, py: Python<'_>) -> Option<Token> {
        self.state.with(py, |state| state.more_to_read().filter(|_| state.side.read_closed))
    }

    /// One read, one call of the protocol: the others get their turn before this transport's next read.
    fn read(slf: &Bound<'_, Self>, reading: &Reading<'_>) -> PyResult<()> {
        let read = match (&reading.socket, reading.above) {
            (Some(socket), _) => Self::read_by_method(slf, socket, reading),
            (None, Some(above)) => match Self::read_above(slf, reading, above) {
                Some(read) => read,
                // The layer calls `read_on` when it can go on.
                None => return Ok(()),
            },
            (None, None) if reading.buffered => Self::read_into_protocol(slf, reading),
            (None, None) => Self::read_bytes(slf, reading),
        };
        let result = Self::end_by(slf, read);
        slf.get().read_on(slf.py());
        result
    }

    /// Has a layer receive, without any Python object in between. None: nothing was received, because the layer has not
    /// used all of what came before.
    fn read_above(
        slf: &Bound<'_, Self>,
        reading: &Reading<'_>,
        above: &LayerKind,
    ) -> Option<Result<(), Failure>> {
        let mut receive = |buffer: &mut ReadBuf<'_>| slf.get().receive(slf.py(), buffer);
        Some(match (above.receive)(&reading.protocol, &mut receive) {
            Ok(Received::Data) => Ok(()),
            Ok(Received::Later) => return None,
            Ok(Received::Other(Ok(_))) => Self::read_end(slf, reading),
            Ok(Received::Other(Err(error))) => read_failed(&error),
            Err(error) => Err(Failure::new(protocol::BUFFER_UPDATED_FAILED, error)),
        })
    }

    /// For a usual protocol: the bytes are given to it in a new object, or to its reader.
    fn read_bytes(slf: &Bound<'_, Self>, reading: &Reading<'_>) -> Result<(), Failure> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        let reader = Reader::of(names, &reading.protocol);
        let receive = |buffer: &mut ReadBuf<'_>| this.receive(py, buffer);
        match receiving::receive(&this.core, py, reading.size, reader.as_ref(), receive)? {
            Ok((_, 0)) => Self::read_end(slf, reading),
            Ok((data, _)) => {
                let data = data.as_ref().map(Bound::as_any);
                protocol::received(names, &reading.protocol, reader, data)
            }
            Err(error) => read_failed(&error),
        }
    }

    /// For a `BufferedProtocol`: the kernel writes to the protocol's own buffer.
    fn read_into_protocol(slf: &Bound<'_, Self>, reading: &Reading<'_>) -> Result<(), Failure> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        let buffer = protocol::get_buffer(names, &reading.protocol, None)?;
        let writable = Writable::get(&buffer).map_err(|error| Failure::new(READ_FAILED, error))?;
        // SAFETY: only the system call runs while the slice lives.
        let received = this.receive(py, &mut ReadBuf::new(unsafe { writable.as_slice(py) }));
        drop(writable);
        match received {
            Ok(0) => Self::read_end(slf, reading),
            Ok(count) => protocol::buffer_updated(names, &reading.protocol, new::int(py, count)?.as_any()),
            Err(error) => read_failed(&error),
        }
    }

    /// The peer has sent its last byte. The protocol decides whether the connection stays open for writing.
    pub(super) fn read_end(slf: &Bound<'_, Self>, reading: &Reading<'_>) -> Result<(), Failure> {
        let (py, this) = (slf.py(), slf.get());
        this.state.with(py, |state| state.life.read_ended = true);
        let logged = Self::reporter(slf).debug("%r received EOF").map_err(Failure::from);
        match logged.and_then(|()| protocol::eof_received(this.core.names, &reading.protocol)) {
            Ok(true) => Self::hold(slf),
            Ok(false) => Self::close_gracefully(slf)?,
            Err(failure) => {
                if leaves_the_loop(py, &failure.error) {
                    // As on asyncio, the protocol is told once more when the loop runs on.
                    this.state.with(py, |state| {
                        state.life.read_ended = false;
                        state.side.readable = true;
                    });
                }
                return Err(failure);
            }
        }
        Ok(())
    }

    /// One receive, with the state borrowed. No Python code runs in it: the buffer may be the protocol's own.
    #[inline]
    fn receive(&self, py: Python<'_>, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
        self.state.with(py, |state| state.receive(buffer))
    }
}

impl State {
    /// One recv, and what it says about the next one.
    fn receive(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
        let Some(fd) = self.file.fd()? else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let received = sys::recv_stream(fd, buffer, self.side.short_read);
        match &received {
            Ok((count, more)) => {
                self.figures.read(*count);
                // With the peer's end behind the data there is more to see, however much came.
                self.side.readable = *more || self.side.read_closed;
                self.side.read_size.adapt(*count);
            }
            Err(_) => self.side.readable = false,
        }
        received.map(|(count, _)| count)
    }

    /// What the next read needs, if there is something to read and somebody to give it to.
    #[inline(always)]
    fn next_read<'py>(&self, py: Python<'py>) -> Option<Reading<'py>> {
        let side = &self.side;
        let protocol = self.protocol.as_ref().filter(|_| side.readable && self.life.may_read())?;
        Some(Reading {
            protocol: protocol.bind(py).clone(),
            above: side.above,
            buffered: side.buffered,
            socket: self.file.by_methods().map(|object| object.bind(py).clone()),
            size: side.read_size.get(),
        })
    }
}

/// What a failed receive means: nothing if there was only nothing to receive.
fn read_failed(error: &io::Error) -> Result<(), Failure> {
    if error.kind() == io::ErrorKind::WouldBlock {
        return Ok(());
    }
    Err(Failure::new(READ_FAILED, os_error(error)))
}
