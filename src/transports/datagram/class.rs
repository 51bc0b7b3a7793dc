//! Python's view of a datagram transport: its methods and attributes. No logic: each calls what the shell or the other
//! files of this folder have for it.

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::DatagramTransport;
use crate::py::bytes::join;
use crate::transports::inside::Inside;
use crate::transports::sender::Sender;
use crate::transports::shell::{Transport, not_implemented};

#[pymethods]
impl DatagramTransport {
    /// Ends the endpoint once everything queued is sent. Nothing more is received.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::close_gracefully(slf)
    }

    /// Ends the endpoint at once; what the kernel has not taken is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        let sent = Self::send_queued(slf);
        sent.and(Self::fail(slf, None))
    }

    /// A datagram endpoint sends by `sendto()`: raises NotImplementedError, as asyncio's does.
    #[pyo3(signature = (data))]
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = data;
        not_implemented()
    }

    /// As `write()`.
    fn writelines(&self, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        // asyncio puts together what it cannot write then.
        join(list_of_data).and_then(|_| not_implemented())
    }

    /// As `write()`.
    fn write_eof(&self) -> PyResult<()> {
        not_implemented()
    }

    /// As `write()`.
    fn can_write_eof(&self) -> PyResult<bool> {
        not_implemented()
    }

    /// True once the endpoint is closing or closed.
    fn is_closing(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::send_kept(slf)?;
        Ok(slf.get().closing(slf.py()))
    }

    /// True if datagrams are being received.
    fn is_reading(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.life.is_reading())
    }

    /// Stops receiving: the protocol gets nothing until `resume_reading()`.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::stop_reading(slf)
    }

    /// Goes on receiving.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::go_on_reading(slf)
    }

    /// How many bytes of a datagram are received at most.
    #[getter]
    fn max_size(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.side.max_size)
    }

    #[setter]
    fn set_max_size(&self, py: Python<'_>, size: usize) {
        self.state.with(py, |state| state.side.max_size = size);
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

    /// How many bytes are queued; since Python 3.13 with 8 for the header of each datagram.
    fn get_write_buffer_size(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Self::buffer_size(slf)
    }

    /// Information about the endpoint: "socket", "sockname", "peername".
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        // Whoever takes the socket to use it directly does so behind what was sent.
        Self::send_kept(slf)?;
        Ok(slf.get().extra(slf.py())?.get_item(name)?.or(default))
    }

    /// For the attributes that `_transports.py` adds.
    fn _inside<'py>(&self, py: Python<'py>) -> PyResult<Inside<'py>> {
        let lost = self.state.with(py, |state| state.life.count_of_lost(state.side.outbox.lost()));
        self.inside(py, lost, self.queued(py)?)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        self.describe(py)
    }

    /// `isinstance(transport, asyncio.DatagramTransport)` asks for this: asyncio's class cannot be a native base.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        self.core.names.datagram_transport.clone_ref(py)
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

    /// The second step after `connection_made`.
    fn _start_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::start_reading(slf)
    }

    /// Tries again what the kernel has not taken.
    fn _retry(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().state.with(slf.py(), |state| {
            (state.side.retrying, state.side.outbox.blocked) = (false, false);
        });
        Self::send_queued(slf)
    }

    fn _call_connection_lost(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::call_connection_lost(slf, exc)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(endpoint) = self.0.get() else {
            return Ok(());
        };
        visit.call(&endpoint.address)?;
        endpoint.shell.traverse(&visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = self
            .state
            .with(py, |state| (state.protocol.take(), state.extra.take(), state.side.outbox.queue.take()));
        drop(cleared);
    }
}

impl Drop for DatagramTransport {
    /// A transport that nobody has closed is warned about as asyncio does, and its socket is closed.
    fn drop(&mut self) {
        self.dropped();
    }
}
