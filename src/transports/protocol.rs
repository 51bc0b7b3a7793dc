//! Calling protocols, and reporting what comes of it: the only file of the transports that calls a method of a
//! protocol.
//!
//! Two rules hold for every call. KeyboardInterrupt and SystemExit leave the loop: they are returned, and reported to
//! nobody. Any other exception is reported as asyncio reports it, with asyncio's text. Where the text says that the
//! error is fatal, the call returns a [`Failure`], by which the transport ends its connection.
//!
//! A transport calls nothing in here while it borrows its state: a protocol is the program's code, and may call the
//! transport.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{PyOSError, PyResourceWarning, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::flow::Signal;
use super::stream_reader::{NoRoom, Reader};
use crate::core::LoopCore;
use crate::error::{Message, leaves_the_loop, no_memory};
use crate::py::calls;
use crate::py::exception_handler;
use crate::py::names::Names;
use crate::py::new::{self, intern, interned};

/// An exception that ends the connection, and asyncio's text for it. Without a text the exception is not the
/// connection's: it goes on to the caller, as KeyboardInterrupt and SystemExit always do.
pub struct Failure {
    pub error: PyErr,
    pub text: Option<&'static str>,
}

impl Failure {
    /// An exception that ends the connection, with this text.
    pub fn new(text: &'static str, error: PyErr) -> Self {
        Self { error, text: Some(text) }
    }
}

impl From<PyErr> for Failure {
    /// For `?`: an exception that is nobody's, such as a failed allocation of our own, goes on to the caller.
    fn from(error: PyErr) -> Self {
        Self { error, text: None }
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// `connection_made`, for the ready queue.
pub fn connection_made<'py>(names: &Names, protocol: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    protocol.getattr(&names.connection_made)
}

/// Calls `connection_lost`. Its exception is the caller's to return: it is that of a callback of the loop.
pub fn connection_lost(names: &Names, protocol: &Bound<'_, PyAny>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
    calls::method(protocol, &names.connection_lost, [exc]).map(drop)
}

/// The result of a call whose exception ends the connection, with this text.
#[inline(always)]
fn fatal<T>(text: &'static str, result: PyResult<T>) -> Result<T, Failure> {
    result.map_err(|error| Failure::new(text, error))
}

const DATA_RECEIVED_FAILED: &str = "Fatal error: protocol.data_received() call failed.";

/// Has a protocol take in received bytes. These are `data`, or, without it, they are in the buffer of `reader` already,
/// which is the protocol's (`stream_reader.rs`).
pub fn received(
    names: &Names,
    protocol: &Bound<'_, PyAny>,
    reader: Option<Reader<'_>>,
    data: Option<&Bound<'_, PyAny>>,
) -> Result<(), Failure> {
    let taken = match (data, reader) {
        (Some(data), _) => calls::method(protocol, &names.data_received, [data]).map(drop),
        (None, Some(reader)) => reader.fed(names),
        (None, None) => Ok(()),
    };
    fatal(DATA_RECEIVED_FAILED, taken)
}

/// Calls `data_received`, or does natively what it does with bytes. `data`: not empty.
pub fn data_received(
    names: &Names,
    protocol: &Bound<'_, PyAny>,
    data: &Bound<'_, PyAny>,
) -> Result<(), Failure> {
    if let Some(reader) = Reader::of(names, protocol)
        && let Ok(bytes) = data.cast_exact::<PyBytes>()
    {
        match reader.extend(bytes.as_bytes()) {
            Ok(()) => return received(names, protocol, Some(reader), None),
            Err(NoRoom::Lost) => return fatal(DATA_RECEIVED_FAILED, Err(no_memory())),
            Err(NoRoom::Unchanged) => {}
        }
    }
    received(names, protocol, None, Some(data))
}

/// The buffer of a `BufferedProtocol`, which is not empty. `hint`: how many bytes there may be, if that is known.
pub fn get_buffer<'py>(
    names: &Names,
    protocol: &Bound<'py, PyAny>,
    hint: Option<usize>,
) -> Result<Bound<'py, PyAny>, Failure> {
    let get = || {
        let py = protocol.py();
        let hint = match hint {
            Some(hint) => new::int(py, hint)?,
            None => (-1_i32).into_pyobject(py)?,
        };
        let buffer = calls::method(protocol, &names.get_buffer, [hint.as_any()])?;
        if buffer.len()? == 0 {
            return Err(PyRuntimeError::new_err(Message("get_buffer() returned an empty buffer")));
        }
        Ok(buffer)
    };
    fatal("Fatal error: protocol.get_buffer() call failed.", get())
}

/// Also the text for a TLS layer, to which a stream gives its bytes without a call of Python.
pub const BUFFER_UPDATED_FAILED: &str = "Fatal error: protocol.buffer_updated() call failed.";

/// Calls `buffer_updated`. `count`: how many bytes are in the buffer that [`get_buffer`] has given.
pub fn buffer_updated(
    names: &Names,
    protocol: &Bound<'_, PyAny>,
    count: &Bound<'_, PyAny>,
) -> Result<(), Failure> {
    fatal(BUFFER_UPDATED_FAILED, calls::method(protocol, &names.buffer_updated, [count]).map(drop))
}

/// Calls `eof_received`. True if the protocol wants the transport to stay open for writing.
pub fn eof_received(names: &Names, protocol: &Bound<'_, PyAny>) -> Result<bool, Failure> {
    let keep_open = calls::method(protocol, &names.eof_received, []).and_then(|keep| keep.is_truthy());
    fatal("Fatal error: protocol.eof_received() call failed.", keep_open)
}

