//! Python's view of a stream transport: the methods and attributes that only it has. No logic: each calls what the
//! other files of this folder have for it. What all transports have is in `transports/class.rs`.

use pyo3::prelude::*;

use super::{State, Stream, StreamTransport};
use crate::py::new::Size;
use crate::transports::class::transport_class;
use crate::transports::sender::Sender;
use crate::transports::shell::Shell;
use crate::transports::transport::Transport;

transport_class! { StreamTransport(Shell<Stream>) shown as stream_transport, with reads, sends {
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
            state.life.end_writing() && !state.has_unsent() && state.life.take_shutdown()
        });
        let ended = if now { this.shutdown_write(py) } else { Ok(()) };
        sent.and(ended)
    }

    /// True: the stream can be ended in one direction.
    fn can_write_eof(&self) -> bool {
        true
    }

    /// Ends the connection at once; what is queued is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::fail(slf, None)
    }

    /// How many bytes one read takes at most.
    #[getter]
    fn max_size(&self, py: Python<'_>) -> Size {
        Size(self.state.with(py, |state| state.side.read_size.most()))
    }

    #[setter]
    fn set_max_size(&self, py: Python<'_>, size: usize) {
        self.state.with(py, |state| state.side.read_size.set_most(size));
    }

    /// For `Loop._sendfile_native`: writes are refused from here on. The future is completed once what was written
    /// before has left.
    fn _begin_sendfile<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::begin_sendfile(slf)
    }

    /// For `Loop._sendfile_native`, when the kernel takes no more: the future is completed once it does.
    fn _writable<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::wait_writable(slf)
    }

    /// For `Loop._sendfile_native`, however it has ended: writes are taken again.
    fn _end_sendfile(slf: &Bound<'_, Self>) {
        Self::end_sendfile(slf);
    }

    /// What asyncio's TLS layer calls to end the connection.
    fn _force_close(slf: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        Self::fail(slf, exc)
    }
} }
