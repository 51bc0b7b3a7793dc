//! `LoopHandle::register`: event sources of the host, such as mio's sockets, on the loop's reactor.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use mio::Interest;
use mio::event::Source as EventSource;
use pyo3::prelude::*;

use super::error::LoopClosed;
use super::guard::{caught, drop_quietly, report};
use super::handle::LoopHandle;
use crate::core::{Kind, Native};
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
        let watched = Box::new(SourceWithCallback { source, callback });
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
        // Without Python there is no loop, and nothing to deregister from.
        Python::try_attach(|py| self.watched.get().end(py));
    }
}

/// A source with its callback.
struct SourceWithCallback<S, F> {
    source: S,
    callback: F,
}

/// The same, whatever the types are.
trait Watching: Send {
    fn ready(&mut self, py: Python<'_>, readiness: Readiness) -> PyResult<()>;
    fn source(&mut self) -> &mut dyn EventSource;
}

impl<S, F> Watching for SourceWithCallback<S, F>
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

/// A source as the owner of its registration. The code of the host, which includes the methods of the source, is called
/// while nothing of the loop is borrowed.
#[pyclass(frozen, module = "rloop._rloop")]
struct Watched {
    handle: LoopHandle,
    interest: Interest,
    token: Token,
    /// None while the host's code runs, and after the end.
    watching: LoopCell<Option<Box<dyn Watching>>>,
    /// The readiness that came while the host's code ran.
    missed: LoopCell<Option<Readiness>>,
    /// `sys::forks()` when the source was registered.
    forks: AtomicU32,
    ended: AtomicBool,
}

static KIND: Kind = Kind { on_ready: Watched::on_ready, ..Kind::NOTHING };

impl Watched {
    /// Registers the source on the loop's reactor. On an error nothing is left registered.
    fn register(
        py: Python<'_>,
        handle: &LoopHandle,
        mut watching: Box<dyn Watching>,
        interest: Interest,
    ) -> PyResult<Registration> {
        let core = handle.core();
        let token = core.reserve_token(py);
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
            core.set_owner(py, token, Native { object, kind: &KIND });
            this.get().register_source(py, &mut *watching)?;
            Ok(this)
        });
        let this = registered.inspect_err(|_| core.deregister(py, token))?;
        core.host.sources.fetch_add(1, Relaxed);
        this.get().put_back(py, watching);
        Ok(Registration { watched: this.unbind() })
    }

    /// Has the source register itself with the reactor.
    fn register_source(&self, py: Python<'_>, watching: &mut dyn Watching) -> PyResult<()> {
        let core = self.handle.core();
        let failed = |error| os_error(&error);
        let registry = core.registry(py).map_err(failed)?;
        self.forks.store(sys::forks(), Relaxed);
        let mut register = || watching.source().register(&registry, self.token.to_mio(), self.interest);
        caught(|| register().map_err(failed))?;
        core.set_active(py, self.token);
        Ok(())
    }

    /// The same in the child of a fork, whose reactor has a poll of its own by now.
    fn register_again(&self, py: Python<'_>, watching: &mut dyn Watching) -> PyResult<()> {
        if let Ok(registry) = self.handle.core().registry(py) {
            // In debug builds mio's sources remember that they are registered. The new poll does not know them, so that
            // this fails, and makes them forget it.
            let _ = watching.source().deregister(&registry);
        }
        self.register_source(py, watching)
    }

    /// The source is ready.
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
                this.register_again(py, &mut *watching)?;
            }
            if readiness.is_none() { Ok(()) } else { watching.ready(py, readiness) }
        });
        this.put_back(py, watching);
        result.or_else(|error| {
            let event_loop = this.handle.event_loop(py);
            report(event_loop, "Exception in the callback of a source of the host", error)
        })
    }

    /// Called when the host's code has run. What has happened meanwhile is done now.
    fn put_back(&self, py: Python<'_>, watching: Box<dyn Watching>) {
        self.watching.with(py, |place| *place = Some(watching));
        if self.ended.load(Relaxed) {
            self.end(py);
        } else if let Some(missed) = self.missed.with(py, Option::take) {
            let core = self.handle.core();
            core.requeue(py, self.token, missed);
            // This may be another thread than the loop's.
            core.wake_quietly();
        }
    }

    /// Deregisters and drops the source. If the host's code is running, [`Watched::put_back`] does it.
    fn end(&self, py: Python<'_>) {
        self.ended.store(true, Relaxed);
        let Some(mut watching) = self.watching.with(py, Option::take) else {
            return;
        };
        let core = self.handle.core();
        if let Some(registry) = core.deregister_foreign(py, self.token) {
            // Fails only if the source is not registered.
            let _ = caught(|| Ok(watching.source().deregister(&registry)));
        }
        core.host.sources.fetch_sub(1, Relaxed);
        drop_quietly(watching);
    }
}
