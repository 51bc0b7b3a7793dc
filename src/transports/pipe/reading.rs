//! The reading end of a pipe: one read a turn, straight into what the protocol gets, and the end of the data.
//!
//! A pipe, unlike a connection, tells little by how much a read returns: a terminal gives a line at a time, a packet
//! pipe a packet, and a FIFO that nobody has opened yet for writing reads as if it had ended. So whether there is more
//! is asked by poll(2) after each read, which makes one registration, edge-triggered and for good, look level-triggered,
//! as asyncio's is; pausing costs no system call.

use std::io;
use std::os::fd::AsRawFd;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::{End, Parts, capacity};
use crate::core::Kind;
use crate::error::{leaves_the_loop, os_error};
use crate::handle::Callback;
use crate::py::context;
use crate::py::made::Made;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys;
use crate::transports::inside::Inside;
use crate::transports::lifecycle::Event;
use crate::transports::receiving::{self, ReadSize};

const NAME: &str = "ReadPipeTransport";

/// The reading end of a pipe and its protocol.
#[pyclass(frozen, dict, weakref, module = "rloop._rloop")]
pub struct ReadPipeTransport {
    end: Made<End<Reading>>,
}

/// What only the reading end has.
#[derive(Default)]
struct Reading {
    /// A read may find something: an edge came, and no poll since has said that there is no more.
    readable: bool,
    size: ReadSize,
}

/// How the loop calls reading ends.
static KIND: Kind = Kind { on_ready: ReadPipeTransport::on_ready, flush: |_| Ok(()), owns_fd: |_| true };

impl ReadPipeTransport {
    /// Makes the transport and schedules its start.
    pub fn open<'py>(parts: Parts<'_, 'py>) -> PyResult<Bound<'py, Self>> {
        let end = End::new(&parts, Reading::default())?;
        let transport = Bound::new(parts.event_loop.py(), Self { end: Made::new(end) })?;
        End::<Reading>::start(parts, transport.as_any(), true)?;
        Ok(transport)
    }

    fn on_ready(object: &Bound<'_, PyAny>, readiness: Readiness) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let end = &slf.get().end;
        end.state.with(slf.py(), |state| state.side.readable |= readiness.contains(Readiness::READABLE));
        context::run_in(&end.context(slf.py()), || Self::read(slf))
    }

    /// One read, one call of the protocol: the others get their turn before this transport's next read.
    fn read(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, end) = (slf.py(), &slf.get().end);
        let reading = end.state.with(py, |state| {
            let protocol =
                state.protocol.as_ref().filter(|_| state.side.readable && state.life.may_read())?;
            Some((protocol.bind(py).clone(), state.side.size.get()))
        });
        let Some((protocol, size)) = reading else {
            return Ok(());
        };
        match receiving::receive(&end.core, py, size, |buffer| sys::read(end.fd()?, buffer)) {
            // No memory: nothing was read.
            Err(error) => Self::read_on(slf).and(Err(error)),
            Ok(Ok((_, 0))) => Self::read_end(slf, &protocol),
            Ok(Ok((data, count))) => {
                end.state.with(py, |state| {
                    state.side.size.adapt(count);
                    if count >= capacity::USUAL {
                        state.capacity.grow(&end.fd);
                    }
                });
                let told = protocol.call_method1(&end.core.names.data_received, (data,));
                let read_on = Self::read_on(slf);
                // As any callback's: reported, and the pipe is read on.
                told.map_or_else(|error| Self::callback_failed(slf, error), |_| Ok(())).and(read_on)
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                end.state.with(py, |state| state.side.readable = false);
                Ok(())
            }
            Ok(Err(error)) => Self::read_failed(slf, &error),
        }
    }

    /// Comes back in the next turn if there is more to read and somebody to give it to.
    fn read_on(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, end) = (slf.py(), &slf.get().end);
        let token =
            end.state.with(py, |state| state.token.filter(|_| state.side.readable && state.life.may_read()));
        let Some(token) = token else {
            return Ok(());
        };
        let fd = match end.fd() {
            Ok(fd) => fd,
            Err(error) => return Self::read_failed(slf, &error),
        };
        let asked = match sys::is_readable(fd.as_raw_fd()) {
            Ok(true) => {
                end.core.requeue(py, token, Readiness::READABLE);
                return Ok(());
            }
            Ok(false) => Ok(()),
            // poll(2) refuses any fd where RLIMIT_NOFILE is 0: a fresh edge says whether there is more.
            Err(_) => end.core.refresh(py, token),
        };
        end.state.with(py, |state| state.side.readable = false);
        asked.or_else(|error| Self::read_failed(slf, &error))
    }

    /// All writers are gone. There is nothing left to do with a pipe that has ended: it is closed.
    fn read_end(slf: &Bound<'_, Self>, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, end) = (slf.py(), &slf.get().end);
        let logged = end.log_closed_by_peer(slf.as_any());
        let action = end.state.with(py, |state| state.life.on(Event::Fail));
        let told = protocol.getattr(&end.core.names.eof_received).and_then(|eof_received| {
            let callback = Callback { callback: eof_received, args: &[], context: None };
            end.core.call_soon(end.event_loop.bind(py), callback)
        });
        end.perform(slf.as_any(), action, None)?;
        told.map_or_else(|error| Self::callback_failed(slf, error), |_| Ok(())).and(logged)
    }

    #[cold]
    fn read_failed(slf: &Bound<'_, Self>, error: &io::Error) -> PyResult<()> {
        const MESSAGE: &str = "Fatal read error on pipe transport";
        let (py, end) = (slf.py(), &slf.get().end);
        let exc = os_error(error);
        let told = end.reporter(slf.as_any());
        // How the master of a terminal ends.
        let told = if error.raw_os_error() == Some(libc::EIO) {
            told.debug_error(MESSAGE, &exc)
        } else {
            told.exception(MESSAGE, exc.clone_ref(py))
        };
        // Also when the exception handler leaves the loop, the pipe ends.
        let action = end.state.with(py, |state| state.life.on(Event::Fail));
        let ended = end.perform(slf.as_any(), action, Some(exc.into_value(py).into_any()));
        told.and(ended)
    }

    /// Reports what the protocol raised, as asyncio's handle for the same callback does.
    #[cold]
    fn callback_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        if leaves_the_loop(slf.py(), &error) {
            return Err(error);
        }
        let message = format!("Exception in callback {NAME}._read_ready()");
        slf.get().end.reporter(slf.as_any()).exception(&message, error)
    }

    fn watch(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().end.watch(slf.as_any(), slf.get().end.fd.number(), &KIND)
    }

    fn hold(slf: &Bound<'_, Self>) {
        slf.get().end.hold(slf.as_any(), &KIND, |state| state.life.may_read());
    }

    fn describe(&self, py: Python<'_>) -> String {
        self.end.state.with(py, |state| {
            let (mut text, polls) = self.end.describe(NAME, state);
            if polls {
                let polling = state.token.is_some() && state.life.may_read();
                text.push_str(if polling { " polling>" } else { " idle>" });
            }
            text
        })
    }
}

