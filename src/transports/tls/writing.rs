//! Bytes out: what the program writes is encrypted here, and handed to the transport below.
//!
//! A write is encrypted at once, and the transport below sends it at once. The outbox may keep a piece back if the
//! connection writes in pieces. Then the piece shares a record with what the same callback writes next. While the
//! transport below takes no more, and before the handshake is done, writes are queued in clear.
//!
//! The steps are `write` -> `encrypt` -> `encrypt_batch`, which takes chunks out of the outbox and has the engine
//! encrypt them -> `send_output` -> the transport below. What OpenSSL has to say by itself, for the handshake for
//! instance, leaves by `send_output` as well. The protocol is paused and resumed by all that waits, here and in the
//! transport below.

use std::collections::TryReserveError;

use pyo3::prelude::*;

use super::outcome::Outcome;
use super::{KIND, Phase, State, TlsLayer};
use crate::core::{LoopCore, TlsIo};
use crate::error::no_memory;
use crate::py::bytes::Chunk;
use crate::py::calls;
use crate::py::context;
use crate::py::new::{self, intern};
use crate::transports::flow::{Queue, Signal};
use crate::transports::outbox::{Follow, Next};
use crate::transports::protocol::Reporter;
use crate::transports::stream::StreamTransport;

/// Most clear bytes of a record (RFC 8446, 5.1): smaller chunks are put together.
const RECORD: usize = 16 * 1024;
/// So many bytes are encrypted at most before the transport below gets them.
const BATCH: usize = 256 * 1024;

