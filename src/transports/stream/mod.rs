//! The stream transport: one connected socket and its protocol. The model is asyncio's `_SelectorSocketTransport`.
//!
//! Bytes in: `on_ready` -> `read` -> `protocol.data_received`. Bytes out: `write` sends, or keeps back until the loop
//! calls `flush`.
//!
//! Here are the class, what it has beside the shell (`shell.rs`), and how one is made, with the options of its socket.
//! `class.rs` is Python's view of it, `reading.rs` and `writing.rs` have the bytes, `by_methods.rs` sockets that are
//! served by methods of their own, `sendfile.rs` and `info.rs` what their names say.

mod by_methods;
mod class;
mod info;
mod reading;
mod sendfile;
mod writing;

use std::ops::Deref;
use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::above::{LayerKind, NativeLayer};
use super::flow::Flow;
use super::outbox::Outbox;
use super::protocol;
use super::receiving::ReadSize;
use super::sender::Sender;
use super::shell::{self, Shell, Side, Transport};
use super::socket::{File, SocketKind};
use super::write_queue::WriteQueue;
use crate::core::{Kind, LoopCore};
use crate::py::bytes::Chunk;
use crate::py::made::Made;
use crate::py::new::intern;
use crate::reactor::sys::{self, ShortRead, SocketAddress};
pub use writing::add_raw_methods;

/// A connected stream socket and its protocol.
#[pyclass(frozen, dict, weakref, module = "rloop._rloop")]
pub struct StreamTransport(Made<Shell<Stream>>);

impl Deref for StreamTransport {
    type Target = Shell<Stream>;

    #[inline(always)]
    fn deref(&self) -> &Shell<Stream> {
        &self.0
    }
}

/// What only a stream has.
pub struct Stream {
    /// Is the protocol a `BufferedProtocol`?
    buffered: bool,
    /// How to call the protocol natively, if it is a layer.
    above: Option<&'static LayerKind>,
    /// A UNIX socket.
    is_unix: bool,
    /// What it means if a read gets less than it asked for.
    short_read: ShortRead,
    outbox: Outbox<WriteQueue<Chunk>>,
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
    server: Option<Py<PyAny>>,
    sockname: Option<SocketAddress>,
    peername: Option<SocketAddress>,
}

type State = shell::State<Stream>;

impl Side for Stream {
    fn may_have_data(&self) -> bool {
        self.readable
    }

    fn has_unsent(&self) -> bool {
        !self.outbox.queue.is_empty()
    }

    fn waits(&self) -> bool {
        self.sent_waiter.is_some()
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.server)?;
        visit.call(&self.sent_waiter)
    }
}

impl Stream {
    /// `kind` is what Python says of the socket. The family may be a guess there, for an inherited fd for instance, so
    /// the kernel's is taken.
    fn new(file: &File, kind: SocketKind, peername: Option<SocketAddress>) -> Self {
        let mut stream = Self {
            buffered: false,
            above: None,
            is_unix: false,
            short_read: ShortRead::SaysNothing,
            outbox: Outbox::new(WriteQueue::new(), Flow::new(), 1),
            readable: false,
            read_closed: false,
            write_watched: true,
            in_send: false,
            in_sendfile: false,
            sent_waiter: None,
            read_size: ReadSize::default(),
            server: None,
            sockname: None,
            peername,
        };
        stream.look_at_socket(file, kind);
        stream
    }

    /// Learns what depends on the kind of the socket.
    fn look_at_socket(&mut self, file: &File, kind: SocketKind) {
        let Ok(Some(fd)) = file.any_fd() else {
            return;
        };
        self.sockname = sys::local_address(fd).ok();
        self.peername = self.peername.take().or_else(|| sys::peer_address(fd).ok());
        let kind = self.sockname.as_ref().map_or(kind, |name| kind.of_family(name.family()));
        // A failure ends nothing: the socket is not a TCP socket then, or its peer has gone already.
        let is_tcp = kind.is_tcp() && sys::set_nodelay(fd).is_ok();
        self.is_unix = kind.is_unix();
        self.write_watched = !self.is_unix;
        self.short_read = match (is_tcp, self.is_unix && kind.kind == libc::SOCK_STREAM) {
            (true, _) => ShortRead::Empties,
            (_, true) => ShortRead::EmptiesUnlessCut,
            _ => ShortRead::SaysNothing,
        };
    }
}

