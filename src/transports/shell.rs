//! The shell: what all transports over a file have in common, whatever they send or receive.
//!
//! [`Shell`] holds the parts: the loop, and, in one cell, the life of the connection, its protocol, the context in
//! which the protocol is called, the token of its registration, and a side that only one kind of transport has.
//! [`Transport`] is what each kind says of itself, and what all of them do in the same way: start, pause and resume
//! reading, end, be held by the loop, warn when nobody has closed them. What those have in common that send is in
//! `sender.rs`.
//!
//! The system calls, and what is in a side, are the business of the kinds (`stream/`, `datagram/`, `pipe/`). No kind is
//! named here.
//!
//! One rule holds for every method of a transport. It looks at the state and changes it inside of one `state.with`, and
//! calls Python only outside: a call of Python can come back to the same transport. What is to be called is what the
//! closure returns. The same goes for dropping a Python object, whose finalizer is the program's code; exact `bytes`
//! have none.

use std::sync::Arc;

use pyo3::exceptions::PyNotImplementedError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::pyclass::PyClass;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::PyDict;

use super::inside::Inside;
use super::lifecycle::{Action, Event, Lifecycle, Phase};
use super::protocol::{self, Failure, Reporter};
use super::socket::File;
use crate::core::{Kind, LoopCore, Native};
use crate::error::leaves_the_loop;
use crate::handle::Callback;
use crate::py::cell::LoopCell;
use crate::py::context;
use crate::py::new::{self, intern};
use crate::reactor::readiness::Readiness;
use crate::reactor::token::Token;

/// Why a connection ends whose fd the kernel refuses to watch.
pub const NOT_WATCHED: &str = "Fatal error: the socket cannot be watched.";

/// A change of who holds a transport: its registration's token, and whether the loop is to hold it from now on.
pub type Hold = Option<(Token, bool)>;

/// What a transport holds.
pub struct Shell<S> {
    pub core: Arc<LoopCore>,
    pub event_loop: Py<PyAny>,
    pub state: LoopCell<State<S>>,
}

/// What changes while a transport lives.
pub struct State<S> {
    pub life: Lifecycle,
    /// None before it is known, and once `connection_lost` was called.
    pub protocol: Option<Py<PyAny>>,
    /// Where the protocol is called: in a copy of the context that was current when reading began, or was resumed.
    pub context: Py<PyAny>,
    /// Since CPython 3.15 a connection can have one context, for all of its callbacks and for good.
    pub own_context: bool,
    /// The registration. None before the file is registered, and once `connection_lost` is scheduled.
    pub token: Option<Token>,
    /// Does the loop hold the transport? See [`Transport::hold`].
    pub held: bool,
    pub file: File,
    /// What `get_extra_info` has been asked for, or was given; made when first needed.
    pub extra: Option<Py<PyDict>>,
    /// What only one kind of transport has.
    pub side: S,
}

/// What the shell asks of a side. Nothing in here calls Python.
pub trait Side: Send {
    /// May there be something to give to the protocol?
    fn may_have_data(&self) -> bool {
        false
    }

    /// Is there something that was written and not sent?
    fn has_unsent(&self) -> bool {
        false
    }

    /// Does the transport wait for anything beside data to read and to send?
    fn waits(&self) -> bool {
        false
    }

    /// Visits the Python objects of the side.
    fn traverse(&self, _visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        Ok(())
    }
}

impl<S: Side> Shell<S> {
    /// `context`: the one that the connection keeps for good. None: as asyncio before CPython 3.15, a copy of the
    /// current one.
    pub fn new(
        core: &Arc<LoopCore>,
        event_loop: &Bound<'_, PyAny>,
        protocol: Option<&Bound<'_, PyAny>>,
        context: Option<&Bound<'_, PyAny>>,
        file: File,
        extra: Option<&Bound<'_, PyDict>>,
        side: S,
    ) -> PyResult<Self> {
        let state = State {
            file,
            extra: extra.map(|extra| extra.clone().unbind()),
            life: Lifecycle::new(),
            protocol: protocol.map(|protocol| protocol.clone().unbind()),
            own_context: context.is_some(),
            context: context
                .map_or_else(|| context::copy_current(event_loop.py()), |own| Ok(own.clone()))?
                .unbind(),
            token: None,
            held: true,
            side,
        };
        Ok(Self { core: core.clone(), event_loop: event_loop.clone().unbind(), state: LoopCell::new(state) })
    }

