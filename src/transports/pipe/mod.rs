//! Pipe transports: the reading or the writing end of a pipe, a FIFO, a socket, a terminal or another character device.
//! The models are asyncio's `_UnixReadPipeTransport` and `_UnixWritePipeTransport`.
//!
//! Here is what the two ends share (`End`): the file, its registration, the protocol, and how all of it ends. The
//! classes are in `reading.rs` and `writing.rs`, how bytes leave in `sending.rs`, how much a pipe holds in
//! `capacity.rs`. What may be a pipe is asked once per file, in Python (`_pipes.py`).
//!
//! The program's pipe object owns the fd, and its `close()` closes it, once, after `connection_lost`. The rule for
//! every method is that of `stream/`: look at the state and change it inside one `state.with`, call Python only
//! outside.

mod capacity;
mod reading;
mod sending;
mod writing;

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyResourceWarning;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::inside::{self, Inside};
use super::lifecycle::{Action, Event, Lifecycle, Phase};
use super::report::Reporter;
use crate::core::{Kind, LoopCore, Native};
use crate::handle::Callback;
use crate::py::cell::LoopCell;
use crate::py::context;
use crate::py::file_fd::FileFd;
use crate::py::new::{self, intern};
use crate::reactor::token::Token;
use capacity::Capacity;
pub use reading::ReadPipeTransport;
pub use sending::add_raw_methods;
pub use writing::WritePipeTransport;

/// One end of a pipe. `S`: what only the reading or only the writing end has.
struct End<S> {
    core: Arc<LoopCore>,
    event_loop: Py<PyAny>,
    fd: FileFd,
    state: LoopCell<State<S>>,
}

struct State<S> {
    /// The object that owns the fd; none once it was closed.
    pipe: Option<Py<PyAny>>,
    /// None once `connection_lost` was called.
    protocol: Option<Py<PyAny>>,
    /// The registration: none before `connection_made` was called and once `connection_lost` is scheduled.
    token: Option<Token>,
    /// Does the loop hold the transport? See `End::hold`.
    held: bool,
    /// Where the protocol is called: in a copy of the context that was current when the fd was first watched.
    context: Py<PyAny>,
    extra: Py<PyDict>,
    life: Lifecycle,
    capacity: Capacity,
    side: S,
}

/// What a pipe transport is made of; the parts are those of `BaseEventLoop._make_read_pipe_transport`.
pub struct Parts<'a, 'py> {
    pub core: &'a Arc<LoopCore>,
    pub event_loop: &'a Bound<'py, PyAny>,
    pub pipe: Bound<'py, PyAny>,
    pub fd: RawFd,
    pub protocol: Bound<'py, PyAny>,
    /// A future that is completed once `connection_made` was called.
    pub waiter: Option<Bound<'py, PyAny>>,
    pub extra: Option<Bound<'py, PyDict>>,
}

impl<S> End<S> {
    fn new(parts: &Parts<'_, '_>, side: S) -> PyResult<Self> {
        let py = parts.event_loop.py();
        let extra = parts.extra.clone().map_or_else(|| new::dict(py), Ok)?;
        extra.set_item(&parts.core.names.pipe, &parts.pipe)?;
        let state = State {
            pipe: Some(parts.pipe.clone().unbind()),
            protocol: Some(parts.protocol.clone().unbind()),
            token: None,
            held: true,
            context: context::copy_current(py)?.unbind(),
            extra: extra.unbind(),
            life: Lifecycle::new(),
            capacity: Capacity::Given,
            side,
        };
        Ok(Self {
            core: parts.core.clone(),
            event_loop: parts.event_loop.clone().unbind(),
            fd: FileFd::with_number(&parts.pipe, parts.fd)?,
            state: LoopCell::new(state),
        })
    }

    /// Schedules, in this order: `connection_made`, `_start_watching` if there is anything to watch, the waiter.
    fn start(parts: Parts<'_, '_>, transport: &Bound<'_, PyAny>, watched: bool) -> PyResult<()> {
        let Parts { core, event_loop, protocol, waiter, .. } = parts;
        let (py, names) = (event_loop.py(), core.names);
        core.check_closed()?;
        let call_soon =
            |callback, args: &[_]| core.call_soon(event_loop, Callback { callback, args, context: None });
        call_soon(protocol.getattr(&names.connection_made)?, &[transport.as_ptr()])?;
        if watched {
            call_soon(transport.getattr(intern!(py, "_start_watching")?)?, &[])?;
        }
        if let Some(waiter) = waiter {
            let set_result = names.set_result_unless_cancelled.bind(py).clone();
            call_soon(set_result, &[waiter.as_ptr(), py.None().as_ptr()])?;
        }
        Ok(())
    }

    /// Has the loop watch `fd` for this end from now on, and call the protocol in a copy of the current context.
    fn watch(&self, transport: &Bound<'_, PyAny>, fd: RawFd, kind: &'static Kind) -> PyResult<()> {
        let py = transport.py();
        self.core.check_closed()?;
        let context = context::copy_current(py)?.unbind();
        drop(self.state.with(py, |state| std::mem::replace(&mut state.context, context)));
        let native = Native { object: transport.clone().unbind(), kind };
        let token = self.core.register(py, fd, native)?;
        self.state.with(py, |state| (state.token, state.held) = (Some(token), true));
        Ok(())
    }

    /// The loop holds the transport for as long as there is anything to do or to tell (`wanted`), as that of streams.
    fn hold(
        &self,
        transport: &Bound<'_, PyAny>,
        kind: &'static Kind,
        wanted: impl FnOnce(&State<S>) -> bool,
    ) {
        let py = transport.py();
        let change = self.state.with(py, |state| {
            let wanted = wanted(state);
            state
                .token
                .filter(|_| std::mem::replace(&mut state.held, wanted) != wanted)
                .map(|token| (token, wanted))
        });
        if let Some((token, held)) = change
            && !self.core.hold(transport, kind, token, held)
        {
            self.state.with(py, |state| state.held = !held);
        }
    }

