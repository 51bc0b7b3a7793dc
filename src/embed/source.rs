//! `register`: event sources of the host, such as mio's sockets, on the loop's reactor.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use mio::Interest;
use mio::event::Source as EventSource;
use pyo3::prelude::*;

use super::LoopClosed;
use super::guard::{caught, let_go, report};
use super::handle::LoopHandle;
use crate::core::{Kind, Native, Source};
use crate::error::os_error;
use crate::py::cell::LoopCell;
use crate::reactor::readiness::Readiness;
use crate::reactor::sys;
use crate::reactor::token::Token;

impl LoopHandle {
    /// Watches a source on the loop's reactor: `callback` is called on the loop's thread, in the turn in which the
    /// source is ready, beside the loop's own sockets.
    ///
    /// The callback owns the source from here on. Readiness is edge-triggered, as mio's always is: read, write or
    /// accept until the call would block. What the callback raises, and a panic, goes to the loop's exception
    /// handler, and the source stays registered.
    ///
    /// The source is deregistered and dropped with the guard, and when the loop closes.
    ///
    /// # Errors
    /// OSError when the kernel cannot watch the source; RuntimeError when the loop is closed.
    ///
    /// ```
    /// use pyo3::prelude::*;
    /// use rloop::embed::{LoopThread, mio};
    ///
    /// # fn main() -> PyResult<()> {
    /// let event_loop = LoopThread::start()?;
    /// let (mut sender, receiver) = mio::net::UnixStream::pair()?;
    /// let (tell, told) = std::sync::mpsc::channel();
    /// let guard = event_loop.register(receiver, mio::Interest::READABLE, move |_py, socket, _readiness| {
    ///     let mut text = String::new();
    ///     let _would_block = std::io::Read::read_to_string(socket, &mut text);
    ///     let _ = tell.send(text);
    ///     Ok(())
    /// })?;
    /// std::io::Write::write_all(&mut sender, b"hello")?;
    /// assert_eq!(told.recv().unwrap(), "hello");
    /// drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    pub fn register<S, F>(&self, source: S, interest: Interest, callback: F) -> PyResult<Registration>
    where
        S: EventSource + Send + 'static,
        F: FnMut(Python<'_>, &mut S, Readiness) -> PyResult<()> + Send + 'static,
    {
        if self.is_closed() {
            return Err(LoopClosed.into());
        }
        let watched = Box::new(Watch { source, callback });
        let registered = Python::try_attach(|py| Watched::register(py, self, watched, interest));
        registered.unwrap_or_else(|| Err(LoopClosed.into()))
    }
}

/// A source on the loop's reactor, until this is dropped: then it is deregistered and dropped too, before the drop
/// returns, or when its callback returns if that is running.
#[must_use = "dropping it ends the registration"]
pub struct Registration {
    watched: Py<Watched>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Without Python there is no loop, and nothing to be deregistered from.
        Python::try_attach(|py| self.watched.get().end(py));
    }
}

/// A source with its callback.
struct Watch<S, F> {
    source: S,
    callback: F,
}

