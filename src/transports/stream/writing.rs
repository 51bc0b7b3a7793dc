//! Bytes out: sent by `write` at once, or kept back for what the same callback writes next (`habit.rs`); queued while
//! the kernel takes no more.

use std::io::{self, IoSlice};

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

use super::{KIND, State, StreamTransport};
use crate::core::LoopCore;
use crate::error::{no_memory, os_error};
use crate::py::bytes::{Chunk, join, readable};
use crate::py::context;
use crate::py::fastcall::{self, Arguments};
use crate::py::new::intern;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys;
use crate::transports::flow::Signal;
use crate::transports::habit::{LARGE, When};
use crate::transports::lifecycle::{Action, Event};
use crate::transports::report::DROPPED_WRITES_BEFORE_WARNING;
use crate::transports::tls::TlsLayer;

impl StreamTransport {
    fn write<'py>(slf: &Bound<'py, Self>, args: &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let data = args.single("write", "data")?;
        if !data.is_exact_instance_of::<PyBytes>() && Self::write_lent(slf, &data)? {
            return Ok(slf.py().None().into_bound(slf.py()));
        }
        let Some(chunk) = Chunk::from_write(&data)? else {
            return Err(refuse(&data));
        };
        Self::write_chunk(slf, chunk)?;
        Ok(slf.py().None().into_bound(slf.py()))
    }

    /// Sends what somebody could change afterwards, a bytearray for instance, straight out of its memory, where a write
    /// of bytes would be sent at once. A copy is made of the part that the kernel does not take. False: nothing was done.
    fn write_lent(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        if !(data.is_instance_of::<PyByteArray>() || data.is_instance_of::<PyMemoryView>()) {
            return Ok(false);
        }
        let buffer = PyUntypedBuffer::get(data)?;
        if !buffer.is_c_contiguous() {
            return Ok(false);
        }
        let len = buffer.len_bytes();
        let sent = this.state.with(py, |state| {
            // SAFETY: only the system call runs while the slice lives.
            state.send_lent(unsafe { readable(&buffer, py) }, &this.core)
        });
        match sent {
            None => Ok(false),
            Some(Ok(count)) if count == len => Ok(true),
            Some(Ok(count)) => {
                let rest = Chunk::from_buffer(data)?.skip(count);
                let queued = this.state.with(py, |state| state.queue.push(rest));
                Self::written(slf, Written::Flushed(queued.map_err(io::Error::from))).map(|()| true)
            }
            Some(Err(error)) => Self::written(slf, Written::Flushed(Err(error))).map(|()| true),
        }
    }

    #[inline]
    pub(super) fn write_chunk(slf: &Bound<'_, Self>, chunk: Chunk) -> PyResult<()> {
        let this = slf.get();
        let written = this.state.with(slf.py(), |state| state.write(chunk, &this.core))?;
        // Nearly always; the chunk goes here, not while the state is borrowed.
        if let Written::Sent(_) = written { Ok(()) } else { Self::written(slf, written) }
    }

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
            return Self::written(slf, Written::Dropped);
        }
        let chunks = list_of_data.try_iter()?.map(chunk_of_line).collect::<PyResult<Vec<_>>>()?;
        // The iterable may have ended the connection.
        let written = this.state.with(py, |state| {
            let accepted = state.accepts_writes("writelines()")?;
            if accepted { state.write_all(chunks, &this.core) } else { Ok(Written::Dropped) }
        });
        Self::written(slf, written?)
    }

    /// Sends what a TLS layer has encrypted, behind what is queued; what the kernel does not take now is queued.
    pub(in crate::transports) fn send_now(slf: &Bound<'_, Self>, data: &[u8]) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if this.state.with(py, |state| state.life.drops_writes()) {
            return this.write_dropped(py);
        }
        let sent = this.state.with(py, |state| {
            let mut sent = 0;
            if state.queue.is_empty()
                && !state.write_blocked
                && let Some(fd) = state.socket.fd()?
            {
                sent = match sys::send(fd, &[IoSlice::new(data)]) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    sent => sent?,
                };
                state.write_blocked = sent < data.len();
            }
            if sent < data.len() {
                state.queue.push(Chunk::copy(&data[sent..])?)?;
            }
            Ok(state.keeps_back())
        });
        match sent {
            Ok(false) => {}
            // For the socket's own `send`.
            Ok(true) => Self::send_queued(slf)?,
            Err(error) => {
                return Self::fatal_error(slf, os_error(&error), "Fatal write error on socket transport");
            }
        }
        if let Err(error) = this.watch_writing(py) {
            return Self::fatal_error(slf, error, "Fatal error: the socket cannot be watched.");
        }
        Self::queue_grown(slf)
    }

    /// How many bytes are queued.
    pub(in crate::transports) fn queued(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.queue.len())
    }

    /// What follows from a write.
    fn written(slf: &Bound<'_, Self>, written: Written) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        match written {
            Written::Sent(_) | Written::Kept => Ok(()),
            Written::Gather(due) => {
                this.core.gather(slf.as_any(), &KIND, due);
                Ok(())
            }
            Written::Queued => {
                if this.state.with(py, |state| state.keeps_back()) {
                    // For the socket's own `send`.
                    Self::send_queued(slf)?;
                }
                Self::queue_grown(slf)
            }
            Written::Flushed(result) => {
                Self::sent(slf, result)?;
                Self::queue_grown(slf)
            }
            Written::Dropped => this.write_dropped(py),
        }
    }

    /// A write after the end: dropped, and warned about when it goes on.
    #[cold]
    fn write_dropped(&self, py: Python<'_>) -> PyResult<()> {
        let count = self.state.with(py, |state| {
            state.dropped_writes = state.dropped_writes.saturating_add(1);
            state.dropped_writes - 1
        });
        if count >= DROPPED_WRITES_BEFORE_WARNING {
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
        let this = slf.get();
        let sent = this.state.with(slf.py(), |state| {
            state.gathering = false;
            let result = state.send(&this.core);
            let done = state.queue.is_empty() && !state.flow.is_paused();
            result.map(|()| done && !state.life.is_closing() && !state.life.write_ended())
        });
        if matches!(sent, Ok(true)) {
            // Nearly always.
            return Ok(());
        }
        context::run_in(&this.context(slf.py()), || {
            Self::sent(slf, sent.map(drop))?;
            Self::queue_grown(slf)
        })
    }

    /// Gives the kernel what it takes of the queue, and does what follows from it.
    pub(super) fn send_queued(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        let result = this.state.with(slf.py(), |state| state.send(&this.core));
        Self::sent(slf, result)
    }

    /// The program asks the transport something: it finds that everything was sent which the kernel takes.
    pub(super) fn send_kept(slf: &Bound<'_, Self>) -> PyResult<()> {
        let kept = slf.get().state.with(slf.py(), |state| {
            state.habit.asked();
            state.keeps_back()
        });
        if !kept {
            return Ok(());
        }
        Self::send_queued(slf)?;
        Self::queue_grown(slf)
    }

    fn sent(slf: &Bound<'_, Self>, result: io::Result<()>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let sent = result.map_err(|error| os_error(&error)).and_then(|()| this.send_by_method(py));
        if let Err(error) = sent {
            return Self::fatal_error(slf, error, "Fatal write error on socket transport");
        }
        if let Err(error) = this.watch_writing(py) {
            return Self::fatal_error(slf, error, "Fatal error: the socket cannot be watched.");
        }
        let signal = this.state.with(py, |state| {
            // resume_writing() is never called once the connection is lost.
            if state.life.drops_writes() { None } else { state.flow.shrunk(state.queue.len()) }
        });
        // May write again, and may leave the loop: everything else follows all the same.
        let mut result = Self::tell_flow(slf, signal);
        let layer = this.state.with(py, |state| state.tls.as_ref().map(|layer| layer.bind(py).clone()));
        if let Some(layer) = layer {
            result = result.and(TlsLayer::queue_shrunk(&layer));
        }
        if this.state.with(py, |state| state.sent_waiter.is_some()) {
            result = result.and(this.tell_sent_waiter(py));
        }
        let (action, end) = this.state.with(py, |state| {
            if !state.queue.is_empty() {
                return (Action::Nothing, false);
            }
            (state.life.on(Event::Drained), state.life.take_shutdown())
        });
        if end && let Err(error) = this.shutdown_write(py) {
            let message = "Fatal error: shutdown of the sending side failed.";
            result = result.and(this.report(slf, message, error));
        }
        Self::hold(slf);
        result.and(Self::perform(slf, action, None))
    }

    /// On a UNIX socket whose kernel has just refused to take more: has it tell when it takes some again.
    pub(super) fn watch_writing(&self, py: Python<'_>) -> PyResult<()> {
        let token = self.state.with(py, |state| {
            if !state.must_watch_writing() {
                return None;
            }
            state.write_watched = true;
            state.token
        });
        token.map_or(Ok(()), |token| self.core.watch(py, token, Readiness::BOTH))
    }

    /// Pauses the protocol if the queue has grown over the mark.
    pub(super) fn queue_grown(slf: &Bound<'_, Self>) -> PyResult<()> {
        let signal = slf.get().state.with(slf.py(), |state| {
            // What is kept back does not count: the kernel may take all of it.
            state.flow.grown(if state.write_blocked { state.queue.len() } else { 0 })
        });
        Self::hold(slf);
        Self::tell_flow(slf, signal)
    }

    fn tell_flow(slf: &Bound<'_, Self>, signal: Option<Signal>) -> PyResult<()> {
        signal.map_or(Ok(()), |signal| slf.get().reporter(slf.as_any()).flow(signal))
    }

    pub(super) fn shutdown_write(&self, py: Python<'_>) -> PyResult<()> {
        self.state
            .with(py, |state| state.socket.any_fd()?.map_or(Ok(()), sys::shutdown_write))
            .map_err(|error| os_error(&error))
    }
}

