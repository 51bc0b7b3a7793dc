//! Bytes out: sent by `sendto` at once, or kept back for what follows it in the same turn (`habit.rs`), to leave together
//! by one system call; queued while the kernel takes no more.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use super::{DatagramTransport, KIND, State};
use crate::error::{no_memory, os_error};
use crate::handle::Callback;
use crate::py::bytes::Chunk;
use crate::py::fastcall::{self, Arguments};
use crate::py::new::{self, intern};
use crate::py::{context, sockaddr};
use crate::reactor::readiness::Readiness;
use crate::reactor::sys::SocketAddress;
use crate::reactor::sys::datagrams::{Outgoing, SEND_BATCH, send_datagrams};
use crate::transports::habit::When;
use crate::transports::lifecycle::{Action, Event, Phase};
use crate::transports::report::DROPPED_WRITES_BEFORE_WARNING;

/// When to look again whether a peer takes more, in seconds, where the kernel does not say so.
const RETRY_DELAY: f64 = 0.001;

/// A datagram in the queue.
pub(super) struct Datagram {
    data: Chunk,
    pub(super) to: Target,
}

/// Whom a datagram goes to.
pub(super) enum Target {
    /// Whom the socket is connected to.
    Peer,
    Address(SocketAddress),
    /// An address that only the socket's own `sendto` can make sense of: a host name, say, or a mistake.
    Python(Py<PyAny>),
}

impl Target {
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

/// What follows from a datagram that was queued.
enum Next {
    /// There was no memory to queue it.
    Refuse(#[expect(dead_code, reason = "kept until the state is no longer borrowed")] Datagram),
    /// The kernel takes no more.
    Wait,
    Send,
    /// It is kept back, and the loop knows already.
    Keep,
    /// It is kept back: the loop is to call `flush` at this time ([`LoopCore::gather`](crate::core::LoopCore::gather)).
    Gather(u64),
}

/// How sending has ended.
enum Sent {
    /// All that was asked for has left, or the kernel takes no more.
    Done,
    /// The kernel has refused a datagram, which is gone.
    Refused(io::Error),
    /// The next one is for the socket's own method.
    ByPython(Datagram),
}

impl DatagramTransport {
    fn sendto<'py>(slf: &Bound<'py, Self>, args: &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        if args.len() > 2 {
            let text =
                format!("sendto() takes from 1 to 2 positional arguments but {} were given", args.len());
            return Err(PyTypeError::new_err(text));
        }
        for (name, _) in args.keywords() {
            args.check_keyword("sendto", &name.to_string(), &["data", "addr"])?;
        }
        let data = args.required(0, "sendto", "data")?;
        let address = args.optional(1, "addr")?.filter(|address| !address.is_none());
        let Some(data) = Chunk::from_write(&data)? else {
            let kind = data.get_type().name()?.repr()?;
            let text = format!("data argument must be a bytes-like object, not {kind}");
            return Err(PyTypeError::new_err(text));
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
                    return Err(PyValueError::new_err(text));
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

    fn queue(slf: &Bound<'_, Self>, datagram: Datagram) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        // An endpoint without an address sends for as long as it has its socket, as on asyncio.
        let over = |state: &mut State| {
            state.socket.is_closed() || (state.life.drops_writes() && this.address.is_some())
        };
        if this.state.with(py, over) {
            return this.dropped(py);
        }
        let next = this.state.with(py, |state| {
            let by_python = this.native.is_none() || datagram.outgoing().is_none();
            if let Err(refused) = state.queue.push(datagram) {
                return Next::Refuse(refused);
            }
            if state.write_blocked {
                return Next::Wait;
            }
            let when = state.habit.write(this.core.moment(), || this.core.clock.now_ns());
            let full = state.queue.len() >= SEND_BATCH || state.flow.is_above_high(state.queue.size());
            let now = by_python || full || state.life.phase() == Phase::Lost;
            match when {
                When::With(_) if !now && std::mem::replace(&mut state.gathering, true) => Next::Keep,
                When::With(due) if !now => Next::Gather(due),
                _ => Next::Send,
            }
        });
        match next {
            // Its address may have a finalizer: it is dropped here, where nothing is borrowed.
            Next::Refuse(_) => Err(no_memory()),
            Next::Keep => Ok(()),
            Next::Gather(due) => {
                this.core.gather(slf.as_any(), &KIND, due);
                Ok(())
            }
            Next::Send => {
                Self::send_queued(slf)?;
                Self::queue_grown(slf)
            }
            Next::Wait => Self::queue_grown(slf),
        }
    }

    /// A datagram after the end: warned about when it goes on.
    #[cold]
    fn dropped(&self, py: Python<'_>) -> PyResult<()> {
        let count = self.state.with(py, |state| {
            state.dropped = state.dropped.saturating_add(1);
            state.dropped - 1
        });
        if self.address.is_some() && count >= DROPPED_WRITES_BEFORE_WARNING {
            self.core.names.logger.call_method1(
                py,
                intern!(py, "warning")?,
                ("socket.send() raised exception.",),
            )?;
        }
        Ok(())
    }

    /// The loop's call when what was kept back is to leave.
    pub(super) fn flush(object: &Bound<'_, PyAny>) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let (py, this) = (slf.py(), slf.get());
        this.state.with(py, |state| state.gathering = false);
        match this.begin_sending(py) {
            None => Ok(()),
            Some((sent, left)) => context::run_in(&this.context(py), || {
                Self::send_on(slf, sent, left)?;
                Self::queue_grown(slf)
            }),
        }
    }

    /// What is queued, as `(data, address)`.
    pub(super) fn queued<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let copies: Vec<_> = self.state.with(py, |state| {
            let copy = |datagram: &Datagram| (datagram.as_ref().to_vec(), datagram.to.clone_ref(py));
            state.queue.iter().map(copy).collect()
        });
        let peer = self.extra.bind(py).get_item(&self.core.names.peername)?;
        let rows = copies.into_iter().map(|(data, to)| {
            let address = match to {
                Target::Peer => peer.clone(),
                Target::Address(address) => Some(sockaddr::to_python(py, &address)?),
                Target::Python(address) => Some(address.into_bound(py)),
            };
            Ok((new::bytes(py, &data)?, address).into_pyobject(py)?.into_any())
        });
        rows.collect()
    }

