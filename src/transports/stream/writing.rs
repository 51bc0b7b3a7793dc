//! Bytes out: sent by `write` at once, or kept back for what the same callback writes next, and queued while the kernel
//! takes no more. `outbox.rs` decides; the system calls are here, and what follows from them.
//!
//! The way of a write: `write_chunk` borrows the state once. In that borrow `State::write` asks the outbox, makes the
//! system call or queues the bytes, and finds out what follows. Nearly always nothing follows. Otherwise `written` does
//! it outside of the borrow: it tells the protocol, or has the loop call `flush`.
//!
//! What was queued leaves when the loop calls `Transport::flush`, or when the kernel takes more again, by
//! `Transport::send_queued`. Both borrow the state once. In that borrow, `State::send` gives the kernel what it takes,
//! and `State::after` finds out whether anything follows. If so, `sent` does it, and borrows the state once more: the
//! protocol may have written meanwhile.

use std::io::{self, IoSlice};

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

use super::{State, StreamTransport};
use crate::core::LoopCore;
use crate::error::{Message, no_memory, os_error};
use crate::py::bytes::{Chunk, join, readable};
use crate::py::fastcall::Arguments;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys;
use crate::reactor::token::Token;
use crate::transports::flow::{Queue, Signal};
use crate::transports::outbox::{Follow, Next};
use crate::transports::protocol::Failure;
use crate::transports::sender::{Sender, refuse};
use crate::transports::shell::{Hold, Side};
use crate::transports::transport::{NOT_WATCHED, Transport};

/// What has become of a write.
enum Written {
    /// All of it was sent. The chunk is kept until the state is no longer borrowed.
    Sent(#[expect(dead_code, reason = "to be dropped by the caller")] Chunk),
    /// It was empty, or it is queued and the loop knows already that it is to send it.
    Nothing,
    /// It is queued.
    Queued((Follow, Hold)),
    /// The kernel was given what it takes.
    Tried(Option<After>),
    /// The connection is lost.
    Lost,
}

/// What follows from sending.
pub struct After {
    result: io::Result<()>,
    /// The socket's own `send` is to be called.
    by_methods: bool,
    /// A layer on the stream is to know that the queue is shorter.
    tell_layer: bool,
    /// Somebody waits until everything is sent.
    waits: bool,
    settled: Settled,
}

/// What follows once the kernel has refused to take more, or has taken what it had refused before.
#[derive(Default)]
struct Settled {
    /// The kernel is to report when it takes more.
    watch: Option<Token>,
    signal: Option<Signal>,
}

impl StreamTransport {
    /// Does what follows from sending.
    pub(super) fn sent(slf: &Bound<'_, Self>, after: After) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let After { result, by_methods, tell_layer, waits, mut settled } = after;
        let mut sent = result.map_err(|error| os_error(&error));
        if by_methods {
            sent = sent.and_then(|()| this.send_by_method(py));
            settled = this.state.with(py, State::settle);
        }
        let watched = match (sent, settled.watch) {
            (Err(error), _) => Err(Failure::new("Fatal write error on socket transport", error)),
            (Ok(()), Some(token)) => {
                this.core.watch(py, token, Readiness::BOTH).map_err(|error| Failure::new(NOT_WATCHED, error))
            }
            (Ok(()), None) => Ok(()),
        };
        if watched.is_err() {
            return Self::end_by(slf, watched);
        }
        // May write again, and may leave the loop: everything else follows all the same.
        let mut told = Self::tell_flow(slf, settled.signal);
        if tell_layer {
            let layer = this
                .state
                .with(py, |state| Some((state.side.above?, state.protocol.as_ref()?.bind(py).clone())));
            told = told.and(layer.map_or(Ok(()), |(above, layer)| (above.queue_shrunk)(&layer)));
        }
        if waits {
            told = told.and(this.tell_sent_waiter(py));
        }
        let (action, hold, end) = this.state.with(py, |state| {
            let (action, hold) = state.finish_sending();
            (action, hold, !state.has_unsent() && state.life.take_shutdown())
        });
        if end && let Err(error) = this.shutdown_write(py) {
            let text = "Fatal error: shutdown of the sending side failed.";
            told = told.and(Self::reporter(slf).exception(text, error));
        }
        Self::apply_hold(slf, hold);
        told.and(Self::perform(slf, action, None))
    }
}

impl StreamTransport {
    /// The method `write(data)`.
    pub(in crate::transports) fn write<'py>(
        slf: &Bound<'py, Self>,
        args: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let data = args.single("write", "data")?;
        if data.is_exact_instance_of::<PyBytes>() || !Self::write_lent(slf, &data)? {
            let chunk = Chunk::from_write(&data)?;
            let class = "_SelectorSocketTransport";
            Self::write_chunk(
                slf,
                chunk.ok_or_else(|| refuse(&data, "asyncio.selector_events", class, "write"))?,
            )?;
        }
        Ok(slf.py().None().into_bound(slf.py()))
    }

