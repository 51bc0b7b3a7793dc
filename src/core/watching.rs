//! Registering fds with a loop, and finding out what their readiness means.

use std::io;

use pyo3::prelude::*;

use super::{Entry, Idle, Kind, LoopCore, Native, Source};
use crate::error::os_error;
use crate::handle::Handle;
use crate::reactor::Mode;
use crate::reactor::readiness::Readiness;
use crate::reactor::token::Token;

impl LoopCore {
    /// Takes `fd` for a native object; [`LoopCore::activate`] starts watching it. Callbacks that the user has on the
    /// same fd are cancelled, as asyncio replaces them; so are those of a file that was closed and whose number is in
    /// use again.
    pub fn reserve(&self, py: Python<'_>, fd: i32, native: Native) -> PyResult<Token> {
        let (previous, token) = self.state.with(py, |state| {
            let previous = state.reactor.token_of(fd).and_then(|token| state.reactor.deregister(token));
            (previous, state.reactor.reserve(fd, Mode::Edge, Source::Native(native)))
        });
        previous.map_or(Ok(()), |previous| previous.cancel(py))?;
        Ok(token)
    }

    /// Has the kernel watch a reserved fd.
    pub fn activate(&self, py: Python<'_>, token: Token) -> PyResult<()> {
        self.state.with(py, |state| state.reactor.activate(token)).map_err(|error| os_error(&error))
    }

    /// Watches `fd` in `mode`, instead of whoever did so far.
    pub fn register(&self, py: Python<'_>, fd: i32, mode: Mode, source: Source) -> PyResult<Token> {
        self.register_for(py, fd, mode, Readiness::BOTH, source)
    }

    /// As [`LoopCore::register`], for these directions only.
    pub fn register_for(
        &self,
        py: Python<'_>,
        fd: i32,
        mode: Mode,
        directions: Readiness,
        source: Source,
    ) -> PyResult<Token> {
        let (previous, result) = self.state.with(py, |state| {
            let previous = state.reactor.token_of(fd).and_then(|token| state.reactor.deregister(token));
            (previous, state.reactor.register_for(fd, mode, directions, source))
        });
        previous.map_or(Ok(()), |previous| previous.cancel(py))?;
        result.map_err(|(error, source)| {
            drop(source);
            os_error(&error)
        })
    }

    /// Changes the directions that a registered fd is watched for: see [`Reactor::watch`].
    pub fn watch(&self, py: Python<'_>, token: Token, directions: Readiness) -> PyResult<()> {
        self.state.with(py, |state| state.reactor.watch(token, directions)).map_err(|error| os_error(&error))
    }

    /// Has the kernel tell anew of what a registered fd is ready for.
    pub fn refresh(&self, py: Python<'_>, token: Token) -> io::Result<()> {
        self.state.with(py, |state| state.reactor.refresh(token, Readiness::NONE))
    }

    /// Ends a registration; to be called before its fd is closed.
    pub fn deregister(&self, py: Python<'_>, token: Token) {
        drop(self.state.with(py, |state| state.reactor.deregister(token)));
    }

    /// Makes the registration's reference to its owner strong (`held`) or weak. A transport that waits for nothing is held
    /// weakly, so that it can be collected once the program has dropped it. False if no weak reference can be made.
    pub fn hold(&self, object: &Bound<'_, PyAny>, kind: &'static Kind, token: Token, held: bool) -> bool {
        let source = match held {
            true => Source::Native(Native { object: object.clone().unbind(), kind }),
            false => match Idle::new(object, kind) {
                Ok(idle) => Source::Idle(idle),
                Err(_) => return false,
            },
        };
        let previous = self.state.with(object.py(), |state| {
            state.reactor.source_mut(token).map(|place| std::mem::replace(place, source))
        });
        drop(previous);
        true
    }

    /// Has the owner of `token` told of `readiness` in the next turn.
    pub fn requeue(&self, py: Python<'_>, token: Token, readiness: Readiness) {
        self.state.with(py, |state| {
            state.ready.receive(&self.inbox);
            if state.ready.reserve(1).is_err() {
                // As if the poll had found it: the next turn queues it.
                state.reactor.find(token, readiness);
            } else if state.reactor.report(token, readiness) {
                drop(state.ready.push(Entry::Io(token)));
            }
        });
    }

    /// What the readiness of a registration means now, to be run outside of the borrow.
    pub fn take_due(&self, py: Python<'_>, token: Token) -> Option<(Readiness, Source)> {
        self.state.with(py, |state| {
            let readiness = state.reactor.take_ready(token);
            match state.reactor.source_mut(token)? {
                Source::Native(native) => Some((readiness, Source::Native(native.clone_ref(py)))),
                Source::Idle(idle) => Some((readiness, Source::Native(idle.upgrade(py)?))),
                Source::Callbacks(callbacks) => {
                    let due = callbacks.due(py, readiness);
                    if due.read_waiter.is_some() || due.write_waiter.is_some() {
                        let wanted = callbacks.wanted();
                        state.reactor.arm(token, wanted);
                        if wanted.is_none() {
                            state.lingering.push(token);
                        }
                    }
                    Some((readiness, Source::Callbacks(due)))
                }
            }
        })
    }

    /// Ends the registrations that nobody waits for. True if there were any: letting go of them may have run finalizers.
    pub fn end_lingering(&self, py: Python<'_>) -> bool {
        let ended: Vec<Source> = self.state.with(py, |state| {
            let reactor = &mut state.reactor;
            let unwanted = |token: &Token| {
                matches!(reactor.source(*token), Some(Source::Callbacks(callbacks)) if callbacks.wanted().is_none())
            };
            let tokens: Vec<Token> = state.lingering.drain(..).filter(unwanted).collect();
            tokens.into_iter().filter_map(|token| state.reactor.deregister(token)).collect()
        });
        !ended.is_empty()
    }

    /// Who is told of each fd: its reader and its writer, or twice the native object.
    #[allow(clippy::type_complexity, reason = "a row of three")]
    pub fn watched(&self, py: Python<'_>) -> Vec<(i32, Option<Py<PyAny>>, Option<Py<PyAny>>)> {
        self.state.with(py, |state| {
            let rows = state.reactor.registrations().map(|(fd, source)| match source {
                Source::Native(native) => {
                    (fd, Some(native.object.clone_ref(py)), Some(native.object.clone_ref(py)))
                }
                // As asyncio, which has neither a reader nor a writer for it.
                Source::Idle(_) => (fd, None, None),
                Source::Callbacks(callbacks) => {
                    let any = |handle: &Option<Py<Handle>>, waiter: &Option<Py<PyAny>>| {
                        let handle = handle.as_ref().map(|handle| handle.clone_ref(py).into_any());
                        handle.or_else(|| waiter.as_ref().map(|waiter| waiter.clone_ref(py)))
                    };
                    (
                        fd,
                        any(&callbacks.reader, &callbacks.read_waiter),
                        any(&callbacks.writer, &callbacks.write_waiter),
                    )
                }
            });
            rows.filter(|(_, reader, writer)| reader.is_some() || writer.is_some()).collect()
        })
    }

    /// The native object that `fd` belongs to, so that nobody else may watch it.
    pub fn owner_of<'py>(&self, py: Python<'py>, fd: i32) -> Option<Bound<'py, PyAny>> {
        let native = self.state.with(py, |state| {
            state
                .reactor
                .token_of(fd)
                .and_then(|token| state.reactor.source(token))
                .and_then(|it| it.native(py))
        })?;
        let object = native.object.into_bound(py);
        (native.kind.owns_fd)(&object).then_some(object)
    }
}
