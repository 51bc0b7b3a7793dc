//! Python's view of a datagram transport: the methods and attributes that only it has. No logic: each calls what the
//! other files of this folder have for it. What all transports have is in `transports/class.rs`.

use pyo3::prelude::*;

use super::{DatagramTransport, Endpoint};
use crate::py::new::Size;
use crate::transports::class::transport_class;
use crate::transports::sender::Sender;
use crate::transports::transport::Transport;

transport_class! { DatagramTransport(Endpoint) shown as datagram_transport, with reads, sends {
    /// Ends the endpoint at once; what the kernel has not taken is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        let sent = Self::send_queued(slf);
        sent.and(Self::fail(slf, None))
    }

    /// How many bytes of a datagram are received at most.
    #[getter]
    fn max_size(&self, py: Python<'_>) -> Size {
        Size(self.state.with(py, |state| state.side.max_size))
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