/// The TypeError for what cannot be written, with the text of the running version: asyncio's own check comes first in
/// its method, before it looks at the transport.
#[cold]
fn refuse(data: &Bound<'_, PyAny>) -> PyErr {
    let py = data.py();
    let write = || {
        let module = py.import("asyncio.selector_events")?;
        module
            .getattr(intern!(py, "_SelectorSocketTransport")?)?
            .call_method1(intern!(py, "write")?, (py.None(), data))
    };
    match write() {
        Err(error) if error.is_instance_of::<PyTypeError>(data.py()) => error,
        _ => PyTypeError::new_err("data argument must be a bytes-like object"),
    }
}

/// What has become of a write.
enum Written {
    /// All of it was sent.
    Sent(#[expect(dead_code, reason = "kept until the state is no longer borrowed")] Chunk),
    /// It is kept back, or empty. The loop knows already.
    Kept,
    /// It is kept back: the loop is to call `flush` at this time ([`LoopCore::gather`]).
    Gather(u64),
    /// It is queued, for the kernel took no more before.
    Queued,
    /// It was queued, and the queue sent as far as the kernel took it.
    Flushed(io::Result<()>),
    /// The connection is lost.
    Dropped,
}

impl State {
    /// True: queue it. False: drop it. Err: the program has ended its writing itself.
    pub(super) fn accepts_writes(&self, method: &str) -> PyResult<bool> {
        if self.life.write_ended() {
            return Err(PyRuntimeError::new_err(format!("Cannot call {method} after write_eof()")));
        }
        if self.in_sendfile {
            let verb = method.trim_end_matches("()");
            return Err(PyRuntimeError::new_err(format!("unable to {verb}; sendfile is in progress")));
        }
        Ok(!self.life.drops_writes())
    }

