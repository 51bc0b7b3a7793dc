//! The shell: what all transports over a file hold, whatever they send or receive.
//!
//! [`Shell`] has the loop, and the [`State`] in a cell. The state has everything that changes: the life of the
//! connection, the protocol and its context, the token of the registration, and the outbox. It also has a [`Side`],
//! which is what only one kind of transport has. What transports do with all this is in `transport.rs`. The system
//! calls, and what is in a side, are the business of the kinds (`stream/`, `datagram/`, `pipe/`). No kind is named here.

use std::sync::Arc;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::flow::Queue;
use super::inside::Inside;
use super::lifecycle::{Action, Event, Lifecycle, Phase};
use super::outbox::{Follow, Next, Outbox};
use super::protocol::Reporter;
use super::socket::File;
use crate::core::LoopCore;
use crate::handle::Callback;
use crate::py::cell::LoopCell;
use crate::py::context;
use crate::py::new;
use crate::reactor::metrics::{Figure, Figures};
use crate::reactor::readiness::Readiness;
use crate::reactor::token::Token;

/// A change of who holds a transport: its registration's token, and whether the loop is to hold it from now on.
pub type Hold = Option<(Token, bool)>;

/// What a transport holds.
pub struct Shell<S: Side> {
    pub core: Arc<LoopCore>,
    pub event_loop: Py<PyAny>,
    /// When the transport was made, in nanoseconds of the loop's clock.
    pub made_at: u64,
    pub state: LoopCell<State<S>>,
}

/// What changes while a transport lives.
pub struct State<S: Side> {
    pub life: Lifecycle,
    /// None once `connection_lost` was called.
    pub protocol: Option<Py<PyAny>>,
    /// Where the protocol is called: in a copy of the context that was current when reading began, or was resumed.
    pub context: Py<PyAny>,
    /// Since CPython 3.15 a connection can have one context, for all of its callbacks and for good.
    pub own_context: bool,
    /// The registration. None before the file is registered, and once `connection_lost` is scheduled.
    pub token: Option<Token>,
    /// Does the loop hold the transport? See `Transport::hold`.
    pub held: bool,
    pub file: File,
    /// What `get_extra_info` has been asked for, or was given; made when first needed.
    pub extra: Option<Py<PyDict>>,
    /// What is still to be sent. The reading end of a pipe has one too, in which there never is anything.
    pub outbox: Outbox<S::Queue>,
    /// The loop's figures, in which system calls and bytes are counted.
    pub figures: Arc<Figures>,
    /// How many bytes of the queue are counted there.
    counted: usize,
    /// What only one kind of transport has.
    pub side: S,
}

/// What the shell asks of a side. Nothing in here calls Python.
pub trait Side: Send + Sized {
    /// The queue in the outbox.
    type Queue: Queue + Send;

    /// May there be something to give to the protocol?
    fn may_have_data(&self) -> bool {
        false
    }

    /// Does the transport wait for anything beside data to read and to send?
    fn waits(&self) -> bool {
        false
    }

    /// Visits the Python objects of the side, and of what is queued.
    fn traverse(_state: &State<Self>, _visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        Ok(())
    }
}

/// What every transport is made of: the arguments that the hooks of `BaseEventLoop` have in common
/// (`_make_socket_transport` and its like).
pub struct Parts<'a, 'py> {
    pub core: &'a Arc<LoopCore>,
    pub event_loop: &'a Bound<'py, PyAny>,
    pub protocol: Bound<'py, PyAny>,
    /// A future that is completed once `connection_made` was called.
    pub waiter: Option<Bound<'py, PyAny>>,
    /// Extra information from the caller.
    pub extra: Option<Bound<'py, PyDict>>,
    /// The context that the connection keeps for good. None: as asyncio before CPython 3.15, copies of whatever is
    /// current.
    pub context: Option<Bound<'py, PyAny>>,
}

