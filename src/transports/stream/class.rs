//! Python's view of a stream transport: its methods and attributes. No logic: each calls what the shell or the other
//! files of this folder have for it.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::{State, StreamTransport};
use crate::transports::inside::{self, Inside};
use crate::transports::sender::Sender;
use crate::transports::shell::{Side, Transport};

#[pymethods]
impl StreamTransport {
    /// Queues all of `list_of_data`, an iterable of bytes-like objects; nothing if one of them is not.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::write_lines(slf, list_of_data)
    }

    /// Ends the sending side once everything queued is sent. The peer reads the end of the stream.
    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let ends = |state: &mut State| !state.life.is_closing() && !state.life.write_ended();
        if !this.state.with(py, ends) {
            return Ok(());
        }
        let sent = Self::send_queued(slf);
        let now = this.state.with(py, |state| {
            state.life.end_writing() && !state.side.has_unsent() && state.life.take_shutdown()
        });
        let ended = if now { this.shutdown_write(py) } else { Ok(()) };
        sent.and(ended)
    }

    /// True: the stream can be ended in one direction.
    fn can_write_eof(&self) -> bool {
        true
    }

    /// Ends the connection once everything queued is sent. Nothing more is read.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::close_gracefully(slf)
    }

    /// Ends the connection at once; what is queued is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::fail(slf, None)
    }

    /// True once the connection is closing or closed.
    fn is_closing(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::send_kept(slf)?;
        Ok(slf.get().closing(slf.py()))
    }

    /// True if data is being received.
    fn is_reading(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.life.is_reading())
    }

    /// Stops receiving: the protocol gets nothing until `resume_reading()`. No data is lost.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::stop_reading(slf)
    }

    /// Goes on receiving.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::go_on_reading(slf)
    }

    /// How many bytes one read takes at most.
    #[getter]
    fn max_size(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.side.read_size.most())
    }

    #[setter]
    fn set_max_size(&self, py: Python<'_>, size: usize) {
        self.state.with(py, |state| state.side.read_size.set_most(size));
    }

    /// Sets the protocol; at any time, also from one kind to the other.
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

    /// Information about the connection: "socket", "sockname", "peername", or what its maker added.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        // Whoever takes the socket to use it directly does so behind what was written.
        Self::send_kept(slf)?;
        let extra = slf.get().extra(slf.py())?;
        if let Some(value) = extra.get_item(name)? {
            return Ok(Some(value));
        }
        let Ok(text) = name.cast::<PyString>() else {
            return Ok(default);
        };
        let Some(value) = slf.get().make_extra(slf.py(), &text.to_string_lossy())? else {
            return Ok(default);
        };
        extra.set_item(name, &value)?;
        Ok(Some(value))
    }

    /// For the attributes that `_transports.py` adds.
    fn _inside<'py>(&self, py: Python<'py>) -> PyResult<Inside<'py>> {
        let (lost, queued) = self.state.with(py, |state| {
            let outbox = &state.side.outbox;
            (state.life.count_of_lost(outbox.lost()), outbox.queue.copies())
        });
        self.inside(py, lost, inside::chunks(py, queued)?)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        self.describe(py)
    }

    /// `isinstance(transport, asyncio.Transport)` asks for this: asyncio's class cannot be a native base.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        self.core.names.stream_transport.clone_ref(py)
    }

    #[getter(_sendfile_compatible)]
    fn sendfile_mode(&self, py: Python<'_>) -> Py<PyAny> {
        self.core.names.sendfile_try_native.clone_ref(py)
    }

    #[getter(_start_tls_compatible)]
    fn start_tls_mode(&self) -> bool {
        true
    }

    /// asyncio's private name for it, which programs read.
    #[getter(_paused)]
    fn is_paused(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.life.is_paused())
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

    /// The second step after `connection_made`.
    fn _start_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::start_reading(slf)
    }

    fn _call_connection_lost(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::call_connection_lost(slf, exc)
    }

    fn _begin_sendfile<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::begin_sendfile(slf)
    }

    fn _writable<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::wait_writable(slf)
    }

    fn _end_sendfile(slf: &Bound<'_, Self>) {
        Self::end_sendfile(slf);
    }

    /// What asyncio's TLS layer calls to end the connection.
    fn _force_close(slf: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        Self::fail(slf, exc)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.made().map_or(Ok(()), |shell| shell.traverse(&visit))
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = self.state.with(py, |state| {
            let side = &mut state.side;
            (state.protocol.take(), state.extra.take(), side.sent_waiter.take())
        });
        drop(cleared);
    }
}

impl Drop for StreamTransport {
    /// A transport that nobody has closed is warned about as asyncio does, and its fd is closed.
    fn drop(&mut self) {
        self.dropped();
    }
}