    /// The context in which the protocol is called.
    #[inline]
    pub fn context<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.state.with(py, |state| state.context.bind(py).clone())
    }

    /// The protocol; none once `connection_lost` was called.
    pub fn protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.state.with(py, |state| state.protocol.as_ref().map(|protocol| protocol.bind(py).clone()))
    }

    /// Is the transport closing or closed?
    pub fn is_closing(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.life.is_closing())
    }

    /// From here on the protocol is called in a copy of the current context, unless the connection has its own: in
    /// asyncio each new reader has such a copy.
    pub fn renew_context(&self, py: Python<'_>) -> PyResult<()> {
        let context = context::copy_current(py)?.unbind();
        drop(self.state.with(py, |state| {
            if state.own_context { context } else { std::mem::replace(&mut state.context, context) }
        }));
        Ok(())
    }

    /// The dictionary of `get_extra_info`.
    pub fn extra<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let extra = self.state.with(py, |state| state.extra.as_ref().map(|extra| extra.bind(py).clone()));
        if let Some(extra) = extra {
            return Ok(extra);
        }
        let extra = new::dict(py)?;
        self.state.with(py, |state| state.extra = Some(extra.clone().unbind()));
        Ok(extra)
    }

    /// For the attributes that `_transports.py` adds. `lost`: asyncio's `_conn_lost`.
    pub fn inside<'py>(
        &self,
        py: Python<'py>,
        lost: u32,
        queued: Vec<Bound<'py, PyAny>>,
    ) -> PyResult<Inside<'py>> {
        let extra = self.extra(py)?;
        let (number, closed) = self.state.with(py, |state| (state.file.number(), state.file.is_closed()));
        Ok((number, closed, lost, extra, queued))
    }

    /// Comes back in the next turn if there is more to read and somebody to give it to.
    pub fn read_on(&self, py: Python<'_>) {
        if let Some(token) = self.state.with(py, |state| state.more_to_read()) {
            self.core.requeue(py, token, Readiness::READABLE);
        }
    }

    /// What reports about the transport need. `transport`: the object that this is the shell of.
    pub fn reporter<'a, 'py>(&'a self, transport: &'a Bound<'py, PyAny>) -> Reporter<'a, 'py> {
        let protocol = self.protocol(transport.py());
        Reporter { core: &self.core, event_loop: &self.event_loop, transport, protocol }
    }

    /// Schedules a call for the next turn, in the connection's own context if it has one.
    pub fn call_soon<'py>(
        &self,
        callback: Bound<'py, PyAny>,
        args: &[*mut pyo3::ffi::PyObject],
    ) -> PyResult<()> {
        let py = callback.py();
        let context = self.state.with(py, |state| state.own_context.then(|| state.context.bind(py).clone()));
        self.core.call_soon(self.event_loop.bind(py), Callback { callback, args, context }).map(drop)
    }

    /// Schedules, in this order: `connection_made`, the transport's next step if it has one, the waiter's result.
    pub fn start<'py>(
        &self,
        transport: &Bound<'py, PyAny>,
        connection_made: Bound<'py, PyAny>,
        step: Option<Bound<'py, PyAny>>,
        waiter: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = transport.py();
        self.call_soon(connection_made, &[transport.as_ptr()])?;
        step.map_or(Ok(()), |step| self.call_soon(step, &[]))?;
        waiter.map_or(Ok(()), |waiter| {
            let set_result = self.core.names.set_result_unless_cancelled.bind(py).clone();
            self.call_soon(set_result, &[waiter.as_ptr(), py.None().as_ptr()])
        })
    }

    /// The start of a repr: `<Name fd=...`, with `closing` or `closed` before the number.
    pub fn describe(&self, name: &str, state: &State<S>) -> String {
        let life = match state.life.phase() {
            _ if state.file.is_closed() => " closed",
            Phase::Open => "",
            _ => " closing",
        };
        format!("<{name}{life} fd={}", state.file.number())
    }

    /// Shows the garbage collector every Python object that the transport holds. A state that is borrowed at the moment
    /// is left out: the collector takes its objects to be in use, which they are.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        let visit_state = |state: &State<S>| {
            visit.call(&state.protocol)?;
            visit.call(&state.context)?;
            visit.call(&state.extra)?;
            state.file.traverse(visit)?;
            state.side.traverse(visit)
        };
        self.state.peek(visit, visit_state).unwrap_or(Ok(()))
    }
}

