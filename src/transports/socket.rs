//! The file under a transport, and who owns its fd: this crate, or a Python object.
//!
//! An accepted connection starts as a bare fd. It becomes a Python socket only when the program asks for one, which
//! most programs never do. What came from Python, a socket or a pipe, stays Python's: at the end it is closed by its
//! own `close()`.
//!
//! What is sent and received, and when, is not decided here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyString};

use crate::core::LoopCore;
use crate::error::{Message, leaves_the_loop};
use crate::py::file_fd::FileFd;
use crate::py::names::{Names, names};
use crate::py::new::{self, intern};

/// Family, type and protocol, as in `socket.socket(...)`. In 16 bits each, because every connection keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketKind {
    family: u16,
    kind: u16,
    protocol: u16,
}

impl SocketKind {
    /// The three numbers in their usual form. One that no kernel has may become another one that no kernel has.
    pub const fn new(family: i32, kind: i32, protocol: i32) -> Self {
        const fn short(number: i32) -> u16 {
            if 0 <= number && number <= u16::MAX as i32 { number as u16 } else { u16::MAX }
        }
        Self { family: short(family), kind: short(kind), protocol: short(protocol) }
    }

    /// The address family.
    pub fn family(self) -> i32 {
        self.family.into()
    }

    /// The type: SOCK_STREAM and so on.
    pub fn kind(self) -> i32 {
        self.kind.into()
    }

    /// The number of the protocol.
    pub fn protocol(self) -> i32 {
        self.protocol.into()
    }

    /// Those of a Python socket.
    pub fn of(socket: &Bound<'_, PyAny>) -> PyResult<Self> {
        // `family` and `type` of a `socket.socket` are properties in Python, which make an enum of the native class's
        // number each time. For the usual class the number is read directly.
        let py = socket.py();
        let names = names(py)?;
        let is_plain = socket.get_type().is(names.socket_class.bind(py));
        let number = |name: &Bound<'_, PyString>| {
            let value = if is_plain {
                names
                    .native_socket
                    .bind(py)
                    .getattr(name)?
                    .call_method1(intern!(py, "__get__")?, (socket,))?
            } else {
                socket.getattr(name)?
            };
            value.extract::<i32>()
        };
        let [family, kind, protocol] = [intern!(py, "family")?, intern!(py, "type")?, intern!(py, "proto")?];
        Ok(Self::new(number(family)?, number(kind)?, number(protocol)?))
    }

    /// The same with the family that the kernel reports. A program that wraps an inherited fd may have given Python a
    /// wrong one. Only the usual families are corrected: an SMC socket, for instance, has addresses of IP.
    pub fn of_family(self, family: i32) -> Self {
        let usual = |family| matches!(family, libc::AF_UNIX | libc::AF_INET | libc::AF_INET6);
        if family == self.family() || !usual(self.family()) || !usual(family) {
            return self;
        }
        // The number of a protocol belongs to its family.
        Self::new(family, self.kind(), 0)
    }

    /// A UNIX socket, for which epoll reports more than is of use: see `Stream::write_watched`.
    pub fn is_unix(self) -> bool {
        self.family() == libc::AF_UNIX
    }

    /// TCP, to which TCP_NODELAY applies. asyncio's `_set_nodelay` asks for the protocol's number as well, and so
    /// leaves Nagle's algorithm on where a listener was made without one, as `socket.create_server()` does.
    pub fn is_tcp(self) -> bool {
        matches!(self.family(), libc::AF_INET | libc::AF_INET6)
            && self.kind() == libc::SOCK_STREAM
            && matches!(self.protocol(), 0 | libc::IPPROTO_TCP)
    }
}

/// The file under a transport, a socket or one end of a pipe, by who owns its fd. Most are accepted connections, whose
/// fd is ours. So this takes no more memory than these need.
pub enum File {
    Own {
        fd: OwnedFd,
        kind: SocketKind,
    },
    Python(Box<FileFd>),
    /// A Python socket whose own methods are to be called instead of the system's.
    ByMethods(Box<FileFd>),
    /// What the program has for one end of a pipe. It is closed by its own `close()`.
    Pipe(Box<FileFd>),
    /// Closed. The number that the fd had is kept for the repr.
    ClosedOwn {
        fd: RawFd,
        kind: SocketKind,
    },
    ClosedPython {
        fd: RawFd,
        object: Py<PyAny>,
    },
}

