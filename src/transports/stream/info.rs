//! What can be asked of a stream transport: its repr and its extra information.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::StreamTransport;
use crate::py::new;
use crate::py::sockaddr;
use crate::transports::lifecycle::Phase;
use crate::transports::socket::{Socket, Was, hand_over, python_socket};

impl StreamTransport {
    pub(super) fn describe(&self, py: Python<'_>) -> String {
        self.state.with(py, |state| {
            let mut text = String::from("<StreamTransport");
            match state.life.phase() {
                _ if state.socket.is_closed() => text.push_str(" closed"),
                Phase::Open => {}
                _ => text.push_str(" closing"),
            }
            text.push_str(&format!(" fd={}", state.socket.number()));
            let polling = |on| if on { "polling" } else { "idle" };
            if !self.core.closed.load(Relaxed) {
                text.push_str(&format!(
                    " read={} write=<{}, bufsize={}>",
                    polling(state.life.may_read()),
                    polling(state.write_blocked),
                    state.queue.len()
                ));
            }
            text.push('>');
            text
        })
    }

    pub(super) fn extra<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        if let Some(extra) =
            self.state.with(py, |state| state.extra.as_ref().map(|extra| extra.bind(py).clone()))
        {
            return Ok(extra);
        }
        let extra = new::dict(py)?;
        self.state.with(py, |state| state.extra = Some(extra.clone().unbind()));
        Ok(extra)
    }

    /// The value for a name that nobody has asked for yet.
    pub(super) fn make_extra<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let address = match name {
            "socket" => return self.python_socket(py).map(Some),
            "sockname" => self.state.with(py, |state| state.sockname.clone()),
            "peername" => self.state.with(py, |state| state.peername.clone()),
            _ => return Ok(None),
        };
        match address {
            Some(address) => sockaddr::to_python(py, &address).map(Some),
            // asyncio has the key, with None, where the kernel does not know the address.
            None => Ok(Some(py.None().into_bound(py))),
        }
    }

    /// The `asyncio.TransportSocket` of the connection.
    fn python_socket<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (object, own) = self.state.with(py, |state| match &state.socket {
            Socket::Own { kind, .. } => (None, Some((state.socket.number(), *kind, true))),
            Socket::Closed { fd, was: Was::Own(kind) } => (None, Some((*fd, *kind, false))),
            socket => (socket.object().map(|object| object.bind(py).clone()), None),
        });
        let socket = match (object, own) {
            (Some(object), _) => object,
            (None, Some((fd, kind, true))) => {
                let lent = python_socket(py, &self.core, fd, kind)?;
                let object = lent.object()?.clone();
                let python = Socket::from_python(&object)?;
                let own = self.state.with(py, |state| match &mut state.socket {
                    socket @ Socket::Own { .. } => std::mem::replace(socket, python),
                    _ => python,
                });
                let Socket::Own { fd, .. } = own else {
                    // Python code has run meanwhile: another thread was faster, or has closed the transport. The fd is
                    // not this object's to close.
                    drop(lent);
                    return self.python_socket(py);
                };
                hand_over(fd, lent);
                object
            }
            // Asked for the first time after the end: a socket that is closed, as asyncio's would be.
            (None, closed) => {
                let kind = closed.map_or((libc::AF_INET, libc::SOCK_STREAM, 0), |(_, kind, _)| {
                    (kind.family, kind.kind, kind.protocol)
                });
                let object = self.core.names.socket_class.bind(py).call1(kind)?;
                object.call_method0(&self.core.names.close)?;
                object
            }
        };
        self.core.names.transport_socket.bind(py).call1((socket,))
    }
}