/// `eof_received`, for the ready queue.
pub fn eof_received_later<'py>(names: &Names, protocol: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    protocol.getattr(&names.eof_received)
}

/// Calls `datagram_received`. An exception ends nothing: see [`Reporter::callback_failed`].
#[inline]
pub fn datagram_received(
    names: &Names,
    protocol: &Bound<'_, PyAny>,
    data: &Bound<'_, PyAny>,
    address: &Bound<'_, PyAny>,
) -> PyResult<()> {
    calls::method(protocol, &names.datagram_received, [data, address]).map(drop)
}

/// Calls `error_received`. An exception ends nothing here either.
pub fn error_received(names: &Names, protocol: &Bound<'_, PyAny>, error: PyErr) -> PyResult<()> {
    let error = error.into_value(protocol.py()).into_bound(protocol.py());
    calls::method(protocol, &names.error_received, [error.as_any()]).map(drop)
}

/// A transport as it is shown in reports.
pub struct Reporter<'a, 'py> {
    pub core: &'a LoopCore,
    pub event_loop: &'a Py<PyAny>,
    pub transport: &'a Bound<'py, PyAny>,
    pub protocol: Option<Bound<'py, PyAny>>,
}

impl<'py> Reporter<'_, 'py> {
    /// Gives an exception to the loop's exception handler.
    #[cold]
    pub fn exception(&self, message: &str, error: PyErr) -> PyResult<()> {
        let (py, names) = (self.transport.py(), self.core.names);
        let protocol = self.protocol.as_ref().map_or_else(|| py.None().into_bound(py), Bound::clone);
        let details = [(&names.transport, self.transport), (&names.protocol, &protocol)];
        exception_handler::call(self.event_loop.bind(py), names, message, error, &details)
    }

    /// Reports an exception of a protocol that ends nothing, as asyncio's handle for `callback` does: the method of
    /// asyncio's transport that calls the protocol. Err: it leaves the loop.
    #[cold]
    pub fn callback_failed(&self, callback: &str, error: PyErr) -> PyResult<()> {
        if leaves_the_loop(self.transport.py(), &error) {
            return Err(error);
        }
        self.exception(&format!("Exception in callback {callback}()"), error)
    }

    /// Reports an error that ends the transport (`_SelectorTransport._fatal_error`): an OSError in debug mode only.
    #[cold]
    pub fn fatal(&self, message: &str, error: PyErr) -> PyResult<()> {
        if error.is_instance_of::<PyOSError>(self.transport.py()) {
            self.debug_error(message, &error)
        } else {
            self.exception(message, error)
        }
    }

    /// In debug mode, logs a line about the transport; `%r` in it is the transport's repr.
    pub fn debug(&self, format: &str) -> PyResult<()> {
        self.log("debug", format, None)
    }

    /// As [`Reporter::debug`], at the level `info`.
    pub fn info(&self, format: &str) -> PyResult<()> {
        self.log("info", format, None)
    }

    /// In debug mode, logs an error that is not reported.
    pub fn debug_error(&self, message: &str, error: &PyErr) -> PyResult<()> {
        self.log("debug", "%r: %s", Some((message, error)))
    }

    /// `logger.level(format, transport)`, in debug mode. With an error, `logger.level(format, transport, message,
    /// exc_info=error)`.
    fn log(&self, level: &str, format: &str, error: Option<(&str, &PyErr)>) -> PyResult<()> {
        if !self.core.debug.load(Relaxed) {
            return Ok(());
        }
        let py = self.transport.py();
        let (mut args, keywords) =
            (vec![new::string(py, format)?.into_any(), self.transport.clone()], new::dict(py)?);
        if let Some((message, error)) = error {
            args.push(new::string(py, message)?.into_any());
            keywords.set_item(intern!(py, "exc_info")?, error.value(py))?;
        }
        let logger = self.core.names.logger.bind(py);
        logger.call_method(interned(py, level)?, new::tuple(py, args)?, Some(&keywords)).map(drop)
    }

    /// Has `protocol` pause or resume its writing. Err: what leaves the loop. For TLS, reports name another protocol
    /// than the one that is called.
    pub fn flow(&self, protocol: Option<&Bound<'py, PyAny>>, signal: Signal) -> PyResult<()> {
        let names = self.core.names;
        let (method, message) = match signal {
            Signal::Pause => (&names.pause_writing, "protocol.pause_writing() failed"),
            Signal::Resume => (&names.resume_writing, "protocol.resume_writing() failed"),
        };
        match protocol.map(|protocol| calls::method(protocol, method, [])) {
            Some(Err(error)) if leaves_the_loop(self.transport.py(), &error) => Err(error),
            Some(Err(error)) => self.exception(message, error),
            _ => Ok(()),
        }
    }
}

/// For a finalizer: warns of a transport that nobody has closed, and has it closed. The exception that is being
/// handled, if there is one, is left alone.
pub fn warn_unclosed(py: Python<'_>, text: &str, close: impl FnOnce() -> PyResult<()>) {
    let raised = PyErr::take(py);
    let warning = std::ffi::CString::new(format!("unclosed transport {text}")).unwrap_or_default();
    let warned = PyErr::warn(py, &py.get_type::<PyResourceWarning>(), &warning, 1);
    let closed = close();
    for error in [warned, closed].into_iter().filter_map(Result::err) {
        error.write_unraisable(py, None);
    }
    if let Some(raised) = raised {
        raised.restore(py);
    }
}
