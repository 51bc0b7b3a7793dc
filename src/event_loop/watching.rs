//! `add_reader` and its kin: callbacks for the readiness of an fd, level-triggered as asyncio's are.

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::EventLoop;
use crate::core::{FdCallbacks, LoopCore, Source};
use crate::handle::{Callback, Handle};
use crate::py::fastcall::Arguments;
use crate::py::new;
use crate::reactor::Mode;
use crate::reactor::readiness::Readiness;
use crate::reactor::token::Token;

impl EventLoop {
    pub(super) fn add_reader<'py>(
        slf: &Bound<'py, Self>,
        args: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::add(slf, args, "add_reader", Readiness::READABLE)
    }

    pub(super) fn add_writer<'py>(
        slf: &Bound<'py, Self>,
        args: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::add(slf, args, "add_writer", Readiness::WRITABLE)
    }

    pub(super) fn add<'py>(
        slf: &Bound<'py, Self>,
        args: &Arguments<'_, 'py>,
        method: &str,
        direction: Readiness,
    ) -> PyResult<Bound<'py, PyAny>> {
        let file = args.required(0, method, "fd")?;
        let callback = args.required(1, method, "callback")?;
        for (name, _) in args.keywords() {
            args.check_keyword(method, &name.to_string(), &["fd", "callback"])?;
        }
        Self::watch(slf, &file, direction, callback, args.from(2))?;
        Ok(slf.py().None().into_bound(slf.py()))
    }

    pub(super) fn remove(&self, file: &Bound<'_, PyAny>, direction: Readiness) -> PyResult<bool> {
        let fd = self.fd_of(file)?;
        self.refuse_fd_of_transport(file, fd)?;
        self.unwatch(file.py(), fd, direction)
    }

    /// The fd of what `add_reader` takes: an int, or an object with `fileno()` (`selectors._fileobj_to_fd`).
    pub(super) fn fd_of(&self, file: &Bound<'_, PyAny>) -> PyResult<i32> {
        let fd: i64 = if file.is_instance_of::<PyInt>() {
            file.extract()?
        } else {
            let invalid = || PyValueError::new_err(format!("Invalid file object: {}", repr(file)));
            let number = file.call_method0(&self.core.names.fileno).map_err(|_| invalid())?;
            number.extract().map_err(|_| invalid())?
        };
        if fd < 0
            && let Some(fd) = self.fd_of_closed_file(file)
        {
            return Ok(fd);
        }
        match i32::try_from(fd) {
            Ok(fd) if fd >= 0 => Ok(fd),
            _ => Err(PyValueError::new_err(format!("Invalid file descriptor: {fd}"))),
        }
    }

    /// The fd under which a file object was registered before it was closed.
    fn fd_of_closed_file(&self, file: &Bound<'_, PyAny>) -> Option<i32> {
        self.core.state.with(file.py(), |state| {
            state.reactor.fd_of(|source| match source {
                Source::Callbacks(FdCallbacks { file: Some(known), .. }) => known.is(file),
                _ => false,
            })
        })
    }

    /// `BaseSelectorEventLoop._ensure_fd_no_transport`.
    pub(super) fn refuse_fd_of_transport(&self, file: &Bound<'_, PyAny>, fd: i32) -> PyResult<()> {
        match self.core.owner_of(file.py(), fd) {
            Some(transport) => Err(PyRuntimeError::new_err(format!(
                "File descriptor {} is used by transport {}",
                repr(file),
                repr(&transport)
            ))),
            None => Ok(()),
        }
    }

    /// Sets the callback for one direction of an fd; the previous one is cancelled.
    fn watch(
        slf: &Bound<'_, Self>,
        file: &Bound<'_, PyAny>,
        direction: Readiness,
        callback: Bound<'_, PyAny>,
        args: &[*mut ffi::PyObject],
    ) -> PyResult<()> {
        let (py, core) = (slf.py(), &slf.get().core);
        let fd = slf.get().fd_of(file)?;
        slf.get().refuse_fd_of_transport(file, fd)?;
        core.check_closed()?;
        let handle = core.handle(slf.as_any(), Callback { callback, args, context: None })?.unbind();
        let known = core.state.with(py, |state| {
            // A fresh edge for what is ready already; an error: the number belongs to another file by now.
            let token = state.reactor.token_of(fd)?;
            state.reactor.refresh(token, direction).is_ok().then_some(token)
        });
        let token = match known {
            Some(token) => token,
            None => Self::register_file(core, file, fd, direction)?,
        };
        if let (Some(replaced), _) = Self::exchange(py, core, token, direction, Some(handle)) {
            Handle::cancel_once(replaced.bind(py))?;
        }
        Ok(())
    }

    /// Has the kernel watch a file for `direction`, and later for the other one too, once somebody waits for that.
    ///
    /// Where somebody waits for the same number already, the file behind it was replaced: a library has closed its
    /// socket and made another. Nobody has removed them, so they wait for the new file. Those who gave a file object
    /// do not, if another object has its number now.
    fn register_file(
        core: &LoopCore,
        file: &Bound<'_, PyAny>,
        fd: i32,
        direction: Readiness,
    ) -> PyResult<Token> {
        let py = file.py();
        let known_as = (!file.is_instance_of::<PyInt>()).then(|| file.clone().unbind());
        let before = core.state.with(py, |state| {
            let token = state.reactor.token_of(fd)?;
            match state.reactor.source(token) {
                Some(Source::Callbacks(before)) if before.is_of(known_as.as_ref()) => {
                    state.reactor.deregister(token)
                }
                _ => None,
            }
        });
        let callbacks = match before {
            Some(Source::Callbacks(before)) => before,
            _ => FdCallbacks { file: known_as, ..FdCallbacks::default() },
        };
        let wanted = callbacks.wanted();
        let source = Source::Callbacks(callbacks);
        let token = core.register_for(py, fd, Mode::Level, direction | wanted, source)?;
        core.state.with(py, |state| state.reactor.arm(token, wanted));
        Ok(token)
    }

    /// A future that is completed once `sock`, with this fd, is ready in `direction`; to be called when a system call
    /// has just said that it is not.
    pub(super) fn wait<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        fd: i32,
        direction: Readiness,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, core) = (slf.py(), &slf.get().core);
        if core.owner_of(py, fd).is_some() {
            slf.get().refuse_fd_of_transport(new::int(py, fd as usize)?.as_any(), fd)?;
        }
        core.check_closed()?;
        let future = Self::create_future(slf)?;
        let known = core.state.with(py, |state| {
            let token = state.reactor.token_of(fd)?;
            match state.reactor.source(token) {
                // The same object, so the same file: no need to ask the kernel, whose next edge is still to come.
                Some(Source::Callbacks(FdCallbacks { file: Some(file), .. })) if file.is(sock) => {
                    state.reactor.watch_also(token, direction)
                }
                _ => state.reactor.refresh(token, direction),
            }
            .is_ok()
            .then_some(token)
        });
        let token = match known {
            Some(token) => token,
            None => Self::register_file(core, sock, fd, direction)?,
        };
        let replaced = core.state.with(py, |state| {
            let Some(Source::Callbacks(callbacks)) = state.reactor.source_mut(token) else {
                return (None, None);
            };
            let (callback, waiter) = callbacks.places(direction);
            let replaced = (callback.take(), waiter.replace(future.clone().unbind()));
            let wanted = callbacks.wanted();
            state.reactor.arm(token, wanted);
            replaced
        });
        if let Some(callback) = &replaced.0 {
            Handle::cancel_once(callback.bind(py))?;
        }
        Ok(future)
    }

    /// Takes back a future of [`EventLoop::wait`] that nobody waits for any more.
    pub(super) fn stop_waiting(
        &self,
        sock: &Bound<'_, PyAny>,
        future: &Bound<'_, PyAny>,
        direction: Readiness,
    ) -> PyResult<()> {
        let (py, core) = (sock.py(), &self.core);
        let Ok(fd) = self.fd_of(sock) else {
            return Ok(());
        };
        let removed = core.state.with(py, |state| {
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
        Ok(())
    }

    /// Removes the callback for one direction of an fd. False if there was none.
    fn unwatch(&self, py: Python<'_>, fd: i32, direction: Readiness) -> PyResult<bool> {
        let core = &self.core;
        let Some(token) = core.state.with(py, |state| state.reactor.token_of(fd)) else {
            return Ok(false);
        };
        match Self::exchange(py, core, token, direction, None) {
            (Some(removed), _) => Handle::cancel_once(removed.bind(py)),
            (None, waiter) => Ok(waiter.is_some()),
        }
    }

    /// Puts `handle` in the place for `direction`, of a callback or a waiter, and arms and disarms accordingly. A
    /// registration that nobody waits for ends.
    fn exchange(
        py: Python<'_>,
        core: &LoopCore,
        token: Token,
        direction: Readiness,
        handle: Option<Py<Handle>>,
    ) -> (Option<Py<Handle>>, Option<Py<PyAny>>) {
        let (previous, ended) = core.state.with(py, |state| {
            let Some(Source::Callbacks(callbacks)) = state.reactor.source_mut(token) else {
                return ((None, None), None);
            };
            let (place, waiter) = callbacks.places(direction);
            let previous = (std::mem::replace(place, handle), waiter.take());
            let wanted = callbacks.wanted();
            state.reactor.arm(token, wanted);
            (previous, wanted.is_none().then(|| state.reactor.deregister(token)).flatten())
        });
        drop(ended);
        previous
    }
}

fn repr(object: &Bound<'_, PyAny>) -> String {
    object.repr().map_or_else(|_| "?".to_owned(), |text| text.to_string())
}
