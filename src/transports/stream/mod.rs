//! The stream transport: one connected socket and its protocol.
//!
//! Bytes in: `on_ready` -> `read` -> `protocol.data_received`. Bytes out: `write` sends, or keeps back until the loop
//! calls `flush`. Every decision about the life of the connection is `lifecycle.rs`'s, about flow control
//! `flow.rs`'s; here is the glue to the socket and to Python. The model is asyncio's `_SelectorSocketTransport`.
//!
//! Here are the class, how one is made, and Python's view of it; `reading.rs`, `writing.rs`, `ending.rs` and `info.rs`
//! have the rest. The rule for every method: look at the state and change it inside one `state.with`, call Python only
//! outside.

mod by_methods;
mod ending;
mod info;
mod reading;
mod sendfile;
mod writing;

use std::ops::Deref;
use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::flow::Flow;
use super::habit::Habit;
use super::inside::{self, Inside};
use super::lifecycle::{Action, Event, Lifecycle, Phase};
use super::receiving::ReadSize;
use super::report;
use super::socket::{Socket, SocketKind};
use super::tls::TlsLayer;
use super::write_queue::WriteQueue;
use crate::core::{Kind, LoopCore, Native};
use crate::handle::Callback;
use crate::py::bytes::Chunk;
use crate::py::calls;
use crate::py::cell::LoopCell;
use crate::py::context;
use crate::py::made::Made;
use crate::py::new::intern;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys::{self, ShortRead, SocketAddress};
use crate::reactor::token::Token;
pub use writing::add_raw_methods;

/// A connected stream socket and its protocol.
#[pyclass(frozen, dict, weakref, module = "rloop._rloop")]
pub struct StreamTransport(Made<Stream>);

/// What a [`StreamTransport`] holds.
pub struct Stream {
    core: Arc<LoopCore>,
    event_loop: Py<PyAny>,
    state: LoopCell<State>,
}

impl Deref for StreamTransport {
    type Target = Stream;

    #[inline(always)]
    fn deref(&self) -> &Stream {
        &self.0
    }
}

struct State {
    socket: Socket,
    /// The registration; none once `connection_lost` is scheduled.
    token: Option<Token>,
    /// Does the loop hold the transport? See `hold`.
    held: bool,
    /// None once `connection_lost` was called.
    protocol: Option<Py<PyAny>>,
    /// Is the protocol a `BufferedProtocol`?
    buffered: bool,
    /// The protocol, if it is a TLS layer.
    tls: Option<Py<TlsLayer>>,
    /// Where protocol callbacks run: that of the connection, or a copy of that of whoever resumed reading last.
    context: Py<PyAny>,
    /// Since CPython 3.15 a connection has one context, for all of its callbacks and for good.
    own_context: bool,
    /// A UNIX socket.
    is_unix: bool,
    /// What it means if a read gets less than it asked for.
    short_read: ShortRead,
    life: Lifecycle,
    flow: Flow,
    queue: WriteQueue<Chunk>,
    habit: Habit,
    /// A read may find something: an edge came, and no read since has found the end of what is there.
    readable: bool,
    /// The peer's end of stream, or an error, waits behind the data.
    read_closed: bool,
    /// The kernel takes no more: wait for its edge. Invariant: a paused protocol implies this.
    write_blocked: bool,
    /// The kernel watches for that edge; always, except on UNIX sockets (`Reactor::watch`).
    write_watched: bool,
    /// The socket's own `send` is being called, if that is what sends: what it writes itself is queued.
    in_send: bool,
    /// A file is being sent: writes are refused.
    in_sendfile: bool,
    /// Completed once the queue is empty and the kernel takes more.
    sent_waiter: Option<Py<PyAny>>,
    /// The loop will call `flush`, for something is kept back.
    gathering: bool,
    read_size: ReadSize,
    /// Writes after the connection was lost, counted from 1 as asyncio's `_conn_lost`.
    dropped_writes: u32,
    server: Option<Py<PyAny>>,
    sockname: Option<SocketAddress>,
    peername: Option<SocketAddress>,
    /// What `get_extra_info` has been asked for, or was given; made when first needed.
    extra: Option<Py<PyDict>>,
}

