//! The transport that a program gets for a TLS connection, as asyncio's `_SSLProtocolTransport`. Its methods are thin:
//! the layer does the work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::TlsLayer;
use crate::core::LoopCore;
use crate::py::bytes::Chunk;
use crate::py::cell::LoopCell;
use crate::py::fastcall::Arguments;
use crate::py::made::{Made, derefs_to_made};
use crate::py::new::Size;
use crate::transports::protocol::warn_unclosed;
use crate::transports::sender::chunk_to_write;
use crate::transports::water_marks;

/// The transport of a TLS connection.
#[pyclass(frozen, dict, weakref, module = "rloop._rloop")]
pub struct TlsTransport(Made<Top>);

/// What a [`TlsTransport`] holds.
pub struct Top {
    /// None once the transport was closed twice, as in asyncio: a program that keeps the transport keeps nothing else
    /// alive then.
    layer: LoopCell<Option<Py<TlsLayer>>>,
    loop_core: Arc<LoopCore>,
    /// `close()` or `abort()` was called, or the connection is lost.
    closed: AtomicBool,
}

derefs_to_made! { TlsTransport => Top }

impl TlsTransport {
    /// The method `write(data)`. A write to a transport that was closed twice goes nowhere.
    pub(in crate::transports) fn write<'py>(
        slf: &Bound<'py, Self>,
        args: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let chunk = chunk_to_write(args, "asyncio.sslproto", "_SSLProtocolTransport")?;
        if !chunk.as_ref().is_empty() {
            slf.get().on_layer(py, |layer| TlsLayer::write(layer, [chunk]))?;
        }
        Ok(py.None().into_bound(py))
    }

    /// The layer. None once the transport was closed twice.
    #[inline]
    fn layer<'py>(&self, py: Python<'py>) -> Option<Bound<'py, TlsLayer>> {
        self.layer.with(py, |layer| layer.as_ref().map(|layer| layer.bind(py).clone()))
    }

    /// What `work` makes of the layer; nothing, or zero, once there is none.
    #[inline]
    fn on_layer<R: Default>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&Bound<'_, TlsLayer>) -> PyResult<R>,
    ) -> PyResult<R> {
        self.layer(py).map_or_else(|| Ok(R::default()), |layer| work(&layer))
    }

    /// True once the connection is closing or closed.
    fn is_over(&self, py: Python<'_>) -> PyResult<bool> {
        if self.closed.load(Relaxed) {
            return Ok(true);
        }
        self.layer(py).map_or(Ok(true), |layer| layer.get().lower_is_closing(py))
    }
}

#[pymethods]
impl TlsTransport {
    /// For `TlsProtocol`, which makes its transport when it is made itself.
    #[new]
    fn new(layer: &Bound<'_, TlsLayer>) -> Self {
        Self(Made::new(Top {
            layer: LoopCell::new(Some(layer.clone().unbind())),
            loop_core: layer.get().core.clone(),
            closed: AtomicBool::new(false),
        }))
    }