impl<S: Side> State<S> {
    /// The token to queue if there is more to read and somebody to give it to.
    #[inline]
    pub fn more_to_read(&self) -> Option<Token> {
        self.token.filter(|_| self.side.may_have_data() && self.life.may_read())
    }

    /// Whether the loop is to hold the transport, if that has changed. To be followed by [`Transport::apply_hold`].
    #[inline]
    pub fn hold_change(&mut self) -> Hold {
        let wanted = self.is_wanted();
        let token = self.token.filter(|_| std::mem::replace(&mut self.held, wanted) != wanted)?;
        Some((token, wanted))
    }

    /// Would [`State::hold_change`] change nothing?
    #[inline]
    pub fn is_held_rightly(&self) -> bool {
        self.token.is_none() || self.held == self.is_wanted()
    }

    #[inline]
    fn is_wanted(&self) -> bool {
        self.life.may_read() || self.side.has_unsent() || self.side.waits()
    }

    /// What follows once the protocol knows of a queue that has become shorter. To be followed by
    /// [`Transport::apply_hold`] and [`Transport::perform`].
    pub fn finish_sending(&mut self) -> (Action, Hold) {
        let action = if self.side.has_unsent() { Action::Nothing } else { self.life.on(Event::Drained) };
        (action, self.hold_change())
    }
}

/// One kind of transport: what it says of itself, and what all kinds do in the same way.
pub trait Transport: PyClass<Frozen = True> + Sync {
    type Side: Side;
    /// What is left in the queue of a connection that fails, for the caller to drop.
    type Rest;

    /// How the loop calls it.
    const KIND: Kind;

    /// None for an object that was not made to the end: see `Made`.
    fn made(&self) -> Option<&Shell<Self::Side>>;

