//! The listener: a listening socket of a `Server`, which accepts connections in batches: in one turn
//! as many as its backlog says.
//!
//! Each connection gets its own copy of the context in which serving started. asyncio does the same by a task for each
//! connection. What becomes of a connection, its socket options included, is the business of `stream/`; a TLS
//! connection is made in Python (`Loop._accept_tls`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::bare::BareSocket;
use super::shell::Parts;
use super::socket::{File, SocketKind};
use super::stream::{Connections, StreamTransport};
use crate::core::{Kind, LoopCore, Native};
use crate::error::{leaves_the_loop, os_error};
use crate::handle::Callback;
use crate::py::cell::LoopCell;
use crate::py::context;
use crate::py::exception_handler;
use crate::py::file_fd::FileFd;
use crate::py::new::intern;
use crate::reactor::metrics::Figure;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys::{self, SocketAddress};
use crate::reactor::token::Token;

/// Seconds to wait when no connection can be accepted (`asyncio.constants.ACCEPT_RETRY_DELAY`).
const RETRY_DELAY: f64 = 1.0;
/// So many connections in a row may fail before an error of a single connection counts as one that stays.
const MOST_FAILURES: u32 = 100;
/// asyncio's default.
const USUAL_BACKLOG: usize = 100;

/// The errors by which accept(2) says that something is wrong with this connection only. The next one is accepted.
const OF_THIS_CONNECTION: [i32; 8] = [
    libc::ECONNABORTED,
    libc::EPROTO,
    libc::ENOPROTOOPT,
    libc::ENETDOWN,
    libc::ENETUNREACH,
    libc::EHOSTDOWN,
    libc::EHOSTUNREACH,
    libc::EOPNOTSUPP,
];

/// One listening socket and what its connections are made of.
#[pyclass(frozen, weakref, module = "rloop._rloop")]
pub struct Listener {
    core: Arc<LoopCore>,
    event_loop: Py<PyAny>,
    kind: SocketKind,
    factory: Py<PyAny>,
    server: Option<Py<PyAny>>,
    /// The positional arguments of `Loop._accept_tls` after the connection: none for plain TCP.
    tls: Option<Py<PyAny>>,
    /// Most connections accepted in one turn.
    backlog: usize,
    context: Py<PyAny>,
    /// Does a connection keep its context for good? (CPython 3.15)
    own_contexts: bool,
    token: LoopCell<Option<Token>>,
    /// An accept has failed, and nothing is accepted before the retry: such an error stays for a while.
    backing_off: AtomicBool,
    /// How many connections in a row have failed before they were accepted.
    failures: AtomicU32,
    /// The program's socket.
    fd: FileFd,
}

static KIND: Kind = Kind { on_ready: Listener::on_ready, is_reader: true, ..Kind::NOTHING };

