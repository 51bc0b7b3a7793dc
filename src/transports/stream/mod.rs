//! The stream transport: one connected socket and its protocol. The model is asyncio's `_SelectorSocketTransport`.
//!
//! Bytes in: `on_ready` -> `read` -> `protocol.data_received`. Bytes out: `write` sends, or keeps back until the loop
//! calls `flush`.
//!
//! Here are the class, what it has beside the shell (`shell.rs`), and how one is made, with the options of its socket.
//! `class.rs` is Python's view of it, `reading.rs` and `writing.rs` have the bytes, `by_methods.rs` sockets that are
//! served by methods of their own, `connections.rs` how many a server has, `sendfile.rs` and `info.rs` what their names
//! say.

mod by_methods;
mod class;
mod connections;
mod info;
mod reading;
mod sendfile;
mod writing;

use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::above::{LayerKind, NativeLayer};
use super::flow::Flow;
use super::inside;
use super::outbox::Outbox;
use super::protocol;
use super::receiving::ReadSize;
use super::shell::{self, Parts, Shell, Side};
use super::socket::{File, SocketKind};
use super::transport::Transport;
use super::write_queue::WriteQueue;
use crate::core::{Kind, LoopCore};
use crate::py::bytes::Chunk;
use crate::py::made::Made;
use crate::py::new::intern;
use crate::reactor::metrics::Figure;
use crate::reactor::sys::{self, KeptAddress, ShortRead, SocketAddress};
pub use connections::Connections;
use writing::After;

/// A connected stream socket and its protocol.
#[pyclass(frozen, dict, weakref, module = "rloop._rloop")]
pub struct StreamTransport(Made<Shell<Stream>>);

/// What only a stream has.
#[derive(Default)]
pub struct Stream {
    /// Is the protocol a `BufferedProtocol`?
    buffered: bool,
    /// How to call the protocol natively, if it is a layer.
    above: Option<&'static LayerKind>,
    /// A UNIX socket.
    is_unix: bool,
    /// What it means if a read gets less than it asked for.
    short_read: ShortRead,
    /// A read may find something: an edge came, and no read since has found the end of what is there.
    readable: bool,
    /// The peer's end of stream, or an error, waits behind the data.
    read_closed: bool,
    /// The kernel reports when it takes more again: always, except on UNIX sockets (`Reactor::watch`).
    write_watched: bool,
    /// The socket's own `send` is being called, if that is what sends: what it writes itself is queued.
    in_send: bool,
    /// A file is being sent: writes are refused.
    in_sendfile: bool,
    /// Completed once the queue is empty and the kernel takes more.
    sent_waiter: Option<Py<PyAny>>,
    read_size: ReadSize,
    /// The server that counts the connection.
    server: Option<Py<PyAny>>,
    sockname: Option<KeptAddress>,
    peername: Option<KeptAddress>,
}

// A program can have very many connections that are idle, so that what each of them takes is a promise
// (docs/performance.md). What only few connections need belongs into a `Box`.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<StreamTransport>() <= 296);

type State = shell::State<Stream>;

impl Side for Stream {
    type Queue = WriteQueue<Chunk>;

    fn may_have_data(&self) -> bool {
        self.readable
    }

    /// A `sendfile` waits for the kernel by means of the transport.
    fn waits(&self) -> bool {
        self.sent_waiter.is_some()
    }

    fn traverse(state: &State, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&state.side.server)?;
        visit.call(&state.side.sent_waiter)
    }
}

impl Stream {
    /// `kind` is what Python says of the socket. The family may be a guess there, for an inherited fd for instance, so
    /// the kernel's is taken.
    fn new(file: &File, kind: SocketKind, peername: Option<SocketAddress>) -> Self {
        let peername = peername.as_ref().map(KeptAddress::from);
        let mut stream = Self { write_watched: true, peername, ..Self::default() };
        stream.look_at_socket(file, kind);
        stream
    }

