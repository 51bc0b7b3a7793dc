//! Sockets without a Python `socket.socket`: those that were accepted, and those that are made here to connect.
//! asyncio's code passes a [`BareSocket`] from one method of the loop to the next as it would pass a `socket.socket`.
//! In the end a stream transport takes the fd out of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use super::socket::{File, SocketKind};
use crate::error::Errno;
use crate::error::os_error;
use crate::py::cell::LoopCell;
use crate::py::{audit, sockaddr};
use crate::reactor::sys::{self, SocketAddress};

/// A non-blocking stream socket. Closed when it is dropped, unless a transport has taken it.
#[pyclass(frozen, module = "rloop._rloop")]
pub struct BareSocket {
    fd: LoopCell<Option<OwnedFd>>,
    kind: SocketKind,
    /// As the accept gave it.
    peer: Option<SocketAddress>,
}

impl BareSocket {
    /// A connection that a listener has accepted. It has no Python object for its fd, and perhaps never gets one.
    pub fn accepted(fd: OwnedFd, kind: SocketKind, peer: SocketAddress) -> Self {
        Self { fd: LoopCell::new(Some(fd)), kind, peer: Some(peer) }
    }

    /// A TCP socket that has begun to connect. It becomes writable when the connection is made, or has failed. None if
    /// this is for Python's own sockets to do: for another kind of socket, and for an address that is not in its usual
    /// form. Fails as their `connect` does.
    pub fn connecting<'py>(
        kind: SocketKind,
        address: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, Self>>> {
        let py = address.py();
        let (true, Some(target)) = (kind.is_tcp(), sockaddr::from_python(kind.family(), address)) else {
            return Ok(None);
        };
        let failed = |error: io::Error| os_error(&error);
        let fd = sys::stream_socket(kind.family(), kind.protocol()).map_err(failed)?;
        let bare = Bound::new(py, Self { fd: LoopCell::new(Some(fd)), kind, peer: None })?;
        audit::connect(bare.as_any(), address)?;
        let begun = bare.get().fd.with(py, |fd| fd.as_ref().map(|fd| sys::connect(fd.as_fd(), &target)));
        begun.unwrap_or(Err(io::ErrorKind::NotConnected.into())).map_err(failed)?;
        Ok(Some(bare))
    }

    /// The fd, for a transport; None if somebody had it before.
    pub fn take(&self, py: Python<'_>) -> Option<(File, SocketKind, Option<SocketAddress>)> {
        let fd = self.fd.with(py, Option::take)?;
        Some((File::Own { fd, kind: self.kind }, self.kind, self.peer.clone()))
    }
}

#[pymethods]
impl BareSocket {
    /// The fd; -1 once it is closed, or a transport's.
    fn fileno(&self, py: Python<'_>) -> RawFd {
        self.fd.with(py, |fd| fd.as_ref().map_or(-1, AsRawFd::as_raw_fd))
    }

    /// asyncio calls this to be sure. The socket is non-blocking from the start.
    fn setblocking(&self, _flag: bool) {}

    /// Closes the fd, unless it is a transport's by now.
    fn close(&self, py: Python<'_>) {
        drop(self.fd.with(py, Option::take));
    }

    /// True if it is known whether the connection is made or has failed, so that there is nothing to wait for. Over
    /// loopback this is so as soon as connecting has begun, although connect(2) says EINPROGRESS.
    fn _is_decided(&self, py: Python<'_>) -> bool {
        // If poll(2) fails, as it does below a low RLIMIT_NOFILE, the caller waits in the usual way.
        let is_writable = |fd: &OwnedFd| sys::is_writable(fd.as_raw_fd()).unwrap_or(false);
        self.fd.with(py, |fd| fd.as_ref().is_none_or(is_writable))
    }

    /// Raises OSError if connecting to `address` has failed, as `BaseSelectorEventLoop._sock_connect_cb` does.
    fn _check_connected(&self, py: Python<'_>, address: &Bound<'_, PyAny>) -> PyResult<()> {
        let error = self.fd.with(py, |fd| fd.as_ref().map_or(Ok(0), |fd| sys::take_error(fd.as_fd())));
        match error.map_err(|error| os_error(&error))? {
            0 => Ok(()),
            error => Err(PyOSError::new_err(Errno(error, format!("Connect call failed {}", address.str()?)))),
        }
    }
}