    /// The program asks the transport something: it finds that everything was sent which the kernel takes.
    pub(super) fn send_kept(slf: &Bound<'_, Self>) -> PyResult<()> {
        let kept = slf.get().state.with(slf.py(), |state| {
            state.habit.asked();
            !state.write_blocked && !state.queue.is_empty()
        });
        if !kept {
            return Ok(());
        }
        Self::send_queued(slf)?;
        Self::queue_grown(slf)
    }

    /// Gives the kernel what it takes of the queue, and does what follows from it. Err: what leaves the loop.
    pub(super) fn send_queued(slf: &Bound<'_, Self>) -> PyResult<()> {
        match slf.get().begin_sending(slf.py()) {
            None => Ok(()),
            Some((sent, left)) => Self::send_on(slf, sent, left),
        }
    }

    /// Gives the kernel what it takes of the queue. None: nothing follows from it, or somebody is sending already.
    /// Otherwise [`Self::send_on`] is to go on, with at most so many datagrams.
    #[inline]
    fn begin_sending(&self, py: Python<'_>) -> Option<(Sent, usize)> {
        let native = self.native.is_some();
        self.state.with(py, |state| {
            if state.sending {
                return None;
            }
            let mut left = state.queue.len();
            let sent = state.send(native, &mut left);
            state.habit.sent(|| self.core.clock.now_ns());
            // Nearly always.
            let plain = matches!(sent, Sent::Done) && state.is_plain();
            state.sending = !plain;
            (!plain).then_some((sent, left))
        })
    }

    /// Goes on sending, at most `left` datagrams: what the protocol adds when it is told of errors comes later. An
    /// exception that leaves the loop does so once everything is sent.
    fn send_on(slf: &Bound<'_, Self>, sent: Sent, mut left: usize) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let native = this.native.is_some();
        let (mut sent, mut result) = (sent, Ok(()));
        loop {
            let told = match sent {
                Sent::Done => break,
                Sent::Refused(error) => Self::error_received(slf, os_error(&error)),
                Sent::ByPython(datagram) => Self::send_by_python(slf, datagram),
            };
            result = result.and(told);
            sent = this.state.with(py, |state| state.send(native, &mut left));
        }
        this.state.with(py, |state| state.sending = false);
        result.and(Self::sent(slf))
    }

    /// What follows once the queue has become shorter.
    fn sent(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        // resume_writing() is never called once the connection is lost.
        let signal = this.state.with(py, |state| {
            if state.life.drops_writes() { None } else { state.flow.shrunk(state.queue.size()) }
        });
        // May write again, and may leave the loop: everything else follows all the same.
        let told = signal.map_or(Ok(()), |signal| this.reporter(slf.as_any()).flow(signal));
        this.watch_writing(py);
        let closed = this.core.closed.load(Relaxed);
        let (action, again, retry) = this.state.with(py, |state| {
            if state.queue.is_empty() {
                return (state.life.on(Event::Drained), None, false);
            }
            let retry = state.write_blocked && state.needs_retry && !state.retrying && !closed;
            state.retrying |= retry;
            (Action::Nothing, state.token.filter(|_| !state.write_blocked && !state.gathering), retry)
        });
        if let Some(token) = again {
            this.core.requeue(py, token, Readiness::WRITABLE);
        }
        if retry {
            let when = new::float(py, this.core.clock.now() + RETRY_DELAY)?.into_any();
            let context = Some(this.context(py));
            let callback = Callback { callback: slf.getattr(intern!(py, "_retry")?)?, args: &[], context };
            this.core.call_at(this.event_loop.bind(py), when, callback)?;
        }
        Self::hold(slf);
        told.and(Self::perform(slf, action, None))
    }