impl Listener {
    /// Starts accepting. The loop keeps the listener, and with it the server, alive until it is unregistered. The
    /// arguments are those of `BaseEventLoop._start_serving`. `backlog`: as it was given to listen(2), for which a
    /// negative number is the largest. `context`: the server's, of which each connection gets a copy for good; None:
    /// asyncio before CPython 3.15.
    #[allow(clippy::too_many_arguments, reason = "one call per listening socket")]
    pub fn start<'py>(
        core: &Arc<LoopCore>,
        event_loop: &Bound<'py, PyAny>,
        factory: Bound<'py, PyAny>,
        socket: &Bound<'py, PyAny>,
        tls: Option<Bound<'py, PyAny>>,
        server: Option<Bound<'py, PyAny>>,
        backlog: i64,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let (py, fd) = (socket.py(), FileFd::of(socket)?);
        let number = fd.number();
        server.as_ref().map_or(Ok(()), |server| Connections::take_place(core, server))?;
        let listener = Self {
            core: core.clone(),
            event_loop: event_loop.clone().unbind(),
            kind: SocketKind::of(socket)?,
            factory: factory.unbind(),
            server: server.map(Bound::unbind),
            tls: tls.map(Bound::unbind),
            backlog: usize::try_from(backlog).map_or(USUAL_BACKLOG, |backlog| backlog.max(1)),
            own_contexts: context.is_some(),
            context: context.map_or_else(|| context::copy_current(py), Ok)?.unbind(),
            token: LoopCell::new(None),
            backing_off: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            fd,
        };
        let listener = Bound::new(py, listener)?;
        let native = Native { object: listener.clone().into_any().unbind(), kind: &KIND };
        let token = core.register(py, number, native)?;
        listener.get().token.with(py, |place| *place = Some(token));
        Ok(())
    }

    /// The loop's call when connections wait. It accepts as many as asyncio does in one turn: the backlog.
    fn on_ready(object: &Bound<'_, PyAny>, _readiness: Readiness) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let (py, this) = (slf.py(), slf.get());
        let mut result = Ok(());
        for _ in 0..this.backlog {
            if !this.is_registered(py) || this.backing_off.load(Relaxed) {
                return Ok(());
            }
            // poll(2) comes before each accept, for two reasons. Another process with the same open file can have
            // cleared O_NONBLOCK, and accept has no MSG_DONTWAIT. And an accept of an empty queue costs as much as
            // fifteen polls: the kernel makes a socket first.
            let fd = this.fd.get();
            if matches!(&fd, Ok(fd) if matches!(sys::is_readable(fd.as_raw_fd()), Ok(false))) {
                return Ok(());
            }
            match fd.and_then(sys::accept) {
                Ok((fd, peer)) => {
                    this.failures.store(0, Relaxed);
                    this.core.figures.add(Figure::Accepts, 1);
                    result = this.accepted(py, fd, peer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => match this.count_failure(&error) {
                    // The next connection is accepted. If many in a row have failed so, this error stays, too.
                    errno
                        if OF_THIS_CONNECTION.contains(&errno)
                            && this.failures.fetch_add(1, Relaxed) < MOST_FAILURES => {}
                    libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                        return this.back_off(slf, "socket.accept() out of system resource", &error);
                    }
                    // The program has closed the socket itself.
                    libc::EBADF | libc::EINVAL | libc::ENOTSOCK => {
                        return this.report(py, "Fatal error: socket.accept() failed", os_error(&error));
                    }
                    // An error that may stay as well, of a sandbox for instance.
                    _ => return this.back_off(slf, "Error: socket.accept() failed", &error),
                },
            }
            if result.is_err() {
                break;
            }
        }
        // The batch is full, or SystemExit has ended it early: the rest follows in the next turn.
        this.go_on(py);
        result
    }

    /// Counts an accept that has failed. Returns the number of the error.
    fn count_failure(&self, error: &io::Error) -> i32 {
        self.core.figures.add(Figure::AcceptErrors, 1);
        error.raw_os_error().unwrap_or_default()
    }

    /// False once the server was closed. A connection's factory, which is the program's code, may have done that.
    fn is_registered(&self, py: Python<'_>) -> bool {
        let token = self.token.with(py, |token| *token);
        token.is_some_and(|token| self.core.is_registered(py, token))
    }

    /// Has the loop call [`Listener::on_ready`] in the next turn. The registration is edge-triggered, so what is left
    /// in the kernel's queue is not reported again.
    fn go_on(&self, py: Python<'_>) {
        if let Some(token) = self.token.with(py, |token| *token) {
            self.core.requeue(py, token, Readiness::READABLE);
        }
    }

    /// No connection can be accepted: this is reported once a second until one can.
    #[cold]
    fn back_off(&self, slf: &Bound<'_, Self>, message: &str, error: &io::Error) -> PyResult<()> {
        let py = slf.py();
        self.backing_off.store(true, Relaxed);
        // This comes before the report, because the exception handler may leave the loop.
        if let Err(error) = self.retry_later(slf) {
            self._retry(py);
            return Err(error);
        }
        self.report(py, message, os_error(error))
    }

    /// Has `_retry` called after a while. An error of resources ends when the program, or another one, closes a file,
    /// which no event tells of.
    fn retry_later(&self, slf: &Bound<'_, Self>) -> PyResult<()> {
        let retry = slf.getattr(intern!(slf.py(), "_retry")?)?;
        let callback = Callback { callback: retry, args: &[], context: None };
        self.core.call_later(self.event_loop.bind(slf.py()), RETRY_DELAY, callback).map(drop)
    }

    /// Tells the loop's exception handler, with the socket that is concerned, as
    /// `BaseSelectorEventLoop._accept_connection` does.
    fn report(&self, py: Python<'_>, message: &str, error: PyErr) -> PyResult<()> {
        let names = self.core.names;
        let socket = names.transport_socket.bind(py).call1((self.fd.object(),))?;
        let details = [(&names.socket, &socket)];
        exception_handler::call(self.event_loop.bind(py), names, message, error, &details)
    }

    /// Makes a protocol and a transport for one connection, in a context of its own.
    fn accepted(&self, py: Python<'_>, fd: OwnedFd, peer: SocketAddress) -> PyResult<()> {
        let context = context::copy(self.context.bind(py))?;
        let made = context::run_in(&context, || match &self.tls {
            Some(tls) => self.accept_tls(&context, fd, peer, tls),
            None => self.accept_plain(&context, fd, peer),
        });
        match made {
            Err(error) if leaves_the_loop(py, &error) => Err(error),
            // asyncio reports it in debug mode only.
            Err(error) if self.core.debug.load(Relaxed) => {
                let message = "Error on transport creation for incoming connection";
                exception_handler::call(self.event_loop.bind(py), self.core.names, message, error, &[])
            }
            _ => Ok(()),
        }
    }

    /// The program's protocol directly on a stream.
    fn accept_plain(&self, context: &Bound<'_, PyAny>, fd: OwnedFd, peer: SocketAddress) -> PyResult<()> {
        let py = context.py();
        let protocol = self.factory.bind(py).call0()?;
        let parts = Parts {
            core: &self.core,
            event_loop: self.event_loop.bind(py),
            protocol,
            waiter: None,
            extra: None,
            context: self.own_contexts.then(|| context.clone()),
        };
        let socket = File::Own { fd, kind: self.kind };
        let server = self.server.as_ref().map(|server| server.bind(py).clone());
        StreamTransport::start(parts, socket, self.kind, Some(peer), server).map(drop)
    }

    /// The rest is done in Python, because a handshake is: a task of `Loop._accept_tls` makes the layer and waits for
    /// it.
    fn accept_tls(
        &self,
        context: &Bound<'_, PyAny>,
        fd: OwnedFd,
        peer: SocketAddress,
        tls: &Py<PyAny>,
    ) -> PyResult<()> {
        let py = context.py();
        let socket = BareSocket::accepted(fd, self.kind, peer);
        let server = self.server.as_ref().map(|server| server.clone_ref(py));
        let context = self.own_contexts.then_some(context);
        let args = (&self.factory, socket, server, tls, context);
        self.event_loop.call_method1(py, &self.core.names._accept_tls, args).map(drop)
    }
}

#[pymethods]
impl Listener {
    /// Accepts again after an error that stays.
    fn _retry(&self, py: Python<'_>) {
        self.backing_off.store(false, Relaxed);
        self.go_on(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        visit.call(self.fd.object())?;
        visit.call(&self.factory)?;
        visit.call(&self.server)?;
        visit.call(&self.tls)?;
        visit.call(&self.context)
    }
}