    /// What `repr()` answers.
    fn describe(&self, py: Python<'_>) -> String;

    /// Closes the fd, and lets go of what the side holds. `transport`: none when it is being deallocated.
    fn release(&self, py: Python<'_>, transport: Option<&Bound<'_, Self>>) -> PyResult<()>;

    /// Takes another protocol.
    fn adopt(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let new = protocol.clone().unbind();
        drop(self.shell().state.with(protocol.py(), |state| state.protocol.replace(new)));
        Ok(())
    }

    /// The connection fails: gives the kernel what it takes of what was written, as asyncio has done in each write, and
    /// empties the queue. Nothing is told to anybody.
    fn give_up(&self, state: &mut State<Self::Side>) -> Self::Rest;

    /// Gives the kernel what it takes of the queue, and does what follows from that.
    fn send_queued(_slf: &Bound<'_, Self>) -> PyResult<()> {
        Ok(())
    }

    /// As [`Shell::read_on`], where one must look first whether there is more.
    fn read_more(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().shell().read_on(slf.py());
        Ok(())
    }

    /// `connection_lost` is about to be scheduled.
    fn losing(&self, _py: Python<'_>) -> PyResult<()> {
        Ok(())
    }

    // ------------------------------------------------------------------------------------------ what all do

    /// Must nobody else use the fd? For `Kind::owns_fd`.
    fn owns_fd(object: &Bound<'_, PyAny>) -> bool {
        object.cast::<Self>().is_ok_and(|slf| !slf.get().shell().is_closing(slf.py()))
    }

    /// The shell. For methods only, which nobody calls on an object that was not made to the end.
    #[inline(always)]
    fn shell(&self) -> &Shell<Self::Side> {
        self.made().expect("an object that was made to the end")
    }

    fn reporter<'a, 'py>(slf: &'a Bound<'py, Self>) -> Reporter<'a, 'py> {
        slf.get().shell().reporter(slf.as_any())
    }

    /// Has the loop refer to the transport strongly for as long as it waits for anything, and weakly otherwise: one
    /// that the program has dropped while reading was paused is collected, as on asyncio, and closed by that.
    fn hold(slf: &Bound<'_, Self>) {
        let change = slf.get().shell().state.with(slf.py(), State::hold_change);
        Self::apply_hold(slf, change);
    }

    /// Puts into effect what [`State::hold_change`] has answered.
    #[inline]
    fn apply_hold(slf: &Bound<'_, Self>, change: Hold) {
        let shell = slf.get().shell();
        if let Some((token, held)) = change
            && !shell.core.hold(slf.as_any(), &Self::KIND, token, held)
        {
            shell.state.with(slf.py(), |state| state.held = !held);
        }
    }

    /// Reserves the fd of a transport that was just made, and schedules its start. `watch_writing`: the kernel is to
    /// report from the start when it takes more, not only once somebody waits for that.
    fn reserve_and_start<'py>(
        slf: &Bound<'py, Self>,
        connection_made: Bound<'py, PyAny>,
        waiter: Option<Bound<'py, PyAny>>,
        watch_writing: bool,
    ) -> PyResult<()> {
        let (py, shell) = (slf.py(), slf.get().shell());
        let fd = shell.state.with(py, |state| state.file.number());
        let native = Native { object: slf.as_any().clone().unbind(), kind: &Self::KIND };
        let token = shell.core.reserve(py, fd, native)?;
        shell.state.with(py, |state| state.token = Some(token));
        if !watch_writing {
            shell.core.watch(py, token, Readiness::READABLE)?;
        }
        let start_reading = slf.as_any().getattr(intern!(py, "_start_reading")?)?;
        shell.start(slf.as_any(), connection_made, Some(start_reading), waiter)
    }

