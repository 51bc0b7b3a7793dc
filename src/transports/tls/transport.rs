//! What a program holds of a TLS connection: asyncio's `_SSLProtocolTransport`. Thin methods over the layer.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::exceptions::{PyNotImplementedError, PyResourceWarning, PyTypeError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::TlsLayer;
use crate::py::bytes::Chunk;
use crate::py::fastcall::{self, Arguments};
use crate::transports::flow::Flow;
use crate::transports::report::{water_marks, wrong_marks};

/// The transport of a TLS connection.
#[pyclass(frozen, dict, weakref, module = "rloop._rloop")]
pub struct TlsTransport {
    layer: Py<TlsLayer>,
    /// `close()` or `abort()` was called, or the connection is lost.
    closed: AtomicBool,
    /// See `StreamTransport`.
    filled: bool,
}

impl TlsTransport {
    fn write<'py>(slf: &Bound<'py, Self>, args: &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let data = args.required(0, "write", "data")?;
        for (name, _) in args.keywords() {
            args.check_keyword("write", &name.to_string(), &["data"])?;
        }
        let Some(chunk) = Chunk::from_write(&data)? else {
            let kind = data.get_type().name()?;
            return Err(PyTypeError::new_err(format!("data: expecting a bytes-like instance, got {kind}")));
        };
        if !chunk.as_ref().is_empty() {
            TlsLayer::write(slf.get().layer.bind(py), [chunk])?;
        }
        Ok(py.None().into_bound(py))
    }

    fn set_limits(
        &self,
        py: Python<'_>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
        flow: fn(&mut super::State) -> &mut Flow,
    ) -> PyResult<()> {
        let (high, low) = water_marks(high, low)?;
        self.layer.get().state.with(py, |state| flow(state).set_limits(high, low)).map_err(wrong_marks)
    }
}

#[pymethods]
impl TlsTransport {
    #[new]
    fn new(layer: &Bound<'_, TlsLayer>) -> Self {
        Self { layer: layer.clone().unbind(), closed: AtomicBool::new(false), filled: true }
    }

    /// Queues all of `list_of_data`, an iterable of bytes-like objects.
    fn writelines(&self, py: Python<'_>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let layer = self.layer.bind(py);
        let chunks =
            list_of_data.try_iter()?.map(|data| Chunk::from_buffer(&data?)).collect::<PyResult<Vec<_>>>();
        match chunks {
            Ok(chunks) => TlsLayer::write(layer, chunks),
            Err(error) => TlsLayer::fail(layer, error, "Fatal error on SSL protocol"),
        }
    }

