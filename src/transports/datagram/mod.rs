//! The datagram transport: one datagram socket and its protocol.
//!
//! Bytes in: `on_ready` -> `read` (a batch) -> `protocol.datagram_received` for each. Bytes out: `sendto` sends,
//! or keeps back until the loop calls `flush`. The model is asyncio's `_SelectorDatagramTransport`. A datagram is never
//! split, merged, reordered or dropped here.
//!
//! IPv4, IPv6 and UNIX sockets are served by system calls in batches. Any other family, and any subclass of Python's
//! socket, is served by the socket's own methods, one datagram at a time.
//!
//! Here are the class, how one is made, and Python's view of it; `reading.rs`, `writing.rs` and `ending.rs` have the
//! rest. The rule for every method: look at the state and change it inside one `state.with`, call Python only outside.

mod ending;
mod reading;
mod writing;

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyOSError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::datagram_queue::DatagramQueue;
use super::flow::Flow;
use super::habit::Habit;
use super::inside::Inside;
use super::lifecycle::{Action, Event, Lifecycle, Phase};
use super::peers::Peers;
use super::report::{self, Reporter, not_implemented};
use super::socket::{Socket, SocketKind};
use crate::core::{Kind, LoopCore, Native};
use crate::handle::Callback;
use crate::py::bytes::join;
use crate::py::calls;
use crate::py::cell::LoopCell;
use crate::py::context;
use crate::py::made::Made;
use crate::py::new::{self, intern};
use crate::reactor::readiness::Readiness;
use crate::reactor::sys::datagrams::MAX_DATAGRAM;
use crate::reactor::token::Token;
use reading::Received;
pub use writing::add_raw_methods;
use writing::{Datagram, Target};

/// What asyncio counts for a queued datagram beyond its bytes (`_header_size`).
const HEADER: usize = 8;

/// A datagram socket and its protocol.
#[pyclass(frozen, dict, weakref, module = "rloop._rloop")]
pub struct DatagramTransport(Made<Endpoint>);

/// What a [`DatagramTransport`] holds.
pub struct Endpoint {
    core: Arc<LoopCore>,
    event_loop: Py<PyAny>,
    /// The only address that `sendto` takes, if the endpoint was made for one.
    address: Option<Py<PyAny>>,
    /// Is the socket connected, so that datagrams need no address?
    connected: bool,
    /// Has the peer a name? Then addresses are not even looked at, as on asyncio.
    named_peer: bool,
    /// A SOCK_SEQPACKET, whose peer can end it.
    sequenced: bool,
    /// The address family, where it and the socket are ones that system calls of ours can serve.
    native: Option<i32>,
    extra: Py<PyDict>,
    state: LoopCell<State>,
}

impl Deref for DatagramTransport {
    type Target = Endpoint;