    /// Sends what somebody could change afterwards, a bytearray for instance, straight out of its memory, where a write
    /// of bytes would be sent at once. A copy is made of the part that the kernel does not take. False: nothing was
    /// done.
    fn write_lent(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        if !(data.is_instance_of::<PyByteArray>() || data.is_instance_of::<PyMemoryView>()) {
            return Ok(false);
        }
        let buffer = PyUntypedBuffer::get(data)?;
        if !buffer.is_c_contiguous() {
            return Ok(false);
        }
        let sent = this.state.with(py, |state| {
            // SAFETY: only the system call runs while the slice lives.
            state.send_lent(unsafe { readable(&buffer, py) }, &this.core)
        });
        let rest = match sent {
            None => return Ok(false),
            Some(Ok(count)) if count == buffer.len_bytes() => return Ok(true),
            Some(Ok(count)) => Ok(Chunk::from_buffer(data)?.skip(count)),
            Some(Err(error)) => Err(error),
        };
        let after = this.state.with(py, |state| {
            let queued = rest.and_then(|rest| state.outbox.queue.push(rest).map_err(io::Error::from));
            state.after(queued, true)
        });
        Self::written(slf, Written::Tried(after)).map(|()| true)
    }

    /// One write of bytes that nobody can change any more.
    #[inline]
    pub(super) fn write_chunk(slf: &Bound<'_, Self>, chunk: Chunk) -> PyResult<()> {
        let this = slf.get();
        let written = this.state.with(slf.py(), |state| state.write(chunk, &this.core))?;
        // Nearly always; the chunk goes here, not while the state is borrowed.
        if let Written::Sent(_) | Written::Nothing = written { Ok(()) } else { Self::written(slf, written) }
    }

    /// The method `writelines(list_of_data)`. Before CPython 3.12 asyncio joins what it is given, and writes that.
    pub(super) fn write_lines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if !this.core.names.own_writelines {
            return Self::write_chunk(slf, Chunk::from_buffer(&join(list_of_data)?)?);
        }
        let accepted = this.state.with(py, |state| state.accepts_writes("writelines()"))?;
        if !list_of_data.is_truthy()? {
            return Ok(());
        }
        if !accepted {
            return this.lose_write(py);
        }
        let chunks = list_of_data.try_iter()?.map(chunk_of_line).collect::<PyResult<Vec<_>>>()?;
        let len = chunks.iter().map(|chunk| chunk.as_ref().len()).sum();
        // The iterable may have ended the connection.
        let written = this.state.with(py, |state| {
            if !state.accepts_writes("writelines()")? {
                return Ok(Written::Lost);
            }
            if len == 0 { Ok(Written::Nothing) } else { state.write_all(len, chunks, &this.core) }
        });
        Self::written(slf, written?)
    }

    /// Sends what a TLS layer has encrypted, behind what is queued; what the kernel does not take now is queued.
    pub(in crate::transports) fn send_now(slf: &Bound<'_, Self>, data: &[u8]) -> PyResult<()> {
        let this = slf.get();
        let written = this.state.with(slf.py(), |state| {
            if state.life.drops_writes() {
                return Written::Lost;
            }
            let result = state.send_encrypted(data);
            // The layer knows by itself what that does to its own queue.
            Written::Tried(state.after(result, false))
        });
        Self::written(slf, written)
    }

    /// What follows from a write.
    fn written(slf: &Bound<'_, Self>, written: Written) -> PyResult<()> {
        match written {
            Written::Sent(_) | Written::Nothing | Written::Tried(None) => Ok(()),
            Written::Queued(queued) => Self::proceed(slf, queued),
            Written::Tried(Some(after)) => Self::sent(slf, after),
            Written::Lost => slf.get().lose_write(slf.py()),
        }
    }

    /// On a UNIX socket whose kernel has just refused to take more: has it report when it takes some again.
    pub(super) fn watch_writing(&self, py: Python<'_>) -> PyResult<()> {
        let token = self.state.with(py, State::watch_if_blocked);
        token.map_or(Ok(()), |token| self.core.watch(py, token, Readiness::BOTH))
    }

    /// Ends the sending side of the socket: the peer reads the end of the stream.
    pub(super) fn shutdown_write(&self, py: Python<'_>) -> PyResult<()> {
        self.state
            .with(py, |state| state.file.any_fd()?.map_or(Ok(()), sys::shutdown_write))
            .map_err(|error| os_error(&error))
    }
}

