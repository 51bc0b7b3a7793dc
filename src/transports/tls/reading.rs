//! Bytes in: the transport below receives them, they are decrypted here, and the protocol gets them.
//!
//! A stream transport calls [`TlsLayer::receive`] for each of its reads; any other transport calls `data_received`.
//! What cannot be delivered at once, because the protocol has paused reading for instance, stays where it is, still
//! encrypted.

use std::convert::Infallible;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::engine::Engine;
use super::outcome::Outcome;
use super::{Phase, TlsLayer};
use crate::core::TlsIo;
use crate::error::{leaves_the_loop, no_memory};
use crate::py::bytes::{self, Target, Writable};
use crate::py::calls;
use crate::py::new::{self, intern};
use crate::transports::above::{Receive, Received};
use crate::transports::protocol::{self, Failure};

/// Nothing more is received while more bytes than this wait to be sent of what OpenSSL has answered by itself. The new
/// keys of TLS 1.3 take 27 bytes.
const MOST_ANSWERS: usize = 64 * 1024;

/// How a series of reads has ended. `Done` means that the buffer is full, so that there may be more to read.
pub(super) type End = PyResult<Outcome>;

impl TlsLayer {
    /// A stream transport's call when there is something to receive. The bytes go into the loop's buffer, which the
    /// engine borrows for this call. What cannot be read in it stays with the connection, and the stream receives
    /// nothing more before it is read.
    pub(super) fn receive(layer: &Bound<'_, PyAny>, receive: Receive<'_>) -> PyResult<Received> {
        let slf = layer.cast::<Self>()?;
        let (py, this) = (slf.py(), slf.get());
        let ends = this.engine()?.ends();
        if this.phase() == Phase::Wrapped && this.is_behind()? {
            return Ok(Received::Later);
        }
        if this.phase().carries_data() && this.owes_answers(py)? {
            this.owes.store(true, Relaxed);
            return Ok(Received::Later);
        }
        let mut buffer = this.core.tls_io.with(py, TlsIo::take_input).map_err(|_| no_memory())?;
        let result = match buffer.fill(receive) {
            Ok(count) if count > 0 => {
                ends.lend(&mut buffer).map_err(|_| no_memory())?;
                let result = Self::proceed(slf);
                ends.take_back(&mut buffer);
                result.map(|()| Received::Data)
            }
            other => Ok(Received::Other(other)),
        };
        this.core.tls_io.with(py, |io| io.put_input(buffer));
        result
    }

    /// Goes on with what was received.
    pub(super) fn proceed(slf: &Bound<'_, Self>) -> PyResult<()> {
        match slf.get().phase() {
            Phase::Wrapped => Self::read_app(slf),
            Phase::Unwrapped => Ok(()),
            Phase::Handshake | Phase::Flushing | Phase::Shutdown => {
                slf.get().engine()?.hand_over(slf.py())?;
                calls::method(slf.as_any(), &slf.get().core.names._proceed, []).map(drop)
            }
        }
    }

    /// True if there is something left to read of what was received.
    fn is_behind(&self) -> PyResult<bool> {
        Ok(self.reads_on.load(Relaxed) || self.engine()?.ends().input_len() > 0)
    }

