//! Bytes in: a batch of datagrams a turn, each given to the protocol with its sender's address.
//!
//! A batch is received by one recvmmsg into memory that all sockets of the loop share, and kept in `received` until it
//! is delivered. A protocol that pauses reading, or leaves the loop, in the middle of a batch gets the rest later: it
//! is lost to the kernel already.

use std::collections::VecDeque;
use std::io;

use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyOSError};
use pyo3::prelude::*;

use super::{DatagramTransport, State};
use crate::error::os_error;
use crate::py::{context, new, sockaddr};
use crate::reactor::metrics::Figure;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys::datagrams::{RECEIVE_BATCH, ReceiveBatch};
use crate::reactor::sys::{self, SocketAddress};
use crate::transports::protocol::{self, Failure};
use crate::transports::transport::Transport;

/// A datagram on its way to the protocol.
pub(super) struct Received {
    data: Py<PyAny>,
    /// Is it a datagram without bytes?
    empty: bool,
    sender: Sender,
}

/// Whom a datagram is from. The Python form of a new address is made once the datagram is delivered: to make it is a
/// call of Python.
enum Sender {
    Known(Py<PyAny>),
    New(Box<SocketAddress>),
}

impl DatagramTransport {
    /// The loop's call when the socket is ready.
    pub(super) fn on_ready(object: &Bound<'_, PyAny>, readiness: Readiness) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let (context, read, write) = slf.get().state.with(slf.py(), |state| {
            let side = &mut state.side;
            side.readable |= readiness.contains(Readiness::READABLE);
            side.failed |= readiness.contains(Readiness::READ_CLOSED);
            let writable = readiness.contains(Readiness::WRITABLE);
            state.outbox.blocked &= !writable;
            // What is kept back leaves with what is to follow it.
            let write = writable && state.has_unsent() && !state.outbox.deferred;
            (state.context.bind(slf.py()).clone(), state.side.readable, write)
        });
        context::run_in(&context, || {
            let received = if read { Self::read(slf) } else { Ok(()) };
            let sent = if write { Self::send_queued(slf) } else { Ok(()) };
            received.and(sent)
        })
    }

    /// One batch: the others get their turn before this transport's next one.
    fn read(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let (may_read, left_over) =
            this.state.with(py, |state| (state.life.may_read(), !state.side.received.is_empty()));
        if !may_read {
            return Ok(());
        }
        let received = match this.native {
            _ if left_over => Ok(()),
            Some(_) => match this.receive(py) {
                // There is no memory for a whole batch. There may be enough for one datagram.
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Self::receive_by_python(slf),
                Err(error) => Self::error_received(slf, os_error(&error)),
                Ok(()) => Ok(()),
            },
            None => Self::receive_by_python(slf),
        };
        if this.sequenced {
            drop(this.state.with(py, |state| state.look_for_the_end()));
        }
        let delivered = received.and_then(|()| Self::deliver(slf));
        let ended = |state: &mut State| state.is_over() && state.life.may_read();
        if this.state.with(py, ended) {
            return delivered.and(Self::close_gracefully(slf));
        }
        this.read_on(py);
        delivered
    }

    /// Receives a batch. No garbage collection can start in here: bytes are not tracked.
    fn receive(&self, py: Python<'_>) -> io::Result<()> {
        self.core.datagrams.with(py, |batch| {
            let batch = match batch {
                Some(batch) => batch,
                None => batch.insert(ReceiveBatch::new()?),
            };
            self.state.with(py, |state| state.receive(py, batch))
        })
    }

    /// Gives the protocol what was received, for as long as it wants it. Err: what leaves the loop.
    fn deliver(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this, names) = (slf.py(), slf.get(), slf.get().core.names);
        let next = |state: &mut State| {
            let protocol = state.protocol.as_ref().filter(|_| state.life.may_read())?;
            Some((protocol.bind(py).clone(), state.side.received.pop_front()?))
        };
        while let Some((protocol, Received { data, sender, .. })) = this.state.with(py, next) {
            let address = this.address_of(py, sender)?;
            if let Err(error) = protocol::datagram_received(names, &protocol, data.bind(py), &address) {
                Self::reporter(slf).callback_failed("DatagramTransport._read_ready", error)?;
            }
        }
        Ok(())
    }

    /// The Python form of a sender's address.
    fn address_of<'py>(&self, py: Python<'py>, sender: Sender) -> PyResult<Bound<'py, PyAny>> {
        let new = match sender {
            Sender::Known(address) => return Ok(address.into_bound(py)),
            Sender::New(new) => new,
        };
        // An earlier datagram of the same batch may have made it known.
        let known =
            |state: &mut State| state.side.peers.get(new.as_bytes()).map(|name| name.bind(py).clone());
        if let Some(address) = self.state.with(py, known) {
            return Ok(address);
        }
        let address = sockaddr::to_python(py, &new)?;
        let name = address.clone().unbind();
        drop(self.state.with(py, |state| state.side.peers.insert(new.as_bytes(), name)));
        Ok(address)
    }

    /// Receives one datagram by the socket's own method, whose form of the address is the right one.
    fn receive_by_python(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let Some(socket) = this.python_socket(py) else {
            return Ok(());
        };
        let (fd, most) = this.state.with(py, |state| (state.file.number(), state.side.max_size));
        // Another process with the same open file can have cleared O_NONBLOCK: then the call would block.
        if matches!(sys::is_readable(fd), Ok(false)) {
            this.state.with(py, |state| state.side.readable = false);
            return Ok(());
        }
        let received = socket.call_method1(&this.core.names.recvfrom, (new::int(py, most)?,));
        match received.and_then(|received| received.extract::<(Py<PyAny>, Py<PyAny>)>()) {
            Ok((data, address)) => {
                this.core.figures.read(data.bind(py).len()?);
                this.core.figures.add(Figure::DatagramsReceived, 1);
                let empty = this.sequenced && !data.is_truthy(py)?;
                let received = Received { data, empty, sender: Sender::Known(address) };
                this.state.with(py, |state| state.side.received.push_back(received));
                Ok(())
            }
            Err(error) => Self::receive_failed(slf, error),
        }
    }

    /// What an exception of `recvfrom` means: asyncio tells the protocol of an OSError, and goes on.
    fn receive_failed(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        if error.is_instance_of::<PyBlockingIOError>(py) {
            slf.get().state.with(py, |state| state.side.readable = false);
            return Ok(());
        }
        if error.is_instance_of::<PyInterruptedError>(py) {
            return Ok(());
        }
        if error.is_instance_of::<PyOSError>(py) {
            return Self::error_received(slf, error);
        }
        Self::end_by(slf, Err(Failure::new("Fatal read error on datagram transport", error)))
    }

    /// Tells the protocol of an error that does not end the endpoint. Err: what leaves the loop.
    pub(super) fn error_received(slf: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let this = slf.get();
        let told = this.protocol(slf.py()).map(|it| protocol::error_received(this.core.names, &it, error));
        told.unwrap_or(Ok(()))
            .or_else(|error| Self::reporter(slf).callback_failed("DatagramTransport.error_received", error))
    }

    /// The socket object, while it is open.
    pub(super) fn python_socket<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.state.with(py, |state| {
            let object = state.file.object().filter(|_| !state.file.is_closed());
            object.map(|object| object.bind(py).clone())
        })
    }
}

