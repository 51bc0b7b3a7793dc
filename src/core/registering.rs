//! The registrations of a loop: made for transports and for the program that hosts Python, and what it means that one
//! of them is ready. Callbacks of `add_reader` and the futures of `sock_*` are registered by `watching.rs`.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::prelude::*;

use super::{Due, Entry, Idle, Kind, LoopCore, Native, Source};
use crate::error::os_error;
#[cfg(feature = "embed")]
use crate::reactor::Registry;
use crate::reactor::readiness::Readiness;
use crate::reactor::token::Token;
use crate::reactor::{Mode, Watch};

impl LoopCore {
    /// Registers `fd` for a native object, edge-triggered; [`LoopCore::activate`] makes the kernel watch it.
    ///
    /// Callbacks that the program has on the same fd are cancelled, as asyncio replaces them. That also ends the
    /// callbacks of a file that was closed without being removed, if its number is in use again.
    pub fn reserve(&self, py: Python<'_>, fd: i32, native: Native) -> PyResult<Token> {
        let (previous, token) = self.state.with(py, |state| {
            let previous = state.reactor.token_of(fd).and_then(|token| state.reactor.deregister(token));
            (previous, state.reactor.reserve(fd, Mode::Edge, Source::Native(native)))
        });
        previous.map_or(Ok(()), |previous| previous.cancel(py))?;
        Ok(token)
    }

    /// Makes the kernel watch a reserved fd.
    pub fn activate(&self, py: Python<'_>, token: Token) -> PyResult<()> {
        self.state.with(py, |state| state.reactor.activate(token)).map_err(|error| os_error(&error))
    }

    /// The native objects that have a registration.
    pub fn natives(&self, py: Python<'_>) -> Vec<Native> {
        self.state.with(py, |state| {
            state.reactor.registrations().filter_map(|(_, source)| source.native(py)).collect()
        })
    }

    /// [`LoopCore::reserve`] and [`LoopCore::activate`] in one step, for both directions.
    pub fn register(&self, py: Python<'_>, fd: i32, native: Native) -> PyResult<Token> {
        self.register_source(py, fd, Mode::Edge, Readiness::BOTH, Source::Native(native))
    }

    /// Watches `fd` for these directions on behalf of `source`, in the place of whoever was registered before.
    pub(super) fn register_source(
        &self,
        py: Python<'_>,
        fd: i32,
        mode: Mode,
        directions: Readiness,
        source: Source,
    ) -> PyResult<Token> {
        let (previous, result) = self.state.with(py, |state| {
            let previous = state.reactor.token_of(fd).and_then(|token| state.reactor.deregister(token));
            (previous, state.reactor.register(fd, mode, directions, source))
        });
        previous.map_or(Ok(()), |previous| previous.cancel(py))?;
        result.map_err(|(error, source)| {
            drop(source);
            os_error(&error)
        })
    }

    /// Has the kernel watch a registered fd for these directions and no other: see [`Watch::Only`].
    pub fn watch(&self, py: Python<'_>, token: Token, directions: Readiness) -> PyResult<()> {
        let watched = self.state.with(py, |state| state.reactor.watch(token, Watch::Only(directions)));
        watched.map_err(|error| os_error(&error))
    }

    /// Has the kernel report anew what a registered fd is ready for.
    pub fn refresh(&self, py: Python<'_>, token: Token) -> std::io::Result<()> {
        self.state.with(py, |state| state.reactor.watch(token, Watch::Anew(Readiness::NONE)))
    }

    /// Calls the native owner of a registration by `call`. Should that run turns of the program's own, they need what
    /// the owner was just told: see [`LoopCore::report_called_anew`].
    #[inline]
    pub fn call_owner<T>(&self, token: Token, call: impl FnOnce() -> T) -> T {
        let outer = self.called.load(Relaxed);
        self.called.store(token.to_bits(), Relaxed);
        let result = call();
        self.called.store(outer, Relaxed);
        result
    }

    /// For a turn that the program runs by itself, in the middle of a call of a native owner perhaps. The owner has
    /// taken its edge, and has not read or sent all yet, which the program may wait for. The kernel does not report that
    /// by itself, so it is asked to, once for each call.
    pub fn report_called_anew(&self, py: Python<'_>) {
        if let Some(called) = Token::from_bits(self.called.swap(0, Relaxed)) {
            // If that fails, the file is gone, or was taken over.
            let _ = self.refresh(py, called);
        }
    }

    /// Ends a registration. To be called before the fd is closed.
    pub fn deregister(&self, py: Python<'_>, token: Token) {
        drop(self.state.with(py, |state| state.reactor.deregister(token)));
    }

    /// Ends the registration of an fd, whoever has made it. To be called before the fd is closed.
    pub fn deregister_fd(&self, py: Python<'_>, fd: i32) -> PyResult<()> {
        let ended = self
            .state
            .with(py, |state| state.reactor.token_of(fd).and_then(|token| state.reactor.deregister(token)));
        ended.map_or(Ok(()), |source| source.cancel(py))
    }

    /// True for as long as the registration exists.
    pub fn is_registered(&self, py: Python<'_>, token: Token) -> bool {
        self.state.with(py, |state| state.reactor.source(token).is_some())
    }

