//! What `get_extra_info` of a stream transport answers. A value is made when it is first asked for. Other transports
//! get theirs when they are made.

use pyo3::prelude::*;

use super::StreamTransport;
use crate::py::sockaddr;
use crate::reactor::sys::SocketAddress;
use crate::transports::socket::{File, hand_over, python_socket};

impl StreamTransport {
    /// The value for a name that nobody has asked for yet.
    pub(super) fn make_extra<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let address = match name {
            "socket" => return self.python_socket(py).map(Some),
            "sockname" => self.state.with(py, |state| state.side.sockname.clone()),
            "peername" => self.state.with(py, |state| state.side.peername.clone()),
            _ => return Ok(None),
        };
        match address {
            Some(address) => sockaddr::to_python(py, &SocketAddress::from(&address)).map(Some),
            // asyncio has the key, with None, where the kernel does not know the address.
            None => Ok(Some(py.None().into_bound(py))),
        }
    }

    /// The `asyncio.TransportSocket` of the connection, around a Python socket that is made now if there is none yet.
    fn python_socket<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (object, own) = self.state.with(py, |state| match &state.file {
            File::Own { kind, .. } => (None, Some((state.file.number(), *kind, true))),
            File::ClosedOwn { fd, kind } => (None, Some((*fd, *kind, false))),
            socket => (socket.object().map(|object| object.bind(py).clone()), None),
        });
        let socket = match (object, own) {
            (Some(object), _) => object,
            (None, Some((fd, kind, true))) => {
                let lent = python_socket(py, &self.core, fd, kind)?;
                let object = lent.object()?.clone();
                let python = File::from_python(&object)?;
                let own = self.state.with(py, |state| match &mut state.file {
                    socket @ File::Own { .. } => std::mem::replace(socket, python),
                    _ => python,
                });
                let File::Own { fd, .. } = own else {
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
                    (kind.family(), kind.kind(), kind.protocol())
                });
                let object = self.core.names.socket_class.bind(py).call1(kind)?;
                object.call_method0(&self.core.names.close)?;
                object
            }
        };
        self.core.names.transport_socket.bind(py).call1((socket,))
    }
}
