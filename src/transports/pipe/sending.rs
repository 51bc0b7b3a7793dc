//! The bytes of a writing end: given to the kernel by `write` at once, or kept back for what the same callback writes
//! next (`habit.rs`); queued while the kernel takes no more.

use std::collections::TryReserveError;
use std::io;
use std::os::fd::AsRawFd;

use pyo3::exceptions::{PyAssertionError, PyTypeError};
use pyo3::prelude::*;

use super::writing::{KIND, WritePipeTransport, Writing};
use super::{End, State};
use crate::error::{no_memory, os_error};
use crate::py::bytes::Chunk;
use crate::py::context;
use crate::py::fastcall::{self, Arguments};
use crate::py::new::intern;
use crate::reactor::sys;
use crate::transports::flow::Signal;
use crate::transports::habit::{LARGE, When};
use crate::transports::lifecycle::{Action, Event};
use crate::transports::report::DROPPED_WRITES_BEFORE_WARNING;

impl WritePipeTransport {
    fn write<'py>(slf: &Bound<'py, Self>, args: &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        let data = args.single("write", "data")?;
        let Some(chunk) = Chunk::from_write(&data)? else {
            return Err(refuse(&data));
        };
        Self::write_chunk(slf, chunk)?;
        Ok(slf.py().None().into_bound(slf.py()))
    }

    pub(super) fn write_chunk(slf: &Bound<'_, Self>, chunk: Chunk) -> PyResult<()> {
        let (py, end) = (slf.py(), &slf.get().end);
        if chunk.as_ref().is_empty() {
            return Ok(());
        }
        if end.is_closing(py) {
            return Self::write_dropped(slf);
        }
        let core = &end.core;
        let queued = end.state.with(py, |state| {
            let side = &mut state.side;
            side.queue.push(chunk)?;
            if side.blocked {
                return Ok((false, None));
            }
            Ok(match side.habit.write(core.moment(), || core.clock.now_ns()) {
                When::With(due) if side.queue.len() < LARGE && !side.by_record => {
                    (false, (!std::mem::replace(&mut side.gathering, true)).then_some(due))
                }
                _ => (true, None),
            })
        });
        let (send, gather) = queued.map_err(|_: TryReserveError| no_memory())?;
        if let Some(due) = gather {
            core.gather(slf.as_any(), &KIND, due);
        }
        if send {
            Self::send_queued(slf)?;
        }
        Self::queue_grown(slf)
    }

    /// A write after the end: dropped, and warned about when it goes on.
    #[cold]
    fn write_dropped(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, end) = (slf.py(), &slf.get().end);
        let count = end.state.with(py, |state| {
            let count = state.side.dropped_writes;
            state.side.dropped_writes = count.saturating_add(1);
            count
        });
        if count >= DROPPED_WRITES_BEFORE_WARNING {
            let text = "pipe closed by peer or os.write(pipe, data) raised exception.";
            end.core.names.logger.call_method1(py, intern!(py, "warning")?, (text,))?;
        }
        Ok(())
    }

    /// The loop's call when what was kept back is to leave.
    pub(super) fn flush(object: &Bound<'_, PyAny>) -> PyResult<()> {
        let slf = object.cast::<Self>()?;
        let (py, end) = (slf.py(), &slf.get().end);
        end.state.with(py, |state| state.side.gathering = false);
        context::run_in(&end.context(py), || {
            Self::send_queued(slf)?;
            Self::queue_grown(slf)
        })
    }

    /// The program asks the transport something: it finds that everything was sent which the kernel takes.
    pub(super) fn send_kept(slf: &Bound<'_, Self>) -> PyResult<()> {
        let kept = slf.get().end.state.with(slf.py(), |state| {
            state.side.habit.asked();
            !state.side.blocked && !state.side.queue.is_empty()
        });
        if !kept {
            return Ok(());
        }
        Self::send_queued(slf)?;
        Self::queue_grown(slf)
    }

    /// Gives the kernel what it takes of the queue, and does what follows from it.
    pub(super) fn send_queued(slf: &Bound<'_, Self>) -> PyResult<()> {
        let end = &slf.get().end;
        let sent = end.state.with(slf.py(), |state| {
            let result = end.send(state);
            state.side.habit.sent(|| end.core.clock.now_ns());
            let held_as_ever = state.side.tells_end || state.side.twin.is_none();
            let quiet = held_as_ever && !state.side.flow.is_paused() && !state.life.is_closing();
            result.map(|()| quiet && !state.side.is_blocked_unwatched())
        });
        match sent {
            // Nearly always.
            Ok(true) => Ok(()),
            sent => Self::sent(slf, sent.map(drop)),
        }
    }

    fn sent(slf: &Bound<'_, Self>, result: io::Result<()>) -> PyResult<()> {
        let (py, end) = (slf.py(), &slf.get().end);
        let result = result.map_err(|error| os_error(&error));
        if let Err(exc) = result.and_then(|()| Self::watch_blocked(slf)) {
            let told = end.reporter(slf.as_any()).debug_error("Fatal write error on pipe transport", &exc);
            end.state.with(py, |state| {
                state.side.dropped_writes += 1;
                state.side.queue.clear();
            });
            return told.and(Self::fail(slf, Some(exc.into_value(py).into_any())));
        }
        // asyncio waits for the last byte, whatever the low mark is. resume_writing() is never called after the end.
        let signal = end.state.with(py, |state| {
            let resumes = state.side.queue.is_empty() && !state.life.drops_writes();
            if resumes { state.side.flow.shrunk(0) } else { None }
        });
        // May write again, and may leave the loop: everything else follows all the same.
        let told = Self::tell_flow(slf, signal);
        let action = end.state.with(py, |state| {
            if state.side.queue.is_empty() { state.life.on(Event::Drained) } else { Action::Nothing }
        });
        Self::hold(slf);
        told.and(end.perform(slf.as_any(), action, None))
    }

    fn hold(slf: &Bound<'_, Self>) {
        let waits = |state: &State<Writing>| state.side.tells_end || !state.side.queue.is_empty();
        slf.get().end.hold(slf.as_any(), &KIND, waits);
    }

    /// Watches a file that has just blocked for the first time, and is not watched from the start.
    fn watch_blocked(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, end) = (slf.py(), &slf.get().end);
        if !end.state.with(py, |state| state.side.is_blocked_unwatched()) {
            return Ok(());
        }
        let twin = end.fd().and_then(|fd| fd.try_clone_to_owned()).map_err(|error| os_error(&error))?;
        let number = twin.as_raw_fd();
        end.state.with(py, |state| state.side.twin = Some(twin));
        end.watch(slf.as_any(), number, &KIND)
    }

    /// Pauses the protocol if the queue has grown over the mark.
    pub(super) fn queue_grown(slf: &Bound<'_, Self>) -> PyResult<()> {
        let signal = slf.get().end.state.with(slf.py(), |state| {
            let side = &mut state.side;
            // What is kept back does not count: the kernel may take all of it.
            side.flow.grown(if side.blocked { side.queue.len() } else { 0 })
        });
        Self::hold(slf);
        Self::tell_flow(slf, signal)
    }

    fn tell_flow(slf: &Bound<'_, Self>, signal: Option<Signal>) -> PyResult<()> {
        signal.map_or(Ok(()), |signal| slf.get().end.reporter(slf.as_any()).flow(signal))
    }
}