    /// Makes the registration's reference to its owner strong (`held`) or weak. A transport that waits for nothing is
    /// held weakly: once the program has dropped it, it is collected, and closes its file. False if the object allows
    /// no weak reference.
    pub fn hold(&self, object: &Bound<'_, PyAny>, kind: &'static Kind, token: Token, held: bool) -> bool {
        let source = match held {
            true => Source::Native(Native { object: object.clone().unbind(), kind }),
            false => match Idle::new(object, kind) {
                Ok(idle) => Source::Idle(idle),
                Err(_) => return false,
            },
        };
        drop(self.set_source(object.py(), token, source));
        true
    }

    /// Gives a registration another owner. Returns the one before, or the new one if the registration has ended: either
    /// is for the caller to drop.
    fn set_source(&self, py: Python<'_>, token: Token, mut source: Source) -> Source {
        self.state.with(py, |state| {
            if let Some(place) = state.reactor.source_mut(token) {
                std::mem::swap(place, &mut source);
            }
        });
        source
    }

    /// The native object that `fd` belongs to, so that nobody else may watch it.
    pub fn owner_of<'py>(&self, py: Python<'py>, fd: i32) -> Option<Bound<'py, PyAny>> {
        let native = self.state.with(py, |state| {
            let token = state.reactor.token_of(fd)?;
            state.reactor.source(token)?.native(py)
        })?;
        let object = native.object.into_bound(py);
        (native.kind.owns_fd)(&object).then_some(object)
    }

    /// Has the owner of `token` called in the next turn, as if the next poll found this readiness. Callbacks that are
    /// scheduled before that poll come first, as on asyncio, whose selector finds the file again.
    pub fn requeue(&self, py: Python<'_>, token: Token, readiness: Readiness) {
        self.state.with(py, |state| {
            if state.reactor.add_found(token, readiness) {
                return;
            }
            // Somebody waits on the poll: a host's thread calls this, and wakes the loop.
            state.ready.receive(&self.inbox);
            if state.ready.reserve(1).is_ok() && state.reactor.report(token, readiness) {
                drop(state.ready.push(Entry::Io(token)));
            }
        });
    }

    /// To be called when reading is resumed. What was reported while it was paused is told in the next turn, in which the
    /// selector of asyncio finds it.
    pub fn postpone_reading(&self, py: Python<'_>, token: Token) {
        let reading = Readiness::READABLE | Readiness::READ_CLOSED;
        self.state.with(py, |state| state.reactor.postpone(token, reading));
    }

    /// What is to be called because a registration is ready. The caller does that outside of the borrow.
    #[inline]
    pub fn take_due(&self, py: Python<'_>, token: Token) -> Option<Due> {
        self.state.with(py, |state| {
            let readiness = state.reactor.take_ready(token)?;
            match state.reactor.source_mut(token)? {
                Source::Native(native) => Some(Due::Native(native.clone_ref(py), readiness)),
                Source::Idle(idle) => Some(Due::Native(idle.upgrade(py)?, readiness)),
                Source::Callbacks(callbacks) => {
                    let due = callbacks.due(py, readiness);
                    if due.read_waiter.is_some() || due.write_waiter.is_some() {
                        let wanted = callbacks.wanted();
                        state.reactor.arm(token, wanted);
                        if wanted.is_none() {
                            state.lingering.push(token);
                        }
                    }
                    Some(Due::Callbacks(due))
                }
            }
        })
    }
}

/// For the program that hosts Python: owners without an fd of their own, and sources that register themselves.
#[cfg(feature = "embed")]
impl LoopCore {
    /// A registration without an fd and without an owner; [`LoopCore::set_owner`] follows. In two steps, because the
    /// owner is an object that has to know its token.
    pub fn reserve_token(&self, py: Python<'_>) -> Token {
        use crate::reactor::NO_FD;

        static NOBODY: Kind = Kind::NOTHING;
        let nobody = Source::Native(Native { object: py.None(), kind: &NOBODY });
        self.state.with(py, |state| state.reactor.reserve(NO_FD, Mode::Edge, nobody))
    }

    /// Sets the owner of a token of [`LoopCore::reserve_token`].
    pub fn set_owner(&self, py: Python<'_>, token: Token, owner: Native) {
        drop(self.set_source(py, token, Source::Native(owner)));
    }

    /// Where a source that registers itself can do so. When it has, [`LoopCore::set_active`] follows.
    pub fn registry(&self, py: Python<'_>) -> std::io::Result<Registry> {
        self.state.with(py, |state| state.reactor.registry())
    }

    /// Notes that the source of `token` has registered itself.
    pub fn set_active(&self, py: Python<'_>, token: Token) {
        self.state.with(py, |state| state.reactor.set_active(token));
    }

    /// Ends the registration of such a source. Returns the registry to deregister the source from, if it is to be
    /// deregistered: see [`Reactor::deregister_foreign`](crate::reactor::Reactor::deregister_foreign).
    pub fn deregister_foreign(&self, py: Python<'_>, token: Token) -> Option<Registry> {
        let (owner, registry) = self.state.with(py, |state| state.reactor.deregister_foreign(token))?;
        drop(owner);
        registry
    }
}
