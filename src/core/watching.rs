//! Watching fds for the program: callbacks of `add_reader` and `add_writer`, and futures that are completed when a
//! socket is ready (`sock_*`). Both are level-triggered, as asyncio's are.
//!
//! A registration whose future is completed lingers: it stays until the loop is about to block
//! ([`LoopCore::end_lingering`]), because the next `sock_*` call often needs it.
//!
//! What Python passes (file objects, arguments) is the business of `event_loop/watching.rs`; here an fd is a number.

use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::{FdCallbacks, LoopCore, Source};
use crate::handle::Handle;
use crate::reactor::readiness::Readiness;
use crate::reactor::token::Token;
use crate::reactor::{Mode, Watch};

/// Who waits for one direction of an fd. At most one of the two is there.
#[derive(Default)]
struct Waiting {
    callback: Option<Py<Handle>>,
    future: Option<Py<PyAny>>,
}

impl LoopCore {
    /// Sets the callback for one direction of an fd. The callback that was there before is cancelled.
    pub fn add_callback(
        &self,
        file: &Bound<'_, PyAny>,
        fd: i32,
        direction: Readiness,
        handle: Bound<'_, Handle>,
    ) -> PyResult<()> {
        let py = file.py();
        let token = self.watch_file(file, fd, direction, false)?;
        let waiting = Waiting { callback: Some(handle.unbind()), future: None };
        match self.exchange(py, token, direction, waiting).callback {
            Some(replaced) => Handle::cancel_once(replaced.bind(py)).map(drop),
            None => Ok(()),
        }
    }

    /// Removes who waits for one direction of an fd. False if nobody did.
    pub fn remove_callback(&self, py: Python<'_>, fd: i32, direction: Readiness) -> PyResult<bool> {
        let found = self.state.with(py, |state| {
            let token = state.reactor.token_of(fd)?;
            let is_native = state.reactor.source(token)?.is_native_callback(direction);
            Some((token, is_native))
        });
        let Some((token, is_native)) = found else {
            return Ok(false);
        };
        if is_native {
            self.deregister(py, token);
            return Ok(true);
        }
        let removed = self.exchange(py, token, direction, Waiting::default());
        match removed.callback {
            Some(callback) => Handle::cancel_once(callback.bind(py)),
            None => Ok(removed.future.is_some()),
        }
    }

    /// Has `future` completed once `file`, with this fd, is ready in `direction`. To be called when a system call has
    /// just said that it is not ready. A callback for the same direction is cancelled.
    pub fn wait(
        &self,
        file: &Bound<'_, PyAny>,
        fd: i32,
        direction: Readiness,
        future: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = file.py();
        let token = self.watch_file(file, fd, direction, true)?;
        let waiting = Waiting { callback: None, future: Some(future.clone().unbind()) };
        match self.exchange(py, token, direction, waiting).callback {
            Some(replaced) => Handle::cancel_once(replaced.bind(py)).map(drop),
            None => Ok(()),
        }
    }

    /// Takes back a future of [`LoopCore::wait`]. A registration that nobody waits for any more ends at once: the file
    /// may be about to be closed.
    pub fn stop_waiting(&self, fd: i32, direction: Readiness, future: &Bound<'_, PyAny>) {
        let removed = self.state.with(future.py(), |state| {
            let token = state.reactor.token_of(fd)?;
            let Some(Source::Callbacks(callbacks)) = state.reactor.source_mut(token) else {
                return None;
            };
            let (_, place) = callbacks.places(direction);
            let waiter = place.take_if(|waiter| waiter.is(future));
            let wanted = callbacks.wanted();
            state.reactor.arm(token, wanted);
            let ended = wanted.is_none().then(|| state.reactor.deregister(token)).flatten();
            Some((waiter, ended))
        });
        drop(removed);
    }

    /// Watches a non-blocking fd of the loop's own, edge-triggered: the callback must read it until it would block.
    pub fn watch_internal(&self, py: Python<'_>, fd: i32, handle: Bound<'_, Handle>) -> PyResult<()> {
        let callbacks = FdCallbacks { reader: Some(handle.unbind()), ..FdCallbacks::default() };
        let source = Source::Callbacks(Box::new(callbacks));
        self.register_source(py, fd, Mode::Internal, Readiness::BOTH, source).map(drop)
    }

    /// The fd under which a file object was registered. The object itself does not know it any more if it was closed.
    pub fn fd_of_file(&self, file: &Bound<'_, PyAny>) -> Option<i32> {
        self.state.with(file.py(), |state| {
            state.reactor.registrations().find(|(_, source)| source.is_of(file)).map(|(fd, _)| fd)
        })
    }