    /// The fd. EBADF when the program has closed its pipe object behind our back.
    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.fd.get()
    }

    fn let_grow(&self, py: Python<'_>) {
        self.state.with(py, |state| state.capacity = Capacity::Growing);
    }

    fn context<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.state.with(py, |state| state.context.bind(py).clone())
    }

    fn protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.state.with(py, |state| state.protocol.as_ref().map(|protocol| protocol.bind(py).clone()))
    }

    fn set_protocol(&self, py: Python<'_>, protocol: Py<PyAny>) {
        drop(self.state.with(py, |state| state.protocol.replace(protocol)));
    }

    fn is_closing(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.life.is_closing())
    }

    fn extra<'py>(&self, py: Python<'py>) -> Bound<'py, PyDict> {
        self.state.with(py, |state| state.extra.bind(py).clone())
    }

    /// For the attributes that `_transports.py` adds.
    fn inside<'py>(&self, py: Python<'py>, lost: u32, queued: Vec<Vec<u8>>) -> PyResult<Inside<'py>> {
        let closed = self.state.with(py, |state| state.pipe.is_none());
        Ok((self.fd.number(), closed, lost, self.extra(py), inside::chunks(py, queued)?))
    }

    fn reporter<'a, 'py>(&'a self, transport: &'a Bound<'py, PyAny>) -> Reporter<'a, 'py> {
        let protocol = self.protocol(transport.py());
        Reporter { core: &self.core, event_loop: &self.event_loop, transport, protocol }
    }

    /// In debug mode, as asyncio does.
    fn log_closed_by_peer(&self, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.core.debug.load(Relaxed) {
            let details = ("%r was closed by peer", transport);
            self.core.names.logger.call_method1(transport.py(), "info", details)?;
        }
        Ok(())
    }

    /// `<Name fd=... `, or `closing` or `closed` before the number. asyncio's repr goes on with what is being polled,
    /// where there is a loop and a pipe: true.
    fn describe(&self, name: &str, state: &State<S>) -> (String, bool) {
        let open = state.pipe.is_some();
        let life = match (open, state.life.phase()) {
            (false, _) => " closed",
            (true, Phase::Open) => "",
            (true, _) => " closing",
        };
        let mut text = format!("<{name}{life} fd={}", self.fd.number());
        let polls = open && !self.core.closed.load(Relaxed);
        match (polls, open) {
            (true, _) => {}
            (false, true) => text.push_str(" open>"),
            (false, false) => text.push_str(" closed>"),
        }
        (text, polls)
    }

    // ------------------------------------------------------------------------------------------ the end

    /// Does what `lifecycle.rs` has answered.
    fn perform(&self, transport: &Bound<'_, PyAny>, action: Action, exc: Option<Py<PyAny>>) -> PyResult<()> {
        if action != Action::ScheduleLost {
            return Ok(());
        }
        let py = transport.py();
        if let Some(token) = self.state.with(py, |state| state.token.take()) {
            self.core.deregister(py, token);
        }
        self.core.check_closed()?;
        let lost = transport.getattr(intern!(py, "_call_connection_lost")?)?;
        let exc = exc.unwrap_or_else(|| py.None());
        let callback = Callback { callback: lost, args: &[exc.as_ptr()], context: None };
        self.core.call_soon(self.event_loop.bind(py), callback).map(drop)
    }

    /// Calls `connection_lost`, then closes the pipe object and lets go of everything.
    fn call_connection_lost(&self, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = exc.py();
        if self.state.with(py, |state| state.life.phase() != Phase::Lost) {
            return Ok(());
        }
        let told = match self.protocol(py) {
            Some(protocol) => protocol.call_method1(&self.core.names.connection_lost, (exc,)).map(drop),
            None => Ok(()),
        };
        let (pipe, protocol) = self.state.with(py, |state| {
            state.life.on(Event::Delivered);
            state.capacity = Capacity::Given;
            (state.pipe.take(), state.protocol.take())
        });
        drop(protocol);
        let closed = match pipe {
            Some(pipe) => pipe.call_method0(py, &self.core.names.close).map(drop),
            None => Ok(()),
        };
        told.and(closed)
    }

    /// For `Drop`: warns of a transport that nobody closed, as asyncio does, and closes its pipe object.
    fn dropped(&mut self, py: Python<'_>, text: String) {
        let state = self.state.get_mut();
        if let Some(token) = state.token.take() {
            self.core.deregister(py, token);
        }
        let Some(pipe) = self.state.get_mut().pipe.take() else {
            return;
        };
        // A finalizer must leave the exception that is being handled alone.
        let raised = PyErr::take(py);
        let warning = std::ffi::CString::new(format!("unclosed transport {text}")).unwrap_or_default();
        let warned = PyErr::warn(py, &py.get_type::<PyResourceWarning>(), &warning, 1);
        let closed = pipe.call_method0(py, &self.core.names.close).map(drop);
        for error in [warned, closed].into_iter().filter_map(Result::err) {
            error.write_unraisable(py, None);
        }
        if let Some(raised) = raised {
            raised.restore(py);
        }
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        self.fd.traverse(visit)?;
        self.state
            .peek(visit, |state| {
                visit.call(&state.pipe)?;
                visit.call(&state.protocol)?;
                visit.call(&state.context)?;
                visit.call(&state.extra)
            })
            .unwrap_or(Ok(()))
    }

    fn clear(&self, py: Python<'_>) {
        drop(self.state.with(py, |state| state.protocol.take()));
        self.extra(py).clear();
    }
}