    #[inline(always)]
    fn deref(&self) -> &Endpoint {
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
    /// Where protocol callbacks run.
    context: Py<PyAny>,
    life: Lifecycle,
    flow: Flow,
    queue: DatagramQueue<Datagram>,
    /// Received, but not delivered yet. Left over only when a callback has paused reading, or left the loop.
    received: VecDeque<Received>,
    peers: Peers<Py<PyAny>>,
    /// How many bytes of a datagram are received at most; MAX_DATAGRAM unless the program says less.
    max_size: usize,
    /// A receive may find something: an edge came, and no receive since has found the end of what is there.
    readable: bool,
    /// The peer of a SOCK_SEQPACKET has ended it: it is closed once everything before is delivered.
    ended: bool,
    /// The last edge told of an error: it comes before the data, and hides how much of that there is.
    failed: bool,
    /// The kernel takes no more: wait for its edge. Invariant: a paused protocol implies this.
    write_blocked: bool,
    /// The kernel is asked to tell of writability.
    watching_writes: bool,
    /// There may be no edge: look again after a while.
    needs_retry: bool,
    /// The timer for that is running.
    retrying: bool,
    /// Somebody is sending the queue: what is queued meanwhile is left to them.
    sending: bool,
    /// When to send.
    habit: Habit,
    /// The loop will call `flush`, for something is kept back.
    gathering: bool,
    /// Datagrams after the end, counted from 1 as asyncio's `_conn_lost`.
    dropped: u32,
}

/// How the loop calls datagram transports.
static KIND: Kind = Kind {
    on_ready: DatagramTransport::on_ready,
    flush: DatagramTransport::flush,
    owns_fd: DatagramTransport::owns_fd,
};

/// What a transport is made of: the arguments of `BaseEventLoop._make_datagram_transport`.
pub struct Parts<'a, 'py> {
    pub core: &'a Arc<LoopCore>,
    pub event_loop: &'a Bound<'py, PyAny>,
    pub sock: &'a Bound<'py, PyAny>,
    pub protocol: Bound<'py, PyAny>,
    pub address: Option<Bound<'py, PyAny>>,
    pub waiter: Option<Bound<'py, PyAny>>,
    pub extra: Option<Bound<'py, PyDict>>,
}

impl DatagramTransport {
    /// Makes the transport and schedules, in this order: `connection_made`, reading, the waiter.
    pub fn start<'py>(parts: Parts<'_, 'py>) -> PyResult<Bound<'py, Self>> {
        let Parts { core, event_loop, sock, protocol, address, waiter, extra } = parts;
        let (py, names) = (event_loop.py(), core.names);
        core.check_closed()?;
        let made = protocol.getattr(&names.connection_made)?;
        let (kind, plain) = (SocketKind::of(sock)?, sock.get_type().is(names.socket_class.bind(py)));
        let extra = extra.map_or_else(|| new::dict(py), Ok)?;
        let connected = fill_extra(core, &extra, sock)?;
        let named_peer = extra.as_any().get_item(&names.peername)?.is_truthy()?;
        let address = match address {
            Some(address) if address.is_truthy()? => Some(address.unbind()),
            _ => None,
        };
        let state = State::new(core, sock, protocol)?;
        let fd = state.socket.number();
        let families = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX];
        let endpoint = Endpoint {
            core: core.clone(),
            event_loop: event_loop.clone().unbind(),
            address,
            connected,
            named_peer,
            sequenced: kind.kind == libc::SOCK_SEQPACKET,
            native: Some(kind.family).filter(|family| plain && families.contains(family)),
            extra: extra.unbind(),
            state: LoopCell::new(state),
        };
        let transport = Bound::new(py, Self(Made::new(endpoint)))?;
        let native = Native { object: transport.clone().into_any().unbind(), kind: &KIND };
        let token = core.reserve(py, fd, native)?;
        // For writability only while something waits for it.
        core.watch(py, token, Readiness::READABLE)?;
        transport.get().state.with(py, |state| state.token = Some(token));
        Self::schedule(&transport, made, waiter)?;
        Ok(transport)
    }

