//! Bytes in: one receive per turn, straight into what the protocol gets, and the end of the stream.

use std::io;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::{State, StreamTransport};
use crate::error::{leaves_the_loop, os_error};
use crate::py::bytes::Writable;
use crate::py::calls;
use crate::py::context;
use crate::py::names::Names;
use crate::py::new;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys;
use crate::reactor::token::Token;
use crate::transports::receiving;
use crate::transports::tls::{Received, TlsLayer};

/// What one read needs of the state.
pub(super) struct Reading<'py> {
    pub(super) protocol: Bound<'py, PyAny>,
    tls: Option<Bound<'py, TlsLayer>>,
    pub(super) buffered: bool,
    /// The socket, if its own methods are to be called.
    socket: Option<Bound<'py, PyAny>>,
    /// As [`super::State::read_size`] says.
    size: usize,
}

impl<'py> Reading<'py> {
    /// The buffer of a `BufferedProtocol`.
    pub(super) fn lend(&self, names: &Names) -> PyResult<Bound<'py, PyAny>> {
        let hint = (-1_i32).into_pyobject(self.protocol.py())?.into_any();
        let lent = calls::method(&self.protocol, &names.get_buffer, [&hint])?;
        if lent.len()? == 0 {
            return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
        }
        Ok(lent)
    }
}

impl StreamTransport {
    pub(super) fn on_ready(object: &Bound<'_, PyAny>, readiness: Readiness) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let this = slf.get();
        let (read, write, unwatch) = this.state.with(slf.py(), |state| {
            state.readable |= readiness.contains(Readiness::READABLE);
            state.read_closed |= readiness.contains(Readiness::READ_CLOSED);
            let unblocked = state.write_blocked && readiness.contains(Readiness::WRITABLE);
            state.write_blocked &= !unblocked;
            let in_vain = readiness == Readiness::WRITABLE && !unblocked;
            let unwatch = in_vain && state.is_unix && std::mem::take(&mut state.write_watched);
            (state.readable, unblocked, state.token.filter(|_| unwatch))
        });
        if let Some(token) = unwatch {
            // If that fails, edges of no use go on coming.
            drop(this.core.watch(slf.py(), token, Readiness::READABLE));
        }
        let context = this.context(slf.py());
        context::run_in(&context, || {
            // An exit out of the protocol does not cost the other direction its only event.
            let read = if read { Self::read(slf) } else { Ok(()) };
            let sent = if write { Self::send_queued(slf) } else { Ok(()) };
            read.and(sent)
        })
    }