    /// Queues all of `list_of_data`, an iterable of bytes-like objects.
    fn writelines(&self, py: Python<'_>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let Some(layer) = self.layer(py) else {
            return Ok(());
        };
        // As in asyncio: after the end nobody looks at the list. Otherwise an item that cannot be encrypted ends the
        // connection, once the items before it are encrypted.
        if layer.get().drops_writes() {
            return TlsLayer::write(&layer, []);
        }
        let (mut chunks, mut failed) = (Vec::new(), None);
        for data in list_of_data.try_iter()? {
            let data = data?;
            data.len()?;
            match Chunk::from_buffer(&data) {
                Ok(chunk) if failed.is_none() => chunks.push(chunk),
                Err(error) if failed.is_none() => failed = Some(error),
                _ => {}
            }
        }
        TlsLayer::write(&layer, chunks)?;
        failed.map_or(Ok(()), |error| TlsLayer::fail(&layer, error))
    }

    /// Ends the connection with close_notify once everything queued is sent.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.closed.swap(true, Relaxed) {
            drop(self.layer.with(py, Option::take));
            return Ok(());
        }
        self.on_layer(py, |layer| layer.call_method0(&self.loop_core.names._start_shutdown).map(drop))
    }

    /// True once the connection is closing or closed.
    fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        self.on_layer(py, TlsLayer::send_kept)?;
        self.is_over(py)
    }

    /// True unless reading is paused.
    fn is_reading(&self, py: Python<'_>) -> bool {
        self.layer(py).is_some_and(|layer| !layer.get().is_paused(py))
    }

    /// Stops reading: the protocol gets nothing until `resume_reading()`.
    fn pause_reading(&self, py: Python<'_>) -> PyResult<()> {
        self.on_layer(py, TlsLayer::pause_reading)
    }

    /// Goes on reading.
    fn resume_reading(&self, py: Python<'_>) -> PyResult<()> {
        self.on_layer(py, TlsLayer::resume_reading)
    }

    /// Sets the protocol; at any time, also from one kind to the other.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        self.on_layer(protocol.py(), |layer| layer.get().adopt(protocol.py(), Some(protocol)))
    }

    /// The protocol; None once `connection_lost` was called.
    fn get_protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.layer(py)?.get().protocol(py)
    }

    /// Sets the marks, in bytes, above which the protocol is paused and at which it is resumed.
    #[pyo3(signature = (high=None, low=None))]
    fn set_write_buffer_limits(
        &self,
        py: Python<'_>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (high, low) = water_marks::parse(high, low)?;
        self.on_layer(py, |layer| {
            let set = layer.get().state.with(py, |state| state.outbox.flow.set_limits(high, low));
            set.map_err(water_marks::refused)?;
            TlsLayer::queue_grown(layer)?;
            TlsLayer::queue_shrunk(layer)
        })
    }

    /// (low, high), in bytes.
    fn get_write_buffer_limits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let limits =
            |layer: &Bound<'_, TlsLayer>| Ok(layer.get().state.with(py, |state| state.outbox.flow.limits()));
        water_marks::limits(py, self.on_layer(py, limits)?)
    }

    /// How many bytes are queued, here and in the transport below.
    fn get_write_buffer_size(&self, py: Python<'_>) -> PyResult<Size> {
        self.on_layer(py, |layer| {
            TlsLayer::send_kept(layer)?;
            Ok(Size(layer.get().queued(py)))
        })
    }

    /// How many encrypted bytes wait to be read.
    fn get_read_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.on_layer(py, |layer| Ok(layer.get().engine()?.ends().input_len()))
    }

    /// `isinstance(transport, asyncio.Transport)` asks for this: asyncio's class cannot be a native base.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        self.loop_core.names.tls_transport.clone_ref(py)
    }

    #[getter(_loop)]
    fn get_loop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.layer(py).map(|layer| layer.get().event_loop.clone_ref(py))
    }

    #[getter(_ssl_protocol)]
    fn get_layer<'py>(&self, py: Python<'py>) -> Option<Bound<'py, TlsLayer>> {
        self.layer(py)
    }

    #[getter(_protocol_paused)]
    fn is_protocol_paused(&self, py: Python<'_>) -> bool {
        self.layer(py).is_some_and(|layer| layer.get().state.with(py, |state| state.outbox.flow.is_paused()))
    }

    #[getter(_closed)]
    fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Called when the connection is closing.
    fn _set_closed(&self) {
        self.closed.store(true, Relaxed);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let layer = self.0.get().and_then(|this| this.layer.peek(&visit, |layer| visit.call(layer)));
        layer.unwrap_or(Ok(()))
    }
}

impl Drop for TlsTransport {
    /// A transport that nobody closed is warned about; the one below closes the connection.
    fn drop(&mut self) {
        if self.0.get().is_none_or(|this| this.closed.load(Relaxed)) {
            return;
        }
        // SAFETY: a pyclass is only ever dropped by its tp_dealloc, which holds the interpreter.
        let py = unsafe { Python::assume_attached() };
        warn_unclosed(py, "<TlsTransport>", || Ok(()));
    }
}