    fn schedule<'py>(
        slf: &Bound<'py, Self>,
        made: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let call_soon = |callback, args: &[_]| {
            let callback = Callback { callback, args, context: None };
            this.core.call_soon(this.event_loop.bind(py), callback).map(drop)
        };
        call_soon(made, &[slf.as_ptr()])?;
        call_soon(slf.getattr(intern!(py, "_start_reading")?)?, &[])?;
        waiter.map_or(Ok(()), |waiter| {
            let set_result = this.core.names.set_result_unless_cancelled.bind(py).clone();
            call_soon(set_result, &[waiter.as_ptr(), py.None().as_ptr()])
        })
    }

    /// The loop holds the transport for as long as there is anything to do or to tell, as that of streams.
    fn hold(slf: &Bound<'_, Self>) {
        let this = slf.get();
        let change = this.state.with(slf.py(), |state| {
            let wanted = state.life.may_read() || !state.queue.is_empty();
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

    /// The context in which the protocol is called.
    fn context<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.state.with(py, |state| state.context.bind(py).clone())
    }

    fn protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.state.with(py, |state| state.protocol.as_ref().map(|protocol| protocol.bind(py).clone()))
    }

    /// For reports to whoever is to know.
    fn reporter<'a, 'py>(&'a self, transport: &'a Bound<'py, PyAny>) -> Reporter<'a, 'py> {
        let protocol = self.protocol(transport.py());
        Reporter { core: &self.core, event_loop: &self.event_loop, transport, protocol }
    }

    fn describe(&self, py: Python<'_>) -> String {
        self.state.with(py, |state| {
            let mut text = String::from("<DatagramTransport");
            match state.life.phase() {
                _ if state.socket.is_closed() => text.push_str(" closed"),
                Phase::Open => {}
                _ => text.push_str(" closing"),
            }
            text.push_str(&format!(" fd={}", state.socket.number()));
            let polling = |on| if on { "polling" } else { "idle" };
            if !self.core.closed.load(Relaxed) {
                let (read, write) = (polling(state.life.may_read()), polling(state.write_blocked));
                text.push_str(&format!(" read={read} write=<{write}, bufsize={}>", state.queue.size()));
            }
            text.push('>');
            text
        })
    }

    fn log_debug(&self, slf: &Bound<'_, Self>, format: &str) -> PyResult<()> {
        self.reporter(slf.as_any()).debug(format)
    }
}

impl State {
    fn new(core: &LoopCore, sock: &Bound<'_, PyAny>, protocol: Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self {
            context: context::copy_current(sock.py())?.unbind(),
            socket: Socket::from_python(sock)?,
            token: None,
            held: true,
            protocol: Some(protocol.unbind()),
            life: Lifecycle::new(),
            flow: Flow::new(),
            queue: DatagramQueue::new(if core.names.datagram_headers { HEADER } else { 0 }),
            received: VecDeque::new(),
            peers: Peers::new(),
            max_size: MAX_DATAGRAM,
            readable: false,
            ended: false,
            failed: false,
            write_blocked: false,
            watching_writes: false,
            needs_retry: false,
            retrying: false,
            sending: false,
            habit: Habit::default(),
            gathering: false,
            dropped: 1,
        })
    }
}

/// Fills in what asyncio's transports know from the start; true if the socket has a peer.
fn fill_extra(core: &LoopCore, extra: &Bound<'_, PyDict>, sock: &Bound<'_, PyAny>) -> PyResult<bool> {
    let (py, names) = (sock.py(), core.names);
    let unless_unknown = |address: PyResult<Bound<'_, PyAny>>| match address {
        Err(error) if error.is_instance_of::<PyOSError>(py) => Ok(py.None()),
        address => address.map(Bound::unbind),
    };
    extra.set_item(&names.socket, names.transport_socket.bind(py).call1((sock,))?)?;
    extra.set_item(&names.sockname, unless_unknown(sock.call_method0(&names.getsockname))?)?;
    let peername = unless_unknown(sock.call_method0(&names.getpeername))?;
    let connected = !peername.is_none(py);
    if !extra.contains(&names.peername)? {
        extra.set_item(&names.peername, peername)?;
    }
    Ok(connected)
}