    /// Learns what depends on the kind of the socket.
    fn look_at_socket(&mut self, file: &File, kind: SocketKind) {
        let Ok(Some(fd)) = file.any_fd() else {
            return;
        };
        let sockname = sys::local_address(fd).ok();
        let ask_peer = || sys::peer_address(fd).ok().as_ref().map(KeptAddress::from);
        self.peername = self.peername.take().or_else(ask_peer);
        self.sockname = sockname.as_ref().map(KeptAddress::from);
        let kind = sockname.map_or(kind, |name| kind.of_family(name.family()));
        // A failure ends nothing: the socket is not a TCP socket then, or its peer has gone already.
        let is_tcp = kind.is_tcp() && sys::set_nodelay(fd).is_ok();
        self.is_unix = kind.is_unix();
        self.write_watched = !self.is_unix;
        self.short_read = match (is_tcp, self.is_unix && kind.kind() == libc::SOCK_STREAM) {
            (true, _) => ShortRead::Empties,
            (_, true) => ShortRead::EmptiesUnlessCut,
            _ => ShortRead::SaysNothing,
        };
    }
}

impl Transport for StreamTransport {
    type Side = Stream;
    type After = After;

    const KIND: Kind =
        Kind { on_ready: Self::on_ready, flush: Self::flush, owns_fd: Self::owns_fd, ..Kind::NOTHING };

    fn made(&self) -> Option<&Shell<Stream>> {
        self.0.get()
    }

    /// `Outbox::send` makes the system calls; what follows is found out in the same borrow.
    #[inline]
    fn send(&self, state: &mut State) -> Option<After> {
        let result = state.send(&self.core);
        state.after(result, true)
    }

    fn follow(slf: &Bound<'_, Self>, after: After) -> PyResult<()> {
        Self::sent(slf, after)
    }

    fn send_rest(&self, state: &mut State) {
        let _ = state.send(&self.core);
    }

    /// Then the server is told, which may wait for its last connection (`Server.wait_closed`).
    fn release(&self, py: Python<'_>, transport: Option<&Bound<'_, Self>>) -> PyResult<()> {
        let (file, server) = self.state.with(py, |state| {
            state.side.above = None;
            (state.file.take(py), state.side.server.as_ref().map(|server| server.clone_ref(py)))
        });
        self.core.figures.subtract(Figure::ConnectionsOpen, 1);
        let closed = file.close(py);
        let detached = server.map_or(Ok(()), |server| self.detach(server.bind(py), transport));
        drop(self.state.with(py, |state| state.side.server.take()));
        closed.and(detached)
    }

    /// Also learns what the protocol is: reads differ for a `BufferedProtocol` and for a TLS layer.
    fn adopt(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = protocol.py();
        let buffered = protocol.is_instance(self.core.names.buffered_protocol.bind(py))?;
        let above = NativeLayer::kind_of(protocol);
        let previous = self.state.with(py, |state| {
            (state.side.buffered, state.side.above) = (buffered, above);
            state.protocol.replace(protocol.clone().unbind())
        });
        drop(previous);
        Ok(())
    }

    /// Whoever waits in `sendfile` gets an exception: nothing will be sent any more.
    fn losing(&self, py: Python<'_>) -> PyResult<()> {
        self.tell_sent_waiter(py)
    }

    /// Addresses and the socket object are made when they are first asked for. Most connections are never asked.
    fn find_extra<'py>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        name.cast::<PyString>().map_or(Ok(None), |name| self.make_extra(py, &name.to_string_lossy()))
    }

    fn unsent<'py>(&self, py: Python<'py>) -> PyResult<(u32, Vec<Bound<'py, PyAny>>)> {
        let (lost, queued) = self
            .state
            .with(py, |state| (state.life.count_of_lost(state.outbox.lost), state.outbox.queue.copies()));
        Ok((lost, inside::chunks(py, queued)?))
    }

    /// A future that waits refers to its callbacks, and those may refer to the transport.
    fn clear(&self, py: Python<'_>) {
        let cleared = self
            .state
            .with(py, |state| (state.protocol.take(), state.extra.take(), state.side.sent_waiter.take()));
        drop(cleared);
    }
}