    /// Ends the registrations that nobody waits for. True if there were any: dropping them may have run finalizers.
    #[inline]
    pub fn end_lingering(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| !state.lingering.is_empty()) && self.end_these(py)
    }

    /// The same when there may be any.
    fn end_these(&self, py: Python<'_>) -> bool {
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

    /// Who is called for each fd: the reader and the writer. A native object is both.
    #[allow(clippy::type_complexity, reason = "a row of three")]
    pub fn watched(&self, py: Python<'_>) -> Vec<(i32, Option<Py<PyAny>>, Option<Py<PyAny>>)> {
        let callee = |handle: &Option<Py<Handle>>, waiter: &Option<Py<PyAny>>| {
            let handle = handle.as_ref().map(|handle| handle.clone_ref(py).into_any());
            handle.or_else(|| waiter.as_ref().map(|waiter| waiter.clone_ref(py)))
        };
        self.state.with(py, |state| {
            let rows = state.reactor.registrations().map(|(fd, source)| match source {
                Source::Native(native) => {
                    (fd, Some(native.object.clone_ref(py)), Some(native.object.clone_ref(py)))
                }
                // asyncio has neither a reader nor a writer for a transport that waits for nothing.
                Source::Idle(_) => (fd, None, None),
                Source::Callbacks(callbacks) => (
                    fd,
                    callee(&callbacks.reader, &callbacks.read_waiter),
                    callee(&callbacks.writer, &callbacks.write_waiter),
                ),
            });
            rows.filter(|(_, reader, writer)| reader.is_some() || writer.is_some()).collect()
        })
    }

    /// The registration by which `file`, with this fd, is watched for `direction`; a new one if there is none.
    ///
    /// `blocked`: a system call has just said that the file is not ready, so that its next edge is still to come.
    fn watch_file(
        &self,
        file: &Bound<'_, PyAny>,
        fd: i32,
        direction: Readiness,
        blocked: bool,
    ) -> PyResult<Token> {
        let known = self.state.with(file.py(), |state| {
            let token = state.reactor.token_of(fd)?;
            let change = match state.reactor.source(token) {
                // The program's callback takes its place.
                Some(source) if source.is_native_callback(direction) => return None,
                // The same object and so the same file: no system call, if the direction is watched already.
                Some(source) if blocked && source.is_of(file) => Watch::Also(direction),
                // A new edge for what is ready already. The call fails if the number belongs to another file by now.
                _ => Watch::Anew(direction),
            };
            state.reactor.watch(token, change).is_ok().then_some(token)
        });
        known.map_or_else(|| self.register_file(file, fd, direction), Ok)
    }

    /// Has the kernel watch a file for `direction`, and for the other direction once somebody waits for that.
    ///
    /// If somebody waits for the same number already, the file behind the number was replaced: a library has closed its
    /// socket and made another one, without removing its callbacks. As on asyncio, these wait for the new file. But a
    /// callback that was given with a file object does not wait for another object's file.
    fn register_file(&self, file: &Bound<'_, PyAny>, fd: i32, direction: Readiness) -> PyResult<Token> {
        let py = file.py();
        let known_as = (!file.is_instance_of::<PyInt>()).then(|| file.clone().unbind());
        let before = self.state.with(py, |state| {
            let token = state.reactor.token_of(fd)?;
            match state.reactor.source(token) {
                Some(Source::Callbacks(before)) if before.is_of(known_as.as_ref()) => {
                    state.reactor.deregister(token)
                }
                _ => None,
            }
        });
        // Those who waited for the old file wait for the new one, in the same places.
        let callbacks = match before {
            Some(Source::Callbacks(before)) => before,
            _ => Box::new(FdCallbacks { file: known_as, ..FdCallbacks::default() }),
        };
        let wanted = callbacks.wanted();
        let source = Source::Callbacks(callbacks);
        let token = self.register_source(py, fd, Mode::Level, direction | wanted, source)?;
        self.state.with(py, |state| state.reactor.arm(token, wanted));
        Ok(token)
    }

    /// Replaces who waits for `direction`, and arms or disarms the direction accordingly. A registration that nobody
    /// waits for ends. Returns who waited before.
    fn exchange(&self, py: Python<'_>, token: Token, direction: Readiness, mut waiting: Waiting) -> Waiting {
        let ended = self.state.with(py, |state| {
            let Some(Source::Callbacks(callbacks)) = state.reactor.source_mut(token) else {
                return None;
            };
            let (callback, future) = callbacks.places(direction);
            std::mem::swap(callback, &mut waiting.callback);
            std::mem::swap(future, &mut waiting.future);
            let wanted = callbacks.wanted();
            state.reactor.arm(token, wanted);
            wanted.is_none().then(|| state.reactor.deregister(token)).flatten()
        });
        drop(ended);
        waiting
    }
}