impl TlsLayer {
    /// One write, of several chunks perhaps.
    pub(super) fn write<I>(slf: &Bound<'_, Self>, chunks: I) -> PyResult<()>
    where
        I: IntoIterator<Item = Chunk, IntoIter: ExactSizeIterator> + AsRef<[Chunk]>,
    {
        let (py, this) = (slf.py(), slf.get());
        let (phase, core) = (this.phase(), &this.core);
        if this.drops_writes() {
            return this.lose_write(py);
        }
        let len: usize = chunks.as_ref().iter().map(|chunk| chunk.as_ref().len()).sum();
        let follow = this.state.with(py, |state| {
            let outbox = &mut state.outbox;
            let nothing = len == 0 && outbox.queue.is_empty();
            let next = match phase {
                Phase::Wrapped if !nothing => outbox.next(len, true, core.moment(), || core.clock.now_ns()),
                _ => Next::Wait,
            };
            outbox.queue.push_all(chunks)?;
            // The water marks count what the transport below has queued as well: see `queue_grown`.
            Ok(if next == Next::Wait { Follow::Tell(None) } else { outbox.queued(next) })
        });
        match follow.map_err(|_: TryReserveError| no_memory())? {
            Follow::Send => Self::encrypt(slf, false)?,
            Follow::Flush(due) => core.gather(slf.as_any(), &KIND, due),
            Follow::Tell(_) => {}
        }
        Self::queue_grown(slf)
    }

    /// True once the connection is closing: what is written is lost.
    #[inline]
    pub(super) fn drops_writes(&self) -> bool {
        !matches!(self.phase(), Phase::Handshake | Phase::Wrapped)
    }

    /// A write after the end: it is dropped, and warned about when it goes on.
    #[cold]
    fn lose_write(&self, py: Python<'_>) -> PyResult<()> {
        if self.state.with(py, |state| state.outbox.lose()) {
            let text = new::string(py, "SSL connection is closed")?;
            self.core.names.logger.call_method1(py, intern!(py, "warning")?, (text,))?;
        }
        Ok(())
    }

    /// The loop's call when what was kept back is to leave.
    pub(super) fn flush(object: &Bound<'_, PyAny>) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let (py, this) = (slf.py(), slf.get());
        let sent = this.state.with(py, |state| {
            state.outbox.deferred = false;
            state.outbox.queue.is_empty()
        });
        if sent {
            // What `data_received()` has written was sent by `read_app()`.
            return Ok(());
        }
        match this.stream(py) {
            Some(stream) => context::run_in(&stream.get().context(py), || Self::encrypt(slf, false)),
            None => Self::encrypt(slf, false),
        }
    }

    /// The program asks the transport something: it is to find that everything was sent which the kernel takes.
    pub(super) fn send_kept(slf: &Bound<'_, Self>) -> PyResult<()> {
        let kept = slf.get().state.with(slf.py(), |state| state.outbox.asked() && state.outbox.deferred);
        if !kept {
            return Ok(());
        }
        Self::encrypt(slf, false)?;
        Self::queue_grown(slf)
    }

    /// Encrypts what is queued, and hands it down: as much as the transport below takes, or all of it.
    pub(super) fn encrypt(slf: &Bound<'_, Self>, all: bool) -> PyResult<()> {
        let encrypted = loop {
            let more = slf.get().encrypt_batch(slf.py(), all);
            match more.and_then(|more| Self::send_output(slf).map(|()| more)) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        match encrypted {
            Ok(()) => Self::queue_shrunk(slf),
            Err(error) => Self::fail(slf, error),
        }
    }

    /// Encrypts as much as the transport below gets at once. True if there is more to encrypt.
    fn encrypt_batch(&self, py: Python<'_>, all: bool) -> PyResult<bool> {
        let mut encrypted = 0;
        while self.phase().carries_data() {
            if encrypted >= BATCH {
                return Ok(true);
            }
            let next = self.state.with(py, |state| state.next_chunk(all, &self.core));
            let Some(chunk) = next.map_err(|_| no_memory())? else {
                return Ok(false);
            };
            let engine = self.engine()?;
            if encrypted == 0 {
                engine.ends().lend_output(self.core.tls_io.with(py, TlsIo::take_output));
            }
            let data = chunk.as_ref();
            match engine.write(py, &data[..data.len().min(BATCH)])? {
                Outcome::Done(count) => {
                    encrypted += count;
                    if count < data.len() {
                        self.state.with(py, |state| state.outbox.queue.put_back(chunk.skip(count)));
                    }
                }
                Outcome::Again | Outcome::Closed => {
                    self.state.with(py, |state| state.outbox.queue.put_back(chunk));
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    /// Hands down what is encrypted.
    pub(super) fn send_output(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let engine = this.engine()?;
        if engine.output_len(py)? == 0 {
            return Ok(());
        }
        let data = engine.ends().take_output();
        let sent = this.lower(py).map_or(Ok(()), |lower| match lower.cast_exact::<StreamTransport>() {
            Ok(stream) => StreamTransport::send_now(stream, &data),
            Err(_) => {
                let data = new::bytes(py, &data)?;
                calls::method(&lower, &this.core.names.write, [data.as_any()]).map(drop)
            }
        });
        this.core.tls_io.with(py, |io| io.put_output(data));
        sent
    }

    /// Pauses the protocol if more waits to be sent, here and in the transport below, than the high-water mark allows.
    pub(super) fn queue_grown(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let (below, phase) = (this.queued_below(py), this.phase());
        let signal = this.state.with(py, |state| {
            let outbox = &mut state.outbox;
            let own = outbox.queue.size();
            // What is kept back does not count: the kernel may take all of it.
            let waits = outbox.blocked || phase != Phase::Wrapped || own == 0;
            outbox.flow.grown(if waits { own + below } else { 0 })
        });
        Self::tell_flow(slf, signal)
    }

    /// Resumes the protocol if no more waits to be sent, here and in the transport below, than the low-water mark says.
    pub(super) fn queue_shrunk(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if !this.state.with(py, |state| state.outbox.flow.is_paused()) {
            return Ok(());
        }
        let queued = this.queued(py);
        let signal = this.state.with(py, |state| state.outbox.flow.shrunk(queued));
        Self::tell_flow(slf, signal)
    }

    /// Has the program's protocol pause or resume its writing. asyncio's report of what fails names the transport that
    /// the program has, and the layer as the protocol.
    fn tell_flow(slf: &Bound<'_, Self>, signal: Option<Signal>) -> PyResult<()> {
        let Some(signal) = signal else {
            return Ok(());
        };
        let (py, this) = (slf.py(), slf.get());
        let reporter = Reporter {
            core: &this.core,
            event_loop: &this.event_loop,
            transport: &slf.getattr(intern!(py, "_app_transport")?)?,
            protocol: Some(slf.clone().into_any()),
        };
        reporter.flow(this.protocol(py).as_ref(), signal)
    }
}

impl State {
    /// What to encrypt next: a large chunk as it is, small ones together. `all`: also while the transport below takes
    /// no more.
    fn next_chunk(&mut self, all: bool, core: &LoopCore) -> Result<Option<Chunk>, TryReserveError> {
        let outbox = &mut self.outbox;
        outbox.sent(|| core.clock.now_ns());
        if outbox.blocked && !all {
            return Ok(None);
        }
        let first = outbox.queue.front_len();
        if first == outbox.queue.size() || first >= RECORD {
            return Ok(outbox.queue.take_front().map(|(chunk, sent)| chunk.skip(sent)));
        }
        Ok(Some(Chunk::from_vec(outbox.queue.gather(RECORD)?)))
    }
}