impl File {
    /// A Python socket. It is kept open for as long as this struct uses its fd, even if the program closes the object:
    /// the socket module does the same for its `makefile()` objects (`_io_refs`). A program can still take the fd away,
    /// by `detach()` for instance.
    pub fn from_python(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (py, fd) = (object.py(), FileFd::of(object)?);
        if let Ok(references) = object.getattr(intern!(py, "_io_refs")?) {
            object.setattr(intern!(py, "_io_refs")?, references.add(1)?)?;
        }
        Ok(Self::Python(Box::new(fd)))
    }

    /// As [`File::from_python`], for a stream: if the class has a `recv`, `recv_into` or `send` of its own, these are
    /// called, as on asyncio.
    pub fn for_stream(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        match Self::from_python(object)? {
            Self::Python(fd) if has_own_methods(object)? => Ok(Self::ByMethods(fd)),
            socket => Ok(socket),
        }
    }

    /// The fd's number, also once it is closed.
    pub fn number(&self) -> RawFd {
        match self {
            Self::Own { fd, .. } => fd.as_raw_fd(),
            Self::Python(fd) | Self::ByMethods(fd) | Self::Pipe(fd) => fd.number(),
            Self::ClosedOwn { fd, .. } | Self::ClosedPython { fd, .. } => *fd,
        }
    }

    /// True once the transport has closed it. The program may have closed the Python object before: then the calls of
    /// the system fail with EBADF.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::ClosedOwn { .. } | Self::ClosedPython { .. })
    }

    /// The fd for system calls that send and receive; none if it is closed, or its own methods are to be called. EBADF
    /// if the program has taken it away from its socket.
    #[inline]
    pub fn fd(&self) -> io::Result<Option<BorrowedFd<'_>>> {
        match self {
            Self::Own { fd, .. } => Ok(Some(fd.as_fd())),
            Self::Python(fd) | Self::Pipe(fd) => fd.get().map(Some),
            Self::ByMethods(_) | Self::ClosedOwn { .. } | Self::ClosedPython { .. } => Ok(None),
        }
    }

    /// The fd for other calls: none if it is closed.
    pub fn any_fd(&self) -> io::Result<Option<BorrowedFd<'_>>> {
        match self {
            Self::ByMethods(fd) => fd.get().map(Some),
            _ => self.fd(),
        }
    }

    /// The fd of a file that is served by system calls; EBADF if it is closed.
    #[inline]
    pub fn open_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.fd()?.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// The object, if its own methods are to be called.
    pub fn by_methods(&self) -> Option<&Py<PyAny>> {
        match self {
            Self::ByMethods(fd) => Some(fd.object()),
            _ => None,
        }
    }

    /// Takes the socket out, for [`File::close`].
    pub fn take(&mut self, py: Python<'_>) -> Self {
        let fd = self.number();
        let closed = match self {
            Self::Own { kind, .. } | Self::ClosedOwn { kind, .. } => Self::ClosedOwn { fd, kind: *kind },
            Self::Python(file) | Self::ByMethods(file) | Self::Pipe(file) => {
                Self::ClosedPython { fd, object: file.object().clone_ref(py) }
            }
            Self::ClosedPython { object, .. } => Self::ClosedPython { fd, object: object.clone_ref(py) },
        };
        std::mem::replace(self, closed)
    }

    /// The Python object, if there is one.
    pub fn object(&self) -> Option<&Py<PyAny>> {
        match self {
            Self::Python(fd) | Self::ByMethods(fd) | Self::Pipe(fd) => Some(fd.object()),
            Self::ClosedPython { object, .. } => Some(object),
            Self::Own { .. } | Self::ClosedOwn { .. } => None,
        }
    }

    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Python(fd) | Self::ByMethods(fd) | Self::Pipe(fd) => fd.traverse(visit),
            Self::Own { .. } | Self::ClosedOwn { .. } => Ok(()),
            Self::ClosedPython { object, .. } => visit.call(object),
        }
    }

    /// Closes the fd; what is Python's by its own `close()`.
    pub fn close(self, py: Python<'_>) -> PyResult<()> {
        let fd = match self {
            Self::Own { .. } | Self::ClosedOwn { .. } | Self::ClosedPython { .. } => return Ok(()),
            Self::Pipe(fd) => return fd.object().call_method0(py, &names(py)?.close).map(drop),
            Self::Python(fd) | Self::ByMethods(fd) => fd,
        };
        let object = fd.object().bind(py);
        // `_socket.socket`, also when the interpreter ends and nothing can be imported any more.
        let native = names(py)?.native_socket.bind(py);
        if object.hasattr(intern!(py, "_io_refs")?)? {
            object.call_method0(intern!(py, "_decref_socketios")?)?;
            object.call_method0(intern!(py, "close")?)?;
        } else if object.is_instance(native)? {
            // Taken apart by the garbage collector already: only the native half still works.
            native.call_method1(intern!(py, "close")?, (object,))?;
        } else {
            object.call_method0(intern!(py, "close")?)?;
        }
        Ok(())
    }
}