    /// Has the kernel tell of writability exactly while something waits for it.
    fn watch_writing(&self, py: Python<'_>) {
        let wanted = self.state.with(py, |state| {
            // Where the kernel does not say, each try brings an edge of no use, which would bring the next try.
            let on = state.write_blocked && !state.needs_retry && !state.queue.is_empty();
            let token = state.token.filter(|_| on != state.watching_writes)?;
            state.watching_writes = on;
            Some((token, if on { Readiness::BOTH } else { Readiness::READABLE }))
        });
        if let Some((token, directions)) = wanted
            && self.core.watch(py, token, directions).is_err()
        {
            self.state.with(py, |state| (state.watching_writes, state.needs_retry) = (false, true));
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
            // Made only where system calls serve.
            Target::Address(_) => return Ok(()),
        };
        let Err(error) = sent else {
            return Ok(());
        };
        if error.is_instance_of::<PyBlockingIOError>(py) || error.is_instance_of::<PyInterruptedError>(py) {
            this.state.with(py, |state| {
                state.queue.put_back(datagram);
                (state.write_blocked, state.needs_retry) = (true, true);
            });
            return Ok(());
        }
        if error.is_instance_of::<PyOSError>(py) {
            return Self::error_received(slf, error);
        }
        Self::fatal_error(slf, error, "Fatal write error on datagram transport")
    }

    /// Pauses the protocol if the queue has grown over the mark.
    pub(super) fn queue_grown(slf: &Bound<'_, Self>) -> PyResult<()> {
        let signal = slf.get().state.with(slf.py(), |state| {
            // What is kept back does not count: the kernel may take all of it.
            state.flow.grown(if state.write_blocked { state.queue.size() } else { 0 })
        });
        Self::hold(slf);
        signal.map_or(Ok(()), |signal| slf.get().reporter(slf.as_any()).flow(signal))
    }
}

impl State {
    /// Gives the kernel at most `left` datagrams of the queue, as far as it takes them.
    fn send(&mut self, native: bool, left: &mut usize) -> Sent {
        while *left > 0 && !self.write_blocked {
            let sent = match self.socket.fd() {
                Ok(Some(fd)) => {
                    let batch = self.queue.iter().take(*left);
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
                    drop(self.queue.pop());
                    return Sent::Refused(error);
                }
            };
            *left -= count;
            for _ in 0..count {
                drop(self.queue.pop());
            }
            if count == 0 {
                // For Python, or nothing: an abort has emptied the queue.
                *left -= 1;
                return self.queue.pop().map_or(Sent::Done, Sent::ByPython);
            }
        }
        Sent::Done
    }

    fn blocked(&mut self) {
        self.write_blocked = true;
        // A UNIX socket that is not connected is writable to epoll however full its peer's queue is. UDP blocks only
        // on its own buffer, and a connected socket is told of its peer.
        let to_whom = self.queue.iter().next().map(|datagram| &datagram.to);
        self.needs_retry =
            matches!(to_whom, Some(Target::Address(address)) if address.family() == libc::AF_UNIX);
    }

    /// Gives the kernel what it takes without asking anybody; whether it fails makes no difference any more.
    pub(super) fn send_rest(&mut self) {
        let mut left = self.queue.len();
        loop {
            match self.send(true, &mut left) {
                Sent::Refused(_) => {}
                Sent::ByPython(datagram) => return self.queue.put_back(datagram),
                Sent::Done => return,
            }
        }
    }

    /// True while nothing follows from a shorter queue.
    fn is_plain(&self) -> bool {
        let quiet = !self.flow.is_paused() && !self.watching_writes;
        self.queue.is_empty() && !self.life.is_closing() && quiet
    }
}

/// Puts the raw methods on the class.
pub fn add_raw_methods(py: Python<'_>) -> PyResult<()> {
    fastcall::raw_methods! { DatagramTransport, &py.get_type::<DatagramTransport>(),
        sendto("($self, /, data, addr=None)"):
            "Sends a datagram, or queues what the kernel does not take. Never blocks.",
    }
    Ok(())
}