    /// False if the socket's own methods are called, which is for each write.
    fn may_keep_back(&self) -> bool {
        self.socket.by_methods().is_none()
    }

    fn must_watch_writing(&self) -> bool {
        self.write_blocked && !self.write_watched
    }

    /// True: something is queued that the kernel may take.
    pub(super) fn keeps_back(&self) -> bool {
        !self.write_blocked && !self.queue.is_empty()
    }

    /// One write. Err: the program has ended its writing itself.
    #[inline]
    fn write(&mut self, chunk: Chunk, core: &LoopCore) -> PyResult<Written> {
        let accepted = self.accepts_writes("write()")?;
        if chunk.as_ref().is_empty() {
            return Ok(Written::Kept);
        }
        if !accepted {
            return Ok(Written::Dropped);
        }
        if self.queue.is_empty() && !self.write_blocked {
            return Ok(match self.habit.write(core.moment(), || core.clock.now_ns()) {
                When::Now => self.send_chunk(chunk),
                When::With(due) if chunk.as_ref().len() < LARGE && self.may_keep_back() => {
                    self.queue.push(chunk).map_err(|_| no_memory())?;
                    self.keep(due)
                }
                When::With(_) => {
                    self.habit.sent(|| core.clock.now_ns());
                    self.send_chunk(chunk)
                }
            });
        }
        self.write_all([chunk], core)
    }

