//! Bytes in: received by the transport below, decrypted, given to the protocol.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;

use super::engine::{Engine, Read};
use super::{Phase, TlsLayer};
use crate::core::Buffer;
use crate::error::{leaves_the_loop, no_memory};
use crate::handle::Callback;
use crate::py::bytes::{self, Target, Writable};
use crate::py::calls;
use crate::py::new;
use crate::transports::above::{Receive, Received};

/// What ended a series of reads.
pub(super) enum End {
    /// Nothing is left before more comes from the peer.
    Nothing,
    /// The buffer is full.
    Full,
    Closed,
    Failed(PyErr),
}

impl TlsLayer {
    /// A stream transport's call when there is something to receive.
    pub(super) fn receive(layer: &Bound<'_, PyAny>, receive: Receive<'_>) -> PyResult<Received> {
        let slf = layer.cast::<Self>()?;
        let (py, this) = (slf.py(), slf.get());
        let engine = this.engine()?;
        if this.phase() == Phase::Wrapped && this.is_behind(py)? {
            return Ok(Received::Later);
        }
        let spare = &this.core.spare_buffer;
        let mut buffer = match spare.with(py, Option::take) {
            Some(buffer) => buffer,
            None => Buffer::new().map_err(|_| no_memory())?,
        };
        let received = buffer.fill(receive);
        let (result, unused) = match received {
            Ok(count) if count > 0 => {
                let unused = engine.lend(py, buffer)?;
                let result = Self::proceed(slf);
                (result.map(|()| Received::Data), unused.or_else(|| engine.take_back(py)))
            }
            other => (Ok(Received::Other(other)), Some(buffer)),
        };
        drop(spare.with(py, |spare| std::mem::replace(spare, unused)));
        result
    }

    /// Goes on with what was received.
    pub(super) fn proceed(slf: &Bound<'_, Self>) -> PyResult<()> {
        match slf.get().phase() {
            Phase::Wrapped => Self::read_app(slf),
            Phase::Unwrapped => Ok(()),
            _ => {
                slf.get().engine()?.hand_over(slf.py())?;
                calls::method(slf.as_any(), &slf.get().core.names._proceed, []).map(drop)
            }
        }
    }