#[pymethods]
impl DatagramTransport {
    /// Ends the endpoint once everything queued is sent. Nothing more is received.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::close_gracefully(slf)
    }

    /// Ends the endpoint at once; what the kernel has not taken is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        let sent = Self::send_queued(slf);
        sent.and(Self::fail(slf, None))
    }

    /// A datagram endpoint sends by `sendto()`: raises NotImplementedError, as asyncio's does.
    #[pyo3(signature = (data))]
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = data;
        not_implemented()
    }

    /// As `write()`.
    fn writelines(&self, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        // asyncio puts together what it cannot write then.
        join(list_of_data).and_then(|_| not_implemented())
    }

    /// As `write()`.
    fn write_eof(&self) -> PyResult<()> {
        not_implemented()
    }

    /// As `write()`.
    fn can_write_eof(&self) -> PyResult<bool> {
        not_implemented()
    }

    /// True once the endpoint is closing or closed.
    fn is_closing(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::send_kept(slf)?;
        Ok(slf.get().closing(slf.py()))
    }

    /// True if datagrams are being received.
    fn is_reading(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.life.is_reading())
    }

    /// Stops receiving: the protocol gets nothing until `resume_reading()`.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if this.state.with(slf.py(), |state| state.life.pause_reading()) {
            Self::hold(slf);
            this.log_debug(slf, "%r pauses reading")?;
        }
        Ok(())
    }

    /// Goes on receiving.
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if !this.state.with(py, |state| state.life.resume_reading()) {
            return Ok(());
        }
        // As in asyncio, where resuming adds a new reader, whose context is a copy of the caller's.
        let context = context::copy_current(py)?.unbind();
        let previous = this.state.with(py, |state| std::mem::replace(&mut state.context, context));
        drop(previous);
        Self::hold(slf);
        this.read_on(py);
        this.log_debug(slf, "%r resumes reading")
    }

    /// How many bytes of a datagram are received at most.
    #[getter]
    fn max_size(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.max_size)
    }

    #[setter]
    fn set_max_size(&self, py: Python<'_>, size: usize) {
        self.state.with(py, |state| state.max_size = size);
    }

    /// Sets the protocol.
    fn set_protocol(&self, py: Python<'_>, protocol: Py<PyAny>) {
        drop(self.state.with(py, |state| state.protocol.replace(protocol)));
    }

    /// The protocol; None once `connection_lost` was called.
    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.protocol(py).map(Bound::unbind)
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

    /// How many bytes are queued; since Python 3.13 with 8 for the header of each datagram.
    fn get_write_buffer_size(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Self::send_kept(slf)?;
        Ok(slf.get().state.with(slf.py(), |state| state.queue.size()))
    }

    /// Information about the endpoint: "socket", "sockname", "peername".
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        // Whoever takes the socket to use it directly does so behind what was sent.
        Self::send_kept(slf)?;
        Ok(slf.get().extra.bind(slf.py()).get_item(name)?.or(default))
    }

    /// For the attributes that `_transports.py` adds.
    fn _inside<'py>(&self, py: Python<'py>) -> PyResult<Inside<'py>> {
        let (fd, closed, lost) = self.state.with(py, |state| {
            let lost = state.life.count_of_lost(state.dropped);
            (state.socket.number(), state.socket.is_closed(), lost)
        });
        Ok((fd, closed, lost, self.extra.bind(py).clone(), self.queued(py)?))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        self.describe(py)
    }

    /// `isinstance(transport, asyncio.DatagramTransport)` asks for this: asyncio's class cannot be a native base.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        self.core.names.datagram_transport.clone_ref(py)
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

    /// The second step after `connection_made`: the kernel watches the socket from here on.
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

    /// Tries again what the kernel has not taken.
    fn _retry(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().state.with(slf.py(), |state| (state.retrying, state.write_blocked) = (false, false));
        Self::send_queued(slf)
    }

    fn _call_connection_lost(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if this.state.with(py, |state| state.life.phase() != Phase::Lost) {
            return Ok(());
        }
        let told = match this.protocol(py) {
            Some(protocol) => calls::method(&protocol, &this.core.names.connection_lost, [exc]).map(drop),
            None => Ok(()),
        };
        let action = this.state.with(py, |state| state.life.on(Event::Delivered));
        let released = if action == Action::Release { this.release(py) } else { Ok(()) };
        told.and(released)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(this) = self.0.get() else {
            return Ok(());
        };
        visit.call(&this.event_loop)?;
        visit.call(&this.address)?;
        visit.call(&this.extra)?;
        this.state
            .peek(&visit, |state| {
                visit.call(&state.protocol)?;
                visit.call(&state.context)?;
                state.queue.iter().try_for_each(|datagram| match &datagram.to {
                    Target::Python(address) => visit.call(address),
                    _ => Ok(()),
                })?;
                state.socket.object().map_or(Ok(()), |object| visit.call(object))
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = self.state.with(py, |state| (state.protocol.take(), state.queue.take()));
        drop(cleared);
    }
}