impl<S: Side> Shell<S> {
    /// The parts of a transport that was not started yet. None of them is known to the loop.
    pub fn new(parts: &Parts<'_, '_>, file: File, outbox: Outbox<S::Queue>, side: S) -> PyResult<Self> {
        let Parts { core, event_loop, protocol, extra, context, .. } = parts;
        let state = State {
            file,
            extra: extra.clone().map(Bound::unbind),
            life: Lifecycle::default(),
            protocol: Some(protocol.clone().unbind()),
            own_context: context.is_some(),
            context: context.clone().map_or_else(|| context::copy_current(event_loop.py()), Ok)?.unbind(),
            token: None,
            held: true,
            outbox,
            figures: core.figures.clone(),
            counted: 0,
            side,
        };
        Ok(Self {
            core: Arc::clone(core),
            event_loop: (*event_loop).clone().unbind(),
            made_at: core.clock.now_ns(),
            state: LoopCell::new(state),
        })
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
        (lost, queued): (u32, Vec<Bound<'py, PyAny>>),
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

    /// Shows the garbage collector every Python object that the transport holds. A state that is borrowed at the moment
    /// is left out: the collector takes its objects to be in use, which they are.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        let visit_state = |state: &State<S>| {
            visit.call(&state.protocol)?;
            visit.call(&state.context)?;
            visit.call(&state.extra)?;
            state.file.traverse(visit)?;
            S::traverse(state, visit)
        };
        self.state.peek(visit, visit_state).unwrap_or(Ok(()))
    }
}

impl<S: Side> State<S> {
    /// Counts what is queued, in place of what was queued before. To be called when the kernel has taken what it takes.
    #[inline]
    pub fn count_queued(&mut self) {
        let size = if self.outbox.queue.is_empty() { 0 } else { self.outbox.queue.size() };
        if size != self.counted {
            // As one change: other threads read it at any time.
            self.figures.add(Figure::BytesQueued, (size as u64).wrapping_sub(self.counted as u64));
            self.counted = size;
        }
    }

    /// Is there something that was written and not sent?
    #[inline]
    pub fn has_unsent(&self) -> bool {
        !self.outbox.queue.is_empty()
    }

    /// The token to queue if there is more to read and somebody to give it to.
    #[inline]
    pub fn more_to_read(&self) -> Option<Token> {
        self.token.filter(|_| self.side.may_have_data() && self.life.may_read())
    }

    /// Whether the loop is to hold the transport, if that has changed. To be followed by `Transport::apply_hold`.
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

    /// Does the transport wait for anything, so that the loop must keep it alive although the program may have dropped
    /// it?
    #[inline]
    fn is_wanted(&self) -> bool {
        self.life.may_read() || self.has_unsent() || self.side.waits()
    }

    /// What follows from a write that is queued now, by what [`Outbox::next`] has answered for it. To be followed by
    /// `Sender::proceed`.
    pub fn queued(&mut self, next: Next) -> (Follow, Hold) {
        // What leaves now, or when the loop calls `flush`, is no reason to hold the transport: the loop does so anyway.
        let hold = if next == Next::Wait {
            self.count_queued();
            self.hold_change()
        } else {
            None
        };
        (self.outbox.queued(next), hold)
    }

    /// What follows once the protocol knows of a queue that has become shorter. To be followed by
    /// `Transport::apply_hold` and `Transport::perform`.
    pub fn finish_sending(&mut self) -> (Action, Hold) {
        let action = if self.has_unsent() { Action::Nothing } else { self.life.on(Event::Drained) };
        (action, self.hold_change())
    }

    /// The start of a repr: `<Name fd=...`, with `closing` or `closed` before the number.
    pub fn describe(&self, name: &str) -> String {
        let life = match self.life.phase() {
            _ if self.file.is_closed() => " closed",
            Phase::Open => "",
            _ => " closing",
        };
        format!("<{name}{life} fd={}", self.file.number())
    }
}

/// A transport that is dropped with something in its queue has it counted no more.
impl<S: Side> Drop for State<S> {
    fn drop(&mut self) {
        self.figures.subtract(Figure::BytesQueued, self.counted as u64);
    }
}