    /// One write out of memory that is not ours: how much of it the kernel has taken. None if it is not to be sent now.
    fn send_lent(&mut self, data: &[u8], core: &LoopCore) -> Option<io::Result<usize>> {
        let accepted = matches!(self.accepts_writes("write()"), Ok(true));
        if !accepted || data.is_empty() || !self.queue.is_empty() || self.write_blocked {
            return None;
        }
        let fd = self.socket.fd().ok()??;
        if !self.habit.sends_at_once(core.moment(), || core.clock.now_ns()) {
            return None;
        }
        let sent = match sys::send(fd, &[IoSlice::new(data)]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        };
        self.write_blocked = matches!(sent, Ok(count) if count < data.len());
        Some(sent)
    }

    /// Several chunks as one write, behind what is queued.
    fn write_all<I>(&mut self, chunks: I, core: &LoopCore) -> PyResult<Written>
    where
        I: IntoIterator<Item = Chunk, IntoIter: ExactSizeIterator>,
    {
        self.queue.push_all(chunks).map_err(|_| no_memory())?;
        if self.queue.is_empty() {
            return Ok(Written::Kept);
        }
        if self.write_blocked {
            return Ok(Written::Queued);
        }
        Ok(match self.habit.write(core.moment(), || core.clock.now_ns()) {
            When::With(due) if self.queue.len() < LARGE && self.may_keep_back() => self.keep(due),
            _ => Written::Flushed(self.send(core)),
        })
    }

    fn keep(&mut self, due: u64) -> Written {
        if std::mem::replace(&mut self.gathering, true) { Written::Kept } else { Written::Gather(due) }
    }

    /// Sends a chunk with an empty queue before it; queues what the kernel does not take.
    #[inline]
    fn send_chunk(&mut self, chunk: Chunk) -> Written {
        let fd = match self.socket.fd() {
            Ok(Some(fd)) => fd,
            Ok(None) => {
                return match self.queue.push(chunk) {
                    Ok(()) => Written::Queued,
                    Err(error) => Written::Flushed(Err(error.into())),
                };
            }
            Err(error) => return Written::Flushed(Err(error)),
        };
        let count = match sys::send(fd, &[IoSlice::new(chunk.as_ref())]) {
            Ok(count) if count == chunk.as_ref().len() => return Written::Sent(chunk),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Written::Flushed(Err(error)),
        };
        self.write_blocked = true;
        // Half of it has left: without memory for the rest the connection is lost.
        Written::Flushed(self.queue.push(chunk.skip(count)).map_err(io::Error::from))
    }

    /// Gives the kernel what it takes of the queue.
    pub(super) fn send(&mut self, core: &LoopCore) -> io::Result<()> {
        while self.keeps_back() {
            let Some(fd) = self.socket.fd()? else {
                return Ok(());
            };
            let (result, offered) = self.queue.with_front(usize::MAX, |slices| {
                let offered: usize = slices.iter().map(|slice| slice.len()).sum();
                (sys::send(fd, slices), offered)
            });
            match result {
                Ok(sent) => {
                    self.queue.advance(sent);
                    self.write_blocked = sent < offered;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.write_blocked = true,
                Err(error) => return Err(error),
            }
        }
        self.habit.sent(|| core.clock.now_ns());
        Ok(())
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

/// Puts the raw methods on the class.
pub fn add_raw_methods(py: Python<'_>) -> PyResult<()> {
    fastcall::raw_methods! { StreamTransport, &py.get_type::<StreamTransport>(),
        write("($self, /, data)"):
            "Sends bytes, or queues what the kernel does not take. Never blocks.",
    }
    Ok(())
}
