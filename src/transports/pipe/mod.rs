//! Pipe transports: the reading or the writing end of a pipe, a FIFO, a socket, a terminal or another character device.
//! The models are asyncio's `_UnixReadPipeTransport` and `_UnixWritePipeTransport`.
//!
//! Here is what the two ends share beside the shell (`shell.rs`): the file. The reading end is in `reader.rs`, the
//! writing end in `writer.rs`, how much a pipe holds in `capacity.rs`. What may be a pipe is asked once per file, in
//! Python (`_pipes.py`).
//!
//! The program's pipe object owns the fd. Its `close()` closes it, once, after `connection_lost`.

mod capacity;
mod reader;
mod writer;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::prelude::*;
use pyo3::pyclass::PyClass;
use pyo3::types::PyDict;

use super::protocol;
use super::shell::{Shell, Side, State, Transport};
use super::socket::File;
use crate::core::{LoopCore, Native};
use crate::py::file_fd::FileFd;
use crate::py::new::{self, intern};
use capacity::Capacity;
pub use reader::ReadPipeTransport;
pub use writer::{WritePipeTransport, add_raw_methods};

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

impl Parts<'_, '_> {
    /// Makes the shell of an end with this side.
    fn shell<S: Side>(&self, side: S) -> PyResult<Shell<S>> {
        let extra = self.extra.clone().map_or_else(|| new::dict(self.event_loop.py()), Ok)?;
        extra.set_item(&self.core.names.pipe, &self.pipe)?;
        let file = File::Pipe(FileFd::with_number(&self.pipe, self.fd)?);
        Shell::new(self.core, self.event_loop, Some(&self.protocol), None, file, Some(&extra), side)
    }
}

/// A pipe transport of either kind.
trait End: Transport {
    fn capacity(side: &mut Self::Side) -> &mut Capacity;

    /// Schedules the start of a transport that was just made; `_start_watching` only if there is something to watch.
    fn start(slf: &Bound<'_, Self>, parts: Parts<'_, '_>, watched: bool) -> PyResult<()> {
        let (py, shell) = (slf.py(), slf.get().shell());
        shell.core.check_closed()?;
        let made = protocol::connection_made(shell.core.names, &parts.protocol)?;
        let start_watching = || slf.as_any().getattr(intern!(py, "_start_watching")?);
        shell.start(slf.as_any(), made, watched.then(start_watching).transpose()?, parts.waiter)
    }

    /// Has the loop watch `fd` for this end from now on, and call the protocol in a copy of the current context. `fd`:
    /// none for the end's own.
    fn watch(slf: &Bound<'_, Self>, fd: Option<RawFd>) -> PyResult<()> {
        let (py, shell) = (slf.py(), slf.get().shell());
        shell.core.check_closed()?;
        shell.renew_context(py)?;
        let fd = fd.unwrap_or_else(|| shell.state.with(py, |state| state.file.number()));
        let native = Native { object: slf.as_any().clone().unbind(), kind: &Self::KIND };
        let token = shell.core.register(py, fd, native)?;
        shell.state.with(py, |state| (state.token, state.held) = (Some(token), true));
        Ok(())
    }

    /// Closes the pipe object.
    fn close_pipe(&self, py: Python<'_>) -> PyResult<()> {
        let file = self.shell().state.with(py, |state| {
            *Self::capacity(&mut state.side) = Capacity::Given;
            state.file.take(py)
        });
        file.close(py)
    }

    /// The pipe may be made to hold more once it has been full.
    fn let_grow(&self, py: Python<'_>) {
        self.shell().state.with(py, |state| *Self::capacity(&mut state.side) = Capacity::Growing);
    }

    /// The repr. asyncio's names what is being polled (`polled`) where there is a loop and a pipe.
    fn describe_end(&self, py: Python<'_>, polled: impl FnOnce(&mut State<Self::Side>) -> String) -> String {
        let shell = self.shell();
        shell.state.with(py, |state| {
            let start = shell.describe(<Self as PyClass>::NAME, state);
            let rest = match (state.file.is_closed(), shell.core.closed.load(Relaxed)) {
                (true, _) => " closed".to_owned(),
                (false, true) => " open".to_owned(),
                (false, false) => polled(state),
            };
            format!("{start}{rest}>")
        })
    }
}