/// How the loop calls stream transports.
static KIND: Kind = Kind {
    on_ready: StreamTransport::on_ready,
    flush: StreamTransport::flush,
    owns_fd: StreamTransport::owns_fd,
};

/// What a transport is made of.
pub struct Parts<'a, 'py> {
    pub core: &'a Arc<LoopCore>,
    pub event_loop: &'a Bound<'py, PyAny>,
    pub socket: Socket,
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
        let (py, names) = (event_loop.py(), core.names);
        let mut state = State {
            token: None,
            held: true,
            protocol: None,
            buffered: false,
            tls: None,
            own_context: context.is_some(),
            context: match &context {
                Some(context) => context.clone().unbind(),
                None => context::copy_current(py)?.unbind(),
            },
            is_unix: false,
            short_read: ShortRead::SaysNothing,
            life: Lifecycle::new(),
            flow: Flow::new(),
            queue: WriteQueue::new(),
            habit: Habit::default(),
            readable: false,
            read_closed: false,
            write_blocked: false,
            write_watched: true,
            in_send: false,
            in_sendfile: false,
            sent_waiter: None,
            gathering: false,
            read_size: ReadSize::default(),
            dropped_writes: 1,
            server: None,
            sockname: None,
            peername,
            extra: extra.map(Bound::unbind),
            socket,
        };
        state.look_at_socket(kind);
        let fd = state.socket.number();
        let transport = Bound::new(
            py,
            Self(Made::new(Stream {
                core: core.clone(),
                event_loop: event_loop.clone().unbind(),
                state: LoopCell::new(state),
            })),
        )?;
        let this = transport.get();
        let prepare = || {
            core.check_closed()?;
            this.adopt(&protocol)?;
            let made = protocol.getattr(&names.connection_made)?;
            server.as_ref().map_or(Ok(()), |server| this.attach(&transport, server))?;
            Ok(made)
        };
        let made = match prepare() {
            Ok(made) => made,
            Err(error) => {
                this.state.with(py, |state| state.socket.take(py)).close(py)?;
                return Err(error);
            }
        };
        let native = Native { object: transport.clone().into_any().unbind(), kind: &KIND };
        let token = core.reserve(py, fd, native)?;
        let is_unix = this.state.with(py, |state| {
            state.token = Some(token);
            state.server = server.map(Bound::unbind);
            state.is_unix
        });
        if is_unix {
            core.watch(py, token, Readiness::READABLE)?;
        }
        let call_soon = |callback, args: &[_]| {
            core.call_soon(event_loop, Callback { callback, args, context: context.clone() })
        };
        call_soon(made, &[transport.as_ptr()])?;
        call_soon(transport.getattr(intern!(py, "_start_reading")?)?, &[])?;
        if let Some(waiter) = waiter {
            let set_result = names.set_result_unless_cancelled.bind(py).clone();
            call_soon(set_result, &[waiter.as_ptr(), py.None().as_ptr()])?;
        }
        Ok(transport)
    }

    fn adopt(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = protocol.py();
        let buffered = protocol.is_instance(self.core.names.buffered_protocol.bind(py))?;
        let tls = protocol.cast::<TlsLayer>().ok().map(|layer| layer.clone().unbind());
        let previous = self.state.with(py, |state| {
            state.buffered = buffered;
            (state.protocol.replace(protocol.clone().unbind()), std::mem::replace(&mut state.tls, tls))
        });
        drop(previous);
        Ok(())
    }

    fn attach(&self, transport: &Bound<'_, Self>, server: &Bound<'_, PyAny>) -> PyResult<()> {
        let names = self.core.names;
        if names.server_counts_transports {
            server.call_method1(&names._attach, (transport,))?;
        } else {
            server.call_method0(&names._attach)?;
        }
        Ok(())
    }

    /// The loop holds the transport for as long as there is anything to do or to tell: as on asyncio, one that the
    /// program has dropped while reading was paused is collected, and closed by that.
    fn hold(slf: &Bound<'_, Self>) {
        let this = slf.get();
        let change = this.state.with(slf.py(), |state| {
            let wanted = state.waits_for_something();
            state
                .token
                .filter(|_| std::mem::replace(&mut state.held, wanted) != wanted)
                .map(|token| (token, wanted))
        });
        if let Some((token, held)) = change
            && !this.core.hold(slf.as_any(), &KIND, token, held)
        {
            this.state.with(slf.py(), |state| state.held = !held);
        }
    }

    fn owns_fd(object: &Bound<'_, PyAny>) -> bool {
        let Ok(slf) = object.cast::<Self>() else {
            return false;
        };
        slf.get().state.with(slf.py(), |state| !state.life.is_closing())
    }
}

