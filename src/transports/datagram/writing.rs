//! Bytes out: sent by `sendto` at once, or kept back for what follows in the same turn, to leave together by one system
//! call, and queued while the kernel takes no more. `outbox.rs` decides; the system calls are here, and what follows
//! from them.
//!
//! Every datagram is queued first. `send_all` gives the kernel as many as it takes by one sendmmsg after another,
//! in one borrow of the state. It stops at a datagram that the kernel refuses, because the protocol is to be told of
//! that, and at one that only the socket's own `sendto` can send. Both are calls of Python, so `sent` makes them
//! outside of the borrow, and then goes on sending.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use super::{DatagramTransport, State};
use crate::error::{Message, no_memory, os_error};
use crate::handle::Callback;
use crate::py::bytes::Chunk;
use crate::py::fastcall::Arguments;
use crate::py::new::{self, intern};
use crate::py::sockaddr;
use crate::reactor::metrics::Figure;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys::SocketAddress;
use crate::reactor::sys::datagrams::{Outgoing, send_datagrams};
use crate::transports::lifecycle::Phase;
use crate::transports::outbox::Follow;
use crate::transports::protocol::Failure;
use crate::transports::sender::{Sender, refuse};
use crate::transports::shell::Hold;
use crate::transports::socket::would_block;
use crate::transports::transport::Transport;

/// When to look again whether a peer takes more, in seconds, where the kernel does not say so.
const RETRY_DELAY: f64 = 0.001;

/// A datagram in the queue.
pub struct Datagram {
    data: Chunk,
    pub(super) to: Target,
}

/// Whom a datagram goes to.
pub enum Target {
    /// Whom the socket is connected to.
    Peer,
    Address(SocketAddress),
    /// An address that only the socket's own `sendto` can make sense of: a host name, say, or a mistake.
    Python(Py<PyAny>),
}

impl Target {
    /// As `Clone`, which cannot copy a reference to a Python object: that needs the token.
    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Peer => Self::Peer,
            Self::Address(address) => Self::Address(address.clone()),
            Self::Python(address) => Self::Python(address.clone_ref(py)),
        }
    }
}

impl AsRef<[u8]> for Datagram {
    fn as_ref(&self) -> &[u8] {
        self.data.as_ref()
    }
}

impl Datagram {
    /// The form for a system call, if it needs no Python.
    fn outgoing(&self) -> Option<Outgoing<'_>> {
        match &self.to {
            Target::Peer => Some((self.as_ref(), None)),
            Target::Address(address) => Some((self.as_ref(), Some(address))),
            Target::Python(_) => None,
        }
    }
}