impl State {
    /// One call to the kernel, and what it says about the next one. Err: an error to tell of.
    fn receive(&mut self, py: Python<'_>, batch: &mut ReceiveBatch) -> io::Result<()> {
        let Some(fd) = self.file.fd()? else {
            return Ok(());
        };
        let failed = std::mem::take(&mut self.side.failed);
        let count = match batch.receive(fd) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.side.readable = false;
                return Ok(());
            }
            // There may be data behind it.
            Err(error) => return Err(error),
        };
        // A short batch has emptied the socket; an error may have come behind it.
        self.side.readable = count == RECEIVE_BATCH || failed;
        let bytes = (0..count).map(|at| batch.datagram(at).0.len()).sum();
        self.figures.read(bytes);
        self.figures.add(Figure::DatagramsReceived, count as u64);
        for at in 0..count {
            let (data, sender) = batch.datagram(at);
            let data = &data[..data.len().min(self.side.max_size)];
            let sender = match self.side.peers.get(sender.as_bytes()) {
                Some(name) => Sender::Known(name.clone_ref(py)),
                None if sender.is_empty() => Sender::Known(py.None()),
                None => Sender::New(Box::new(sender.clone())),
            };
            let empty = data.is_empty();
            // The datagram is lost, as it would be if the kernel's own buffer were full.
            let data = new::bytes(py, data).map_err(|_| io::ErrorKind::OutOfMemory)?.into_any().unbind();
            self.side.received.push_back(Received { data, empty, sender });
        }
        Ok(())
    }

    /// On a SOCK_SEQPACKET that the peer has ended, receives go on to give empty datagrams. One that the peer has sent
    /// as its very last cannot be told from those.
    ///
    /// Returns those, for the caller to drop.
    fn look_for_the_end(&mut self) -> VecDeque<Received> {
        let last_is_empty = self.side.received.back().is_some_and(|received| received.empty);
        if !last_is_empty || !sys::peer_has_ended(self.file.number()) {
            return VecDeque::new();
        }
        (self.side.ended, self.side.readable) = (true, false);
        let last = self.side.received.iter().rposition(|received| !received.empty);
        self.side.received.split_off(last.map_or(0, |last| last + 1))
    }

    /// Has the peer ended the connection, and is everything before that delivered?
    fn is_over(&self) -> bool {
        self.side.ended && self.side.received.is_empty()
    }
}