impl State {
    fn waits_for_something(&self) -> bool {
        self.life.may_read() || !self.queue.is_empty() || self.sent_waiter.is_some()
    }

    /// Learns what depends on the kind of the socket. `kind` is what Python says; the family may be a guess there, for
    /// an inherited fd for instance, so the kernel's is taken.
    fn look_at_socket(&mut self, kind: SocketKind) {
        let Ok(Some(fd)) = self.socket.any_fd() else {
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

#[pymethods]
impl StreamTransport {
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
            state.life.end_writing() && state.queue.is_empty() && state.life.take_shutdown()
        });
        let ended = if now { this.shutdown_write(py) } else { Ok(()) };
        sent.and(ended)
    }

    /// True: the stream can be ended in one direction.
    fn can_write_eof(&self) -> bool {
        true
    }

    /// Ends the connection once everything queued is sent. Nothing more is read.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::close_gracefully(slf)
    }

    /// Ends the connection at once; what is queued is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::fail(slf, None)
    }

    /// True once the connection is closing or closed.
    fn is_closing(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::send_kept(slf)?;
        Ok(slf.get().state.with(slf.py(), |state| state.life.is_closing()))
    }

    /// True if data is being received.
    fn is_reading(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.life.is_reading())
    }

    /// Stops receiving: the protocol gets nothing until `resume_reading()`. No data is lost.
    pub(in crate::transports) fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if this.state.with(slf.py(), |state| state.life.pause_reading()) {
            Self::hold(slf);
            this.log_debug(slf, "%r pauses reading")?;
        }
        Ok(())
    }

    /// Goes on receiving.
    pub(in crate::transports) fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if !this.state.with(py, |state| state.life.resume_reading()) {
            return Ok(());
        }
        // As in asyncio, where resuming adds a new reader, whose context is a copy of the caller's.
        let context = context::copy_current(py)?.unbind();
        let unused = this.state.with(py, |state| {
            if state.own_context { context } else { std::mem::replace(&mut state.context, context) }
        });
        drop(unused);
        Self::hold(slf);
        this.read_on(py);
        this.log_debug(slf, "%r resumes reading")
    }

    /// How many bytes one read takes at most.
    #[getter]
    fn max_size(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.read_size.most())
    }

    #[setter]
    fn set_max_size(&self, py: Python<'_>, size: usize) {
        self.state.with(py, |state| state.read_size.set_most(size));
    }

    /// Sets the protocol; at any time, also from one kind to the other.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        self.adopt(protocol)
    }

    /// The protocol; None once `connection_lost` was called.
    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.protocol.as_ref().map(|protocol| protocol.clone_ref(py)))
    }

    /// Sets the marks, in bytes, above which the protocol is paused and at which it is resumed.
    #[pyo3(signature = (high=None, low=None))]
    fn set_write_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let (high, low) = report::water_marks(high, low)?;
        this.state.with(py, |state| state.flow.set_limits(high, low)).map_err(report::wrong_marks)?;
        Self::queue_grown(slf)
    }

    /// (low, high), in bytes.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.state.with(py, |state| state.flow.limits())
    }

    /// How many bytes are queued.
    fn get_write_buffer_size(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Self::send_kept(slf)?;
        Ok(slf.get().queued(slf.py()))
    }

    /// Information about the connection: "socket", "sockname", "peername", or what its maker added.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        // Whoever takes the socket to use it directly does so behind what was written.
        Self::send_kept(slf)?;
        let extra = slf.get().extra(slf.py())?;
        if let Some(value) = extra.get_item(name)? {
            return Ok(Some(value));
        }
        let Ok(text) = name.cast::<PyString>() else {
            return Ok(default);
        };
        let Some(value) = slf.get().make_extra(slf.py(), &text.to_string_lossy())? else {
            return Ok(default);
        };
        extra.set_item(name, &value)?;
        Ok(Some(value))
    }

    /// For the attributes that `_transports.py` adds.
    fn _inside<'py>(&self, py: Python<'py>) -> PyResult<Inside<'py>> {
        let extra = self.extra(py)?;
        let (fd, closed, lost, queued) = self.state.with(py, |state| {
            let lost = state.life.count_of_lost(state.dropped_writes);
            (state.socket.number(), state.socket.is_closed(), lost, state.queue.copies())
        });
        Ok((fd, closed, lost, extra, inside::chunks(py, queued)?))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        self.describe(py)
    }

    /// `isinstance(transport, asyncio.Transport)` asks for this: asyncio's class cannot be a native base.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        self.core.names.stream_transport.clone_ref(py)
    }

    #[getter(_sendfile_compatible)]
    fn sendfile_mode(&self, py: Python<'_>) -> Py<PyAny> {
        self.core.names.sendfile_try_native.clone_ref(py)
    }

    #[getter(_start_tls_compatible)]
    fn start_tls_mode(&self) -> bool {
        true
    }

    /// asyncio's private name for it, which programs read.
    #[getter(_paused)]
    fn is_paused(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.life.is_paused())
    }

    /// asyncio's private name for it, which programs read.
    #[getter(_closing)]
    fn closing(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.life.is_closing())
    }

    #[getter(_loop)]
    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.event_loop.clone_ref(py)
    }

    #[getter(_protocol_paused)]
    fn is_protocol_paused(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.flow.is_paused())
    }

    /// The second step after `connection_made`. The kernel watches the socket from here on, so that what has come
    /// already is delivered in the next turn: behind those who wait for the connection, as in asyncio.
    fn _start_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let token = this.state.with(py, |state| {
            state.life.start_reading();
            state.token
        });
        Self::hold(slf);
        match token.map(|token| this.core.activate(py, token)) {
            Some(Err(error)) => Self::fatal_error(slf, error, "Fatal error: the socket cannot be watched."),
            _ => Ok(()),
        }
    }

    fn _call_connection_lost(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        if this.state.with(py, |state| state.life.phase() != Phase::Lost) {
            return Ok(());
        }
        let told = match this.get_protocol(py) {
            Some(protocol) => calls::method(protocol.bind(py), &names.connection_lost, [exc]).map(drop),
            None => Ok(()),
        };
        let action = this.state.with(py, |state| state.life.on(Event::Delivered));
        let released = if action == Action::Release { Self::release(slf) } else { Ok(()) };
        told.and(released)
    }

    fn _begin_sendfile<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::begin_sendfile(slf)
    }

    fn _writable<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::wait_writable(slf)
    }

    fn _end_sendfile(slf: &Bound<'_, Self>) {
        Self::end_sendfile(slf);
    }

    /// What asyncio's TLS layer calls to end the connection.
    fn _force_close(slf: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        Self::fail(slf, exc)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(this) = self.0.get() else {
            return Ok(());
        };
        visit.call(&this.event_loop)?;
        this.state
            .peek(&visit, |state| {
                visit.call(&state.protocol)?;
                visit.call(&state.tls)?;
                visit.call(&state.context)?;
                visit.call(&state.server)?;
                visit.call(&state.extra)?;
                visit.call(&state.sent_waiter)?;
                state.socket.object().map_or(Ok(()), |object| visit.call(object))
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = self.state.with(py, |state| {
            (state.protocol.take(), state.tls.take(), state.extra.take(), state.sent_waiter.take())
        });
        drop(cleared);
    }
}
