//! Bytes out. `write` encrypts them, and the transport below sends them at once. A connection that writes in pieces may
//! keep a piece back, so that it shares a record with what the same callback writes next (`habit.rs`). While the
//! transport below takes no more, bytes are queued.

use std::collections::TryReserveError;

use pyo3::prelude::*;

use super::{KIND, Phase, State, TlsLayer};
use crate::error::no_memory;
use crate::py::bytes::Chunk;
use crate::py::calls;
use crate::py::context;
use crate::py::new::{self, intern};
use crate::transports::flow::Signal;
use crate::transports::habit::{LARGE, When};
use crate::transports::outbox::LOST_WRITES_BEFORE_WARNING;
use crate::transports::protocol::Reporter;
use crate::transports::stream::StreamTransport;

/// Most clear bytes of a record (RFC 8446, 5.1): smaller chunks are put together.
const RECORD: usize = 16 * 1024;
/// So many bytes are encrypted at most before the transport below gets them.
const BATCH: usize = 256 * 1024;

impl TlsLayer {
    /// Queues what was written, unless the connection is closing.
    pub(super) fn write<I>(slf: &Bound<'_, Self>, chunks: I) -> PyResult<()>
    where
        I: IntoIterator<Item = Chunk, IntoIter: ExactSizeIterator>,
    {
        let (py, this) = (slf.py(), slf.get());
        let phase = this.phase();
        if this.drops_writes() {
            return this.write_dropped(py);
        }
        let core = &this.core;
        let queued = this.state.with(py, |state| {
            state.queue.push_all(chunks)?;
            if phase != Phase::Wrapped || state.queue.is_empty() || state.lower_paused {
                return Ok((false, None));
            }
            Ok(match state.habit.write(core.moment(), || core.clock.now_ns()) {
                When::With(due) if state.queue.len() < LARGE => {
                    (false, (!std::mem::replace(&mut state.gathering, true)).then_some(due))
                }
                _ => (true, None),
            })
        });
        let (now, gather) = queued.map_err(|_: TryReserveError| no_memory())?;
        if let Some(due) = gather {
            core.gather(slf.as_any(), &KIND, due);
        }
        if now {
            Self::encrypt(slf, false)?;
        }
        Self::queue_grown(slf)
    }

    /// True once the connection is closing: what is written is lost.
    #[inline]
    pub(super) fn drops_writes(&self) -> bool {
        !matches!(self.phase(), Phase::Handshake | Phase::Wrapped)
    }

    #[cold]
    fn write_dropped(&self, py: Python<'_>) -> PyResult<()> {
        let count = self.state.with(py, |state| {
            state.conn_lost = state.conn_lost.saturating_add(1);
            state.conn_lost - 1
        });
        if count >= LOST_WRITES_BEFORE_WARNING {
            self.core.names.logger.call_method1(
                py,
                intern!(py, "warning")?,
                ("SSL connection is closed",),
            )?;
        }
        Ok(())
    }

    /// The loop's call when what was kept back is to leave.
    pub(super) fn flush(object: &Bound<'_, PyAny>) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let (py, this) = (slf.py(), slf.get());
        let sent = this.state.with(py, |state| {
            state.gathering = false;
            state.queue.is_empty()
        });
        if sent {
            // What data_received() wrote was sent by read_app().
            return Ok(());
        }
        match this.stream(py) {
            Some(stream) => context::run_in(&stream.get().context(py), || Self::encrypt(slf, false)),
            None => Self::encrypt(slf, false),
        }
    }

    /// The program asks the transport something: it finds that everything was sent which the kernel takes.
    pub(super) fn send_kept(slf: &Bound<'_, Self>) -> PyResult<()> {
        let kept = slf.get().state.with(slf.py(), |state| {
            state.habit.asked();
            state.gathering && !state.queue.is_empty() && !state.lower_paused
        });
        if !kept {
            return Ok(());
        }
        Self::encrypt(slf, false)?;
        Self::queue_grown(slf)
    }

    /// Encrypts what is queued, and hands it down: as much as the transport below takes, or all of it.
    pub(super) fn encrypt(slf: &Bound<'_, Self>, all: bool) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        this.state.with(py, |state| state.habit.sent(|| this.core.clock.now_ns()));
        let encrypted = loop {
            match this.encrypt_batch(py, all) {
                Ok(more) => {
                    if let Err(error) = Self::send_output(slf) {
                        break Err(error);
                    }
                    if !more {
                        break Ok(());
                    }
                }
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = encrypted {
            return Self::fail(slf, error, "Fatal error on SSL protocol");
        }
        Self::queue_shrunk(slf)
    }

    /// True if there is more to encrypt.
    fn encrypt_batch(&self, py: Python<'_>, all: bool) -> PyResult<bool> {
        let mut encrypted = 0;
        while matches!(self.phase(), Phase::Wrapped | Phase::Flushing) {
            if encrypted >= BATCH {
                return Ok(true);
            }
            let next = self.state.with(py, |state| state.next_chunk(all));
            let Some(chunk) = next.map_err(|_| no_memory())? else {
                return Ok(false);
            };
            let engine = self.engine()?;
            if encrypted == 0 {
                engine.lend_output(py, self.core.spare_output.with(py, std::mem::take));
            }
            let data = chunk.as_ref();
            match engine.write(py, &data[..data.len().min(BATCH)]) {
                Ok(Some(count)) => {
                    encrypted += count;
                    if count < data.len() {
                        self.state.with(py, |state| state.queue.put_back(chunk.skip(count)));
                    }
                }
                Ok(None) => {
                    self.state.with(py, |state| state.queue.put_back(chunk));
                    return Ok(false);
                }
                Err(error) => return Err(error),
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
        let mut data = engine.take_output(py);
        let sent = if let Some(stream) = this.stream(py) {
            StreamTransport::send_now(&stream, &data)
        } else if let Some(other) = this.lower(py) {
            calls::method(&other, &this.core.names.write, [new::bytes(py, &data)?.as_any()]).map(drop)
        } else {
            Ok(())
        };
        // For its memory.
        data.clear();
        this.core.spare_output.with(py, |spare| {
            if spare.capacity() < data.capacity() {
                *spare = data;
            }
        });
        sent
    }

    /// Pauses the protocol if the queue, with that of the transport below, has grown over the mark.
    pub(super) fn queue_grown(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let queued = this.queued(py);
        let phase = this.phase();
        let signal = this.state.with(py, |state| {
            // What is kept back does not count: the kernel may take all of it.
            let waits = state.lower_paused || phase != Phase::Wrapped || state.queue.is_empty();
            state.flow.grown(if waits { queued } else { 0 })
        });
        Self::tell_flow(slf, signal)
    }

    /// Resumes the protocol if the queue, with that of the transport below, has shrunk to the mark.
    pub fn queue_shrunk(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        if !this.state.with(py, |state| state.flow.is_paused()) {
            return Ok(());
        }
        let queued = this.queued(py);
        let signal = this.state.with(py, |state| state.flow.shrunk(queued));
        Self::tell_flow(slf, signal)
    }

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
        reporter.flow_of(this.protocol(py).as_ref(), signal)
    }
}

impl State {
    /// What to encrypt next: a large chunk as it is, small ones together.
    fn next_chunk(&mut self, all: bool) -> Result<Option<Chunk>, TryReserveError> {
        if self.lower_paused && !all {
            return Ok(None);
        }
        let first = self.queue.front_len();
        if first == self.queue.len() || first >= RECORD {
            return Ok(self.queue.take_front().map(|(chunk, sent)| chunk.skip(sent)));
        }
        Ok(Some(Chunk::from_vec(self.queue.gather(RECORD)?)))
    }
}