#[pymethods]
impl ReadPipeTransport {
    /// Ends reading; `connection_lost` is called in the next turn, and the pipe is closed then.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let end = &slf.get().end;
        let action = end.state.with(slf.py(), |state| state.life.on(Event::Close { queued: false }));
        end.perform(slf.as_any(), action, None)
    }

    /// True once the transport is closing or closed.
    fn is_closing(&self, py: Python<'_>) -> bool {
        self.end.is_closing(py)
    }

    /// True if data is being received.
    fn is_reading(&self, py: Python<'_>) -> bool {
        self.end.state.with(py, |state| state.life.is_reading())
    }

    /// Stops receiving: the protocol gets nothing until `resume_reading()`. No data is lost.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let end = &slf.get().end;
        if end.state.with(slf.py(), |state| state.life.pause_reading()) {
            Self::hold(slf);
            end.reporter(slf.as_any()).debug("%r pauses reading")?;
        }
        Ok(())
    }

    /// Goes on receiving.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, end) = (slf.py(), &slf.get().end);
        if !end.state.with(py, |state| state.life.resume_reading()) {
            return Ok(());
        }
        if end.state.with(py, |state| state.token.is_none()) {
            Self::watch(slf)?;
        } else {
            // As in asyncio, where resuming adds a new reader, whose context is a copy of the caller's.
            let context = context::copy_current(py)?.unbind();
            drop(end.state.with(py, |state| std::mem::replace(&mut state.context, context)));
            Self::hold(slf);
            Self::read_on(slf)?;
        }
        end.reporter(slf.as_any()).debug("%r resumes reading")
    }

    /// How many bytes one read takes at most.
    #[getter]
    fn max_size(&self, py: Python<'_>) -> usize {
        self.end.state.with(py, |state| state.side.size.most())
    }

    #[setter]
    fn set_max_size(&self, py: Python<'_>, size: usize) {
        self.end.state.with(py, |state| state.side.size.set_most(size));
    }

    /// Sets the protocol.
    fn set_protocol(&self, py: Python<'_>, protocol: Py<PyAny>) {
        self.end.set_protocol(py, protocol);
    }

    /// The protocol; None once `connection_lost` was called.
    fn get_protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.end.protocol(py)
    }

    /// Information about the transport: "pipe", the object that it was made from, or what its maker added.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info<'py>(
        &self,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.end.extra(name.py()).get_item(name)?.or(default))
    }

    /// For the attributes that `_transports.py` adds.
    fn _inside<'py>(&self, py: Python<'py>) -> PyResult<Inside<'py>> {
        self.end.inside(py, 0, Vec::new())
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        self.describe(py)
    }

    /// `isinstance(transport, asyncio.ReadTransport)` asks for this: asyncio's class cannot be a native base.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        self.end.core.names.read_pipe_transport.clone_ref(py)
    }

    /// asyncio's private name for it, which programs read.
    #[getter(_paused)]
    fn is_paused(&self, py: Python<'_>) -> bool {
        self.end.state.with(py, |state| state.life.is_paused())
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

    /// The second step, after `connection_made`.
    fn _start_watching(slf: &Bound<'_, Self>) -> PyResult<()> {
        let end = &slf.get().end;
        let watch = end.state.with(slf.py(), |state| {
            state.life.start_reading();
            state.life.is_reading() && state.token.is_none()
        });
        if watch { Self::watch(slf) } else { Ok(()) }
    }

    /// The pipe may be made to hold more once it has been full.
    fn _let_grow(&self, py: Python<'_>) {
        self.end.let_grow(py);
    }

    fn _call_connection_lost(&self, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        self.end.call_connection_lost(exc)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.end.get().map_or(Ok(()), |end| end.traverse(&visit))
    }

    fn __clear__(&self, py: Python<'_>) {
        self.end.clear(py);
    }
}

impl Drop for ReadPipeTransport {
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