    /// Not possible with TLS: raises NotImplementedError, as asyncio does.
    fn write_eof(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// False: TLS cannot end one direction alone.
    fn can_write_eof(&self) -> bool {
        false
    }

    /// Ends the connection with close_notify once everything queued is sent.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.closed.swap(true, Relaxed) {
            return Ok(());
        }
        self.layer.call_method0(py, &self.layer.get().core.names._start_shutdown).map(drop)
    }

    /// Ends the connection at once; what is queued is lost.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.force_close(py, None)
    }

    #[pyo3(name = "_force_close")]
    fn force_close(&self, py: Python<'_>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        self.closed.store(true, Relaxed);
        self.layer.call_method1(py, "_abort", (exc,)).map(drop)
    }

    /// True once the connection is closing or closed.
    fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        if self.closed.load(Relaxed) {
            return Ok(true);
        }
        self.layer.get().lower_is_closing(py)
    }

    /// True unless reading is paused.
    fn is_reading(&self, py: Python<'_>) -> bool {
        !self.layer.get().is_paused(py)
    }

    /// Stops reading: the protocol gets nothing until `resume_reading()`.
    fn pause_reading(&self, py: Python<'_>) -> PyResult<()> {
        TlsLayer::pause_reading(self.layer.bind(py))
    }

    /// Goes on reading.
    fn resume_reading(&self, py: Python<'_>) -> PyResult<()> {
        TlsLayer::resume_reading(self.layer.bind(py))
    }

    /// Sets the protocol; at any time, also from one kind to the other.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        self.layer.get().adopt(protocol.py(), Some(protocol))
    }

    /// The protocol; None once `connection_lost` was called.
    fn get_protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.layer.get().protocol(py)
    }

    /// Sets the marks, in bytes, above which the protocol is paused and at which it is resumed.
    #[pyo3(signature = (high=None, low=None))]
    fn set_write_buffer_limits(
        &self,
        py: Python<'_>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.set_limits(py, high, low, |state| &mut state.flow)?;
        let layer = self.layer.bind(py);
        // What waits for the end of the turn only is not above any mark yet.
        if layer.get().is_above_high(py) {
            TlsLayer::encrypt(layer, false)?;
        }
        TlsLayer::queue_grown(layer)?;
        TlsLayer::queue_shrunk(layer)
    }

    /// (low, high), in bytes.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.layer.get().state.with(py, |state| state.flow.limits())
    }

    /// How many bytes are queued, here and in the transport below.
    fn get_write_buffer_size(&self, py: Python<'_>) -> usize {
        self.layer.get().queued(py)
    }

    /// Sets the marks of the read buffer. It is small whatever they are: while reading is paused nothing is received.
    #[pyo3(signature = (high=None, low=None))]
    fn set_read_buffer_limits(
        &self,
        py: Python<'_>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.set_limits(py, high, low, |state| &mut state.read_limits)
    }

    /// (low, high), in bytes.
    fn get_read_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.layer.get().state.with(py, |state| state.read_limits.limits())
    }

    /// How many encrypted bytes wait to be read.
    fn get_read_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.layer.get().engine()?.input_len(py)
    }

    /// Information about the connection: that of TLS, then that of the transport below.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        self.layer.call_method1(py, &self.layer.get().core.names._get_extra_info, (name, default))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let closing = if self.is_closing(py)? { " closing" } else { "" };
        let lower = match self.layer.get().lower(py) {
            Some(lower) => lower.repr()?.to_string(),
            None => "nothing".to_owned(),
        };
        Ok(format!("<TlsTransport{closing} over {lower}>"))
    }

    /// `isinstance(transport, asyncio.Transport)` asks for this: asyncio's class cannot be a native base.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        self.layer.get().core.names.tls_transport.clone_ref(py)
    }

    #[getter(_sendfile_compatible)]
    fn sendfile_mode(&self, py: Python<'_>) -> Py<PyAny> {
        self.layer.get().core.names.sendfile_fallback.clone_ref(py)
    }

    #[getter(_start_tls_compatible)]
    fn start_tls_mode(&self) -> bool {
        true
    }

    #[getter(_loop)]
    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.layer.get().event_loop.clone_ref(py)
    }

    #[getter(_ssl_protocol)]
    fn get_layer(&self, py: Python<'_>) -> Py<TlsLayer> {
        self.layer.clone_ref(py)
    }

    #[getter(_protocol_paused)]
    fn is_protocol_paused(&self, py: Python<'_>) -> bool {
        self.layer.get().state.with(py, |state| state.flow.is_paused())
    }

    #[getter(_closed)]
    fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Called by the layer when the connection is closing.
    fn _set_closed(&self) {
        self.closed.store(true, Relaxed);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.filled { visit.call(&self.layer) } else { Ok(()) }
    }
}

impl Drop for TlsTransport {
    /// A transport that nobody closed is warned about; the one below closes the connection.
    fn drop(&mut self) {
        if self.closed.load(Relaxed) {
            return;
        }
        // SAFETY: a pyclass is only ever dropped by its tp_dealloc, which holds the interpreter.
        let py = unsafe { Python::assume_attached() };
        // A finalizer must leave the exception that is being handled alone.
        let raised = PyErr::take(py);
        let text = c"unclosed transport <TlsTransport>";
        if let Err(error) = PyErr::warn(py, &py.get_type::<PyResourceWarning>(), text, 1) {
            error.write_unraisable(py, None);
        }
        if let Some(raised) = raised {
            raised.restore(py);
        }
    }
}

/// Puts the raw methods on the class.
pub fn add_raw_methods(py: Python<'_>) -> PyResult<()> {
    unsafe extern "C" fn write(
        slf: *mut ffi::PyObject,
        args: *const *mut ffi::PyObject,
        count: ffi::Py_ssize_t,
        keywords: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject {
        // SAFETY: CPython calls this through the descriptor made below.
        unsafe { fastcall::enter::<TlsTransport>(slf, args, count, keywords, TlsTransport::write) }
    }
    let doc = c"write($self, /, data)\n--\n\nQueues bytes; they leave encrypted at the end of the turn, in order. Never blocks.";
    fastcall::add_method(&py.get_type::<TlsTransport>(), c"write", doc, write)
}