/// What has become of a datagram that was to be queued. One that was not is kept until the state is no longer borrowed:
/// its address may have a finalizer.
enum Queued {
    Done((Follow, Hold)),
    NoMemory(#[expect(dead_code, reason = "to be dropped by the caller")] Datagram),
    /// The endpoint is lost.
    Lost(#[expect(dead_code, reason = "to be dropped by the caller")] Datagram),
}

/// How sending has ended.
pub enum Sent {
    /// All that was asked for has left, or the kernel takes no more.
    Done,
    /// The kernel has refused a datagram, which is gone.
    Refused(io::Error),
    /// The next one is for the socket's own method.
    ByPython(Datagram),
}

/// What follows from sending: how it has ended, and how many datagrams may still be sent. What the protocol adds when
/// it is told of errors comes later.
pub struct After {
    sent: Sent,
    left: usize,
}

impl DatagramTransport {
    /// Gives the kernel what it takes of the queue. None: nothing follows, as nearly always.
    #[inline]
    pub(super) fn send_all(&self, state: &mut State) -> Option<After> {
        if state.side.sending {
            return None;
        }
        let mut left = state.outbox.queue.count();
        let sent = state.send(self.native.is_some(), &mut left);
        state.outbox.sent(|| self.core.clock.now_ns());
        state.count_queued();
        let quiet = matches!(sent, Sent::Done) && state.is_quiet();
        state.side.sending = !quiet;
        (!quiet).then_some(After { sent, left })
    }

    /// Does what follows from sending.
    pub(super) fn sent(slf: &Bound<'_, Self>, after: After) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let native = this.native.is_some();
        let After { mut sent, mut left } = after;
        // An exception that leaves the loop does so once everything is sent.
        let mut result = Ok(());
        loop {
            let told = match sent {
                Sent::Done => break,
                Sent::Refused(error) => Self::error_received(slf, os_error(&error)),
                Sent::ByPython(datagram) => Self::send_by_python(slf, datagram),
            };
            result = result.and(told);
            sent = this.state.with(py, |state| state.send(native, &mut left));
        }
        let signal = this.state.with(py, |state| {
            state.side.sending = false;
            state.count_queued();
            state.outbox.settled(!state.life.drops_writes())
        });
        // May write again, and may leave the loop: everything else follows all the same.
        let told = Self::tell_flow(slf, signal);
        this.watch_writing(py);
        result.and(told).and(Self::finish(slf))
    }
}

impl DatagramTransport {
    /// The method `sendto(data, addr=None)`.
    pub(in crate::transports) fn sendto<'py>(
        slf: &Bound<'py, Self>,
        args: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        args.accept("sendto", &["data", "addr"], 1)?;
        let data = args.required(0, "sendto", "data")?;
        let address = args.optional(1, "addr")?.filter(|address| !address.is_none());
        let Some(data) = Chunk::from_write(&data)? else {
            return Err(refuse(&data, "asyncio.selector_events", "_SelectorDatagramTransport", "sendto"));
        };
        let to = this.target(py, address)?;
        Self::queue(slf, Datagram { data, to })?;
        Ok(py.None().into_bound(py))
    }

    /// Where to, by asyncio's rules. ValueError: not the address that the endpoint was made for.
    fn target(&self, py: Python<'_>, address: Option<Bound<'_, PyAny>>) -> PyResult<Target> {
        let address = match (&self.address, address) {
            (Some(own), given) => {
                let own = own.bind(py);
                if let Some(given) = given
                    && !given.is(own)
                    && !own.eq(given)?
                {
                    let text = format!("Invalid address: must be None or {}", own.str()?);
                    return Err(PyValueError::new_err(Message(text)));
                }
                Some(own.clone())
            }
            (None, given) => given,
        };
        let Some(address) = address.filter(|_| !self.named_peer) else {
            let peer = if self.connected { Target::Peer } else { Target::Python(py.None()) };
            return Ok(peer);
        };
        Ok(match self.native.and_then(|family| sockaddr::from_python(family, &address)) {
            Some(address) => Target::Address(address),
            None => Target::Python(address.unbind()),
        })
    }

    /// Queues a datagram, and does what follows from that: most are sent now.
    fn queue(slf: &Bound<'_, Self>, datagram: Datagram) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let core = &this.core;
        let queued = this.state.with(py, |state| {
            // An endpoint without an address sends for as long as it has its socket, as on asyncio.
            let lost = state.life.drops_writes() && this.address.is_some();
            if lost || state.file.is_closed() {
                return Queued::Lost(datagram);
            }
            let by_python = this.native.is_none() || datagram.outgoing().is_none();
            let may_wait = !by_python && state.life.phase() != Phase::Lost;
            let outbox = &mut state.outbox;
            let now = || core.clock.now_ns();
            let next = outbox.next(datagram.as_ref().len(), may_wait, core.moment(), now);
            match outbox.queue.push(datagram) {
                Ok(()) => Queued::Done(state.queued(next)),
                Err(refused) => Queued::NoMemory(refused),
            }
        });
        match queued {
            Queued::Done(queued) => Self::proceed(slf, queued),
            Queued::NoMemory(_) => Err(no_memory()),
            Queued::Lost(_) if this.address.is_some() => this.lose_write(py),
            // asyncio counts these, and does not warn of them.
            Queued::Lost(_) => {
                this.state.with(py, |state| state.outbox.lose());
                Ok(())
            }
        }
    }

    /// What is queued, as `(data, address)`.
    pub(super) fn copies_of_queued<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let copies: Vec<_> = self.state.with(py, |state| {
            let copy = |datagram: &Datagram| (datagram.as_ref().to_vec(), datagram.to.clone_ref(py));
            state.outbox.queue.iter().map(copy).collect()
        });
        let peer = self.extra(py)?.get_item(&self.core.names.peername)?;
        let rows = copies.into_iter().map(|(data, to)| {
            let address = match to {
                Target::Peer => peer.clone(),
                Target::Address(address) => Some(sockaddr::to_python(py, &address)?),
                Target::Python(address) => Some(address.into_bound(py)),
            };
            let address = address.unwrap_or_else(|| py.None().into_bound(py));
            Ok(new::tuple(py, [new::bytes(py, &data)?.into_any(), address])?.into_any())
        });
        rows.collect()
    }

    /// Looks again whether the kernel takes more, and ends the endpoint if that is what was waited for.
    fn finish(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let closed = this.core.closed.load(Relaxed);
        let (action, hold, again, retry) = this.state.with(py, |state| {
            let (action, hold) = state.finish_sending();
            let (unsent, blocked) = (state.has_unsent(), state.outbox.blocked);
            let side = &mut state.side;
            let retry = unsent && blocked && side.needs_retry && !side.retrying && !closed;
            side.retrying |= retry;
            let again = unsent && !blocked && !state.outbox.deferred;
            (action, hold, state.token.filter(|_| again), retry)
        });
        Self::apply_hold(slf, hold);
        if let Some(token) = again {
            this.core.requeue(py, token, Readiness::WRITABLE);
        }
        if retry {
            let context = Some(this.context(py));
            let callback = Callback { callback: slf.getattr(intern!(py, "_retry")?)?, args: &[], context };
            this.core.call_later(this.event_loop.bind(py), RETRY_DELAY, callback)?;
        }
        Self::perform(slf, action, None)
    }