    /// The context in which the protocol is called.
    pub(in crate::transports) fn context<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.state.with(py, |state| state.context.bind(py).clone())
    }

    /// One read, one call of the protocol: the others get their turn before this transport's next read.
    fn read(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let reading = this.state.with(py, |state| {
            let protocol = state.protocol.as_ref().filter(|_| state.life.may_read())?;
            Some(Reading {
                protocol: protocol.bind(py).clone(),
                tls: state.tls.as_ref().map(|layer| layer.bind(py).clone()),
                buffered: state.buffered,
                socket: state.socket.by_methods().map(|object| object.bind(py).clone()),
                size: state.read_size.get(),
            })
        });
        let Some(reading) = reading else {
            return Ok(());
        };
        if let Some(socket) = &reading.socket {
            let result = Self::read_by_method(slf, socket, &reading);
            this.read_on(py);
            return result;
        }
        if let Some(layer) = &reading.tls {
            return Self::read_tls(slf, &reading, layer);
        }
        let result = if reading.buffered {
            Self::read_into_protocol(slf, &reading)
        } else {
            Self::read_bytes(slf, &reading)
        };
        this.read_on(py);
        result
    }

    /// Comes back in the next turn if there is more to read.
    pub(in crate::transports) fn read_on(&self, py: Python<'_>) {
        if let Some(token) = self.state.with(py, |state| state.more_to_read()) {
            self.core.requeue(py, token, Readiness::READABLE);
        }
    }

    /// For a TLS layer, without any Python object between.
    fn read_tls(slf: &Bound<'_, Self>, reading: &Reading<'_>, layer: &Bound<'_, TlsLayer>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let received = TlsLayer::receive(layer, |buffer| this.state.with(py, |state| state.receive(buffer)));
        let result = match received {
            Ok(Received::Data) => Ok(()),
            // The layer calls `read_on`.
            Ok(Received::Later) => return Ok(()),
            Ok(Received::Other(Ok(_))) => Self::read_end(slf, reading),
            Ok(Received::Other(Err(error))) => Self::read_failed(slf, &error),
            Err(error) => {
                Self::fatal_error(slf, error, "Fatal error: protocol.buffer_updated() call failed.")
            }
        };
        this.read_on(py);
        result
    }

    fn read_bytes(slf: &Bound<'_, Self>, reading: &Reading<'_>) -> PyResult<()> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        let read = |buffer: &mut [_]| this.state.with(py, |state| state.receive(buffer));
        match receiving::receive(&this.core, py, reading.size, read)? {
            Ok((_, 0)) => Self::read_end(slf, reading),
            Ok((data, _)) => match calls::method(&reading.protocol, &names.data_received, [data.as_any()]) {
                Ok(_) => Ok(()),
                Err(error) => {
                    Self::fatal_error(slf, error, "Fatal error: protocol.data_received() call failed.")
                }
            },
            Err(error) => Self::read_failed(slf, &error),
        }
    }

    fn read_into_protocol(slf: &Bound<'_, Self>, reading: &Reading<'_>) -> PyResult<()> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        let lent = match reading.lend(names) {
            Ok(lent) => lent,
            Err(error) => {
                return Self::fatal_error(slf, error, "Fatal error: protocol.get_buffer() call failed.");
            }
        };
        let writable = match Writable::get(&lent) {
            Ok(writable) => writable,
            Err(error) => return Self::fatal_error(slf, error, "Fatal read error on socket transport"),
        };
        let received = this.state.with(py, |state| {
            // SAFETY: only the system call runs while the slice lives.
            state.receive(unsafe { writable.as_slice(py) })
        });
        drop(writable);
        match received {
            Ok(0) => Self::read_end(slf, reading),
            Ok(count) => match calls::method(
                &reading.protocol,
                &names.buffer_updated,
                [&new::int(py, count)?.into_any()],
            ) {
                Ok(_) => Ok(()),
                Err(error) => {
                    Self::fatal_error(slf, error, "Fatal error: protocol.buffer_updated() call failed.")
                }
            },
            Err(error) => Self::read_failed(slf, &error),
        }
    }

    /// The peer has sent its last byte.
    pub(super) fn read_end(slf: &Bound<'_, Self>, reading: &Reading<'_>) -> PyResult<()> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        this.state.with(py, |state| state.life.end_reading());
        let logged = this.log_debug(slf, "%r received EOF");
        let keep = logged.and_then(|()| calls::method(&reading.protocol, &names.eof_received, []));
        match keep.and_then(|keep| keep.is_truthy()) {
            Ok(true) => {
                Self::hold(slf);
                Ok(())
            }
            Ok(false) => Self::close_gracefully(slf),
            Err(error) if leaves_the_loop(py, &error) => {
                // As on asyncio, the protocol is told once more when the loop runs on.
                this.state.with(py, |state| {
                    state.life.go_on_reading();
                    state.readable = true;
                });
                Err(error)
            }
            Err(error) => Self::fatal_error(slf, error, "Fatal error: protocol.eof_received() call failed."),
        }
    }

    fn read_failed(slf: &Bound<'_, Self>, error: &io::Error) -> PyResult<()> {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Ok(());
        }
        Self::fatal_error(slf, os_error(error), "Fatal read error on socket transport")
    }
}

impl State {
    /// One recv, and what it says about the next one.
    fn receive(&mut self, buffer: &mut [std::mem::MaybeUninit<u8>]) -> io::Result<usize> {
        let Some(fd) = self.socket.fd()? else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let received = sys::recv_stream(fd, buffer, self.short_read);
        match &received {
            Ok((count, more)) => {
                // With the peer's end behind the data there is more to see, however much came.
                self.readable = *more || self.read_closed;
                self.read_size.adapt(*count);
            }
            Err(_) => self.readable = false,
        }
        received.map(|(count, _)| count)
    }

    /// The token to queue when there is more to read and somebody to give it to.
    fn more_to_read(&self) -> Option<Token> {
        self.token.filter(|_| self.readable && self.life.may_read())
    }
}
