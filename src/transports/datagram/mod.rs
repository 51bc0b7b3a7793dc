//! The datagram transport: one datagram socket and its protocol. The model is asyncio's `_SelectorDatagramTransport`.
//!
//! Bytes in: `on_ready` -> `read` (a batch) -> `protocol.datagram_received` for each. Bytes out: `sendto` sends, or
//! keeps back until the loop calls `flush`. A datagram is never split, merged, reordered or dropped here.
//!
//! IPv4, IPv6 and UNIX sockets are served by system calls in batches. Any other family, and any subclass of Python's
//! socket, is served by the socket's own methods, one datagram at a time.
//!
//! Here are the class, what it has beside the shell (`shell.rs`), and how one is made. `class.rs` is Python's view of
//! it, `reading.rs` and `writing.rs` have the datagrams.

mod class;
mod reading;
mod writing;

use std::collections::VecDeque;
use std::ops::Deref;

use pyo3::exceptions::PyOSError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::datagram_queue::DatagramQueue;
use super::flow::{Flow, Queue};
use super::lifecycle::Phase;
use super::outbox::Outbox;
use super::peers::Peers;
use super::protocol;
use super::shell::{self, Parts, Shell, Side};
use super::socket::{File, SocketKind};
use super::transport::Transport;
use crate::core::{Kind, LoopCore};
use crate::py::made::Made;
use crate::py::new;
use crate::reactor::sys::datagrams::MAX_DATAGRAM;
use reading::Received;
use writing::{After, Datagram, Target};

/// What asyncio counts for a queued datagram beyond its bytes (`_header_size`).
const HEADER: usize = 8;

/// A datagram socket and its protocol.
#[pyclass(frozen, dict, weakref, module = "rloop._rloop")]
pub struct DatagramTransport(Made<Endpoint>);

/// What a [`DatagramTransport`] holds: the shell, and what is known of the endpoint for good.
pub struct Endpoint {
    shell: Shell<Datagrams>,
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
}

impl Deref for Endpoint {
    type Target = Shell<Datagrams>;

    #[inline(always)]
    fn deref(&self) -> &Shell<Datagrams> {
        &self.shell
    }
}

/// What only a datagram transport has.
#[derive(Default)]
pub struct Datagrams {
    /// Received, but not delivered yet. Left over only when a callback has paused reading, or left the loop.
    received: VecDeque<Received>,
    peers: Peers<Py<PyAny>>,
    /// How many bytes of a datagram are received at most; MAX_DATAGRAM unless the program says less.
    max_size: usize,
    /// A receive may find something: an edge came, and no receive since has found the end of what is there.
    readable: bool,
    /// The peer of a SOCK_SEQPACKET has ended it: it is closed once everything before is delivered.
    ended: bool,
    /// The last edge told of an error. The next receive returns that error first, so that a short batch does not mean
    /// that the socket is empty.
    failed: bool,
    /// The kernel is asked to report when it takes more.
    watching_writes: bool,
    /// There may be no edge: look again after a while.
    needs_retry: bool,
    /// The timer for that is running.
    retrying: bool,
    /// A call of `follow` is sending the queue at the moment. What is queued meanwhile is left to it.
    sending: bool,
}

type State = shell::State<Datagrams>;

impl Side for Datagrams {
    type Queue = DatagramQueue<Datagram>;

    /// What was received and not delivered counts as well, and so does the end of a SOCK_SEQPACKET.
    fn may_have_data(&self) -> bool {
        self.readable || self.ended || !self.received.is_empty()
    }

    fn traverse(state: &State, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        state.outbox.queue.iter().try_for_each(|datagram| match &datagram.to {
            Target::Python(address) => visit.call(address),
            _ => Ok(()),
        })
    }
}

impl Transport for DatagramTransport {
    type Side = Datagrams;
    type After = After;

    const KIND: Kind =
        Kind { on_ready: Self::on_ready, flush: Self::flush, owns_fd: Self::owns_fd, ..Kind::NOTHING };