    /// True if there is something left to read of what was received.
    fn is_behind(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.reads_on.load(Relaxed) || self.engine()?.input_len(py) > 0)
    }

    /// Delivers what can be decrypted, and sends what that has brought about.
    pub(super) fn read_app(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().reads_on.store(false, Relaxed);
        if !matches!(slf.get().phase(), Phase::Wrapped | Phase::Flushing) {
            return Ok(());
        }
        match Self::deliver(slf) {
            Err(error) if leaves_the_loop(slf.py(), &error) => {
                // What has come behind it is in no socket, and makes no event: it is read when the loop runs on.
                return slf.get().read_later(slf, "_proceed").and(Err(error));
            }
            // As in asyncio, whose transport below gets to see a CancelledError.
            Err(error) if !error.is_instance_of::<PyException>(slf.py()) => return Err(error),
            Err(error) => return Self::fail(slf, error, "Fatal error on SSL protocol"),
            Ok(()) => {}
        }
        let sent = Self::encrypt(slf, false);
        sent.and(slf.get().receive_on(slf.py()))
    }

    /// Has a stream transport that was told "later" receive again, once everything is read.
    fn receive_on(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(stream) = self.stream(py)
            && !self.is_paused(py)
            && !self.is_behind(py)?
        {
            stream.get().read_on(py);
        }
        Ok(())
    }

    fn deliver(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        loop {
            let to = this.state.with(py, |state| {
                let protocol = state.protocol.as_ref().filter(|_| !state.paused)?;
                Some((protocol.bind(py).clone(), state.buffered))
            });
            // The protocol may have ended the connection, or paused it.
            let Some((protocol, buffered)) =
                to.filter(|_| matches!(this.phase(), Phase::Wrapped | Phase::Flushing))
            else {
                return Ok(());
            };
            let kept = this.state.with(py, |state| state.end.take());
            let end = match kept {
                Some(end) => end,
                None if buffered => this.read_into_protocol(slf, &protocol)?,
                None => this.read_bytes(py, &protocol)?,
            };
            match end {
                End::Nothing => return Ok(()),
                // The rest has to wait for the protocol's next buffer: the others get their turn first.
                End::Full if buffered => return this.read_later(slf, "_read_on"),
                End::Full => {}
                End::Closed => {
                    let told = calls::method(slf.as_any(), &this.core.names._call_eof_received, []);
                    // Also when that leaves the loop: nothing else ends the connection.
                    let ended = slf.call_method0(&this.core.names._start_shutdown);
                    return told.and(ended).map(drop);
                }
                End::Failed(error) => return Err(error),
            }
        }
    }

    /// Everything that can be decrypted in one `bytes`, in one call.
    fn read_bytes(&self, py: Python<'_>, protocol: &Bound<'_, PyAny>) -> PyResult<End> {
        let engine = self.engine()?;
        let capacity = engine.readable_at_most(py);
        if capacity == 0 {
            return Ok(End::Nothing);
        }
        let mut end = End::Full;
        let filled = bytes::fill_new(py, capacity, |buffer| {
            let (count, ended) = read_all(py, engine, buffer.into());
            end = ended;
            Ok::<_, PyErr>(count)
        })?;
        let (data, count) = filled?;
        if count > 0 {
            // What came before an error is delivered.
            let told = calls::method(protocol, &self.core.names.data_received, [data.as_any()]);
            return self.after(py, told, end);
        }
        Ok(end)
    }

    /// What comes after a call of the protocol: the end that was read behind its data. When the call leaves the loop, an
    /// end that no other read would find again is kept for the next one.
    fn after(&self, py: Python<'_>, told: PyResult<Bound<'_, PyAny>>, end: End) -> PyResult<End> {
        let Err(error) = told else {
            return Ok(end);
        };
        if leaves_the_loop(py, &error) && matches!(end, End::Closed | End::Failed(_)) {
            self.state.with(py, |state| state.end = Some(end));
        }
        Err(error)
    }

    fn read_into_protocol(&self, slf: &Bound<'_, Self>, protocol: &Bound<'_, PyAny>) -> PyResult<End> {
        let (py, engine, names) = (slf.py(), self.engine()?, self.core.names);
        if engine.is_drained(py) {
            return Ok(End::Nothing);
        }
        let hint = engine.input_len(py);
        let lent = calls::method(protocol, &names.get_buffer, [&new::int(py, hint)?.into_any()])?;
        if lent.len()? == 0 {
            return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
        }
        let mut writable = Writable::get(&lent)?;
        let (count, end) = read_all(py, engine, writable.target());
        drop(writable);
        if count > 0 {
            let count = new::int(py, count)?.into_any();
            return self.after(py, calls::method(protocol, &names.buffer_updated, [&count]), end);
        }
        Ok(end)
    }

    /// Has a method of the layer that reads on called in the next turn.
    fn read_later(&self, slf: &Bound<'_, Self>, method: &str) -> PyResult<()> {
        let callback = Callback { callback: slf.getattr(method)?, args: &[], context: None };
        self.core.call_soon(self.event_loop.bind(slf.py()), callback)?;
        self.reads_on.store(true, Relaxed);
        Ok(())
    }
}

/// Reads until the buffer is full or nothing is left.
fn read_all(py: Python<'_>, engine: &Engine, mut buffer: Target<'_>) -> (usize, End) {
    let mut filled = 0;
    while filled < buffer.len() {
        match engine.read(py, buffer.skip(filled)) {
            Ok(Read::Some(count)) => {
                filled += count;
                // A read in vain costs as much as a small one.
                if engine.is_drained(py) {
                    return (filled, End::Nothing);
                }
            }
            Ok(Read::Nothing) => return (filled, End::Nothing),
            Ok(Read::Closed) => return (filled, End::Closed),
            Err(error) => return (filled, End::Failed(error)),
        }
    }
    (filled, End::Full)
}