impl Writing {
    fn is_blocked_unwatched(&self) -> bool {
        self.blocked && !self.tells_end && self.twin.is_none()
    }
}

impl End<Writing> {
    /// Gives the kernel what it takes.
    pub(super) fn send(&self, state: &mut State<Writing>) -> io::Result<()> {
        let State { side, capacity, .. } = state;
        while !side.queue.is_empty() && !side.blocked {
            let (result, offered) = side.queue.with_front(usize::MAX, |slices| {
                let slices = if side.by_record { &slices[..1] } else { slices };
                let offered: usize = slices.iter().map(|slice| slice.len()).sum();
                (self.fd().and_then(|fd| sys::write(fd, slices)), offered)
            });
            match result {
                Ok(sent) => {
                    side.queue.advance(sent);
                    // A pipe or a stream that takes less is full. A device may take the rest.
                    let full = sent < offered && (!side.by_record || sent == 0);
                    side.blocked = full && !capacity.grow(&self.fd);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    side.blocked = !capacity.grow(&self.fd)
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The error for what cannot be written: asyncio's own, which comes before it looks at the transport.
#[cold]
fn refuse(data: &Bound<'_, PyAny>) -> PyErr {
    let py = data.py();
    let write = || {
        let module = py.import("asyncio.unix_events")?;
        module
            .getattr(intern!(py, "_UnixWritePipeTransport")?)?
            .call_method1(intern!(py, "write")?, (py.None(), data))
    };
    match write() {
        Err(error)
            if error.is_instance_of::<PyAssertionError>(py) || error.is_instance_of::<PyTypeError>(py) =>
        {
            error
        }
        // `python -O`, where asyncio fails later and somehow.
        _ => PyTypeError::new_err(format!("a bytes-like object is required, not {}", data.get_type())),
    }
}

/// Puts the raw methods on the class.
pub fn add_raw_methods(py: Python<'_>) -> PyResult<()> {
    fastcall::raw_methods! { WritePipeTransport, &py.get_type::<WritePipeTransport>(),
        write("($self, /, data)"):
            "Sends bytes, or queues what the kernel does not take. Never blocks.",
    }
    Ok(())
}