impl State {
    /// True: queue it. False: drop it. Err: the program has ended its writing itself.
    #[inline(always)]
    fn accepts_writes(&self, method: &str) -> PyResult<bool> {
        if self.life.write_ended() || self.side.in_sendfile {
            return Err(self.refusal_of_writes(method));
        }
        Ok(!self.life.drops_writes())
    }

    /// The error for a write after `write_eof()`, or while a file is sent.
    #[cold]
    fn refusal_of_writes(&self, method: &str) -> PyErr {
        if self.life.write_ended() {
            return PyRuntimeError::new_err(Message(format!("Cannot call {method} after write_eof()")));
        }
        let verb = method.trim_end_matches("()");
        PyRuntimeError::new_err(Message(format!("unable to {verb}; sendfile is in progress")))
    }

    /// One write. Err: the program has ended its writing itself.
    #[inline(always)]
    fn write(&mut self, chunk: Chunk, core: &LoopCore) -> PyResult<Written> {
        let (accepted, len) = (self.accepts_writes("write()")?, chunk.as_ref().len());
        if len == 0 {
            return Ok(Written::Nothing);
        }
        if !accepted {
            return Ok(Written::Lost);
        }
        let next = self.next(len, core);
        let outbox = &mut self.outbox;
        match next {
            Next::Send if outbox.queue.is_empty() => Ok(self.send_chunk(chunk)),
            Next::Keep(_) if outbox.deferred => {
                outbox.queue.push(chunk).map_err(|_| no_memory())?;
                Ok(Written::Nothing)
            }
            next => self.push(next, [chunk], core),
        }
    }

    /// Several chunks, of `len` bytes together, as one write.
    fn write_all(&mut self, len: usize, chunks: Vec<Chunk>, core: &LoopCore) -> PyResult<Written> {
        let next = self.next(len, core);
        self.push(next, chunks, core)
    }

    /// Queues chunks, and does with them what [`Outbox::next`] has said.
    fn push<I>(&mut self, next: Next, chunks: I, core: &LoopCore) -> PyResult<Written>
    where
        I: IntoIterator<Item = Chunk, IntoIter: ExactSizeIterator>,
    {
        self.outbox.queue.push_all(chunks).map_err(|_| no_memory())?;
        if next != Next::Send {
            return Ok(Written::Queued(self.queued(next)));
        }
        let result = self.send(core);
        Ok(Written::Tried(self.after(result, true)))
    }

    /// Sends a chunk with an empty queue before it; queues what the kernel does not take.
    #[inline(always)]
    fn send_chunk(&mut self, chunk: Chunk) -> Written {
        let len = chunk.as_ref().len();
        let sent = self.send_slice(chunk.as_ref());
        if matches!(sent, Ok(count) if count == len) {
            return Written::Sent(chunk);
        }
        // If half of it has left, and there is no memory for the rest, the connection is lost.
        let queued = sent.and_then(|count| Ok(self.outbox.queue.push(chunk.skip(count))?));
        Written::Tried(self.after(queued, true))
    }