    /// The second step after `connection_made`. The kernel watches the fd from here on, so that what has come already
    /// is delivered in the next turn: behind those who wait for the connection, as in asyncio.
    fn start_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, shell) = (slf.py(), slf.get().shell());
        let (token, change) = shell.state.with(py, |state| {
            state.life.start_reading();
            (state.token, state.hold_change())
        });
        Self::apply_hold(slf, change);
        let watched = token.map_or(Ok(()), |token| shell.core.activate(py, token));
        Self::end_by(slf, watched.map_err(|error| Failure::new(NOT_WATCHED, error)))
    }

    /// `pause_reading()`
    fn stop_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().shell().state.with(slf.py(), |state| state.life.pause_reading()) {
            Self::hold(slf);
            Self::reporter(slf).debug("%r pauses reading")?;
        }
        Ok(())
    }

    /// `resume_reading()`
    fn go_on_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, shell) = (slf.py(), slf.get().shell());
        if !shell.state.with(py, |state| state.life.resume_reading()) {
            return Ok(());
        }
        shell.renew_context(py)?;
        Self::hold(slf);
        Self::read_more(slf)?;
        Self::reporter(slf).debug("%r resumes reading")
    }

    /// Ends the connection once everything queued is sent.
    fn close_gracefully(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, shell) = (slf.py(), slf.get().shell());
        if shell.is_closing(py) {
            return Ok(());
        }
        // asyncio has sent by now what the kernel takes.
        let sent = Self::send_queued(slf);
        let action = shell.state.with(py, |state| {
            let queued = state.side.has_unsent();
            state.life.on(Event::Close { queued })
        });
        sent.and(Self::perform(slf, action, None))
    }

    /// Ends the connection if a call has failed, and reports the failure as asyncio does. Err: what leaves the loop.
    #[inline]
    fn end_by(slf: &Bound<'_, Self>, result: Result<(), Failure>) -> PyResult<()> {
        match result {
            Ok(()) => Ok(()),
            Err(failure) => Self::end_by_failure(slf, failure),
        }
    }

    /// As [`Transport::end_by`], for a call that has failed.
    #[cold]
    fn end_by_failure(slf: &Bound<'_, Self>, failure: Failure) -> PyResult<()> {
        let (py, Failure { error, text }) = (slf.py(), failure);
        let Some(text) = text.filter(|_| !leaves_the_loop(py, &error)) else {
            return Err(error);
        };
        // Also when the exception handler leaves the loop, the connection ends.
        let told = Self::reporter(slf).fatal(text, error.clone_ref(py));
        told.and(Self::fail(slf, Some(error.into_value(py).into_any())))
    }

    /// Drops what is queued and has `connection_lost(exc)` called, if nothing has before.
    fn fail(slf: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        let this = slf.get();
        let (action, rest) = this.shell().state.with(slf.py(), |state| {
            let rest = (!state.life.drops_writes()).then(|| this.give_up(state));
            (state.life.on(Event::Fail), rest)
        });
        // A finalizer may run here, where nothing is borrowed.
        drop(rest);
        Self::perform(slf, action, exc)
    }

    /// Does what `lifecycle.rs` has answered.
    fn perform(slf: &Bound<'_, Self>, action: Action, exc: Option<Py<PyAny>>) -> PyResult<()> {
        if action != Action::ScheduleLost {
            return Ok(());
        }
        let (py, shell) = (slf.py(), slf.get().shell());
        if let Some(token) = shell.state.with(py, |state| state.token.take()) {
            shell.core.deregister(py, token);
        }
        let told = slf.get().losing(py);
        shell.core.check_closed()?;
        let exc = exc.unwrap_or_else(|| py.None());
        shell.call_soon(slf.as_any().getattr(intern!(py, "_call_connection_lost")?)?, &[exc.as_ptr()])?;
        told
    }

    /// Calls `connection_lost`, then closes the fd and lets go of everything.
    fn call_connection_lost(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, shell) = (slf.py(), slf.get().shell());
        if shell.state.with(py, |state| state.life.phase() != Phase::Lost) {
            return Ok(());
        }
        let protocol = shell.protocol(py);
        let told = protocol.map_or(Ok(()), |it| protocol::connection_lost(shell.core.names, &it, exc));
        let action = shell.state.with(py, |state| state.life.on(Event::Delivered));
        if action != Action::Release {
            return told;
        }
        let released = slf.get().release(py, Some(slf));
        drop(shell.state.with(py, |state| state.protocol.take()));
        told.and(released)
    }

    /// For `Drop`: warns of a transport that nobody has closed, as asyncio does, and closes its fd.
    fn dropped(&self) {
        let Some(shell) = self.made() else {
            return;
        };
        // SAFETY: a pyclass is only ever dropped by its tp_dealloc, which holds the interpreter.
        let py = unsafe { Python::assume_attached() };
        let closed = shell.state.with(py, |state| state.file.is_closed());
        let unclosed = (!closed).then(|| self.describe(py));
        if let Some(token) = shell.state.with(py, |state| state.token.take()) {
            shell.core.deregister(py, token);
        }
        if let Some(text) = unclosed {
            protocol::warn_unclosed(py, &text, || {
                let released = self.release(py, None);
                drop(shell.state.with(py, |state| state.protocol.take()));
                released
            });
        }
    }
}

/// What asyncio's base classes answer for a method that a kind of transport has only because its base has it.
#[cold]
pub fn not_implemented<T>() -> PyResult<T> {
    Err(PyNotImplementedError::new_err(()))
}