    /// True if too much of what OpenSSL has answered by itself waits in the transport below. A peer that asks for
    /// answers and never reads would have them pile up. What the program has written does not count: two programs that
    /// both write before they read would wait for each other.
    fn owes_answers(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.engine()?.answers_exceed(MOST_ANSWERS, || self.queued_below(py)))
    }

    /// The transport below has sent some of its bytes: if that was waited for, it receives again.
    pub(super) fn sent_below(&self, py: Python<'_>) -> PyResult<()> {
        if !self.owes.load(Relaxed) || self.owes_answers(py)? {
            return Ok(());
        }
        self.owes.store(false, Relaxed);
        self.receive_on(py)
    }

    /// Has a stream transport receive again that was told [`Received::Later`], unless there is still something left to
    /// read. After [`TlsLayer::receive`] the transport does so by itself.
    pub(super) fn receive_on(&self, py: Python<'_>) -> PyResult<()> {
        if !self.is_paused(py)
            && !self.is_behind()?
            && let Some(stream) = self.stream(py)
        {
            stream.get().read_on(py);
        }
        Ok(())
    }

    /// Delivers what can be decrypted, and sends what that has brought about.
    pub(super) fn read_app(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        this.reads_on.store(false, Relaxed);
        if !this.phase().carries_data() {
            return Ok(());
        }
        match Self::deliver(slf) {
            Ok(()) => Self::encrypt(slf, false),
            Err(error) if leaves_the_loop(py, &error) => {
                // The bytes behind it are no longer in the socket, so that no event will tell of them. They are read
                // when the loop runs on.
                Self::read_later(slf, intern!(py, "_proceed")?).and(Err(error))
            }
            // As in asyncio, the transport below gets to see a CancelledError.
            Err(error) if !error.is_instance_of::<PyException>(py) => Err(error),
            Err(error) => Self::fail(slf, error),
        }
    }

    /// Decrypts what has come, and gives it to the protocol, until nothing is left or the protocol takes no more.
    fn deliver(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        // Each call of the protocol may end the connection, or pause it.
        while this.phase().carries_data() {
            let to = this.state.with(py, |state| {
                let protocol = state.protocol.as_ref().filter(|_| !state.paused)?;
                Some((protocol.bind(py).clone(), state.buffered, state.end.take()))
            });
            let Some((protocol, buffered, kept)) = to else {
                return Ok(());
            };
            let end = match kept {
                Some(end) => end?,
                None if buffered => this.read_into_protocol(&protocol)?,
                None => this.read_bytes(&protocol)?,
            };
            match end {
                Outcome::Again => return Ok(()),
                // The rest has to wait for the protocol's next buffer. The others get their turn first.
                Outcome::Done(_) if buffered => return Self::read_later(slf, intern!(py, "_read_on")?),
                Outcome::Done(_) => {}
                Outcome::Closed => {
                    let told = calls::method(slf.as_any(), &this.core.names._call_eof_received, []);
                    // Also when that leaves the loop: nothing else ends the connection.
                    let ended = slf.call_method0(&this.core.names._start_shutdown);
                    return told.and(ended).map(drop);
                }
            }
        }
        Ok(())
    }

    /// Decrypts everything that has come into one `bytes`, and gives it to the protocol in one call.
    fn read_bytes(&self, protocol: &Bound<'_, PyAny>) -> End {
        let (py, engine) = (protocol.py(), self.engine()?);
        let capacity = engine.readable_at_most(py);
        if capacity == 0 {
            return Ok(Outcome::Again);
        }
        let (data, end) = bytes::fill_new(py, capacity, |buffer| {
            let (count, end) = read_all(py, engine, buffer.unfilled().into());
            // SAFETY: the engine has written `count` bytes there.
            unsafe { buffer.advance(count) };
            Ok::<_, Infallible>(end)
        })??;
        if data.as_bytes().is_empty() {
            return end;
        }
        self.after(py, protocol::data_received(self.core.names, protocol, data.as_any()), end)
    }

    /// Decrypts into the buffer of a `BufferedProtocol`.
    fn read_into_protocol(&self, protocol: &Bound<'_, PyAny>) -> End {
        let (py, engine, names) = (protocol.py(), self.engine()?, self.core.names);
        if engine.is_drained(py) {
            return Ok(Outcome::Again);
        }
        let lent = protocol::get_buffer(names, protocol, Some(engine.ends().input_len()))?;
        let mut writable = Writable::get(&lent)?;
        let (count, end) = read_all(py, engine, writable.target());
        drop(writable);
        if count == 0 {
            return end;
        }
        let count = new::int(py, count)?;
        self.after(py, protocol::buffer_updated(names, protocol, count.as_any()), end)
    }

    /// What follows from a call of the protocol, and from how the reads before it have ended: what was read before an
    /// error is delivered first. If the call leaves the loop, an end that no other read would find again is kept.
    fn after(&self, py: Python<'_>, told: Result<(), Failure>, end: End) -> End {
        let Err(Failure { error, .. }) = told else {
            return end;
        };
        let is_final = !matches!(end, Ok(Outcome::Again | Outcome::Done(_)));
        if is_final && leaves_the_loop(py, &error) {
            self.state.with(py, |state| state.end = Some(end));
        }
        Err(error)
    }

    /// Has a method of the layer that reads on called in the next turn.
    fn read_later(slf: &Bound<'_, Self>, method: &Bound<'_, PyString>) -> PyResult<()> {
        Self::call_soon(slf, method)?;
        slf.get().reads_on.store(true, Relaxed);
        Ok(())
    }
}

/// Reads until the buffer is full or nothing is left; returns also how many bytes that gives.
fn read_all(py: Python<'_>, engine: &Engine, mut buffer: Target<'_>) -> (usize, End) {
    let mut filled = 0;
    while filled < buffer.len() {
        match engine.read(py, buffer.skip(filled)) {
            Ok(Outcome::Done(count)) => filled += count,
            end => return (filled, end),
        }
        // A read that finds nothing costs as much as a small one.
        if engine.is_drained(py) {
            return (filled, Ok(Outcome::Again));
        }
    }
    (filled, Ok(Outcome::Done(filled)))
}
