//! Python's view of a datagram transport: the methods and attributes that only it has. No logic: each calls what the
//! other files of this folder have for it. What all transports have is in `transports/class.rs`.

use pyo3::prelude::*;

use super::{DatagramTransport, Endpoint};
use crate::py::bytes::join;
use crate::transports::class::transport_class;
use crate::transports::sender::Sender;
use crate::transports::transport::{Transport, not_implemented};

transport_class! { DatagramTransport(Endpoint) shown as datagram_transport, with reads, sends {
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

    /// How many bytes of a datagram are received at most.
    #[getter]
    fn max_size(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.side.max_size)
    }

    #[setter]
    fn set_max_size(&self, py: Python<'_>, size: usize) {
        self.state.with(py, |state| state.side.max_size = size);
    }

    /// Tries again what the kernel has not taken.
    fn _retry(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().state.with(slf.py(), |state| {
            (state.side.retrying, state.outbox.blocked) = (false, false);
        });
        Self::send_queued(slf)
    }
} }