    /// Has the kernel report that it takes more exactly while something waits for that.
    fn watch_writing(&self, py: Python<'_>) {
        let wanted = self.state.with(py, |state| {
            // Where the kernel does not report it, each try brings an edge of no use, which would bring the next try.
            let on = state.outbox.blocked && !state.side.needs_retry && state.has_unsent();
            let token = state.token.filter(|_| on != state.side.watching_writes)?;
            state.side.watching_writes = on;
            Some((token, if on { Readiness::BOTH } else { Readiness::READABLE }))
        });
        if let Some((token, directions)) = wanted
            && self.core.watch(py, token, directions).is_err()
        {
            self.state.with(py, |state| {
                (state.side.watching_writes, state.side.needs_retry) = (false, true);
            });
        }
    }

    /// Sends one datagram as asyncio does, by the socket's own method.
    fn send_by_python(slf: &Bound<'_, Self>, datagram: Datagram) -> PyResult<()> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        let Some(socket) = this.python_socket(py) else {
            return Ok(());
        };
        let data = datagram.data.to_bytes(py)?;
        let sent = match &datagram.to {
            Target::Python(address) => socket.call_method1(&names.sendto, (data, address)),
            Target::Peer => socket.call_method1(&names.send, (data,)),
            // Made only where system calls send the datagrams.
            Target::Address(_) => return Ok(()),
        };
        let Err(error) = sent else {
            this.core.figures.wrote(datagram.as_ref().len());
            this.core.figures.add(Figure::DatagramsSent, 1);
            return Ok(());
        };
        if would_block(py, &error) {
            this.state.with(py, |state| {
                state.outbox.queue.put_back(datagram);
                (state.outbox.blocked, state.side.needs_retry) = (true, true);
            });
            return Ok(());
        }
        if error.is_instance_of::<PyOSError>(py) {
            return Self::error_received(slf, error);
        }
        Self::end_by(slf, Err(Failure::new("Fatal write error on datagram transport", error)))
    }
}

impl State {
    /// Gives the kernel at most `left` datagrams of the queue, as far as it takes them.
    fn send(&mut self, native: bool, left: &mut usize) -> Sent {
        while *left > 0 && !self.outbox.blocked {
            let sent = match self.file.fd() {
                Ok(Some(fd)) => {
                    let batch = self.outbox.queue.iter().take(*left);
                    send_datagrams(fd, batch.map_while(|next| next.outgoing().filter(|_| native)))
                }
                Ok(None) => return Sent::Done,
                Err(error) => Err(error),
            };
            let count = match sent {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked();
                    return Sent::Done;
                }
                Err(error) => {
                    *left -= 1;
                    drop(self.outbox.queue.pop());
                    return Sent::Refused(error);
                }
            };
            *left -= count;
            let mut bytes = 0;
            for _ in 0..count {
                bytes += self.outbox.queue.pop().map_or(0, |datagram| datagram.as_ref().len());
            }
            if count > 0 {
                self.figures.wrote(bytes);
                self.figures.add(Figure::DatagramsSent, count as u64);
            }
            if count == 0 {
                // The next one is for Python's method; or there is none, because an abort has emptied the queue.
                *left -= 1;
                return self.outbox.queue.pop().map_or(Sent::Done, Sent::ByPython);
            }
        }
        Sent::Done
    }

    /// The kernel takes no more. Finds out how to learn that it takes some again.
    fn blocked(&mut self) {
        self.outbox.blocked = true;
        // A UNIX socket that is not connected is writable to epoll however full its peer's queue is. UDP blocks only
        // on its own buffer, and a connected socket is told of its peer.
        let to_whom = self.outbox.queue.iter().next().map(|datagram| &datagram.to);
        self.side.needs_retry =
            matches!(to_whom, Some(Target::Address(address)) if address.family() == libc::AF_UNIX);
    }

    /// Gives the kernel what it takes without asking anybody; whether it fails makes no difference any more.
    pub(super) fn send_rest(&mut self) {
        let mut left = self.outbox.queue.count();
        loop {
            match self.send(true, &mut left) {
                Sent::Refused(_) => {}
                Sent::ByPython(datagram) => return self.outbox.queue.put_back(datagram),
                Sent::Done => return,
            }
        }
    }

    /// True while nothing follows from a shorter queue.
    fn is_quiet(&self) -> bool {
        let told = !self.outbox.flow.is_paused() && !self.side.watching_writes;
        told && !self.has_unsent() && !self.life.is_closing() && self.is_held_rightly()
    }
}
