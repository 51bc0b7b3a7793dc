//! `register`: event sources of the host, such as mio's sockets, on the loop's reactor.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

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

/// The same, as the reactor's table knows it.
#[pyclass(frozen, module = "rloop._rloop")]
struct Watched {
    handle: LoopHandle,
    /// None while the callback runs, and after the end.
    watching: LoopCell<Option<Box<dyn Watching>>>,
    token: LoopCell<Option<Token>>,
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
        let this = Self {
            handle: handle.clone(),
            watching: LoopCell::default(),
            token: LoopCell::default(),
            ended: AtomicBool::new(false),
        };
        let this = Bound::new(py, this)?;
        let native = Native { object: this.clone().into_any().unbind(), kind: &KIND };
        let (token, activated) = core.state.with(py, |state| {
            let token = state.reactor.insert(Source::Native(native));
            (token, state.reactor.activate_source(token, watching.source(), interest))
        });
        if let Err(error) = activated {
            drop(core.state.with(py, |state| state.reactor.deregister(token)));
            return Err(os_error(py, &error));
        }
        this.get().token.with(py, |place| *place = Some(token));
        this.get().watching.with(py, |place| *place = Some(watching));
        core.host.sources.fetch_add(1, Relaxed);
        Ok(Registration { watched: this.unbind() })
    }

    fn on_ready(object: &Bound<'_, PyAny>, readiness: Readiness) -> PyResult<()> {
        let (py, this) = match object.cast::<Self>() {
            Ok(this) => (this.py(), this.get()),
            Err(_) => return Ok(()),
        };
        let Some(mut watching) = this.watching.with(py, Option::take) else {
            return Ok(());
        };
        let result = caught(|| watching.ready(py, readiness));
        this.watching.with(py, |place| *place = Some(watching));
        if this.ended.load(Relaxed) {
            this.end(py);
        }
        result.or_else(|error| {
            let event_loop = this.handle.event_loop(py);
            report(event_loop, "Exception in the callback of a source of the host", error)
        })
    }

    /// Deregisters and drops the source; if its callback is running, `on_ready` does so afterwards.
    fn end(&self, py: Python<'_>) {
        self.ended.store(true, Relaxed);
        let (Some(mut watching), Some(token)) =
            (self.watching.with(py, Option::take), self.token.with(py, |token| *token))
        else {
            return;
        };
        let core = self.handle.core();
        drop(core.state.with(py, |state| state.reactor.remove_source(token, watching.source())));
        core.host.sources.fetch_sub(1, Relaxed);
        let_go(watching);
    }
}