trait Watching: Send {
    fn ready(&mut self, py: Python<'_>, readiness: Readiness) -> PyResult<()>;
    fn source(&mut self) -> &mut dyn EventSource;
}

impl<S, F> Watching for Watch<S, F>
where
    S: EventSource + Send,
    F: FnMut(Python<'_>, &mut S, Readiness) -> PyResult<()> + Send,
{
    fn ready(&mut self, py: Python<'_>, readiness: Readiness) -> PyResult<()> {
        (self.callback)(py, &mut self.source, readiness)
    }

    fn source(&mut self) -> &mut dyn EventSource {
        &mut self.source
    }
}

/// The same, as the reactor's table knows it. The host's code (the source's methods too) runs while nothing of the loop's
/// is borrowed.
#[pyclass(frozen, module = "rloop._rloop")]
struct Watched {
    handle: LoopHandle,
    interest: Interest,
    token: Token,
    /// None while the host's code runs, and after the end.
    watching: LoopCell<Option<Box<dyn Watching>>>,
    /// What came while the host's code ran.
    missed: LoopCell<Option<Readiness>>,
    /// `sys::forks()` when the source was registered.
    forks: AtomicU32,
    ended: AtomicBool,
}

static KIND: Kind = Kind { on_ready: Watched::on_ready, flush: |_| Ok(()), owns_fd: |_| false };

impl Watched {
    fn register(
        py: Python<'_>,
        handle: &LoopHandle,
        mut watching: Box<dyn Watching>,
        interest: Interest,
    ) -> PyResult<Registration> {
        let core = handle.core();
        // The object needs its token and the table its object: the token comes first, for an owner of no effect.
        let nobody = Native { object: py.None(), kind: &NOBODY };
        let token = core.state.with(py, |state| state.reactor.insert(Source::Native(nobody)));
        let this = Self {
            handle: handle.clone(),
            interest,
            token,
            watching: LoopCell::default(),
            missed: LoopCell::default(),
            forks: AtomicU32::new(sys::forks()),
            ended: AtomicBool::new(false),
        };
        let registered = Bound::new(py, this).and_then(|this| {
            let object = this.clone().into_any().unbind();
            let nobody = core.state.with(py, |state| match state.reactor.source_mut(token) {
                Some(Source::Native(native)) => {
                    Some(std::mem::replace(native, Native { object, kind: &KIND }))
                }
                _ => None,
            });
            drop(nobody);
            this.get().make_known(py, &mut *watching)?;
            Ok(this)
        });
        let this = registered.inspect_err(|_| {
            drop(core.state.with(py, |state| state.reactor.deregister(token)));
        })?;
        core.host.sources.fetch_add(1, Relaxed);
        this.get().put_back(py, watching);
        Ok(Registration { watched: this.unbind() })
    }

    /// Registers the source with the reactor.
    fn make_known(&self, py: Python<'_>, watching: &mut dyn Watching) -> PyResult<()> {
        let core = self.handle.core();
        let failed = |error| os_error(&error);
        let registry = core.state.with(py, |state| state.reactor.registry()).map_err(failed)?;
        self.forks.store(sys::forks(), Relaxed);
        let mut register = || watching.source().register(&registry, self.token.to_mio(), self.interest);
        caught(|| register().map_err(failed))?;
        core.state.with(py, |state| state.reactor.note_active(self.token));
        Ok(())
    }

    /// The same in a fork's child, whose reactor has a poll of its own by now.
    fn make_known_again(&self, py: Python<'_>, watching: &mut dyn Watching) -> PyResult<()> {
        if let Ok(registry) = self.handle.core().state.with(py, |state| state.reactor.registry()) {
            // mio's sources remember in debug builds that they are registered; on the new poll there is nothing to undo.
            let _ = watching.source().deregister(&registry);
        }
        self.make_known(py, watching)
    }

    fn on_ready(object: &Bound<'_, PyAny>, readiness: Readiness) -> PyResult<()> {
        let (py, this) = match object.cast::<Self>() {
            Ok(this) => (this.py(), this.get()),
            Err(_) => return Ok(()),
        };
        let Some(mut watching) = this.watching.with(py, Option::take) else {
            this.missed.with(py, |missed| *missed = Some(missed.unwrap_or(Readiness::NONE) | readiness));
            return Ok(());
        };
        let result = caught(|| {
            if this.forks.load(Relaxed) != sys::forks() {
                this.make_known_again(py, &mut *watching)?;
            }
            if readiness.is_none() { Ok(()) } else { watching.ready(py, readiness) }
        });
        this.put_back(py, watching);
        result.or_else(|error| {
            let event_loop = this.handle.event_loop(py);
            report(event_loop, "Exception in the callback of a source of the host", error)
        })
    }

    /// The host's code has run.
    fn put_back(&self, py: Python<'_>, watching: Box<dyn Watching>) {
        self.watching.with(py, |place| *place = Some(watching));
        if self.ended.load(Relaxed) {
            self.end(py);
        } else if let Some(missed) = self.missed.with(py, Option::take) {
            let core = self.handle.core();
            core.requeue(py, self.token, missed);
            // This may be another thread than the loop's. Fails only where the loop's own fd is gone.
            let _ = core.waker.wake();
        }
    }

    /// Deregisters and drops the source; if the host's code is running, that follows when it has run.
    fn end(&self, py: Python<'_>) {
        self.ended.store(true, Relaxed);
        let Some(mut watching) = self.watching.with(py, Option::take) else {
            return;
        };
        let core = self.handle.core();
        let removed = core.state.with(py, |state| state.reactor.remove(self.token));
        if let Some((_, Some(registry))) = &removed {
            // Fails only where there is nothing to take back.
            let _ = caught(|| Ok(watching.source().deregister(registry)));
        }
        drop(removed);
        core.host.sources.fetch_sub(1, Relaxed);
        let_go(watching);
    }
}

/// For a token that has no owner yet.
static NOBODY: Kind = Kind { on_ready: |_, _| Ok(()), flush: |_| Ok(()), owns_fd: |_| false };