    fn made(&self) -> Option<&Shell<Datagrams>> {
        self.0.get().map(|endpoint| &endpoint.shell)
    }

    /// A call of Python may be needed for a datagram; then `follow` goes on.
    #[inline]
    fn send(&self, state: &mut State) -> Option<After> {
        self.send_all(state)
    }

    fn follow(slf: &Bound<'_, Self>, after: After) -> PyResult<()> {
        Self::sent(slf, after)
    }

    /// Only system calls can be made here, with the state borrowed. What only the socket's own `sendto` could send is
    /// lost.
    fn send_rest(&self, state: &mut State) {
        if self.native.is_some() {
            state.send_rest();
        }
    }

    /// Also lets go of what was received and not delivered, and of the names of the peers.
    fn release(&self, py: Python<'_>, _transport: Option<&Bound<'_, Self>>) -> PyResult<()> {
        let (file, held) = self.state.with(py, |state| {
            if state.life.phase() == Phase::Closed {
                // An endpoint without an address could still send after the loss: see `queue`.
                self.send_rest(state);
            }
            let Datagrams { received, peers, .. } = &mut state.side;
            let (received, peers) = (std::mem::take(received), std::mem::take(peers));
            let held = (state.outbox.queue.take(), received, peers);
            state.count_queued();
            (state.file.take(py), held)
        });
        drop(held);
        file.close(py)
    }

    fn unsent<'py>(&self, py: Python<'py>) -> PyResult<(u32, Vec<Bound<'py, PyAny>>)> {
        let lost = self.state.with(py, |state| state.life.count_of_lost(state.outbox.lost));
        Ok((lost, self.copies_of_queued(py)?))
    }

    /// The endpoint's own address is not in the shell.
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(endpoint) = self.0.get() else {
            return Ok(());
        };
        visit.call(&endpoint.address)?;
        endpoint.shell.traverse(visit)
    }

    /// The queue can hold addresses, which are the program's objects.
    fn clear(&self, py: Python<'_>) {
        let cleared = self
            .state
            .with(py, |state| (state.protocol.take(), state.extra.take(), state.outbox.queue.take()));
        drop(cleared);
    }
}

impl DatagramTransport {
    /// Makes the transport and schedules, in this order: `connection_made`, reading, the waiter. `address`: the only
    /// one that `sendto` is to take.
    pub fn start<'py>(
        mut parts: Parts<'_, 'py>,
        sock: &Bound<'py, PyAny>,
        address: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Self>> {
        let (py, core, names) = (sock.py(), parts.core, parts.core.names);
        core.check_closed()?;
        let made = protocol::connection_made(names, &parts.protocol)?;
        let (kind, plain) = (SocketKind::of(sock)?, sock.get_type().is(names.socket_class.bind(py)));
        let extra = parts.extra.take().map_or_else(|| new::dict(py), Ok)?;
        let connected = fill_extra(core, &extra, sock)?;
        let named_peer = extra.as_any().get_item(&names.peername)?.is_truthy()?;
        parts.extra = Some(extra);
        let address = match address {
            Some(address) if address.is_truthy()? => Some(address.unbind()),
            _ => None,
        };
        let file = File::from_python(sock)?;
        // Since CPython 3.13 asyncio counts a header for each queued datagram.
        let queue = DatagramQueue::new(if names.datagram_headers { HEADER } else { 0 });
        let outbox = Outbox::new(queue, Flow::default(), 1);
        let side = Datagrams { max_size: MAX_DATAGRAM, ..Datagrams::default() };
        let families = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX];
        let endpoint = Endpoint {
            shell: Shell::new(&parts, file, outbox, side)?,
            address,
            connected,
            named_peer,
            sequenced: kind.kind() == libc::SOCK_SEQPACKET,
            native: Some(kind.family()).filter(|family| plain && families.contains(family)),
        };
        let transport = Bound::new(py, Self(Made::new(endpoint)))?;
        // The kernel reports that it takes more only while something waits for that.
        Self::reserve_and_start(&transport, made, parts.waiter, false)?;
        Ok(transport)
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