/// Has a method of a Python socket raised this because it would have had to wait, or because a signal came?
pub fn would_block(py: Python<'_>, error: &PyErr) -> bool {
    // A program's class of exceptions can be one of these and an exit at the same time.
    !leaves_the_loop(py, error)
        && (error.is_instance_of::<PyBlockingIOError>(py) || error.is_instance_of::<PyInterruptedError>(py))
}

/// Is one of the methods by which asyncio's streams send and receive not that of `_socket.socket`?
fn has_own_methods(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = object.py();
    if object.get_type().is(names(py)?.socket_class.bind(py)) {
        return Ok(false);
    }
    let is_own = |name| matches!(object.getattr(name), Ok(method) if !method.is_instance_of::<PyCFunction>());
    Ok(["recv", "recv_into", "send"].into_iter().any(is_own))
}

/// A Python socket that was given an fd which it does not own yet. When this is dropped without [`Lent::keep`], the
/// object loses the number again, so that its finalizer closes nothing.
pub struct Lent<'py> {
    /// None once [`Lent::keep`] was called.
    object: Option<Bound<'py, PyAny>>,
    names: &'static Names,
}

impl<'py> Lent<'py> {
    /// The socket, for as long as it is lent.
    pub fn object(&self) -> PyResult<&Bound<'py, PyAny>> {
        self.object.as_ref().ok_or_else(|| PyRuntimeError::new_err(Message("the socket has an owner")))
    }

    /// The object owns the fd from here on: whoever had it before must forget it.
    pub fn keep(mut self) {
        self.object = None;
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            // The native method: the one in Python can be interrupted by a signal.
            let py = object.py();
            if let Err(error) = self.names.native_socket.bind(py).call_method1(&self.names.detach, (&object,))
            {
                error.write_unraisable(py, Some(&object));
            }
        }
    }
}

/// Makes a Python socket for an fd that has none. It makes the two steps of a call of the class one by one: an
/// exception in the second step, such as KeyboardInterrupt out of `socket.__init__`, must not leave an object that
/// closes the fd.
pub fn python_socket<'py>(
    py: Python<'py>,
    core: &LoopCore,
    fd: RawFd,
    kind: SocketKind,
) -> PyResult<Lent<'py>> {
    let (family, kind, protocol) = (kind.family(), kind.kind(), kind.protocol());
    let class = core.names.socket_class.bind(py);
    let fd = new::int(py, fd as usize)?;
    let object = class.call_method1(intern!(py, "__new__")?, (class, family, kind, protocol, &fd))?;
    let lent = Lent { object: Some(object.clone()), names: core.names };
    object.call_method1(intern!(py, "__init__")?, (family, kind, protocol, fd))?;
    // As asyncio's, which come from a non-blocking accept: `gettimeout()` is 0.
    object.call_method1(&core.names.setblocking, (false,))?;
    Ok(lent)
}

/// Gives the fd away to the Python object that was made for it.
pub fn hand_over(fd: OwnedFd, to: Lent<'_>) {
    to.keep();
    let _ = fd.into_raw_fd();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guessed_family_is_corrected() {
        let kind = |family, protocol| SocketKind::new(family, libc::SOCK_STREAM, protocol);
        let [unix, tcp, sctp] = [kind(libc::AF_UNIX, 0), kind(libc::AF_INET, 6), kind(libc::AF_INET, 132)];
        assert!(unix.of_family(libc::AF_INET).is_tcp() && tcp.of_family(libc::AF_UNIX).is_unix());
        assert!(!sctp.of_family(libc::AF_INET).is_tcp());
        let vsock = kind(libc::AF_VSOCK, 0);
        assert_eq!((vsock.of_family(libc::AF_INET), unix.of_family(libc::AF_UNSPEC)), (vsock, unix));
    }

    #[test]
    fn number_that_is_too_large_is_no_usual_one() {
        let odd = SocketKind::new(libc::AF_INET + (1 << 16), -1, 1 << 16);
        assert_eq!((odd.family(), odd.kind(), odd.protocol()), (0xffff, 0xffff, 0xffff));
        assert!(!odd.is_tcp() && !odd.is_unix());
    }
}