impl StreamTransport {
    /// Makes the transport and schedules, in this order: `connection_made`, reading, the waiter. `peername`: if it is
    /// known already.
    pub fn start<'py>(
        parts: Parts<'_, 'py>,
        socket: File,
        kind: SocketKind,
        peername: Option<SocketAddress>,
        server: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = parts.event_loop.py();
        let side = Stream::new(&socket, kind, peername);
        let outbox = Outbox::new(WriteQueue::default(), Flow::default(), 1);
        let transport = Bound::new(py, Self(Made::new(Shell::new(&parts, socket, outbox, side)?)))?;
        let this = transport.get();
        let made = match this.prepare(&transport, &parts.protocol, server.as_ref()) {
            Ok(made) => made,
            Err(error) => {
                this.state.with(py, |state| state.file.take(py)).close(py)?;
                return Err(error);
            }
        };
        // Until `release`, which comes once from here on.
        this.core.figures.add(Figure::ConnectionsOpen, 1);
        let watch_writing = this.state.with(py, |state| state.side.write_watched);
        Self::reserve_and_start(&transport, made, parts.waiter, watch_writing)?;
        this.core.figures.add(Figure::ConnectionsMade, 1);
        Ok(transport)
    }

    /// What can fail before the transport exists for anybody else. Returns the protocol's `connection_made`.
    fn prepare<'py>(
        &self,
        transport: &Bound<'py, Self>,
        protocol: &Bound<'py, PyAny>,
        server: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.core.check_closed()?;
        self.adopt(protocol)?;
        let made = protocol::connection_made(self.core.names, protocol)?;
        server.map_or(Ok(()), |server| self.attach(transport, server))?;
        Ok(made)
    }

    /// Has the server count the connection, which it waits for when it is closed.
    fn attach(&self, transport: &Bound<'_, Self>, server: &Bound<'_, PyAny>) -> PyResult<()> {
        let names = self.core.names;
        if names.server_counts_transports {
            server.call_method1(&names._attach, (transport,))?;
        } else {
            server.call_method0(&names._attach)?;
        }
        // If the server counts by `Connections`, these have done that.
        self.join_server(server);
        Ok(())
    }

    /// The server need not wait for the connection any more. `transport`: none when it is being deallocated.
    fn detach(&self, server: &Bound<'_, PyAny>, transport: Option<&Bound<'_, Self>>) -> PyResult<()> {
        let (py, names) = (server.py(), self.core.names);
        match (names.server_counts_transports, transport) {
            (true, Some(transport)) => server.call_method1(&names._detach, (transport,)).map(drop),
            // Nobody can get this one any more, so that it cannot be an argument. A server that is garbage as well may
            // have been taken apart before: then there is nothing left to count.
            (true, None) => self.detach_silently(server).or(Ok(())),
            (false, None) if !server.hasattr(intern!(py, "_active_count")?).unwrap_or(false) => Ok(()),
            (false, _) => server.call_method0(&names._detach).map(drop),
        }
    }

    /// What `Server._detach` of CPython 3.13 does, of a transport that is being deallocated.
    fn detach_silently(&self, server: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = server.py();
        let clients = server.getattr(&self.core.names._clients)?;
        if let Ok(connections) = clients.cast::<Connections>() {
            connections.get().remove(py, self);
        }
        let is_last = server.getattr(intern!(py, "_sockets")?)?.is_none() && clients.is_empty()?;
        // None: it was woken before.
        if is_last && !server.getattr(intern!(py, "_waiters")?)?.is_none() {
            server.call_method0(intern!(py, "_wakeup")?)?;
        }
        Ok(())
    }

    /// True if the transport is one of this loop.
    pub fn is_of(&self, core: &Arc<LoopCore>) -> bool {
        self.made().is_some_and(|shell| Arc::ptr_eq(&shell.core, core))
    }

    /// Notes the server that counts the connection. False if one does so already.
    pub fn join_server(&self, server: &Bound<'_, PyAny>) -> bool {
        self.state.with(server.py(), |state| {
            let joins = state.side.server.is_none();
            if joins {
                state.side.server = Some(server.clone().unbind());
            }
            joins
        })
    }

    /// Notes that this server does not count the connection any more. False if it did not.
    pub fn leave_server(&self, server: &Bound<'_, PyAny>) -> bool {
        self.state.with(server.py(), |state| state.side.server.take_if(|own| own.is(server))).is_some()
    }

    /// True if this server counts the connection.
    pub fn is_at_server(&self, server: &Bound<'_, PyAny>) -> bool {
        self.state.with(server.py(), |state| state.side.server.as_ref().is_some_and(|own| own.is(server)))
    }
}