    /// One write out of memory that is not ours: how much of it the kernel has taken. None if it is not to be sent now.
    fn send_lent(&mut self, data: &[u8], core: &LoopCore) -> Option<io::Result<usize>> {
        let accepted = matches!(self.accepts_writes("write()"), Ok(true));
        if !accepted || data.is_empty() || !matches!(self.file.fd(), Ok(Some(_))) {
            return None;
        }
        let now = self.outbox.sends_at_once(core.moment(), || core.clock.now_ns());
        now.then(|| self.send_slice(data))
    }

    /// What follows from sending, of which `result` has come; None: nothing, as nearly always. `tell_layer`: a TLS
    /// layer is to know that the queue is shorter.
    pub(super) fn after(&mut self, result: io::Result<()>, tell_layer: bool) -> Option<After> {
        let by_methods = self.file.by_methods().is_some();
        let tell_layer = tell_layer && self.side.above.is_some();
        let waits = self.side.waits();
        let settled = if by_methods { Settled::default() } else { self.settle() };
        let ends = !self.has_unsent() && (self.life.is_closing() || self.life.write_ended());
        let quiet = result.is_ok()
            && settled.watch.is_none()
            && settled.signal.is_none()
            && !(by_methods || tell_layer || waits || ends)
            && self.is_held_rightly();
        (!quiet).then_some(After { result, by_methods, tell_layer, waits, settled })
    }

    /// What follows from the state of the queue. The answer is given once: to be acted upon by the caller.
    fn settle(&mut self) -> Settled {
        self.count_queued();
        let may_resume = !self.life.drops_writes();
        Settled { watch: self.watch_if_blocked(), signal: self.outbox.settled(may_resume) }
    }

    /// The token, once, if the kernel has refused to take more and does not report yet when it takes some again.
    fn watch_if_blocked(&mut self) -> Option<Token> {
        let watch = self.outbox.blocked && !self.side.write_watched;
        self.side.write_watched |= watch;
        self.token.filter(|_| watch)
    }

    /// What to do with a write of `len` bytes.
    #[inline(always)]
    fn next(&mut self, len: usize, core: &LoopCore) -> Next {
        // The socket's own methods, where they are called, are called for each write.
        let may_wait = self.file.by_methods().is_none();
        self.outbox.next(len, may_wait, core.moment(), || core.clock.now_ns())
    }

    /// Gives the kernel what it takes of `data`; returns how much that is.
    #[inline(always)]
    fn send_slice(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.file.fd()? {
            Some(fd) => {
                let sent = sys::send(fd, &[IoSlice::new(data)]);
                self.figures.wrote_some(&sent);
                self.outbox.taken(sent, data.len())
            }
            // The socket's own `send` is to be called.
            None => Ok(0),
        }
    }

    /// Sends bytes that a TLS layer keeps the memory of: what the kernel does not take is copied to the queue.
    fn send_encrypted(&mut self, data: &[u8]) -> io::Result<()> {
        let sent = if self.outbox.is_clear() { self.send_slice(data)? } else { 0 };
        if sent < data.len() {
            self.outbox.queue.push(Chunk::copy(&data[sent..])?)?;
        }
        Ok(())
    }

    /// Gives the kernel what it takes of the queue.
    #[inline]
    pub(super) fn send(&mut self, core: &LoopCore) -> io::Result<()> {
        let Self { file, outbox, figures, .. } = self;
        match file.fd() {
            Ok(Some(fd)) => {
                let write = |slices: &[IoSlice<'_>]| {
                    let sent = sys::send(fd, slices);
                    figures.wrote_some(&sent);
                    sent
                };
                outbox.send(false, write, || false, || core.clock.now_ns())
            }
            Err(error) if outbox.has_sendable() => Err(error),
            _ => Ok(()),
        }
    }
}

/// What `writelines()` makes of one object.
fn chunk_of_line(data: PyResult<Bound<'_, PyAny>>) -> PyResult<Chunk> {
    let data = data?;
    if !data.is_exact_instance_of::<PyBytes>() {
        // Where asyncio refuses what is no buffer.
        PyMemoryView::from(&data)?;
    }
    Chunk::from_buffer(&data)
}