impl Transport for StreamTransport {
    type Side = Stream;
    type Rest = WriteQueue<Chunk>;

    const KIND: Kind = Kind { on_ready: Self::on_ready, flush: Self::flush, owns_fd: Self::owns_fd };

    fn made(&self) -> Option<&Shell<Stream>> {
        self.0.get()
    }

    fn describe(&self, py: Python<'_>) -> String {
        self.describe_socket(py)
    }

    fn release(&self, py: Python<'_>, transport: Option<&Bound<'_, Self>>) -> PyResult<()> {
        let (file, server) = self.state.with(py, |state| {
            state.side.above = None;
            (state.file.take(py), state.side.server.take())
        });
        let closed = file.close(py);
        let detached = server.map_or(Ok(()), |server| self.detach(server.bind(py), transport));
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

    fn give_up(&self, state: &mut State) -> WriteQueue<Chunk> {
        // Whether it fails makes no difference any more.
        let _ = state.send(&self.core);
        std::mem::take(&mut state.side.outbox.queue)
    }

    fn send_queued(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::send_and_follow(slf)
    }

    fn losing(&self, py: Python<'_>) -> PyResult<()> {
        self.tell_sent_waiter(py)
    }
}

/// What a transport is made of.
pub struct Parts<'a, 'py> {
    pub core: &'a Arc<LoopCore>,
    pub event_loop: &'a Bound<'py, PyAny>,
    pub socket: File,
    pub kind: SocketKind,
    pub protocol: Bound<'py, PyAny>,
    /// A future that is completed once `connection_made` was called.
    pub waiter: Option<Bound<'py, PyAny>>,
    /// Extra information from the caller.
    pub extra: Option<Bound<'py, PyDict>>,
    pub server: Option<Bound<'py, PyAny>>,
    pub peername: Option<SocketAddress>,
    /// The connection's own context; None: as asyncio before CPython 3.15, copies of whatever is current.
    pub context: Option<Bound<'py, PyAny>>,
}

impl StreamTransport {
    /// Makes the transport and schedules, in this order: `connection_made`, reading, the waiter.
    pub fn start<'py>(parts: Parts<'_, 'py>) -> PyResult<Bound<'py, Self>> {
        let Parts { core, event_loop, socket, kind, protocol, waiter, extra, server, peername, context } =
            parts;
        let (py, server) = (event_loop.py(), server.as_ref());
        let side = Stream::new(&socket, kind, peername);
        let shell = Shell::new(core, event_loop, None, context.as_ref(), socket, extra.as_ref(), side)?;
        let transport = Bound::new(py, Self(Made::new(shell)))?;
        let this = transport.get();
        let made = match this.prepare(&transport, &protocol, server) {
            Ok(made) => made,
            Err(error) => {
                this.state.with(py, |state| state.file.take(py)).close(py)?;
                return Err(error);
            }
        };
        let watch_writing = this.state.with(py, |state| {
            state.side.server = server.map(|server| server.clone().unbind());
            state.side.write_watched
        });
        Self::reserve_and_start(&transport, made, waiter, watch_writing)?;
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
            server.call_method1(&names._attach, (transport,)).map(drop)
        } else {
            server.call_method0(&names._attach).map(drop)
        }
    }

    /// The server need not wait for the connection any more. `transport`: none when it is being deallocated.
    fn detach(&self, server: &Bound<'_, PyAny>, transport: Option<&Bound<'_, Self>>) -> PyResult<()> {
        let names = self.core.names;
        match (names.server_counts_transports, transport) {
            (true, Some(transport)) => server.call_method1(&names._detach, (transport,)).map(drop),
            // Since 3.13 the server holds its transports weakly, and has lost this one already.
            (true, None) => Ok(()),
            // A server that is garbage as well may have been taken apart before: then there is nothing left to count.
            (false, None) if !server.hasattr(intern!(server.py(), "_active_count")?).unwrap_or(false) => {
                Ok(())
            }
            (false, _) => server.call_method0(&names._detach).map(drop),
        }
    }
}
